package warmup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// doubtful is a row some of whose lists the target has to look at.
type doubtful struct {
	parcel *parcel
	row    *statRow
	lists  map[int]*list // by the field
}

// translate makes of the source's rows what the target is given.
func (c *carrying) translate(ctx context.Context, to *pgx.Conn, part []*parcel, found []*source) error {
	parcels := map[Table]*parcel{}
	for _, p := range part {
		parcels[p.carry.Table] = p
	}
	seen := map[Table]map[string]bool{}
	var doubts []*doubtful
	for _, s := range found {
		old := c.old.relations[Table{s.Schema, s.Relation}]
		if seen[Table{s.Schema, s.Relation}] == nil {
			seen[Table{s.Schema, s.Relation}] = map[string]bool{}
		}
		seen[Table{s.Schema, s.Relation}][s.Column] = true
		if d := c.translateRow(parcels[old.table()], old, s); d != nil {
			doubts = append(doubts, d)
		}
	}
	for _, p := range part {
		for _, r := range append([]*statRelation{p.old}, p.indexes...) {
			p.carry.lacking(r, seen[Table{r.Schema, r.Name}])
		}
	}
	return c.settle(ctx, to, doubts)
}

// lacking notes the columns that the source shows no statistics of. Those of an
// inheritance tree alone have the same columns.
func (t *TableCarry) lacking(r *statRelation, seen map[string]bool) {
	for _, column := range r.columns {
		switch {
		case seen[column.Name] || !column.Countable:
		case !column.Visible:
			t.skip(r.Name, column.Name, "this role may not read the column on the source")
		default:
			t.skip(r.Name, column.Name, "the source has none")
		}
	}
}

func (t *TableCarry) skip(relation, column, reason string) {
	t.Skipped = append(t.Skipped, SkippedColumn{Relation: relation, Column: column, Reason: reason})
}

// translateRow adds one row to its table's parcel, and returns what is doubtful
// about it.
func (c *carrying) translateRow(p *parcel, old *statRelation, s *source) *doubtful {
	to := c.new.relations[Table{s.Schema, s.Relation}]
	from := old.columns[s.Column]
	if from == nil || to != nil && c.keeps(to, s.Inherited) {
		return nil // an index's plain column; or better ones are there
	}
	if to == nil || to.Of != old.Of || to.columns[s.Column] == nil {
		p.carry.skip(s.Relation, s.Column, "not on the target")
		return nil
	}
	row := &statRow{relation: to, column: to.columns[s.Column], inherited: s.Inherited, values: s.Values}
	t := trustBetween(c.old, c.new, from, row.column)
	if t.refuse != "" {
		p.carry.skip(s.Relation, s.Column, t.refuse)
		return nil
	}
	if reason := c.limits(row); reason != "" {
		p.carry.skip(s.Relation, s.Column, reason)
	}
	p.rows = append(p.rows, row)
	if !t.check {
		return nil
	}
	d := &doubtful{parcel: p, row: row, lists: map[int]*list{}}
	d.add(histogram, row.column.Typed, c.collate(row.column))
	if element := c.new.element(row.column.Type); element != nil {
		d.add(commonElements, element.Name, "")
	}
	if !c.new.plain(row.column.Type) {
		d.add(commonValues, row.column.Typed, "")
	}
	return d
}

// limits takes out of a row what the target's functions do not take, and says
// what is missing: they look at a domain itself, not at the type beneath.
func (c *carrying) limits(row *statRow) string {
	base := c.new.base(row.column.Type)
	if base == nil {
		return ""
	}
	isRange := base.Kind == "r" || base.Kind == "m"
	isVector := base.Builtin && base.Name == "tsvector"
	isDomain := base.OID != row.column.Type
	switch {
	case isDomain && isRange:
		row.values[rangeLengths], row.values[rangeEmpty], row.values[rangeBounds] = nil, nil, nil
		return "the target takes no range statistics for a domain"
	case isDomain && isVector:
		row.values[commonElements], row.values[elementFreqs], row.values[elementCounts] = nil, nil, nil
		return "the target takes no statistics of words for a domain"
	case isRange && c.old.version < 170000 && !c.old.slots:
		return "before 17 only a role that may read pg_statistic sees how ranges are spread"
	}
	return ""
}

// collate is what follows a value to be sorted as the column is.
func (c *carrying) collate(column *statColumn) string {
	if column.Collation == 0 || c.new.collations[column.Collation].Name == "" {
		return ""
	}
	return " collate " + c.new.collations[column.Collation].Name
}

// add puts a list, if there is one, before the target.
func (d *doubtful) add(field int, typed, collate string) {
	if text := d.row.values[field]; text != nil {
		d.lists[field] = &list{kind: fmt.Sprintf(ordersSQL, pg.Literal(typed), typed, collate), text: *text}
	}
}

