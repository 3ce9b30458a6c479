package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// Exit statuses of the tool that only moves of several databases are tested for.
const (
	exitBlocked    = 3
	exitUnfinished = 5
)

// roomFor are settings for many streams on one server.
func roomFor(major int) map[string]string {
	settings := map[string]string{
		"max_connections": "400", "max_replication_slots": "100", "max_wal_senders": "100", "max_worker_processes": "120",
		"max_logical_replication_workers": "100", "wal_retrieve_retry_interval": "200ms",
	}
	if major >= 18 {
		settings["max_active_replication_origins"] = "100" // 10 by default
	}
	return settings
}

// databases are one move of several databases: each a move of its own for
// writers and questions, all of them in the folder of the first one's tool.
type databases []*move

// small is what a database has that nobody writes into.
const small = "create table small (id bigserial primary key, t text); insert into small (t) select 'x' from generate_series(1, 100)"

// newDatabases makes n databases on an old server, the first of them shops, and
// as many empty ones on a new server.
func newDatabases(t *testing.T, n, shops int) databases {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	older := pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Name: "manyold", Settings: roomFor(pair.Old)})
	newer := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Name: "manynew", Settings: roomFor(pair.New)})
	name := fmt.Sprintf("e2e%d", moveCount.Add(1))
	dir := t.TempDir()
	hooks := filepath.Join(dir, "hooks")
	if err := os.Mkdir(hooks, 0o700); err != nil {
		t.Fatal(err)
	}
	var all databases
	var names []string
	for i := range n {
		m := &move{name: fmt.Sprintf("%s%c", name, 'a'+i), dir: dir, hooks: hooks}
		m.old.cluster, m.new.cluster = older, newer
		for _, s := range []*server{&m.old, &m.new} {
			m.createDatabase(t, s)
		}
		if i >= shops {
			pgtest.Exec(t, m.old.app, small)
		} else if err := workload.Create(t.Context(), connect(t, m.old.app), workload.LoadOptions{Rows: 20}); err != nil {
			t.Fatal(err)
		}
		all, names = append(all, m), append(names, m.name)
	}
	text := fmt.Sprintf("name: %s\nold: { url: %q }\nnew: { url: %q }\ndatabases: [%s]\nwarm: { jobs: 1, before_cutover: 0s }\nanalyze: { jobs: 1 }\n"+
		"traffic:\n  - multihost: {}\nhooks: { dir: ./hooks }\n", name, older.URL("postgres"), newer.URL("postgres"), strings.Join(names, ", "))
	if err := os.WriteFile(filepath.Join(dir, "pgcutover.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return all
}

// run runs the tool for all databases.
func (d databases) run(t *testing.T, code int, args ...string) result {
	t.Helper()
	return d[0].run(t, code, args...)
}

// write lets clients write into the first n databases, and asks both servers
// which one takes writes.
func (d databases) write(t *testing.T, n int) []*clients {
	t.Helper()
	var out []*clients
	for _, m := range d[:n] {
		m.identify(t)
		c := m.write(t)
		c.probe(t)
		out = append(out, c)
	}
	return out
}

type statusOfAll struct {
	Databases []struct {
		Database string `json:"database"`
		Phase    string `json:"phase"`
		Serving  string `json:"serving"`
	} `json:"databases"`
	Verdict struct {
		CanCutOver bool     `json:"can_cut_over"`
		Reasons    []string `json:"reasons"`
		Next       string   `json:"next"`
	} `json:"verdict"`
}

// serving asks status who serves each database.
func (d databases) serving(t *testing.T) (map[string]string, statusOfAll) {
	t.Helper()
	s := answer[statusOfAll](t, d.run(t, exitDone, "status", "--json"))
	out := map[string]string{}
	for _, one := range s.Databases {
		out[one.Database] = one.Serving
	}
	if len(out) != len(d) {
		t.Fatalf("status tells of %d databases, want %d", len(out), len(d))
	}
	return out, s
}

// allOn checks that one server serves all databases.
func (d databases) allOn(t *testing.T, side pg.Side) statusOfAll {
	t.Helper()
	serving, s := d.serving(t)
	for database, is := range serving {
		if is != string(side) {
			t.Errorf("database %s is served by %s, want %s", database, is, side)
		}
	}
	return s
}

// canCutOver asks status until it says that a cutover may begin, for a minute at
// the most: one of many streams may be behind at a moment.
func (d databases) canCutOver(t *testing.T) {
	t.Helper()
	var last statusOfAll
	until(t, "the databases to be ready", time.Minute, func() bool {
		last = d.allOn(t, pg.Old)
		return last.Verdict.CanCutOver
	}, func() string { return strings.Join(last.Verdict.Reasons, "; ") })
}

func prove(t *testing.T, writing []*clients, sides ...pg.Side) {
	t.Helper()
	for _, c := range writing {
		c.expect(append([]pg.Side{pg.Old}, sides...)...)
		c.prove(t, sides[len(sides)-1])
	}
}

// Twenty databases are copied, turned, turned back and forth again together,
// while clients write into some of them.
func TestTwentyDatabases(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 20, 2)
	before := make([]catalogs, len(d))
	for i, m := range d {
		before[i] = m.catalogs(t)
	}
	d.run(t, exitDone, "check")
	for i, m := range d {
		m.unchanged(t, "before check", before[i])
	}
	d.run(t, exitDone, "start")
	d.canCutOver(t)
	writing := d.write(t, 2)
	r := d.run(t, exitDone, "cutover", "--yes", "--json")
	turned := answer[struct {
		Serving   string `json:"serving"`
		Databases []struct {
			PauseMS float64 `json:"write_pause_ms"`
		} `json:"databases"`
	}](t, r)
	if turned.Serving != "new" || len(turned.Databases) != len(d) {
		t.Errorf("cutover answers %+v", turned)
	}
	for _, one := range turned.Databases {
		if one.PauseMS <= 0 {
			t.Errorf("a database has no pause: %+v", turned)
		}
	}
	d.allOn(t, pg.New)
	d.run(t, exitFailed, "abort", "--yes")
	d.run(t, exitDone, "rollback", "--yes")
	d.allOn(t, pg.Old)
	d.run(t, exitFailed, "complete", "--yes")
	d.run(t, exitDone, "cutover", "--yes")
	d.allOn(t, pg.New)
	prove(t, writing, pg.New, pg.Old, pg.New)
	d.run(t, exitDone, "complete", "--yes")
	for _, m := range d {
		for _, s := range []server{m.old, m.new} {
			if left := pgtest.Value[int](t, s.url, leftSQL); left > 0 {
				t.Errorf("%d slots, publications, subscriptions or roles are left on %s", left, s.url)
			}
		}
	}
}

