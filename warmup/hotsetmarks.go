package warmup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// A copy keeps the order of rows: a table's file on new begins with the rows that
// it begins with on old. But rows that were dead on old are not there, a copy
// may begin in the middle of a file (synchronize_seqscans), and what is updated
// meanwhile moves to the end. So rows of known blocks of old are looked up on
// new, and where these are in order blocks in between are taken to be so too.

// rowMark is a row: where it is on old, and its key.
type rowMark struct {
	block int64
	key   []string // as text, in the order of HotTable.keys
}

// marksOf is how many rows of a table are looked up, at most, and marked how
// many tables: those that are big enough for it to matter, hottest first.
const (
	marksOf     = 24
	marked      = 200
	markedBytes = 4 << 20
)

// keySQL lists the columns of the primary key of table $1::regclass, none where
// the role may not read them.
const keySQL = `
select a.attname::text
  from pg_index i
 cross join lateral generate_series(0, array_upper(i.indoption, 1)) k
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
 where i.indrelid = $1::text::regclass and i.indisprimary and i.indisvalid
   and has_table_privilege(i.indrelid, 'SELECT') and not row_security_active(i.indrelid)
 order by k`

// marksSQL reads one row of each of some blocks: %[1]s are the columns of the
// key, as text, %[2]s the table, %[3]s the rows' addresses as literals, so that
// it is found by them.
const marksSQL = `
select distinct on (1) (t.ctid::text::point)[0]::bigint, array[%[1]s]
  from only %[2]s t
 where t.ctid = any('{%[3]s}'::tid[])
 order by 1`

