package warmup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// testEmptied is about tables that have statistics of rows that are gone. No
// ANALYZE would make any more of them.
func testEmptied(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create table emptied (a int, b int)", "create table deleted (a int, b int)",
		"create table parted (a int, b int) partition by range (a)", "create table parted_1 partition of parted for values from (0) to (100)",
		"create table parent (a int, b int)", "create table child () inherits (parent)", "create table child_2 () inherits (parent)",
		"create table unstored (a int)", "alter table unstored alter a set statistics 0", "insert into unstored values (1)")
	for _, table := range []string{"emptied", "deleted", "parted_1", "child", "child_2"} {
		pgtest.Exec(t, url, fmt.Sprintf("insert into %s select g %% 10, g from generate_series(1, 100) g", table), "analyze "+table)
	}
	if c.Major() >= 18 {
		pgtest.Exec(t, url, "alter table unstored add b int generated always as (a * 2) virtual")
	}
	trees := "public.parent (no statistics over the whole tree), public.parted (no statistics)"
	for _, e := range []extendedStep{
		{"truncate emptied; create statistics emptied_ab on a, b from emptied", trees},
		{"delete from parted; delete from child; delete from child_2", ""},
		{"delete from deleted; create statistics deleted_ab on a, b from deleted", ""},
		{"insert into deleted values (1, 1)", "public.deleted (no extended statistics public.deleted_ab)"},
		{"analyze deleted", ""},
		{"insert into child_2 values (1, 1)", "public.parent (no statistics over the whole tree)"},
		{"AnalyzeTables", ""},
	} {
		e.check(t, url)
	}
}

// testHidden is about rows that row security hides from a table's owner.
func testHidden(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, "create role hidden_owner login", "create table hidden (a int)", "insert into hidden values (1)",
		"alter table hidden owner to hidden_owner", "alter table hidden enable row level security", "alter table hidden force row level security")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by hidden_owner", "drop role hidden_owner") })
	waitForChanges(t, url, "hidden", 1)
	pgtest.Exec(t, url, "select pg_stat_reset()")
	waitForCollector(t, url)
	mine := pgtest.WithUser(t, url, "hidden_owner", "")
	extendedStep{"select 1", "public.hidden (no statistics)"}.check(t, mine)
}

// testHearsay is about a table that one may analyze and not read. That it has
// statistics is known from the server's memory of the ANALYZE alone, which before
// 15 lags behind.
func testHearsay(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create role database_owner login", "create table unread as select 1 as a",
		"do $$ begin execute format('alter database %I owner to database_owner', current_database()); end $$")
	t.Cleanup(func() {
		pgtest.Exec(t, url, "do $$ begin execute format('alter database %I owner to current_user', current_database()); end $$",
			"drop owned by database_owner", "drop role database_owner")
	})
	if c.Major() >= 17 {
		pgtest.Exec(t, url, "grant maintain on unread to database_owner")
	}
	mine := pgtest.WithUser(t, url, "database_owner", "")
	extendedStep{"select 1", "public.unread (no statistics)"}.check(t, mine)
	extendedStep{"AnalyzeTables", ""}.check(t, mine)
}

func holes(t *testing.T, url string) []string {
	t.Helper()
	found, err := Holes(t.Context(), open(t, url))
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{}
	for _, h := range found {
		texts = append(texts, strings.ReplaceAll(h.String(), `"`, ""))
	}
	return texts
}

// extendedStep is what is done, and the hole that is there then.
type extendedStep struct{ sql, want string }

func (e extendedStep) check(t *testing.T, url string) {
	t.Helper()
	if e.sql == "AnalyzeTables" {
		if _, err := AnalyzeTables(t.Context(), open(t, url), nil, AnalyzeOptions{}); err != nil {
			t.Fatal(err)
		}
	} else {
		pgtest.Exec(t, url, strings.Split(e.sql, "; ")...)
	}
	if got := strings.Join(holes(t, url), ", "); got != e.want {
		t.Errorf("after %s: %q, want %q", e.sql, got, e.want)
	}
}

