package warmup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// testGently lets ANALYZE itself look at its session: through the function of an
// index.
func testGently(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, `create function settings(n int) returns text language plpgsql immutable as $$
		begin
			if current_setting('warmup.look', true) = 'on' then
				raise exception 'delay % limit %', current_setting('vacuum_cost_delay'), current_setting('vacuum_cost_limit');
			end if;
			return n::text;
		end $$`, "create table looked as select 1 as n", "create index on looked (settings(n))",
		fmt.Sprintf("alter database %s set warmup.look = on", pgtest.Value[string](t, url, "select current_database()")))
	s := open(t, url)
	for gently, want := range map[bool]string{true: "delay 10ms limit 200", false: "delay 0 limit 200"} {
		report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{Gently: gently})
		if looked := analysisOf(t, report, "public", "looked"); !errors.Is(err, ErrMissingStatistics) || looked.Outcome != Failed || !strings.Contains(looked.Reason, want) {
			t.Errorf("gently %t: %+v, %v", gently, looked, err)
		}
	}
	noSessions(t, url)
}

func testGivesWay(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	makeSlow(t, url)
	s := open(t, url)
	ended := make(chan AnalyzeReport, 1)
	go func() {
		report, err := Analyze(t.Context(), s, AnalyzeOptions{Gently: true, Attempts: -1})
		if !errors.Is(err, ErrMissingStatistics) || !strings.Contains(err.Error(), "gave way") {
			t.Errorf("error %v", err)
		}
		ended <- report
	}()
	err := pg.Wait(t.Context(), "ANALYZE", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, url, `select exists (select 1 from pg_locks where relation = 'slow'::regclass and mode = 'ShareUpdateExclusiveLock' and granted)`), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The application changes its schema. By itself, ANALYZE would go on for hours.
	for done := false; !done; {
		pgtest.Exec(t, url, "set lock_timeout = '30s'; alter table slow set (fillfactor = 90)")
		select {
		case report := <-ended:
			if slow := analysisOf(t, report, "public", "slow"); slow.Outcome != GaveWay || len(report.Unfinished()) != 1 {
				t.Errorf("%+v", slow)
			}
			done = true
		default:
		}
	}
	noSessions(t, url)
}

func testWithin(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	makeSlow(t, url)
	report, err := AnalyzeTables(t.Context(), open(t, url), nil, AnalyzeOptions{
		Jobs: 1, Within: 300 * time.Millisecond, Usage: Usage{{"public", "slow"}: {Scans: 1}},
	})
	if !errors.Is(err, ErrMissingStatistics) {
		t.Errorf("error %v", err)
	}
	if left := report.Left(); len(left) != len(report.Tables) || len(left) < 12 {
		t.Errorf("%d of %d tables are left: %v", len(left), len(report.Tables), outcomes(report))
	}
	if slow := analysisOf(t, report, "public", "slow"); slow.Attempts > 1 {
		t.Errorf("%+v", slow)
	}
	noSessions(t, url)

	// What the bound ends has ended when the time is up, not a moment before: else
	// there would be time for the next table.
	conn, err := open(t, url).Connect(t.Context(), "analyze", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer endSession(t.Context(), conn)
	for n := range 20 {
		se := &session{conn: conn, perTable: time.Minute, until: time.Now().Add(20*time.Millisecond + time.Duration(n)*50*time.Microsecond)}
		if inTime, err := se.hurry(t.Context()); err != nil || !inTime {
			t.Fatal(inTime, err)
		}
		_, err := conn.Exec(t.Context(), "select pg_sleep(60)")
		if early := time.Until(se.until); !pg.IsCode(err, pg.QueryCanceled) || early > 0 {
			t.Errorf("ended %s early: %v", early, err)
		}
	}
}

func testTimeouts(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, "create role hasty login superuser")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop role hasty") })
	s := open(t, pgtest.WithUser(t, url, "hasty", "")) // whose pool has no part in what follows
	pgtest.Exec(t, url, "alter role hasty set statement_timeout = '1ms'", "alter role hasty set lock_timeout = '1ms'", "alter role hasty set idle_in_transaction_session_timeout = '1ms'",
		"alter role hasty set default_transaction_read_only = on")
	if c.Major() >= 14 {
		pgtest.Exec(t, url, "alter role hasty set idle_session_timeout = '50ms'")
	}
	if c.Major() >= 17 {
		pgtest.Exec(t, url, "alter role hasty set transaction_timeout = '50ms'")
	}
	report, err := Analyze(t.Context(), s, AnalyzeOptions{Jobs: 2})
	if err != nil || len(report.Unfinished()) != 0 {
		t.Errorf("%+v, %v", report.Unfinished(), err)
	}
}

func testForeign(t *testing.T, c *pgserver.Cluster) {
	url, far := pgtest.Database(t, c), pgtest.Database(t, c)
	pgtest.Exec(t, far, "create table distant as select g as n from generate_series(1, 500) g")
	config := open(t, far)
	host, port, database := config.Endpoint()
	pgtest.Exec(t, url, "create extension postgres_fdw",
		fmt.Sprintf("create server far foreign data wrapper postgres_fdw options (host '%s', port '%d', dbname '%s')", host, port, database),
		"create user mapping for current_user server far options (user 'postgres')",
		"create foreign table distant (n int) server far", "create table near as select 1 as a")
	s := open(t, url)
	for foreign, want := range map[bool][]string{false: {"public.near"}, true: {"public.distant", "public.near"}} {
		report, err := Analyze(t.Context(), s, AnalyzeOptions{Foreign: foreign})
		var got []string
		for _, r := range report.Tables {
			got = append(got, r.Schema+"."+r.Name)
		}
		if err != nil || !slices.Equal(got, want) || len(report.Unfinished()) != 0 {
			t.Errorf("foreign tables %t: %q, %v", foreign, got, err)
		}
	}
	if got := pgtest.Value[int](t, url, "select count(*) from pg_stats where tablename = 'distant'"); got != 1 {
		t.Errorf("%d columns of the foreign table have statistics", got)
	}
	waitForCollector(t, url)
	if report, err := AnalyzeTables(t.Context(), s, nil, AnalyzeOptions{Foreign: true}); err != nil || len(report.Tables) != 0 {
		t.Errorf("again: %+v, %v", report.Tables, err)
	}
}
