package sequences

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Reached is how far the numbers of a sequence are used by rows: what can be
// known of it when the server that handed them out is gone.
type Reached struct {
	Sequence
	// Furthest is the number of the rows that were looked at that lies furthest
	// in the sequence's direction; nil when there is none.
	Furthest *int64 `json:"furthest,omitempty"`
	// Column is where Furthest is, quoted: schema.table.column.
	Column string `json:"column,omitempty"`
	// Unknown says which rows could not be looked at; empty when all were.
	Unknown string `json:"unknown,omitempty"`
	// Unlooked says that there are such rows: Unknown holds as well what can be
	// known of no rows.
	Unlooked bool `json:"unlooked,omitempty"`
}

// column is one that takes its values from a sequence.
type column struct {
	table, name                        string // quoted
	integer, indexed, permitted, whole bool
}

func (c column) String() string { return c.table + "." + c.name }

// unknown says why the column cannot be looked at.
func (c column) unknown(role string) string {
	switch {
	case !c.integer:
		return fmt.Sprintf("column %s of %s is no integer", c.name, c.table)
	case !c.indexed:
		return fmt.Sprintf("no index begins with column %s of %s", c.name, c.table)
	case !c.permitted:
		return fmt.Sprintf("role %q may not read column %s of %s", role, c.name, c.table)
	case !c.whole:
		return fmt.Sprintf("row security hides rows of %s from role %q", c.table, role)
	}
	return ""
}

// fedSQL finds the columns that each sequence feeds: the one that owns it, and
// those whose default calls it. A column is indexed when every table that holds
// its rows (itself, its partitions, its heirs) has a whole index that begins
// with it, so that its greatest value is one look into each.
// Postgres manual: 52.18, pg_depend.
const fedSQL = `
with recursive fed as (
  select d.objid as sequence, d.refobjid as relation, d.refobjsubid as attnum
    from pg_depend d
    join pg_sequence s on s.seqrelid = d.objid
   where d.classid = 'pg_class'::regclass and d.objsubid = 0 and d.refclassid = 'pg_class'::regclass
     and d.refobjsubid > 0 and d.deptype in ('a', 'i')
  union
  select d.refobjid, f.adrelid, f.adnum
    from pg_depend d
    join pg_sequence s on s.seqrelid = d.refobjid
    join pg_attrdef f on f.oid = d.objid
   where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
), holds as (
  select f.sequence, f.relation, f.attnum, a.attname, a.atttypid, f.relation as holder
    from fed f
    join pg_attribute a on a.attrelid = f.relation and a.attnum = f.attnum
  union
  select h.sequence, h.relation, h.attnum, h.attname, h.atttypid, i.inhrelid
    from holds h
    join pg_inherits i on i.inhparent = h.holder
)
select sn.nspname, s.relname, format('%I.%I', n.nspname, c.relname), format('%I', h.attname),
       h.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype),
       bool_and(k.relkind = 'p' or (k.relkind = 'r' and exists (
         select 1
           from pg_index i
           join pg_class x on x.oid = i.indexrelid
           join pg_am m on m.oid = x.relam
           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
          where i.indrelid = k.oid and i.indisvalid and i.indpred is null and m.amname = 'btree' and a.attname = h.attname))),
       has_schema_privilege(n.oid, 'usage') and has_column_privilege(c.oid, h.attnum::smallint, 'select'),
       not row_security_active(c.oid)
  from holds h
  join pg_class s on s.oid = h.sequence
  join pg_namespace sn on sn.oid = s.relnamespace
  join pg_class c on c.oid = h.relation
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class k on k.oid = h.holder
 where not exists (select 1
                     from pg_inherits i
                     join fed f on f.relation = i.inhparent
                    where i.inhrelid = h.relation and f.sequence = h.sequence)
 group by sn.nspname, s.relname, n.oid, n.nspname, c.oid, c.relname, h.attnum, h.attname, h.atttypid
 order by 1, 2, 3, 4`

