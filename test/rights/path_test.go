package rights

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// withoutWayBack is for an old server on which nobody but a superuser may
// subscribe.
const withoutWayBack = "rollback: { keep: false }\n"

// TestPath is the whole way with roles that are superuser nowhere.
func TestPath(t *testing.T) {
	for _, c := range []struct{ old, new int }{{15, 18}, {13, 16}, {16, 17}} {
		t.Run(fmt.Sprintf("%d-%d", c.old, c.new), func(t *testing.T) {
			t.Parallel()
			more, wayBack := "", c.old >= 16
			if !wayBack {
				more = withoutWayBack
			}
			m := newMove(t, c.old, c.new, more)
			m.grant(t, m.old.admin, m.new.admin)
			m.noSuperuser(t)
			m.clean(t)
			m.whole(t, wayBack)
		})
	}
}

// TestWayBackBefore16 has a superuser where PostgreSQL wants one, on old, and
// nowhere else.
func TestWayBackBefore16(t *testing.T) {
	t.Parallel()
	m := newMove(t, 15, 18, "")
	got := m.grant(t, m.old.admin, m.new.admin)
	said := false
	for _, r := range got.Old.Remarks {
		said = said || strings.Contains(r, "rollback.keep: false") && strings.Contains(r, `ALTER ROLE "mover" SUPERUSER;`)
	}
	if !said {
		t.Errorf("the script of old does not say what the way back needs: %q", got.Old.Remarks)
	}
	for _, f := range aboutRights(m.check(t, exitBlockers)) {
		if f.ID != "rights.subscription" && f.ID != "peer.rights" {
			t.Errorf("not about the way back: %+v", f)
		}
		if f.ID == "rights.subscription" {
			m.psql(t, m.old.admin, f.Fix)
		}
	}
	m.clean(t)
	m.whole(t, true)
}

// noSuperuser checks that what is tested here is tested.
func (m *move) noSuperuser(t *testing.T) {
	t.Helper()
	for _, s := range []server{m.old, m.new} {
		if pgtest.Value[bool](t, s.tool, `select bool_or(rolsuper) from pg_roles where pg_has_role(oid, 'member')`) {
			t.Fatalf("on PostgreSQL %d role %s is a superuser, or can become one", s.cluster.Major(), tool)
		}
	}
}

// whole starts, aborts, starts again, cuts over, goes back and over again if it
// may, and completes, with clients who write all the time.
func (m *move) whole(t *testing.T, wayBack bool) {
	t.Helper()
	before := m.catalogs(t)
	c := m.write(t)
	m.run(t, exitDone, "start")
	m.run(t, exitDone, "abort", "--yes")
	m.unchanged(t, before)
	m.run(t, exitDone, "start")
	m.run(t, exitDone, "status")
	c.probe(t)
	m.killed(t, c)
	if wayBack {
		m.turn(t, c, "rollback", pg.Old, pg.New, pg.Old)
		m.turn(t, c, "cutover", pg.Old, pg.New, pg.Old, pg.New)
	}
	m.run(t, exitDone, "status")
	c.prove(t)
	m.run(t, exitDone, "complete", "--yes")
	m.nothingLeft(t, before)
	m.noPasswordInLogs(t)
}

// noPasswordInLogs looks for statements that make subscriptions in logs that have
// the tool's other DDL.
func (m *move) noPasswordInLogs(t *testing.T) {
	t.Helper()
	for _, s := range []server{m.old, m.new} {
		text, err := os.ReadFile(s.cluster.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		log := strings.ToLower(string(text))
		if !strings.Contains(log, "create schema pgcutover") {
			t.Errorf("the log of PostgreSQL %d has not the tool's statements", s.cluster.Major())
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, "create subscription") {
				t.Errorf("the log of PostgreSQL %d has the password of a subscription: %s", s.cluster.Major(), line)
			}
		}
	}
}

// catalogs is a snapshot of both servers.
type catalogs struct{ old, new string }

func (m *move) catalogs(t *testing.T) catalogs {
	t.Helper()
	return catalogs{pgtest.Catalog(t, m.old.admin), pgtest.Catalog(t, m.new.admin)}
}

// unchanged compares both servers with a snapshot.
func (m *move) unchanged(t *testing.T, before catalogs) {
	t.Helper()
	now := m.catalogs(t)
	if diff := pgtest.Diff(before.old, now.old); diff != "" {
		t.Errorf("abort leaves on the old server:\n%s", diff)
	}
	if diff := pgtest.Diff(before.new, now.new); diff != "" {
		t.Errorf("abort leaves on the new server:\n%s", diff)
	}
}

