package warmup

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func testChanged(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, shop)
	waitForChanges(t, url, "items", 3000)
	s := open(t, url)
	if _, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{}); err != nil {
		t.Fatal(err)
	}
	waitForCollector(t, url)
	report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{})
	if err != nil || len(report.Tables) != 0 {
		t.Errorf("nothing has changed, but %+v was analyzed, %v", report.Tables, err)
	}
	pgtest.Exec(t, url, "insert into events select 2500 from generate_series(1, 500)", // half of events_2b
		"update items set kind = 1 where id <= 300", // a tenth
		"create table fresh as select 1 as a", "insert into child values (1)")
	waitForCollector(t, url)
	report, err = AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range report.Tables {
		got = append(got, r.Name)
	}
	if want := []string{"events", "events_2", "events_2b", "fresh"}; !slices.Equal(got, want) {
		t.Errorf("analyzed %q, want %q", got, want)
	}
	report, err = AnalyzeTables(t.Context(), s, []Table{{"public", "items"}, {"public", "child"}, {"public", "items"}}, AnalyzeOptions{Changed: 0.05})
	if err != nil || len(report.Tables) != 1 || report.Tables[0].Name != "items" || report.Tables[0].Attempts != 1 {
		t.Errorf("analyzed %+v, %v", report.Tables, err)
	}
	if _, err := AnalyzeTables(t.Context(), s, []Table{{"public", "nowhere"}}, AnalyzeOptions{}); err == nil || !strings.Contains(err.Error(), `"public"."nowhere"`) {
		t.Errorf("error %v", err)
	}
}

func testHottestFirst(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, "create table big as select g, repeat('x', 100) from generate_series(1, 5000) g",
		"create table hot as select 1 as a", "create table cold as select 1 as a")
	pgtest.Exec(t, url, "do $$ begin for n in 1 .. 20000 loop perform 1 from hot; end loop; end $$")
	waitForCollector(t, url)
	var order []string
	see := func(p AnalyzeProgress) { order = append(order, p.Table.Name) }
	s := open(t, url)
	if _, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{Jobs: 1, Progress: see}); err != nil || !slices.Equal(order, []string{"hot", "big", "cold"}) {
		t.Errorf("hottest first: %q, %v", order, err)
	}
	order = nil
	if _, err := Analyze(t.Context(), s, AnalyzeOptions{Jobs: 1, Progress: see}); err != nil || len(order) != 3 || order[0] != "big" {
		t.Errorf("biggest first: %q, %v", order, err)
	}
}

func testWithoutStatistics(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	s := open(t, url)
	for _, step := range []struct{ sql, want string }{
		{"create table a (id int)", ""},
		{"insert into a select generate_series(1, 100)", "public.a"},
		{"create index on a (id)", "public.a"},
		{"vacuum a", "public.a"},
		{"analyze a", ""},
		{"create table b (id int); insert into b select generate_series(1, 100); delete from b", ""},
		{"insert into b values (1)", "public.b"},
		{"delete from b", ""},
		{"analyze b", ""},
		{"insert into b values (1)", ""}, // known to have been counted, and hardly grown since
		{"insert into b select generate_series(1, 60)", "public.b"},
		{"analyze b", ""},
		{"create table c (id int) partition by list (id); create table c1 partition of c for values in (1)", ""},
		{"insert into c values (1)", "public.c public.c1"},
		{"analyze c1", "public.c"},
		{"analyze c", ""},
		{"create table p (id int); create table q () inherits (p); insert into q values (1); insert into p values (1)", "public.p public.q"},
		{"analyze q", "public.p"},
		{"analyze p", ""},
		{"create schema pgcutover; create table pgcutover.turn as select 1 as a", ""},
		{"drop schema pgcutover cascade", ""},
	} {
		pgtest.Exec(t, url, strings.Split(step.sql, "; ")...)
		if strings.HasPrefix(step.sql, "analyze") || strings.Contains(step.sql, "delete") || strings.HasPrefix(step.sql, "insert into b") {
			waitForCollector(t, url)
		}
		missing, err := WithoutStatistics(t.Context(), s)
		if got := names(missing); err != nil || got != step.want {
			t.Errorf("after %s: %q, %v, want %q", step.sql, got, err, step.want)
		}
	}
	// What is locked is named rather than overlooked, and not waited for.
	pgtest.Exec(t, url, "create table d as select 1 as a")
	lock(t, url, "lock table d in access exclusive mode")
	began := time.Now()
	missing, err := WithoutStatistics(t.Context(), s)
	if err != nil || names(missing) != "public.d" || time.Since(began) > time.Minute {
		t.Errorf("%q, %v, after %s", names(missing), err, time.Since(began))
	}
}

func testManyTables(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "do $$ begin for n in 1 .. 1000 loop execute format('create table many_%s as select 1 as a', n); end loop; end $$")
	began := time.Now()
	report, err := Analyze(t.Context(), open(t, url), AnalyzeOptions{Jobs: 4})
	if err != nil || len(report.Tables) != 1000 {
		t.Errorf("%d tables, %v", len(report.Tables), err)
	}
	t.Logf("1000 tables: %s", time.Since(began).Round(time.Millisecond))
}
