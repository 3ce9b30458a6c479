package warmup

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

const production = `
create table big as select g, repeat('x', 100) as body from generate_series(1, 5000) g;
create table cold as select 1 as a;
create table queried as select g as id from generate_series(1, 100) g;
create index on queried (id);
create table parted (id int) partition by range (id);
create table parted_1 partition of parted for values from (0) to (100);
create table parted_2 partition of parted for values from (100) to (200);
insert into parted select generate_series(0, 199);`

func testUsageOrder(t *testing.T, c *pgserver.Cluster) {
	old, url := pgtest.Database(t, c), pgtest.Database(t, c)
	if c.Major() >= 11 {
		pgtest.Exec(t, old, fmt.Sprintf("alter database %s set jit = off", pgtest.Value[string](t, old, "select current_database()")))
	}
	waitForCollector(t, old)
	pgtest.Exec(t, old, production, "set enable_seqscan = off", `do $$ begin
		for n in 1 .. 500 loop perform 1 from queried where id = n; end loop;
		for n in 1 .. 200 loop perform 1 from parted where id = 150; end loop;
		for n in 1 .. 50 loop perform 1 from parted where id = 50; end loop;
		for n in 1 .. 3 loop perform count(*) from big; end loop;
		end $$`)
	waitForCollector(t, old) // of all tables: they come in several messages
	usage, err := ReadUsage(t.Context(), open(t, old))
	if err != nil {
		t.Fatal(err)
	}
	for name, scans := range map[string]int64{"queried": 500, "parted_2": 200, "parted_1": 50, "parted": 250, "cold": 0} {
		// the first index was built by a scan of the table, and so on
		if got := usage[Table{"public", name}].Scans; got < scans || got > scans+2 {
			t.Errorf("%s: %d scans, want %d", name, got, scans)
		}
	}
	if got := usage[Table{"public", "big"}]; got.Rows < 20000 || got.Bytes != 0 { // 5000 written, 15000 read; never counted
		t.Errorf("big: %+v", got)
	}

	pgtest.Exec(t, url, production, "create table newer as select 1 as a")
	var order []string
	o := AnalyzeOptions{Jobs: 1, Usage: usage, Progress: func(p AnalyzeProgress) { order = append(order, p.Table.Name) }}
	s := open(t, url)
	if _, err := AnalyzeTables(t.Context(), s, nil, o); err != nil {
		t.Fatal(err)
	}
	want := []string{"queried", "parted_2", "parted_1", "big", "cold", "newer", "parted"} // parents follow
	if !slices.Equal(order, want) {
		t.Errorf("tables that need it: %q, want %q", order, want)
	}
	order = nil
	if _, err := Analyze(t.Context(), s, o); err != nil || !slices.Equal(order, want) {
		t.Errorf("all: %q, %v, want %q", order, err, want)
	}
}

// staged has two tables of which one is above 64 kB, where so much is small.
const (
	staged      = `create table large as select g as n from generate_series(1, 20000) g; create table little as select g as n from generate_series(1, 500) g`
	stagedSmall = 64 << 10
)

func testSmallAndBig(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	again := func() {
		pgtest.Exec(t, url, "drop table if exists large, larger, little", "create table larger as select g as n from generate_series(1, 25000) g")
		pgtest.Exec(t, url, strings.Split(staged, "; ")...)
	}
	again()
	s := open(t, url)
	var seen []string
	o := AnalyzeOptions{Jobs: 1, Small: stagedSmall, Progress: func(p AnalyzeProgress) {
		seen = append(seen, fmt.Sprintf("%d: %s %s", p.Stage, p.Table.Name, p.Target))
	}}
	plan, err := AnalyzePlan(t.Context(), s, s, o)
	if err != nil {
		t.Fatal(err)
	}
	var planned []string
	for _, stage := range plan {
		for _, sql := range stage.Statements {
			planned = append(planned, stage.Stage.String()+" "+sql)
		}
	}
	if _, err = Analyze(t.Context(), s, o); err != nil {
		t.Fatal(err)
	}
	want := []string{"1: larger 1", "1: large 1", "3: little default", "2: larger 10", "2: large 10", "3: larger default", "3: large default"}
	if !slices.Equal(seen, want) {
		t.Errorf("analyzed %q, want %q", seen, want)
	}
	word := "analyze"
	if c.Major() >= 18 {
		word = "analyze only"
	}
	if got, want := strings.Join(planned, ", "), strings.ReplaceAll(`1 A "public"."larger", 1 A "public"."large", default A "public"."little", `+
		`10 A "public"."larger", 10 A "public"."large", default A "public"."larger", default A "public"."large"`, "A", word); got != want {
		t.Errorf("planned %s\nwant    %s", got, want)
	}
	seen = nil
	if _, err := Analyze(t.Context(), s, o); err != nil || !slices.Equal(seen, []string{"3: little default", "3: larger default", "3: large default"}) {
		t.Errorf("what has statistics is analyzed again by %q, %v", seen, err)
	}
	o.Progress = nil
	for _, try := range []struct {
		jobs   int
		stages []Stage
		want   []string
	}{
		{2, nil, []string{"1", "default"}}, // none has to wait
		{1, nil, []string{"1", "10", "default"}},
		{2, []Stage{2, 10, DefaultTarget}, []string{"2", "10", "default"}}, // as asked for
	} {
		again()
		o.Jobs, o.Stages = try.jobs, try.stages
		report, err := Analyze(t.Context(), s, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"large", "larger"} {
			if got := analysisOf(t, report, "public", name).Targets; !slices.Equal(got, try.want) {
				t.Errorf("%s by %d sessions: %q, want %q", name, try.jobs, got, try.want)
			}
		}
	}
}

