package warmup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestAnalyze(t *testing.T) {
	onEachMajor(t, nil, []subtest{
		{"all kinds of tables", testAllKinds},
		{"targets of the stages", testTargets},
		{"partitions are not analyzed twice", testPartitionsOnce},
		{"locked table", testLocked},
		{"locked partition", testLockedPartition},
		{"lock given back", testLockGivenBack},
		{"prepared transaction", testPrepared},
		{"time box", testTimeBox},
		{"owner without superuser", testOwner},
		{"what changed", testChanged},
		{"hottest first", testHottestFirst},
		{"what has statistics", testWithoutStatistics},
		{"many tables", testManyTables},
		{"what is used most first", testUsageOrder},
		{"small tables at once", testSmallAndBig},
		{"rough statistics are not enough", testRough},
		{"no room for sessions", testNoRoom},
		{"since a moment", testSince},
		{"parents behind their children", testParentsBehind},
		{"expressions and thresholds", testExpressions},
		{"extended statistics", testExtended},
		{"extended statistics of trees", testExtendedTrees},
		{"rows without counters", testProbe},
		{"statistics of rows that are gone", testEmptied},
		{"hidden rows", testHidden},
		{"hearsay", testHearsay},
		{"gently", testGently},
		{"gives way", testGivesWay},
		{"bounded", testWithin},
		{"timeouts of the role", testTimeouts},
		{"foreign tables", testForeign},
		{"age", testAge},
	})
}

// shop has every kind of table that has statistics, and such as have none.
const shop = `
create schema "SHOP";
create table "SHOP"."Order Items" ("Order" int, "a ""quoted"" name" text);
insert into "SHOP"."Order Items" select g, g from generate_series(1, 500) g;
create table events (id int, at date, kind int) partition by range (id);
create table events_1 partition of events for values from (0) to (1000);
create table events_2 partition of events for values from (1000) to (3000) partition by range (id);
create table events_2a partition of events_2 for values from (1000) to (2000);
create table events_2b partition of events_2 for values from (2000) to (3000);
insert into events select g, current_date, g % 7 from generate_series(0, 2999) g;
create table unused (id int) partition by range (id);
create table unused_1 partition of unused for values from (0) to (1000);
create table parent (id int);
create table child () inherits (parent);
insert into child select generate_series(1, 200);
create table empty (id int primary key, note text);
create table no_columns ();
insert into no_columns default values;
create table uncounted (id int);
alter table uncounted alter id set statistics 0;
insert into uncounted values (1);
create table items (id bigserial primary key, kind int, body text);
insert into items (kind, body) select g % 10, repeat('x', 100) from generate_series(1, 3000) g;
create index on items (kind);
create materialized view totals as select kind, count(*) from items group by kind;
create materialized view later as select * from items with no data;
create unlogged table scratch as select generate_series(1, 10) as n;`

// shopTables are those of shop that lack statistics.
const shopTables = "SHOP.Order Items public.child public.events public.events_1 public.events_2 public.events_2a " +
	"public.events_2b public.items public.parent public.scratch public.totals"

const statisticsSQL = `
select schemaname || '.' || tablename || case when inherited then ' (tree)' else '' end
  from pg_stats
 where schemaname in ('public', 'SHOP')
 group by schemaname, tablename, inherited
 order by 1`

