package e2e

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestOldIsLost loses the old server for good in the middle of a cutover. New
// stays closed, since nobody can say whether old served on, until a human says
// that old will never come back.
func TestOldIsLost(t *testing.T) {
	parallel(t)
	pair := pgtest.Pairs(t)[0]
	old := pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Durable: true})
	m := newMoveBetween(t, old, pgtest.Server(t, pair.New))
	c := m.write(t)
	m.start(t)
	m.hook(t, "before-decide", "kill")
	m.run(t, killed, "cutover", "--yes")
	m.unhook(t, "before-decide")
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	m.run(t, exitFailed, "resume")
	m.run(t, exitFailed, "status")
	if !pgtest.Value[bool](t, m.new.url, "select not open from pgcutover.turn") {
		t.Fatal("new was opened without the decision")
	}
	r := m.run(t, exitDone, "resume", "--old-is-lost", "--yes", "--json")
	if !strings.Contains(r.stderr, "all that old acknowledged before it held its writers") {
		t.Errorf("it does not say what new has:\n%s", r)
	}
	if got := answer[cutoverAnswer](t, r); got.Serving != "new" {
		t.Errorf("it says %+v", got)
	}
	pgtest.Exec(t, m.new.app, `create table public.afterwards (id integer)`)
	m.run(t, exitDone, "complete", "--new-only", "--yes")
	if n := pgtest.Value[int](t, m.new.url, `select count(*) from pg_namespace where nspname = 'pgcutover'`); n != 0 {
		t.Error("schema pgcutover is left on new")
	}
	if err := old.Restart(t.Context()); err != nil { // for the test's own cleaning up
		t.Fatal(err)
	}
	c.stop(t)
}