// testRough is about an Analyze that died between two stages.
func testRough(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, strings.Split(staged, "; ")...)
	waitForChanges(t, url, "little", 500)
	pgtest.Exec(t, url, "set default_statistics_target = 10", "analyze")
	waitForChanges(t, url, "little", 0)
	s := open(t, url)
	for _, try := range []struct {
		o    AnalyzeOptions
		want int
	}{
		{AnalyzeOptions{}, 0}, // small tables know no stages
		{AnalyzeOptions{Small: stagedSmall, Stages: []Stage{1, 5}}, 0}, // this is better than asked for
		{AnalyzeOptions{Small: stagedSmall, Stages: []Stage{1, 10, DefaultTarget}}, 1},
		{AnalyzeOptions{Small: stagedSmall, Stages: []Stage{1, 10, DefaultTarget}}, 0},
		{AnalyzeOptions{Small: stagedSmall}, 0},
	} {
		report, err := AnalyzeTables(t.Context(), s, nil, try.o)
		if err != nil || len(report.Tables) != try.want || try.want == 1 && !slices.Equal(report.Tables[0].Targets, []string{"default"}) {
			t.Errorf("with %+v: analyzed %+v, %v", try.o, report.Tables, err)
		}
	}
	// Values of more than 1 kB are counted and not kept: few are left to be seen.
	pgtest.Exec(t, url, "create table documents (id int, body text)", "alter table documents alter body set storage external",
		"insert into documents select g, case when g % 500 = 0 then g::text else repeat(md5(g::text), 40) end from generate_series(1, 3000) g")
	waitForChanges(t, url, "documents", 3000)
	pgtest.Exec(t, url, "analyze documents")
	waitForChanges(t, url, "documents", 0)
	if report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{Small: 1, Changed: 1e6}); err != nil || len(report.Tables) != 0 {
		t.Errorf("analyzed %+v, %v", report.Tables, err)
	}
	// A column that is to have no more than this is not rough.
	pgtest.Exec(t, url, "alter table large alter n set statistics 5", "analyze large")
	if report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{Small: stagedSmall}); err != nil || len(report.Tables) != 0 {
		t.Errorf("analyzed %+v, %v", report.Tables, err)
	}
}

func testSince(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, shop)
	waitForChanges(t, url, "items", 3000)
	s := open(t, url)
	if _, err := Analyze(t.Context(), s, AnalyzeOptions{}); err != nil {
		t.Fatal(err)
	}
	waitForCollector(t, url)
	o := AnalyzeOptions{Since: pgtest.Value[time.Time](t, url, "select clock_timestamp()")}
	report, err := AnalyzeTables(t.Context(), s, nil, o)
	if err != nil || len(report.Unfinished()) != 0 {
		t.Fatalf("%+v, %v", report.Unfinished(), err)
	}
	tables := pgtest.Value[int](t, url, `select count(*) from pg_class where relkind in ('r', 'p', 'm') and relnamespace in ('public'::regnamespace, '"SHOP"'::regnamespace)`)
	if len(report.Tables) != tables {
		t.Errorf("%d tables of %d, of which all are older", len(report.Tables), tables)
	}
	waitForCollector(t, url)
	if report, err = AnalyzeTables(t.Context(), s, nil, o); err != nil || len(report.Tables) != 0 {
		t.Errorf("again: %+v, %v", report.Tables, err)
	}
}

func testParentsBehind(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, shop)
	waitForChanges(t, url, "items", 3000)
	s := open(t, url)
	if _, err := Analyze(t.Context(), s, AnalyzeOptions{}); err != nil {
		t.Fatal(err)
	}
	// As autovacuum does it, which never sees to the parents.
	pgtest.Exec(t, url, "analyze events_2a", "analyze child")
	waitForCollector(t, url)
	want := []string{"events", "events_2", "parent"}
	if c.Major() < 14 { // when partitioned tables were analyzed is not known there
		want = []string{"parent"}
	}
	report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{})
	var got []string
	for _, r := range report.Tables {
		got = append(got, r.Name)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("analyzed %q, %v, want %q", got, err, want)
	}
	waitForCollector(t, url)
	if report, err = AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{}); err != nil || len(report.Tables) != 0 {
		t.Errorf("again: %+v, %v", report.Tables, err)
	}
}