const leftSQL = `
select (select count(*)::int from pg_replication_slots) + (select count(*)::int from pg_publication)
     + (select count(*)::int from pg_subscription)
     + (select count(*)::int from pg_roles where rolname like 'pgcutover\_%')`

// One database that is not ready, or says no on the way, keeps all of them
// where they are, and nobody's writers are frozen.
func TestOneDatabaseStopsAll(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 3, 2)
	d.run(t, exitDone, "start")
	writing := d.write(t, 2)

	last := d[len(d)-1]
	conn := connect(t, last.old.url)
	if _, err := conn.Exec(t.Context(), "create table made_since (id int primary key)"); err != nil {
		t.Fatal(err)
	}
	r := d.run(t, exitBlocked, "cutover", "--yes")
	if !strings.Contains(r.stderr, "database "+last.name) || !strings.Contains(r.stderr, "made_since") {
		t.Errorf("the database and its table are not named:\n%s", r)
	}
	if _, err := conn.Exec(t.Context(), "drop table made_since"); err != nil {
		t.Fatal(err)
	}

	d[0].hook(t, "before-lease", "veto-some")
	d[0].hook(t, "before-drain", "veto-some")
	for _, event := range []string{"before-lease", "before-drain"} {
		if event == "before-drain" {
			d[0].unhook(t, "before-lease")
		}
		veto := filepath.Join(d[0].dir, "veto-"+last.name)
		if err := os.WriteFile(veto, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		since := time.Now()
		r = d.run(t, exitAborted, "cutover", "--yes")
		frozen := strings.Count(r.stderr, "ok   freeze")
		if event == "before-lease" && frozen > 0 {
			t.Errorf("%d databases were frozen though one had said no before:\n%s", frozen, r)
		}
		if event == "before-drain" && frozen == 0 {
			t.Errorf("no database came to the freeze:\n%s", r)
		}
		if strings.Contains(r.stderr, "ok   decide") {
			t.Errorf("a database was decided:\n%s", r)
		}
		d.allOn(t, pg.Old)
		for _, c := range writing {
			c.serves(t, pg.Old, since)
		}
		if err := os.Remove(veto); err != nil {
			t.Fatal(err)
		}
	}
	d.run(t, exitDone, "cutover", "--yes")
	d.allOn(t, pg.New)
	prove(t, writing, pg.New)
	d.run(t, exitDone, "complete", "--yes")
}