func testExtended(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create table pairs as select g % 10 as a, g % 5 as b, g as c from generate_series(1, 1000) g",
		"create table one as select 1 as a, 2 as b", "create table none (a int, b int)", "analyze")
	for _, e := range []extendedStep{
		{"create statistics pairs_ab on a, b from pairs", "public.pairs (no extended statistics public.pairs_ab)"},
		{"AnalyzeTables", ""},
		{"create statistics one_ab on a, b from one", "public.one (no extended statistics public.one_ab)"},
		{"analyze one", ""}, // though a row tells little
		{"create statistics none_ab on a, b from none; analyze none", ""},
		{"alter table pairs alter c set statistics 0; create statistics pairs_ac on a, c from pairs; analyze pairs", ""},
	} {
		e.check(t, url)
	}
	if c.Major() >= 13 {
		extendedStep{"create statistics pairs_0 on b, a from pairs; alter statistics pairs_0 set statistics 0", ""}.check(t, url)
	}
	// The kinds of which there may be nothing to say can be judged from 15 on.
	want := ""
	if c.Major() >= 15 {
		want = "public.pairs (no extended statistics public.free)"
	}
	extendedStep{"create statistics free (dependencies) on a, b from pairs", want}.check(t, url)
	extendedStep{"analyze pairs", ""}.check(t, url)

	// The owner sees it, who is no superuser, and can mend it.
	pgtest.Exec(t, url, "create role extended_owner login", "alter table pairs owner to extended_owner",
		"create schema more", "create statistics more.pairs_ba on b, a from pairs")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by extended_owner cascade", "drop role extended_owner") })
	waitForCollector(t, url) // of public.one he only knows what the server remembers
	mine := pgtest.WithUser(t, url, "extended_owner", "")
	extendedStep{"select 1", "public.pairs (no extended statistics more.pairs_ba)"}.check(t, mine)
	extendedStep{"AnalyzeTables", ""}.check(t, mine)
}

func testExtendedTrees(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create table parted (a int, b int) partition by range (a)",
		"create table parted_1 partition of parted for values from (0) to (100)",
		"insert into parted select g % 10, g % 5 from generate_series(1, 1000) g",
		"create table parent (a int, b int)", "create table child () inherits (parent)", "insert into child select g % 10, g % 5 from generate_series(1, 100) g")
	for _, e := range []extendedStep{
		{"analyze parted_1; analyze child", "public.parent (no statistics over the whole tree), public.parted (no statistics)"},
		{"AnalyzeTables", ""},
		{"create statistics parted_ab on a, b from parted", "public.parted (no extended statistics public.parted_ab)"},
		{"analyze parted_1", "public.parted (no extended statistics public.parted_ab)"},
		{"AnalyzeTables", ""},
	} {
		e.check(t, url)
	}
	if c.Major() < 15 { // a parent that is no partitioned table has none of the tree
		extendedStep{"create statistics parent_ab on a, b from parent", ""}.check(t, url)
		return
	}
	extendedStep{"create statistics parent_ab on a, b from parent", "public.parent (no extended statistics public.parent_ab)"}.check(t, url)
	extendedStep{"AnalyzeTables", ""}.check(t, url)
}

// testProbe is about tables of which nobody has counted anything, looked into by
// somebody who may not read all of them.
func testProbe(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create role prober login", fmt.Sprintf(`do $$ begin for n in 1 .. %d loop
		execute format('create table had_%%s (a int)', n);
		execute format('insert into had_%%s values (1)', n);
		execute format('delete from had_%%s', n);
		execute format('grant select on had_%%s to prober', n);
		end loop; end $$`, probedTogether+5),
		"insert into had_3 values (1)", "insert into had_104 values (1)", "revoke select on had_7 from prober")
	pgtest.Exec(t, url, "select pg_stat_reset()") // of what that session has counted to its end
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by prober", "drop role prober") })
	waitForCollector(t, url)
	want := []string{"public.had_104 (no statistics)", "public.had_3 (no statistics)"}
	if got := holes(t, url); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	want = append(want, "public.had_7 (no statistics)") // rather named than overlooked
	if got := holes(t, pgtest.WithUser(t, url, "prober", "")); !slices.Equal(got, want) {
		t.Errorf("without the right to read one: %q, want %q", got, want)
	}
}