// nothingLeft checks that complete has left old as it was, that nothing on new
// bears our name, and that the objects there have the owners that they had.
func (m *move) nothingLeft(t *testing.T, before catalogs) {
	t.Helper()
	if diff := pgtest.Diff(before.old, pgtest.Catalog(t, m.old.admin)); diff != "" {
		t.Errorf("complete leaves on the old server:\n%s", diff)
	}
	for line := range strings.Lines(pgtest.Catalog(t, m.new.admin)) {
		if strings.Contains(line, "pgcutover") {
			t.Errorf("complete leaves on the new server: %s", line)
		}
	}
	if n := pgtest.Value[int](t, m.new.admin, `select count(*) from billing.draft`); n != 2 {
		t.Errorf("the unlogged table has %d rows on new", n)
	}
	const owners = `
select string_agg(format('%s %I.%I', pg_get_userbyid(relowner), relnamespace::regnamespace, relname), ', ' order by relnamespace::regnamespace::text, relname)
  from pg_class
 where relkind in ('r', 'p', 'v', 'm', 'S') and relnamespace::regnamespace::text in ('"SHOP"', 'billing', 'public')`
	if old, new := pgtest.Value[string](t, m.old.admin, owners), pgtest.Value[string](t, m.new.admin, owners); old != new {
		t.Errorf("the owners on old were\n%s\non new they are\n%s", old, new)
	}
}

// stopBound is how long clients may take to end, serveBound how soon after a
// turn clients have written on the server that serves.
const (
	stopBound  = time.Minute
	serveBound = time.Minute
)

// clients write through a connection string that names both servers.
type clients struct {
	m       *move
	writers *workload.Writers
	prober  *workload.Prober
}

func (m *move) write(t *testing.T) *clients {
	t.Helper()
	both, err := workload.Multihost(m.old.app, m.new.app)
	if err != nil {
		t.Fatal(err)
	}
	w, err := workload.Start(t.Context(), workload.Options{URL: both, Writers: 3, Rate: 30})
	if err != nil {
		t.Fatal(err)
	}
	c := &clients{m: m, writers: w}
	t.Cleanup(func() { c.stop(t) })
	return c
}

// probe begins to ask both servers which of them takes writes, once both have
// the shop.
func (c *clients) probe(t *testing.T) {
	t.Helper()
	for _, s := range []*server{&c.m.old, &c.m.new} {
		var err error
		if s.name, err = workload.Identify(t.Context(), connect(t, s.app)); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.prober, err = workload.StartProber(t.Context(), workload.ProberOptions{OldURL: c.m.old.app, NewURL: c.m.new.app, Every: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c.expect(pg.Old)
}

// expect says which sides are to serve, in order.
func (c *clients) expect(sides ...pg.Side) {
	names := make([]string, len(sides))
	for i, s := range sides {
		names[i] = c.m.side(s).name
	}
	c.writers.Ledger().Expect(names...)
	c.prober.Expect(sides...)
}

func (m *move) side(s pg.Side) server {
	if s == pg.New {
		return m.new
	}
	return m.old
}

// killed cuts over and kills the tool as soon as the decision is made. Nobody is
// there then who could open new but the guard, inside the apply worker's
// transaction: it acts as the owner of its table, replaces a function and alters
// the database.
func (m *move) killed(t *testing.T, c *clients) {
	t.Helper()
	hook := filepath.Join(m.dir, "hooks", "after-decide")
	script, err := filepath.Abs(filepath.Join("..", "e2e", "testdata", "hooks", "kill"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(script, hook); err != nil {
		t.Fatal(err)
	}
	c.expect(pg.Old, pg.New)
	if r := m.any(t, "cutover", "--yes"); r.code >= 0 {
		t.Fatalf("the tool was not killed: status %d\n%s", r.code, r)
	}
	c.serves(t, pg.New, time.Now())
	if err := os.Remove(hook); err != nil {
		t.Fatal(err)
	}
	m.run(t, exitDone, "resume")
	c.serves(t, pg.New, time.Now())
}

// turn cuts over or rolls back; sides are those that have served then, in order.
// Clients must write on the last.
func (m *move) turn(t *testing.T, c *clients, command string, sides ...pg.Side) {
	t.Helper()
	c.expect(sides...)
	m.run(t, exitDone, command, "--yes")
	c.serves(t, sides[len(sides)-1], time.Now())
}

// serves waits until a client has written on a side after since.
func (c *clients) serves(t *testing.T, side pg.Side, since time.Time) {
	t.Helper()
	name := c.m.side(side).name
	until(t, fmt.Sprintf("writes on the %s server", side), serveBound, func() bool {
		for _, commit := range c.writers.Ledger().Commits() {
			if !commit.Unknown && commit.Server == name && commit.Began.After(since) {
				return true
			}
		}
		return false
	})
	for _, s := range c.writers.Ledger().SplitBrain() {
		t.Errorf("split brain: %s", s)
	}
	if err := c.prober.Err(); err != nil {
		t.Error(err)
	}
}

func (c *clients) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), stopBound)
	defer cancel()
	if err := c.writers.Stop(ctx); err != nil {
		t.Error(err)
	}
	if c.prober == nil {
		return
	}
	if err := c.prober.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// prove stops the clients and compares all that they were told with new.
func (c *clients) prove(t *testing.T) {
	t.Helper()
	c.stop(t)
	p, err := workload.Prove(t.Context(), connect(t, c.m.new.app), c.writers.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(p)
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if p.Acknowledged == 0 || p.SequencesChecked == 0 || p.SequenceValuesChecked == 0 {
		t.Errorf("the proof compared nothing: %s", p)
	}
}