// When some databases are on new and some on old, whatever the cause, each has
// one server; status says so, abort and complete refuse, and resume moves the
// rest.
func TestSplitDatabases(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 3, 2)
	d.run(t, exitDone, "start")
	writing := d.write(t, 2)
	d.run(t, exitDone, "cutover", "--yes", "--database", d[1].name)
	serving, s := d.serving(t)
	if serving[d[0].name] != "old" || serving[d[1].name] != "new" {
		t.Fatalf("one database was turned, and now they are served by %v", serving)
	}
	if s.Verdict.CanCutOver || !strings.Contains(s.Verdict.Next, "resume") {
		t.Errorf("the verdict on a split: %+v", s.Verdict)
	}
	d.run(t, exitFailed, "abort", "--yes")
	d.run(t, exitFailed, "complete", "--yes")
	d.run(t, exitDone, "resume")
	d.allOn(t, pg.New)

	// The tool is killed as soon as one of them is decided.
	d[0].hook(t, "before-open", "kill")
	d.run(t, killed, "rollback", "--yes")
	d[0].unhook(t, "before-open")
	for _, m := range d {
		m.gone(t)
	}
	since := time.Now()
	d.run(t, exitDone, "resume")
	end := d.allSame(t)
	for _, c := range writing {
		sides := []pg.Side{pg.Old, pg.New}
		if end == pg.Old {
			sides = append(sides, pg.Old)
		}
		c.expect(sides...)
		c.serves(t, end, since)
		c.prove(t, end)
	}
}

// allSame checks that the same server serves all databases, and returns it.
func (d databases) allSame(t *testing.T) pg.Side {
	t.Helper()
	serving, _ := d.serving(t)
	var sides []string
	for _, is := range serving {
		if !slices.Contains(sides, is) {
			sides = append(sides, is)
		}
	}
	if len(sides) != 1 {
		t.Fatalf("the databases are served by %v", serving)
	}
	return pg.Side(sides[0])
}

// Roles that one database's part of the move made, and another one uses too, go
// with the last of them.
func TestAbortOfSeveralDatabases(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 3, 0)
	for _, m := range d {
		pgtest.Exec(t, m.old.url, "do $$ begin create role reader; exception when duplicate_object then null; end $$", "grant select on small to reader")
	}
	before := make([]catalogs, len(d))
	for i, m := range d {
		before[i] = m.catalogs(t)
	}
	const readers = "select count(*)::int from pg_roles where rolname = 'reader'"
	d.run(t, exitDone, "start")
	if n := pgtest.Value[int](t, d[0].new.url, readers); n != 1 {
		t.Fatalf("%d roles were made", n)
	}
	d.run(t, exitDone, "abort", "--yes")
	for i, m := range d {
		m.unchanged(t, "before start", before[i])
	}
	if n := pgtest.Value[int](t, d[0].new.url, readers); n != 0 {
		t.Error("the role is left on the new server")
	}
}

// Databases behind one pooler turn together, each with its own name there, and
// no client's transaction fails.
func TestDatabasesBehindAPooler(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 2, 2)
	old, err := url.Parse(d[0].old.app)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(old.Port())
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]pgbouncer.Endpoint{}
	names := []string{d[0].name, "other_name"} // the second one by a name of its own
	for i, m := range d {
		entries[names[i]] = pgbouncer.Endpoint{Host: old.Hostname(), Port: port, Database: m.name, User: appRole}
	}
	pooler, err := pgbouncer.Start(t.Context(), pgbouncer.Options{Databases: entries})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Stop(); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(d[0].dir, "pgcutover.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const entry = "  - pgbouncer: { admin_url: %q, database: %q, for: %q, config: %q }\n"
	both := fmt.Sprintf(entry, pooler.AdminURL(), names[0], d[0].name, pooler.ConfigFile()) +
		fmt.Sprintf(entry, pooler.AdminURL(), names[1], d[1].name, pooler.ConfigFile())
	if err := os.WriteFile(path, bytes.Replace(text, []byte("  - multihost: {}\n"), []byte(both), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	d.run(t, exitDone, "start")
	var writing []*clients
	for i, m := range d {
		m.identify(t)
		w, err := workload.Start(t.Context(), workload.Options{URL: pooler.URL(names[i]), Pooled: true, Writers: 3, Rate: 30})
		if err != nil {
			t.Fatal(err)
		}
		c := &clients{m: m, writers: w}
		t.Cleanup(func() { c.stop(t) })
		writing = append(writing, c)
	}
	for i, command := range []string{"cutover", "rollback", "cutover"} {
		d.run(t, exitDone, command, "--yes")
		side := []pg.Side{pg.New, pg.Old}[i%2]
		d.allOn(t, side)
		for _, c := range writing {
			c.expect([]pg.Side{pg.Old, pg.New, pg.Old, pg.New}[:i+2]...)
			c.serves(t, side, time.Now())
		}
	}
	prove(t, writing, pg.New, pg.Old, pg.New)
	for _, c := range writing {
		if errs := c.writers.Ledger().Stats().Errors; len(errs) > 0 {
			t.Errorf("clients of %s saw %v", c.m.name, errs)
		}
	}
	d.run(t, exitDone, "complete", "--yes")
}