// mark reads marks of the tables for which it matters where their hot blocks
// are. A table that cannot be read has none.
func (h *HotSet) mark(ctx context.Context, from *pg.Server, conn *pgx.Conn, bound time.Duration) error {
	n := 0
	for i := range h.Tables {
		t := &h.Tables[i]
		if n == marked || t.Heap.Size < markedBytes || len(t.Heap.Ranges) == 0 {
			continue
		}
		n++
		err := answered(ctx, from, bound, func(ctx context.Context) error { return t.readMarks(ctx, conn) })
		if pg.Lost(err) || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

func (t *HotTable) readMarks(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, keySQL, t.Table.String())
	if err != nil {
		return fmt.Errorf("asking for the key of %s: %w", t.Table, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(keys) == 0 {
		return err
	}
	columns := make([]string, len(keys))
	for i, k := range keys {
		columns[i] = "t." + pgx.Identifier{k}.Sanitize() + "::text"
	}
	var addresses []string
	for _, block := range t.markBlocks() {
		for row := 1; row <= 8; row++ { // some may be dead
			addresses = append(addresses, fmt.Sprintf(`"(%d,%d)"`, block, row))
		}
	}
	rows, err = conn.Query(ctx, fmt.Sprintf(marksSQL, strings.Join(columns, ", "), t.Table, strings.Join(addresses, ",")))
	if err != nil {
		return fmt.Errorf("reading rows of %s: %w", t.Table, err)
	}
	t.keys = keys
	t.marks, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (rowMark, error) {
		var m rowMark
		err := row.Scan(&m.block, &m.key)
		return m, err
	})
	if err != nil {
		return fmt.Errorf("reading rows of %s: %w", t.Table, err)
	}
	return nil
}

// markBlocks are blocks all over the file, with its ends.
func (t *HotTable) markBlocks() []int64 {
	blocks := t.Heap.Size / blockBytes
	var found []int64
	for i := range int64(marksOf) {
		found = append(found, i*(blocks-1)/(marksOf-1))
	}
	return slices.Compact(found)
}

// placesSQL looks marks up: %[1]s is the table, %[2]s the marks' numbers and
// keys as VALUES, %[3]s their names, %[4]s the condition.
const placesSQL = `
select m.n, (t.ctid::text::point)[0]::bigint
  from (values %[2]s) as m(n, %[3]s)
  join only %[1]s t on %[4]s`

// layout tells where blocks of old are on new.
type layout struct {
	from, to []int64 // blocks of old and of new, ascending, the ends included
}

// layoutOf compares a table's file with that on old. Nil when the order of rows
// is another one; then nobody knows where the hot rows are. Without marks it is
// taken to be the same.
func layoutOf(ctx context.Context, conn *pgx.Conn, t *HotTable, blocks int64) (*layout, error) {
	ends := &layout{from: []int64{0, t.Heap.Size / blockBytes}, to: []int64{0, blocks}}
	if len(t.marks) < 4 {
		return ends, nil
	}
	var values, names, conditions []string
	for i, k := range t.keys {
		names = append(names, fmt.Sprintf("k%d", i))
		conditions = append(conditions, fmt.Sprintf("t.%s = m.k%d", pgx.Identifier{k}.Sanitize(), i))
	}
	types, err := keyTypesOf(ctx, conn, t.Table, t.keys)
	if err != nil || len(types) != len(t.keys) {
		return nil, err
	}
	for n, m := range t.marks {
		var row []string
		for i, v := range m.key {
			row = append(row, pg.Literal(v)+"::"+types[i])
		}
		values = append(values, fmt.Sprintf("(%d, %s)", n, strings.Join(row, ", ")))
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(placesSQL, t.Table, strings.Join(values, ", "), strings.Join(names, ", "), strings.Join(conditions, " and ")))
	if err != nil {
		return nil, fmt.Errorf("looking up rows: %w", err)
	}
	places := map[int]int64{}
	var n int
	var block int64
	if _, err := pgx.ForEachRow(rows, []any{&n, &block}, func() error { places[n] = block; return nil }); err != nil {
		return nil, fmt.Errorf("looking up rows: %w", err)
	}
	return ends.through(t.marks, places), nil
}

// keyTypesSQL returns the types of the columns $2 of table $1, in their order.
const keyTypesSQL = `
select format_type(a.atttypid, a.atttypmod)
  from unnest($2::text[]) with ordinality as k(name, n)
  join pg_attribute a on a.attrelid = $1::text::regclass and a.attname = k.name
 order by k.n`

func keyTypesOf(ctx context.Context, conn *pgx.Conn, t Table, columns []string) ([]string, error) {
	rows, err := conn.Query(ctx, keyTypesSQL, t.String(), columns)
	if err != nil {
		return nil, fmt.Errorf("asking for the types of a key: %w", err)
	}
	types, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("asking for the types of a key: %w", err)
	}
	return types, nil
}

// through puts the marks that are in order into the layout; nil when more than a
// quarter of them is not, or was not found.
func (l *layout) through(marks []rowMark, places map[int]int64) *layout {
	var from, to []int64
	for n, m := range marks {
		if block, found := places[n]; found {
			from, to = append(from, m.block), append(to, block)
		}
	}
	kept := ascending(to)
	if len(kept)*4 < len(marks)*3 {
		return nil
	}
	made := &layout{from: []int64{0}, to: []int64{0}}
	for _, i := range kept {
		if from[i] > made.from[len(made.from)-1] {
			made.from, made.to = append(made.from, from[i]), append(made.to, to[i])
		}
	}
	last := len(l.from) - 1
	if l.from[last] > made.from[len(made.from)-1] {
		made.from, made.to = append(made.from, l.from[last]), append(made.to, l.to[last])
	}
	return made
}

// ascending returns the places of a longest sequence that does not descend.
func ascending(values []int64) []int {
	length, before := make([]int, len(values)), make([]int, len(values))
	best := -1
	for i := range values {
		length[i], before[i] = 1, -1
		for j := range i {
			if values[j] <= values[i] && length[j]+1 > length[i] {
				length[i], before[i] = length[j]+1, j
			}
		}
		if best < 0 || length[i] > length[best] {
			best = i
		}
	}
	var found []int
	for ; best >= 0; best = before[best] {
		found = append(found, best)
	}
	slices.Reverse(found)
	return found
}

// place returns where a block of old is on new.
func (l *layout) place(block int64) int64 {
	for i := 1; i < len(l.from); i++ {
		if block <= l.from[i] {
			span := max(l.from[i]-l.from[i-1], 1)
			return l.to[i-1] + (block-l.from[i-1])*(l.to[i]-l.to[i-1])/span
		}
	}
	return l.to[len(l.to)-1]
}
