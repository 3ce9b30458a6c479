package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// What is read of the answers to --json.
type (
	cutoverAnswer struct {
		Serving   string  `json:"serving"`
		Direction string  `json:"direction"`
		PauseMS   float64 `json:"write_pause_ms"`
	}
	statusAnswer struct {
		Phase     string         `json:"phase"`
		Serving   string         `json:"serving"`
		NoStats   []any          `json:"tables_without_statistics"`
		Warnings  []string       `json:"warnings"`
		Sequences map[string]int `json:"sequences"`
		Verdict   struct {
			CanCutOver bool     `json:"can_cut_over"`
			Reasons    []string `json:"reasons"`
		} `json:"verdict"`
	}
	planAnswer    struct{ Start, Cutover, Complete, Abort []step.Entry }
	removedAnswer struct{ Leftovers []string }
)

// The longest that a cutover may hold writers up, by its own clock, and the
// longest gap that clients may see, who also reconnect. Mostly it is a tenth of a
// second. But the slot of the way back waits, while writers do, for whatever
// writes on the server at that moment, and other tests do on the same one: they
// make and drop databases, and copy tables.
const (
	longestPause = 3000 // milliseconds
	longestGap   = 5 * time.Second
)

// TestMove is the whole way, command by command, between every pair of majors.
func TestMove(t *testing.T) {
	t.Parallel()
	for _, pair := range pgtest.Pairs(t) {
		t.Run(pair.String(), func(t *testing.T) {
			parallel(t)
			m := newMove(t, pair)
			before := m.catalogs(t)
			c := m.write(t)
			m.run(t, exitDone, "check")
			m.unchanged(t, "before check", before)
			m.start(t)
			m.startAgain(t)
			c.probe(t)
			m.ready(t)
			m.plans(t)
			m.sequencesBehind(t)
			reader := connect(t, m.old.app)
			m.turn(t, c)
			if err := reader.Ping(t.Context()); err == nil {
				t.Error("a session that only reads was left on the old server, where all is stale now")
			}
			m.afterwards(t)
			c.prove(t, pg.New)
			m.statistics(t)
			m.complete(t, before)
		})
	}
}

// startAgain runs start on a move that has nothing left to do.
func (m *move) startAgain(t *testing.T) {
	t.Helper()
	before := m.catalogs(t)
	r := m.run(t, exitDone, "start", "--json")
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "  ok") || strings.HasPrefix(line, "[") && !strings.Contains(line, "done before") {
			t.Errorf("start did something again: %s", line)
		}
	}
	if s := answer[statusAnswer](t, r); s.Phase != "ready" {
		t.Errorf("after start the phase is %q, want ready", s.Phase)
	}
	m.unchanged(t, "before the second start", before)
}

// ready checks what status says before the cutover.
func (m *move) ready(t *testing.T) {
	t.Helper()
	s := m.canCutOver(t)
	if !s.Verdict.CanCutOver || s.Serving != "old" || len(s.NoStats) > 0 || len(s.Warnings) > 0 || s.Sequences["checked"] == 0 {
		t.Errorf("not ready for the cutover: %+v", s)
	}
}

// canCutOver asks status until it says that a cutover may begin, for a minute at
// the most, and returns what it says: what other tests write on the same servers,
// such as a database that is being dropped, is a reason against it that passes.
func (m *move) canCutOver(t *testing.T) statusAnswer {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json"))
		if s.Verdict.CanCutOver || time.Now().After(deadline) {
			return s
		}
	}
}

// plans checks that plan knows every step, with its statements, and that
// neither it, nor a dry run, nor a cutover that nobody confirmed changes
// anything.
func (m *move) plans(t *testing.T) {
	t.Helper()
	before := m.catalogs(t)
	p := answer[planAnswer](t, m.run(t, exitDone, "plan", "--json"))
	if got, want := names(p.Cutover), names(steps(t)); !slices.Equal(got, want) {
		t.Errorf("plan has the steps %v, the cutover %v", got, want)
	}
	for what, entries := range map[string][]step.Entry{"start": p.Start, "complete": p.Complete, "abort": p.Abort} {
		if len(entries) < 3 {
			t.Errorf("plan has %d steps for %s", len(entries), what)
		}
	}
	for _, e := range p.Cutover {
		if e.Final && len(e.Statements) < 3 {
			t.Errorf("plan hides what %s does: %+v", e.Name, e.Statements)
		}
	}
	m.run(t, exitDone, "cutover", "--dry-run", "--json")
	m.run(t, exitUsage, "cutover")
	m.unchanged(t, "before plan", before)
}

// steps are the cutover's, with nothing but their names to be used.
func steps(t *testing.T) []step.Entry {
	t.Helper()
	var entries []step.Entry
	for _, s := range (&cutover.Cutover{}).Steps() {
		entries = append(entries, step.Entry{Name: s.Name, Final: s.Final})
	}
	if final(entries) < 0 {
		t.Fatal("the cutover has no final step")
	}
	return entries
}