// base follows domains to the type beneath.
func (d *side) base(oid uint32) *statType {
	t := d.types[oid]
	for t != nil && t.Kind == "d" && len(t.Parts) > 0 {
		t = d.types[t.Parts[0]]
	}
	return t
}

// element returns an array's element type, nil of other types.
func (d *side) element(oid uint32) *statType {
	if t := d.base(oid); t != nil && t.Kind == "b" && len(t.Parts) == 1 {
		return d.types[t.Parts[0]]
	}
	return nil
}

// plain tells that every server reads values of the type alike: only the order
// may be in doubt.
func (d *side) plain(oid uint32) bool {
	t := d.types[oid]
	return t != nil && t.Builtin && !byOIDs[t.Name] && len(t.Parts) == 0
}

// settle asks the target about all lists of the doubtful rows, one statement
// for each type and collation, and takes out what it does not find in order.
func (c *carrying) settle(ctx context.Context, to *pgx.Conn, doubts []*doubtful) error {
	kinds := map[string][]*list{}
	for _, d := range doubts {
		for _, l := range d.lists {
			kinds[l.kind] = append(kinds[l.kind], l)
		}
	}
	for sql, lists := range kinds {
		if err := ask(ctx, to, sql, lists); err != nil {
			return err
		}
	}
	for _, d := range doubts {
		d.apply()
	}
	return nil
}

// listBytes is about how much is sent to be looked at together.
const listBytes = 4 << 20

// ask puts lists of one kind before the target, many together; when it refuses
// them, for a type whose input knows no other way than an error, each alone.
func ask(ctx context.Context, to *pgx.Conn, sql string, lists []*list) error {
	for len(lists) > 0 {
		n, size := 0, 0
		for n < len(lists) && size < listBytes {
			size += len(lists[n].text)
			n++
		}
		err := askTogether(ctx, to, sql, lists[:n])
		if refused(err) && n > 1 {
			for _, l := range lists[:n] {
				if err = askTogether(ctx, to, sql, []*list{l}); err != nil && !refused(err) {
					return err
				}
			}
			err = nil
		}
		if err != nil && !refused(err) {
			return err
		}
		lists = lists[n:]
	}
	return nil
}

// refused tells that the server did not like a value, or does not let this role
// use the type: the session goes on.
func refused(err error) bool {
	return pg.Code(err) != "" && !pg.Lost(err) && !pg.IsCode(err, pg.QueryCanceled)
}

func askTogether(ctx context.Context, to *pgx.Conn, sql string, lists []*list) error {
	numbers, texts := make([]int32, len(lists)), make([]string, len(lists))
	for i, l := range lists {
		numbers[i], texts[i] = int32(i), l.text
	}
	rows, err := to.Query(ctx, sql, numbers, texts)
	if err != nil {
		return hidden("looking whether values are in order", err)
	}
	var i int32
	var valid, sorted bool
	_, err = pgx.ForEachRow(rows, []any{&i, &valid, &sorted}, func() error {
		lists[i].valid, lists[i].sorted = valid, sorted
		return nil
	})
	return hidden("looking whether values are in order", err)
}

// apply leaves of a row what the target found right. Without a histogram
// nothing tells whether the order, which correlation is about, is the same.
// Elements are looked up in their order, so that a wrong one misleads.
func (d *doubtful) apply() {
	values := &d.row.values
	if l := d.lists[commonValues]; l != nil && !l.valid {
		values[commonValues], values[commonFreqs] = nil, nil
		d.skip("most_common_vals: the target refuses a value")
	}
	l := d.lists[histogram]
	if l == nil || !l.sorted {
		values[histogram], values[correlation], values[rangeBounds] = nil, nil, nil
	}
	if l != nil && !l.sorted {
		d.skip("histogram_bounds: the target sorts in another order, or refuses a value")
	}
	if l := d.lists[commonElements]; l != nil && !l.sorted {
		values[commonElements], values[elementFreqs] = nil, nil
		d.skip("most_common_elems: the target sorts in another order, or refuses a value")
	}
}

func (d *doubtful) skip(reason string) {
	d.parcel.carry.skip(d.row.relation.Name, d.row.column.Name, reason)
}

// quietError is a server's error without the server's text, which may hold
// values.
type quietError struct {
	doing string
	err   error
}

func hidden(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case pg.Code(err) == "":
		return fmt.Errorf("%s: %w", doing, err)
	}
	return &quietError{doing, err}
}

func (e *quietError) Error() string { return e.doing + ": SQLSTATE " + pg.Code(e.err) }
func (e *quietError) Unwrap() error { return e.err }

// sortSkipped makes the report's order that of names.
func (t *TableCarry) sortSkipped() {
	slices.SortFunc(t.Skipped, func(a, b SkippedColumn) int {
		return strings.Compare(a.Relation+"\x00"+a.Column+"\x00"+a.Reason, b.Relation+"\x00"+b.Column+"\x00"+b.Reason)
	})
	t.Skipped = slices.Compact(t.Skipped)
}
