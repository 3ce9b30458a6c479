package upgrade

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/warmup"
)

// carriedSQL counts columns of item that have statistics without that
// anybody has analyzed it.
const carriedSQL = `
select count(*) from pg_stats s join pg_stat_user_tables t on t.schemaname = s.schemaname and t.relname = s.tablename
 where s.schemaname = 'public' and s.tablename = 'item' and t.last_analyze is null and t.last_autoanalyze is null`

// Start carries statistics as soon as the indexes are there, where new takes
// them, and goes on in any case.
func TestStartCarriesStatistics(t *testing.T) {
	for i, pair := range pgtest.Pairs(t) {
		name := fmt.Sprintf("carry%d", i)
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) {
			oldURL, newURL := pgtest.Database(t, pgtest.Server(t, pair.Old)), pgtest.Database(t, pgtest.Server(t, pair.New))
			pgtest.Exec(t, oldURL, itemSQL, `insert into public.item (name) select 'x' || i % 9 from generate_series(1, 40) i`, "analyze") // too few rows for autovacuum
			m := reopened(t, name, oldURL, newURL)
			m.Options.NoCarry = true
			plan, err := (&start{Move: m}).statisticsStatements(startPlan{})
			if err != nil || plan != nil {
				t.Errorf("nothing is to be carried, and the plan has %v (%v)", plan, err)
			}
			m.Options.NoCarry = false
			if report, err := m.Start(t.Context(), t.Context(), "statistics"); err != nil {
				t.Fatalf("%v\n%s\n%+v", err, hint.Of(err), report.Blockers())
			}
			want := int64(0)
			if pair.New >= 18 {
				want = 2
			}
			if got := pgtest.Value[int64](t, newURL, carriedSQL); got != want {
				t.Errorf("%d columns have carried statistics, want %d", got, want)
			}
			records, err := (state.Journal{Server: m.New}).Load(t.Context(), List, 0)
			if err != nil {
				t.Fatal(err)
			}
			last := records[len(records)-1]
			if facts := string(last.Facts); last.Step != "statistics" || pair.New >= 18 && !strings.Contains(facts, `"carried": 1`) && !strings.Contains(facts, `"carried":1`) {
				t.Errorf("the journal ends with %s: %s", last.Step, facts)
			}
			if text := m.CarryFirst(t.Context()); text != "" {
				t.Errorf("there is nothing left to carry: %s", text)
			}
			if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// What goes wrong is said, and does not stop start.
func TestStatisticsNeverStopStart(t *testing.T) {
	m, oldURL, _ := opened(t, "carry9")
	if !warmup.CanCarry(m.New) {
		return // nothing is carried
	}
	pgtest.Exec(t, oldURL, "analyze")
	m.Old.Close()
	facts, err := (&start{Move: m}).statistics(t.Context())
	if err != nil {
		t.Fatalf("start would stop: %v", err)
	}
	if f := facts.(statisticsFacts); len(f.Warnings) != 1 || f.Carried != 0 {
		t.Errorf("without old: %+v", f)
	}
	if text := m.CarryFirst(t.Context()); !strings.HasPrefix(text, "warning: ") {
		t.Errorf("analyze says of it: %q", text)
	}
}

// Only the order depends on old's counters.
func TestAnalyzeWithoutOldsCounters(t *testing.T) {
	m, oldURL, newURL := opened(t, "carry8")
	pgtest.Exec(t, newURL, "create table alone as select 1 as a")
	neighbour, err := url.Parse(oldURL)
	if err != nil {
		t.Fatal(err)
	}
	neighbour.Path = "/postgres"
	name := pgtest.Value[string](t, oldURL, "select quote_ident(current_database())")
	pgtest.Exec(t, neighbour.String(), "alter database "+name+" allow_connections false")
	defer pgtest.Exec(t, neighbour.String(), "alter database "+name+" allow_connections true")
	if _, err := warmup.ReadUsage(t.Context(), m.Old); err == nil {
		t.Fatal("old answers")
	}
	if report, err := m.Analyze(t.Context(), false); err != nil || len(report.Tables) == 0 {
		t.Errorf("analyzed %v, %v", report.Tables, err)
	}
}