func feeds(ctx context.Context, q Querier) (map[Ref][]column, error) {
	rows, err := q.Query(ctx, fedSQL)
	if err != nil {
		return nil, fmt.Errorf("looking for the columns that sequences feed: %w", err)
	}
	out := map[Ref][]column{}
	var (
		r Ref
		c column
	)
	_, err = pgx.ForEachRow(rows, []any{&r.Schema, &r.Name, &c.table, &c.name, &c.integer, &c.indexed, &c.permitted, &c.whole}, func() error {
		out[r] = append(out[r], c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the columns that sequences feed: %w", err)
	}
	return out, nil
}

// ReadReached reads all sequences, as Read does, and how far their numbers are
// used by the rows of the columns that they feed. Only columns with an index
// that begins with them are looked at, each with a look at its end, many in one
// round trip. Of a sequence that feeds no column, one without such an index, or
// one that the role may not read, it says why nothing is known.
//
// It holds no lock that a writer waits for, and waits itself for none longer than
// half a second; what is not found in half a minute stays unknown.
func ReadReached(ctx context.Context, q Querier, version int) ([]Reached, error) {
	all, err := Read(ctx, q, version)
	var hidden *UnreadableError
	if err != nil && !errors.As(err, &hidden) {
		return nil, err
	}
	columns, err := feeds(ctx, q)
	if err != nil {
		return nil, err
	}
	out := make([]Reached, len(all))
	var looks []*look
	for i, s := range all {
		out[i] = Reached{Sequence: s}
		looks = append(looks, out[i].looks(columns[s.Ref])...)
	}
	if err := askAll(ctx, q, looks, looksWithin); err != nil {
		return nil, fmt.Errorf("looking how far sequences are used: %w", err)
	}
	for _, l := range looks {
		l.of.take(l)
	}
	return out, nil
}

// looks returns what is to be asked for the columns that the sequence feeds.
func (r *Reached) looks(columns []column) []*look {
	switch {
	case !r.Readable:
		r.Unknown = fmt.Sprintf("role %q may not read it", r.Role)
		return nil
	case r.Cycle:
		r.Unknown = "it begins again at its end, so that the greatest value says nothing"
		return nil
	case len(columns) == 0:
		r.Unknown = "no column has it as its default"
		return nil
	}
	var out []*look
	for _, c := range columns {
		if why := c.unknown(r.Role); why != "" {
			r.Unknown, r.Unlooked = why, true
			continue
		}
		out = append(out, &look{of: r, column: c})
	}
	return out
}

// take adds what a look has found.
func (r *Reached) take(l *look) {
	switch {
	case l.failed != "":
		r.Unknown, r.Unlooked = fmt.Sprintf("column %s of %s: %s", l.column.name, l.column.table, l.failed), true
	case l.value != nil && (r.Furthest == nil || beyond(*l.value, *r.Furthest, r.Increment)):
		r.Furthest, r.Column = l.value, l.column.String()
	}
}

// PlanPast says how to raise each sequence past what rows use, and margin numbers
// more; it lowers none. Those of which not all is known, and those that would
// come to their end and are left as they are, are in the second result with the
// reason.
func PlanPast(all []Reached, margin int64) (changes []Change, left []Problem) {
	for _, r := range all {
		if r.Unknown != "" && r.Extension == "" {
			left = append(left, Problem{Ref: r.Ref, Text: r.Unknown})
		}
		if r.Furthest == nil || beyond(r.start(), *r.Furthest, r.Increment) {
			continue // no row uses a number of it
		}
		used := r.Sequence
		used.LastValue, used.IsCalled = *r.Furthest, true
		c, p := planOne(used, r.Sequence, true, margin)
		switch {
		case p != nil:
			left = append(left, Problem{Ref: r.Ref, Text: p.Text, Hint: p.Hint})
		case !c.Kept && used.left() <= wantedSteps(used, margin): // perhaps a row that stands for "none"
			left = append(left, Problem{Ref: r.Ref, Text: fmt.Sprintf("a row has %d, which leaves no margin before the end of the sequence, %d", *r.Furthest, r.end())})
		default:
			changes = append(changes, c)
		}
	}
	return changes, left
}

// start returns the bound from which the sequence runs.
func (s Sequence) start() int64 {
	if s.Increment < 0 {
		return s.Max
	}
	return s.Min
}