func testExpressions(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, "create table people as select g as id, 'Name ' || g as name from generate_series(1, 1000) g")
	waitForChanges(t, url, "people", 1000)
	pgtest.Exec(t, url, "analyze people") // in a session that has no changes to report later
	waitForChanges(t, url, "people", 0)
	s := open(t, url)
	for _, step := range []struct {
		sql     string
		changed int
		want    int
	}{
		{"create index on people (id)", 0, 0},
		{"create index on people (lower(name))", 0, 1},
		{"create index on people (upper(name)) where id < 0", 0, 0}, // there may be nothing to say
		{"update people set id = id where id <= 20", 20, 0},
		{"alter table people set (autovacuum_analyze_threshold = 15, autovacuum_analyze_scale_factor = 0)", 0, 1},
		{"update people set id = id where id <= 10", 10, 0},
		{"update people set id = id where id <= 10", 20, 1},
	} {
		pgtest.Exec(t, url, step.sql)
		if step.changed > 0 {
			waitForChanges(t, url, "people", step.changed)
		}
		report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{})
		if err != nil || len(report.Tables) != step.want {
			t.Errorf("after %s: %+v, %v", step.sql, report.Tables, err)
		}
		if step.want > 0 {
			waitForChanges(t, url, "people", 0)
		}
	}
	if got := pgtest.Value[int](t, url, "select count(*) from pg_stats where tablename = 'people_lower_idx'"); got != 1 {
		t.Errorf("%d columns of the index have statistics", got)
	}
}

func testAge(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, production)
	waitForChanges(t, url, "parted_2", 100)
	pgtest.Exec(t, url, "analyze big; analyze parted_1")
	waitForChanges(t, url, "parted_1", 0)
	pgtest.Exec(t, url, "insert into big select 1 from generate_series(1, 7); insert into parted values (0), (1)")
	waitForChanges(t, url, "parted_1", 2)
	waitForCollector(t, url)
	all, err := ReadStatistics(t.Context(), open(t, url))
	if err != nil {
		t.Fatal(err)
	}
	now := pgtest.Value[time.Time](t, url, "select clock_timestamp()")
	var got []string
	for _, r := range all {
		age, known := r.Age(now)
		if known && (age < 0 || age > time.Hour) {
			t.Errorf("%s: %s old", r.Table, age)
		}
		got = append(got, fmt.Sprintf("%s %t %t %t %d %s", r.Name, known, r.Auto, r.Carried, r.Changed, r.Lacks))
	}
	want := []string{
		"big true false false 7 ", "cold false false false 1 statistics", "parted false false false 102 statistics",
		"parted_1 true false false 2 ", "parted_2 false false false 100 statistics", "queried false false false 100 statistics",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if c.Major() < 18 {
		pgtest.Exec(t, url, "select pg_stat_reset()")
		waitForCollector(t, url)
		all, err = ReadStatistics(t.Context(), open(t, url))
		if err != nil || all[0].Name != "big" || all[0].Last != nil || !all[0].Undated || all[0].Carried {
			t.Errorf("forgotten: %+v, %v", all[0], err)
		}
		return
	}
	pgtest.Exec(t, url, `select pg_restore_attribute_stats('schemaname', 'public', 'relname', 'cold', 'attname', 'a', 'inherited', false,
		'null_frac', 0::real, 'avg_width', 4, 'n_distinct', -1::real)`)
	all, err = ReadStatistics(t.Context(), open(t, url))
	if err != nil || all[1].Name != "cold" || all[1].Last != nil || !all[1].Carried || all[1].Lacks != "" {
		t.Errorf("carried over: %+v, %v", all[1], err)
	}
	report, err := AnalyzeTables(t.Context(), open(t, url), []Table{{"public", "cold"}}, AnalyzeOptions{Since: now})
	if err != nil || len(report.Tables) != 1 {
		t.Errorf("what was carried over is not improved: %+v, %v", report.Tables, err)
	}
}

// testNoRoom is about a server that has room for fewer sessions than are wanted.
func testNoRoom(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create role crowded login connection limit 6", `do $$ begin for n in 1 .. 12 loop
		execute format('create table little_%s as select 1 as a', n);
		execute format('alter table little_%s owner to crowded', n);
		end loop; end $$`)
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by crowded", "drop role crowded") })
	proxy := pgtest.NewProxy(t, c.Addr())
	proxy.OnFrontend(func(_ int, message byte, _ []byte) pgtest.Action {
		if message == 'X' { // processes take a while to end
			<-time.After(300 * time.Millisecond)
		}
		return pgtest.Forward
	})
	s := open(t, proxy.URL(t, pgtest.WithUser(t, url, "crowded", "")))
	report, err := Analyze(t.Context(), s, AnalyzeOptions{Jobs: 12})
	if err != nil || outcomes(report)[Analyzed] != 12 {
		t.Errorf("%v, %v", outcomes(report), err)
	}
	noSessions(t, url)
}