func testAllKinds(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, "create extension pg_buffercache; create temp table passing as select 1 as a",
		fmt.Sprintf("alter database %s set default_transaction_read_only = on", pgtest.Value[string](t, url, "select current_database()")))
	s := open(t, url)
	missing, err := WithoutStatistics(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(missing); got != shopTables {
		t.Errorf("without statistics before:\n got %s\nwant %s", got, shopTables)
	}

	var inSession int
	var progress []AnalyzeProgress
	report, err := Analyze(t.Context(), s, AnalyzeOptions{Jobs: 3, Progress: func(p AnalyzeProgress) {
		progress = append(progress, p)
		if len(progress) == 1 {
			inSession = pgtest.Value[int](t, url, `select count(*) from pg_stat_activity
				where application_name = 'pgcutover/shop/analyze' and datname = current_database()`)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if inSession != 3 {
		t.Errorf("%d sessions called pgcutover/shop/analyze, want 3", inSession)
	}
	if missing, err = WithoutStatistics(t.Context(), s); err != nil || len(missing) != 0 {
		t.Errorf("without statistics afterwards: %s, %v", names(missing), err)
	}
	want := []string{
		"SHOP.Order Items", "public.child", "public.events (tree)", "public.events_1", "public.events_2 (tree)",
		"public.events_2a", "public.events_2b", "public.items", "public.items_kind_idx", "public.parent (tree)",
		"public.scratch", "public.totals",
	}
	want = slices.DeleteFunc(want, func(name string) bool { return name == "public.items_kind_idx" }) // no expression
	if got := column[string](t, url, statisticsSQL); !slices.Equal(got, want) {
		t.Errorf("statistics of\n got %q\nwant %q", got, want)
	}
	if got := outcomes(report); len(got) != 1 || got[Analyzed] != len(report.Tables) || len(report.Unfinished()) != 0 {
		t.Errorf("outcomes %v of %d tables", got, len(report.Tables))
	}
	if tables := analysisOf(t, report, "public", "totals"); tables.Kind != MaterializedView || !slices.Equal(tables.Targets, []string{"default"}) {
		t.Errorf("totals: %+v", tables)
	}
	if e := analysisOf(t, report, "public", "empty"); !slices.Equal(e.Targets, []string{"default"}) {
		t.Errorf("the empty table went through the stages %v", e.Targets)
	}
	last := progress[len(progress)-1]
	if len(report.Stages) != 3 || last.Stage != 3 || last.Done != last.Total || last.Total != len(report.Tables) ||
		report.Stages[0].Tables != 0 || report.Stages[1].Tables != 0 || report.Stages[2].Tables != last.Total {
		t.Errorf("stages %+v, last progress %+v, %d tables", report.Stages, last, len(report.Tables))
	}
	noSessions(t, url)
}

func testTargets(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url,
		"create table many as select g as n, g as tuned from generate_series(1, 20000) g",
		"create table other as select 1 as a", // with two, one has to wait
		"alter table many alter tuned set statistics 37",
		fmt.Sprintf("alter database %s set default_statistics_target = 50", pgtest.Value[string](t, url, "select current_database()")))
	s := open(t, url)
	var sizes []string
	look := func(p AnalyzeProgress) {
		if p.Table.Name != "many" {
			return
		}
		for _, name := range []string{"n", "tuned"} {
			sizes = append(sizes, fmt.Sprintf("%s %s %d", p.Target, name, pgtest.Value[int](t, url,
				"select array_length(histogram_bounds, 1) from pg_stats where tablename = 'many' and attname = $1", name)))
		}
	}
	if _, err := Analyze(t.Context(), s, AnalyzeOptions{Progress: look, Jobs: 1, Small: -1}); err != nil {
		t.Fatal(err)
	}
	// A histogram of n parts has n + 1 bounds.
	want := "1 n 2, 1 tuned 38, 10 n 11, 10 tuned 38, default n 51, default tuned 38"
	if got := strings.Join(sizes, ", "); got != want {
		t.Errorf("bounds of the histograms:\n got %s\nwant %s", got, want)
	}
	// Good statistics are not replaced by poor ones.
	sizes = nil
	report, err := Analyze(t.Context(), s, AnalyzeOptions{Progress: look, Jobs: 1, Small: -1})
	if got := strings.Join(sizes, ", "); err != nil || got != "default n 51, default tuned 38" {
		t.Errorf("second time: %s, %v, %+v", got, err, report)
	}
}

// waitForCollector waits until the server counts what came before: up to 14 a
// process of its own does that, in the order of the messages, of which those are
// lost that come while it has a hundred before it. What is done right after the
// wait is therefore counted.
func waitForCollector(t *testing.T, url string) {
	t.Helper()
	pgtest.Exec(t, url, "create table if not exists sentinel as select 1 as a", "analyze sentinel")
	before := pgtest.Value[int](t, url, "select analyze_count from pg_stat_all_tables where relname = 'sentinel'")
	err := pg.Wait(t.Context(), "the statistics collector", 20*time.Millisecond, time.Minute, nil,
		func(context.Context) (bool, string, error) {
			pgtest.Exec(t, url, "analyze sentinel") // again each time, since it may be lost
			return pgtest.Value[int](t, url, "select analyze_count from pg_stat_all_tables where relname = 'sentinel'") > before, "", nil
		})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, url, "drop table sentinel")
}

// waitForChanges waits until the server counts the changes of a session that has
// ended, which it may do only when that has gone.
func waitForChanges(t *testing.T, url, table string, changes int) {
	t.Helper()
	err := pg.Wait(t.Context(), "the count of changes", 20*time.Millisecond, time.Minute, nil,
		func(context.Context) (bool, string, error) {
			return pgtest.Value[int](t, url, "select n_mod_since_analyze from pg_stat_all_tables where relid = $1::regclass", table) == changes, "", nil
		})
	if err != nil {
		t.Fatal(err)
	}
}

func testPartitionsOnce(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	if _, err := Analyze(t.Context(), open(t, url), AnalyzeOptions{Stages: []Stage{DefaultTarget}}); err != nil {
		t.Fatal(err)
	}
	waitForCollector(t, url)
	got := column[string](t, url, `select relname || ' ' || analyze_count from pg_stat_all_tables
		where relname in ('events_1', 'events_2a', 'child') order by 1`)
	want := []string{"child 1", "events_1 1", "events_2a 1"}
	if c.Major() < 12 { // ANALYZE of events and of events_2 goes on to them
		want = []string{"child 1", "events_1 2", "events_2a 3"}
	}
	if !slices.Equal(got, want) {
		t.Errorf("analyzed %q times, want %q", got, want)
	}
}

func testLocked(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	s := open(t, url)
	pid, release := lock(t, url, `lock table "SHOP"."Order Items" in access exclusive mode`)
	began := time.Now()
	report, err := Analyze(t.Context(), s, AnalyzeOptions{LockTimeout: 200 * time.Millisecond, Attempts: 2})
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if !errors.Is(err, ErrMissingStatistics) {
		t.Fatalf("error %v", err)
	}
	for _, part := range []string{`"SHOP"."Order Items"`, fmt.Sprintf("session %d", pid), "AccessExclusiveLock", "lock table"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if !strings.Contains(hint.Of(err), "pg_terminate_backend") {
		t.Errorf("hint %q", hint.Of(err))
	}
	found := analysisOf(t, report, "SHOP", "Order Items")
	if found.Outcome != Locked || found.Attempts != 3 || len(found.Blockers) != 1 || found.Blockers[0].PID != pid {
		t.Errorf("%+v", found)
	}
	if got := outcomes(report); got[Locked] != 1 || got[Analyzed] != len(report.Tables)-1 || names(report.Missing) != "SHOP.Order Items" {
		t.Errorf("outcomes %v of %d, missing %s", got, len(report.Tables), names(report.Missing))
	}
	noSessions(t, url)

	release()
	if report, err = Analyze(t.Context(), s, AnalyzeOptions{}); err != nil || len(report.Unfinished()) != 0 {
		t.Errorf("after the lock was given back: %v, %+v", err, report.Unfinished())
	}
}

func testLockedPartition(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	waitForCollector(t, url)
	pgtest.Exec(t, url, shop)
	waitForChanges(t, url, "items", 3000)
	s := open(t, url)
	o := AnalyzeOptions{LockTimeout: 500 * time.Millisecond, Attempts: -1}

	// Who only keeps ANALYZE away from the partition.
	_, release := lock(t, url, "lock table events_2a in share update exclusive mode")
	_, err := Analyze(t.Context(), s, o)
	failure := &MissingStatisticsError{}
	if !errors.As(err, &failure) || len(failure.Tables) != 1 || failure.Tables[0].Name != "events_2a" {
		t.Errorf("with SHARE UPDATE EXCLUSIVE on a partition: %v", err)
	}
	release()

	// Who keeps readers away, too, so that no sample of the tree is to be had.
	pid, _ := lock(t, url, "lock table events_1 in access exclusive mode")
	pgtest.Exec(t, url, "drop table events_2, unused, items cascade", "truncate parent, child")
	waitForChanges(t, url, "events_1", 0)
	waitForCollector(t, url)
	report, err := AnalyzeTables(t.Context(), s, []Table{{"public", "events"}}, AnalyzeOptions{LockTimeout: o.LockTimeout, Changed: 1e-9})
	if err != nil {
		t.Errorf("statistics from before are not there: %v", err)
	}
	if len(report.Tables) != 0 { // nothing changed
		t.Errorf("%+v", report.Tables)
	}
	report, err = Analyze(t.Context(), s, o)
	if err != nil {
		t.Errorf("statistics from before are not there: %v", err)
	}
	root := analysisOf(t, report, "public", "events")
	if root.Outcome != Locked || len(root.Blockers) != 1 || root.Blockers[0].PID != pid || root.Blockers[0].Table.Name != "events_1" {
		t.Errorf("%+v", root)
	}
	if got := len(report.Unfinished()); got != 2 {
		t.Errorf("%d unfinished, want the partition and its parent", got)
	}
}

func testLockGivenBack(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	_, release := lock(t, url, "lock table items in share mode")
	tries := 0
	report, err := Analyze(t.Context(), open(t, url), AnalyzeOptions{LockTimeout: 100 * time.Millisecond, Attempts: 50, Progress: func(p AnalyzeProgress) {
		if p.Table.Name == "items" && p.Outcome == Locked {
			if tries++; tries == 3 {
				release()
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	items := analysisOf(t, report, "public", "items")
	if items.Outcome != Analyzed || items.Reason != "" || len(items.Blockers) != 0 || items.Attempts < 4 || items.Attempts != tries+1 || !slices.Equal(items.Targets, []string{"default"}) {
		t.Errorf("%+v", items)
	}
}

func testPrepared(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, "begin; lock table items in access exclusive mode; prepare transaction 'forgotten'")
	_, err := Analyze(t.Context(), open(t, url), AnalyzeOptions{LockTimeout: 100 * time.Millisecond, Attempts: -1})
	if err == nil || !strings.Contains(err.Error(), `prepared transaction "forgotten" holds AccessExclusiveLock on "public"."items"`) {
		t.Errorf("error %v", err)
	}
}

// slowTable is analyzed in hours once the database has warmup.slow = on.
const slowTable = `
create function slow(n int) returns int language plpgsql immutable as $$
begin
    if current_setting('warmup.slow', true) = 'on' then perform pg_sleep(0.1); end if;
    return n;
end $$;
create table slow (n int);
create index on slow (slow(n));
insert into slow select generate_series(1, 20000);`

func makeSlow(t *testing.T, url string) {
	t.Helper()
	pgtest.Exec(t, url, slowTable, fmt.Sprintf("alter database %s set warmup.slow = on", pgtest.Value[string](t, url, "select current_database()")))
}

func testTimeBox(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	makeSlow(t, url)
	began := time.Now()
	report, err := Analyze(t.Context(), open(t, url), AnalyzeOptions{PerTable: 4 * time.Second})
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if got := outcomes(report); !errors.Is(err, ErrMissingStatistics) || names(report.Missing) != "public.slow" || got[TimedOut] != 1 || got[Analyzed] != len(report.Tables)-1 {
		t.Errorf("error %v, outcomes %v", err, got)
	}
	if slow := analysisOf(t, report, "public", "slow"); slow.Attempts != 1 {
		t.Errorf("%d attempts", slow.Attempts)
	}
}

// TestCancelAnalyze is not parallel, so that the goroutines are its own.
func TestCancelAnalyze(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { testCancelAnalyze(t, pgtest.Server(t, major)) })
	}
}

func testCancelAnalyze(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	makeSlow(t, url)
	lock(t, url, "lock table events_1 in access exclusive mode")
	s := open(t, url)
	ignore := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("enough")
	ended := make(chan error, 1)
	var report AnalyzeReport
	go func() {
		var err error
		report, err = Analyze(ctx, s, AnalyzeOptions{Jobs: 2, LockTimeout: time.Hour})
		ended <- err
	}()
	// One session is busy analyzing, the other one waits for the lock.
	err := pg.Wait(t.Context(), "both sessions to be busy", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, url, `select count(*) = 2 and count(*) filter (where wait_event_type = 'Lock') = 1
			from pg_stat_activity where application_name = 'pgcutover/shop/analyze' and state = 'active' and datname = current_database()
			and query like 'analyze%' and (query like '%events_1%' or query like '%slow%')`), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cancel(stop)
	err = <-ended
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it ended after %s", took)
	}
	if !errors.Is(err, stop) || errors.Is(err, ErrMissingStatistics) {
		t.Errorf("error %v", err)
	}
	if len(report.Tables) > 12 {
		t.Errorf("%d tables in the report", len(report.Tables))
	}
	noSessions(t, url)
	goleak.VerifyNone(t, ignore)
}

func testOwner(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, "create table foreign_one as select 1 as a", "create table given as select 1 as a",
		`do $$
		declare r record;
		begin
		    execute 'drop role if exists warm_owner';
		    execute 'create role warm_owner login';
		    for r in select c.oid::regclass as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
		              where n.nspname in ('public', 'SHOP') and c.relkind in ('r', 'p', 'm') and c.relname <> 'foreign_one' loop
		        execute format('alter table %s owner to warm_owner', r.name);
		    end loop;
		    execute 'grant usage on schema "SHOP" to warm_owner';
		end $$`)
	t.Cleanup(func() {
		pgtest.Exec(t, url, "drop owned by warm_owner cascade", "drop role warm_owner")
	})
	mine := pgtest.WithUser(t, url, "warm_owner", "")
	report, err := Analyze(t.Context(), open(t, mine), AnalyzeOptions{})
	if !errors.Is(err, ErrMissingStatistics) || names(report.Missing) != "public.foreign_one" || !strings.Contains(err.Error(), "not permitted") {
		t.Fatalf("error %v", err)
	}
	if got := outcomes(report); got[NotPermitted] != 1 || got[Analyzed] != len(report.Tables)-1 {
		t.Errorf("outcomes %v", got)
	}
	if !strings.Contains(hint.Of(err), "owner") {
		t.Errorf("hint %q", hint.Of(err))
	}
	noSessions(t, url)

	// Who may gather statistics but not read them believes the server's memory.
	if c.Major() >= 17 {
		pgtest.Exec(t, url, "grant maintain on foreign_one to warm_owner")
	} else {
		pgtest.Exec(t, url, fmt.Sprintf("alter database %s owner to warm_owner", pgtest.Value[string](t, url, "select current_database()")))
		defer pgtest.Exec(t, url, fmt.Sprintf("alter database %s owner to postgres", pgtest.Value[string](t, url, "select current_database()")))
	}
	if _, err := AnalyzeTables(t.Context(), open(t, mine), []Table{{"public", "foreign_one"}}, AnalyzeOptions{}); err != nil {
		t.Error(err)
	}
	waitForCollector(t, url)
	if missing, err := WithoutStatistics(t.Context(), open(t, mine)); err != nil || len(missing) != 0 {
		t.Errorf("missing %s, %v", names(missing), err)
	}
}
