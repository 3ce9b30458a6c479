package warmup

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Columns that an ANALYZE of the whole table would add close the gate, and one
// ANALYZE opens it, whatever their types and values.
func TestColumnsWithoutStatistics(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		c := pgtest.Server(t, major)
		t.Run(c.Version(), func(t *testing.T) { testBareColumns(t, c) })
	}
}

// everyType has columns of types that there is little to say of, values that are
// too wide to be kept, and columns that are all null.
const everyType = `
create table mixed as
select g as a, '{}'::json as js, '<a/>'::xml as xm, point(1, 2) as pt, box '((1,1),(2,2))' as bx, line '{1,2,3}' as li,
       'a b'::tsvector as tv, 'a & b'::tsquery as tq, int4range(1, 1) as er, '{}'::int[] as ea, array['{}'::json] as aj,
       (row(1, '{}'))::pair as co, '{}'::odd as dj, '1/2'::pg_lsn as ls, '(1,2)'::tid as ti, '1'::xid as xi, txid_current_snapshot() as sn,
       repeat(md5(g::text), 100) as wide, to_json(repeat(md5(g::text), 100)) as widejson,
       null::int as ni, null::json as nj, null::tsvector as nt, null::int4range as nr, null::text[] as na, null::pair as np
  from generate_series(1, 50) g`

func testBareColumns(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create type pair as (a int, b json)", "create domain odd as json", everyType,
		"create type theirs as enum ('a')", "create function public.declines(internal) returns boolean language internal as 'range_typanalyze'",
		"update pg_type set typanalyze = 'public.declines'::regproc where typname = 'theirs'",
		"create table parted (a int, b int) partition by range (a)", "create table parted_1 partition of parted for values from (0) to (10)", "insert into parted values (1, 1)",
		"create table emptied (a int, b int)", "insert into emptied values (1, 1)")
	virtual := "select 1"
	if c.Major() >= 18 {
		virtual = "alter table mixed add v int generated always as (a * 2) virtual"
	}
	for _, e := range []extendedStep{
		{"analyze mixed (a); analyze parted; analyze parted_1; analyze emptied (a)", "public.emptied (no statistics of column b), public.mixed (no statistics of column js and 23 more)"},
		{"truncate emptied", "public.mixed (no statistics of column js and 23 more)"},
		{"analyze mixed", ""},
		{virtual, ""},
		{"alter table mixed add t theirs", ""},
		{"alter table mixed drop t; alter table mixed add n int; alter table mixed alter n set statistics 0", ""},
		{"alter table mixed add b varchar", "public.mixed (no statistics of column b)"},
		{"AnalyzeTables", ""},
		{"alter table mixed alter b type text", "public.mixed (no statistics of column b)"},
		{"AnalyzeTables", ""},
		{"alter table parted add c int", "public.parted (no statistics of column c over the whole tree), public.parted_1 (no statistics of column c)"},
		{"analyze parted_1", "public.parted (no statistics of column c over the whole tree)"},
		{"AnalyzeTables", ""},
	} {
		e.check(t, url)
	}
	testUnreadColumns(t, url)
}

// testUnreadColumns is about a role that may read only some columns: it cannot know
// about the others.
func testUnreadColumns(t *testing.T, url string) {
	pgtest.Exec(t, url, "drop table mixed, parted, emptied", "create table part (a int, b int, c int)", "insert into part values (1, 1, 1)", "analyze part (a)",
		"create role some_reader login", "grant usage on schema public to some_reader", "grant select (a, b) on part to some_reader")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by some_reader", "drop role some_reader") })
	mine := pgtest.WithUser(t, url, "some_reader", "")
	extendedStep{"select 1", "public.part (no statistics of column b)"}.check(t, mine)
	pgtest.Exec(t, url, "analyze part (b)")
	extendedStep{"select 1", ""}.check(t, mine)
	extendedStep{"select 1", "public.part (no statistics of column c)"}.check(t, url)
}