func final(entries []step.Entry) int {
	return slices.IndexFunc(entries, func(e step.Entry) bool { return e.Final })
}

func names(entries []step.Entry) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name
	}
	return out
}

// sequencesBehind checks that the comparison finds the sequences behind that
// replication has left behind, and that the script would mend that.
func (m *move) sequencesBehind(t *testing.T) {
	t.Helper()
	type difference struct{ Status string }
	type differences struct{ Sequences []difference }
	behind := 0
	for _, d := range answer[differences](t, m.run(t, exitDone, "sequences", "diff", "--json")).Sequences {
		if d.Status == "behind" {
			behind++
		}
	}
	script := m.run(t, exitDone, "sequences", "sql").stdout
	if n := strings.Count(strings.ToLower(script), "restart with"); behind == 0 || n < behind {
		t.Errorf("%d sequences behind, %d in the script:\n%s", behind, n, script)
	}
}

// turn does the cutover and checks what the clients saw of it.
func (m *move) turn(t *testing.T, c *clients) {
	t.Helper()
	c.expect(pg.Old, pg.New)
	began := time.Now()
	got := answer[cutoverAnswer](t, m.run(t, exitDone, "cutover", "--yes", "--json"))
	done := time.Now()
	c.serves(t, pg.New, done)
	gap := c.writers.Ledger().LongestGap(began, time.Now())
	t.Logf("writers were held up for %.0f ms, the longest gap between two answers was %s", got.PauseMS, gap.Round(time.Millisecond))
	if got.Serving != "new" || got.PauseMS <= 0 || got.PauseMS > longestPause {
		t.Errorf("the cutover says %+v; want a pause of at most %d ms", got, longestPause)
	}
	if gap > longestGap {
		t.Errorf("no client was answered for %s", gap)
	}
}

// afterwards checks what the commands say once the cutover is done.
func (m *move) afterwards(t *testing.T) {
	t.Helper()
	s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json"))
	if s.Phase != "cut over" || s.Serving != "new" {
		t.Errorf("after the cutover status says %+v", s)
	}
	m.run(t, exitFailed, "cutover", "--yes")
	m.run(t, exitFailed, "resume")
	m.run(t, exitFailed, "abort", "--yes")
}

// withoutStatisticsSQL counts tables that have rows and no planner statistics.
const withoutStatisticsSQL = `
select count(*)
  from pg_class c
 where c.relnamespace = '"SHOP"'::regnamespace
   and c.relkind in ('r', 'p')
   and not exists (select from pg_statistic s where s.starelid = c.oid)`

func (m *move) statistics(t *testing.T) {
	t.Helper()
	// One is the table that only the prober writes: it was empty when the
	// statistics were made.
	if n := pgtest.Value[int](t, m.new.url, withoutStatisticsSQL); n > 1 {
		t.Errorf("%d tables of the new server have no statistics", n)
	}
}

// complete ends the move and checks that nothing of it is left: old as it was
// before the move, new without anything that bears our name or refuses writes.
// The clients must have been stopped: old takes writes again afterwards.
func (m *move) complete(t *testing.T, before catalogs) {
	t.Helper()
	r := answer[removedAnswer](t, m.run(t, exitDone, "complete", "--yes", "--json"))
	if len(r.Leftovers) > 0 {
		t.Errorf("complete says that it left %v", r.Leftovers)
	}
	if diff := pgtest.Diff(before.old, m.catalog(t, m.old)); diff != "" {
		t.Errorf("the old server is not what it was before the move:\n%s", diff)
	}
	m.nothingOfOurs(t)
	m.run(t, exitDone, "complete", "--yes")
	const write = `update "SHOP".stock set note = 'by hand' where warehouse = 1`
	pgtest.Exec(t, m.old.app, write)
	pgtest.Exec(t, m.new.app, write)
}

// oursSQL looks for what the tool makes, by its names and by its effect.
const oursSQL = `
select count(*)
  from (select nspname::text as name from pg_namespace
        union all select proname from pg_proc
        union all select relname from pg_class
        union all select tgname from pg_trigger
        union all select pubname from pg_publication
        union all select s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database()
        union all select slot_name from pg_replication_slots where database = current_database()
        union all select rolname from pg_roles where rolname = 'pgcutover_' || current_database()
        union all select 'pgcutover ' || s.setconfig::text from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase where d.datname = current_database()
       ) as thing
 where name like '%pgcutover%'`

func (m *move) nothingOfOurs(t *testing.T) {
	t.Helper()
	for _, s := range []server{m.old, m.new} {
		if n := pgtest.Value[int](t, s.url, oursSQL); n != 0 {
			t.Errorf("%d things of the move are left on PostgreSQL %d:\n%s", n, s.cluster.Major(), m.lines(t, s, "pgcutover"))
		}
	}
}

// lines returns those lines of a server's catalog that contain text.
func (m *move) lines(t *testing.T, s server, text string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(m.catalog(t, s)) {
		if strings.Contains(line, text) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// events reads what the hook "record" has written.
func (m *move) events(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
