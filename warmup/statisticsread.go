package warmup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The values of one row of pg_stats, in the order of statsSQL and restoreSQL.
const (
	nullFrac = iota
	avgWidth
	nDistinct
	commonValues
	commonFreqs
	histogram
	correlation
	commonElements
	elementFreqs
	elementCounts
	rangeLengths
	rangeEmpty
	rangeBounds
	fields
)

// statRow is one row of pg_stats. Its values are never printed.
type statRow struct {
	relation  *statRelation // of the target
	column    *statColumn   // of the target
	inherited bool
	values    [fields]*string
}

// statsSQL reads the statistics of the relations $2 in the schemas $1; %s are
// the columns that only 17 and later have. The names are given once more, as a
// condition, since pg_stats is a security barrier: it takes in conditions that leak
// nothing, and no joins, and would be worked out whole.
const (
	statsSQL = `
select s.schemaname::text, s.tablename::text, s.attname::text, s.inherited,
       s.null_frac::text, s.avg_width::text, s.n_distinct::text,
       s.most_common_vals::text, s.most_common_freqs::text, s.histogram_bounds::text, s.correlation::text,
       s.most_common_elems::text, s.most_common_elem_freqs::text, s.elem_count_histogram::text,
       %s
  from unnest($1::name[], $2::name[]) as r(schemaname, tablename)
  join pg_stats s on s.schemaname = r.schemaname and s.tablename = r.tablename
 where s.tablename = any($2::name[])`
	rangeColumns   = `s.range_length_histogram::text, s.range_empty_frac::text, s.range_bounds_histogram::text`
	noRangeColumns = `null::text, null::text, null::text`
)

// source is one row as the source has it.
type source struct {
	Schema, Relation, Column string
	Inherited                bool
	Values                   [fields]*string
}

// readStats reads the statistics of some relations.
func readStats(ctx context.Context, conn *pgx.Conn, d *side, relations []*statRelation) ([]*source, error) {
	schemas, names := make([]string, len(relations)), make([]string, len(relations))
	for i, r := range relations {
		schemas[i], names[i] = r.Schema, r.Name
	}
	sql := fmt.Sprintf(statsSQL, noRangeColumns)
	if d.version >= 170000 {
		sql = fmt.Sprintf(statsSQL, rangeColumns)
	}
	rows, err := conn.Query(ctx, sql, schemas, names)
	if err != nil {
		return nil, hidden("reading pg_stats", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*source, error) {
		s := &source{}
		to := []any{&s.Schema, &s.Relation, &s.Column, &s.Inherited}
		for i := range s.Values {
			to = append(to, &s.Values[i])
		}
		return s, row.Scan(to...)
	})
	if err != nil {
		return nil, hidden("reading pg_stats", err)
	}
	if d.version < 170000 && d.slots {
		return all, addRanges(ctx, conn, relations, all)
	}
	return all, nil
}

// rangesSQL reads what pg_stats shows only from 17 on: the kinds 6 (lengths of
// ranges and the part of empty ones) and 7 (bounds) of the relations $1.
// Postgres source: catalog/pg_statistic.h.
const rangesSQL = `
select s.starelid, a.attname::text, s.stainherit,
       max(k.vals) filter (where k.kind = 6), max(k.numbers[1]) filter (where k.kind = 6), max(k.vals) filter (where k.kind = 7)
  from unnest($1::oid[]) as r(oid)
  join pg_statistic s on s.starelid = r.oid
  join pg_attribute a on a.attrelid = s.starelid and a.attnum = s.staattnum
 cross join lateral (values
       (s.stakind1, s.stanumbers1, s.stavalues1::text), (s.stakind2, s.stanumbers2, s.stavalues2::text),
       (s.stakind3, s.stanumbers3, s.stavalues3::text), (s.stakind4, s.stanumbers4, s.stavalues4::text),
       (s.stakind5, s.stanumbers5, s.stavalues5::text)) as k(kind, numbers, vals)
 where (s.stakind1 in (6, 7) or s.stakind2 in (6, 7) or s.stakind3 in (6, 7) or s.stakind4 in (6, 7) or s.stakind5 in (6, 7))
   and k.kind in (6, 7)
 group by s.starelid, a.attname, s.stainherit`

// addRanges completes rows of range columns.
func addRanges(ctx context.Context, conn *pgx.Conn, relations []*statRelation, all []*source) error {
	type key struct {
		table     Table
		column    string
		inherited bool
	}
	rowsOf, oids, byOID := map[key]*source{}, make([]uint32, len(relations)), map[uint32]*statRelation{}
	for _, s := range all {
		rowsOf[key{Table{s.Schema, s.Relation}, s.Column, s.Inherited}] = s
	}
	for i, r := range relations {
		oids[i], byOID[r.OID] = r.OID, r
	}
	rows, err := conn.Query(ctx, rangesSQL, oids)
	if err != nil {
		return hidden("reading statistics of ranges", err)
	}
	var oid uint32
	var column string
	var inherited bool
	var lengths, bounds *string
	var empty *float32
	_, err = pgx.ForEachRow(rows, []any{&oid, &column, &inherited, &lengths, &empty, &bounds}, func() error {
		r := byOID[oid]
		if s := rowsOf[key{Table{r.Schema, r.Name}, column, inherited}]; s != nil {
			s.Values[rangeLengths], s.Values[rangeBounds] = lengths, bounds
			if empty != nil {
				text := fmt.Sprint(*empty)
				s.Values[rangeEmpty] = &text
			}
		}
		return nil
	})
	return hidden("reading statistics of ranges", err)
}

// ordersSQL asks a server of lists of values, $2, numbered $1, whether it takes
// the values and whether it finds them in order. %[1]s is their type as a
// literal, %[2]s the type, %[3]s the collation. A sort takes the type's own
// operators, whatever search_path says.
const ordersSQL = `
select l.i, coalesce(o.valid, true), coalesce(o.sorted, true)
  from unnest($1::int[], $2::text[]) as l(i, texts)
 cross join lateral (
       select bool_and(x.valid) as valid, bool_and(x.valid and x.sorted) as sorted
         from (select v.valid, u.n > lag(u.n, 1, 0::bigint) over (order by v.value%[3]s, u.n) as sorted
                 from unnest(l.texts::text[]) with ordinality as u(text, n)
                cross join lateral (select pg_input_is_valid(u.text, %[1]s) as valid,
                                           case when pg_input_is_valid(u.text, %[1]s) then u.text::%[2]s end as value) v) x) o`

// list is what ordersSQL is asked about, and the answer.
type list struct {
	kind          string // the text of the statement
	text          string
	valid, sorted bool
}
