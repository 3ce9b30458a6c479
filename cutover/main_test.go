package cutover_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var moveCount atomic.Int64

// move is a started move of a small shop, with writers on it. The tool reaches
// old through the proxy; writers, new and the tests reach it directly.
type move struct {
	*upgrade.Move
	name           string
	oldURL, newURL string
	proxy          *pgtest.Proxy
	writers        *workload.Writers
}

func eachPair(t *testing.T, test func(t *testing.T, pair pgtest.Pair)) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) { test(t, pair) })
	}
}

// firstPair is for tests of what does not depend on the majors and takes long.
func firstPair(t *testing.T, test func(t *testing.T, pair pgtest.Pair)) {
	pair := pgtest.Pairs(t)[0]
	t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) { test(t, pair) })
}

// settings leave the freeze many attempts, since on a busy machine each may come
// between the statements of some transaction, and the pause time to wait for what
// tests beside this one write on the same server.
func settings() cutover.Settings {
	return cutover.Settings{MaxLag: 16 << 20, MaxPause: 30 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 100, OnClosed: fence.Error, WayBack: true, RefreshWithin: time.Minute, ProveWithin: 100 * time.Millisecond}
}

// started makes a shop on old, and what else is given, starts a move of it to new,
// and lets writers write.
func started(t *testing.T, pair pgtest.Pair, besides ...string) *move {
	t.Helper()
	m := &move{name: fmt.Sprintf("cut%d", moveCount.Add(1))}
	oldServer, newServer := pgtest.Server(t, pair.Old), pgtest.Server(t, pair.New)
	m.oldURL, m.newURL = database(t, oldServer, m.name), database(t, newServer, m.name)
	if err := workload.Create(t.Context(), connect(t, m.oldURL), workload.LoadOptions{Rows: 200}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.oldURL, append(besides, "create table public.single (id bigserial primary key, text text)")...)
	m.proxy = pgtest.NewProxy(t, oldServer.Addr())
	o := upgrade.Options{
		Name:    m.name,
		Old:     upgrade.Endpoint{URL: m.proxy.URL(t, m.oldURL), PeerURL: m.oldURL},
		New:     upgrade.Endpoint{URL: m.newURL},
		Margin:  100,
		Analyze: warmup.AnalyzeOptions{Stages: []warmup.Stage{1}, Jobs: 1},
		Warm:    warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: settings(),
		Traffic: []traffic.Driver{traffic.Multihost{}},
	}
	var err error
	if m.Move, err = upgrade.Open(t.Context(), o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if report, err := m.Start(t.Context(), t.Context(), ""); err != nil {
		t.Fatalf("%v\n%s\n%+v", err, hint.Of(err), report.Blockers())
	}
	both, err := workload.Multihost(m.oldURL, m.newURL)
	if err != nil {
		t.Fatal(err)
	}
	if m.writers, err = workload.Start(t.Context(), workload.Options{URL: both, Writers: 3}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop(t) })
	return m
}

// database makes a database of the given name, dropped at the test's end with
// the role that a move of that name makes.
func database(t *testing.T, c *pgserver.Cluster, name string) string {
	t.Helper()
	admin := c.URL("postgres")
	pgtest.Exec(t, admin, "create database "+name+" template template0")
	t.Cleanup(func() {
		pgtest.Exec(t, admin, "alter database "+name+" reset all")
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), c.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		rows, _ := conn.Query(context.WithoutCancel(t.Context()), `
			select subname::text from pg_subscription
			 where subname like 'pgcutover\_%' and subdbid = (select oid from pg_database where datname = current_database())`)
		subscriptions, err := pgx.CollectRows(rows, pgx.RowTo[string])
		pg.Close(context.WithoutCancel(t.Context()), conn)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range subscriptions {
			pgtest.Exec(t, c.URL(name), "alter subscription "+s+" disable",
				"alter subscription "+s+" set (slot_name = none)", "drop subscription "+s)
		}
		until(t, "dropping database "+name, func() (bool, error) {
			return drop(t, admin, name) == nil, nil
		})
	})
	return c.URL(name)
}

func drop(t *testing.T, admin, name string) error {
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, sql := range []string{
		`select pg_terminate_backend(pid) from pg_stat_activity where datname = '` + name + `'`,
		`select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '` + name + `'`,
		`drop database if exists ` + name,
		`drop role if exists pgcutover_` + name,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

// until waits for a condition, with a bound; an error ends the test.
func until(t *testing.T, what string, met func() (bool, error)) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), what, 5*time.Millisecond, 2*time.Minute, nil, func(context.Context) (bool, string, error) {
		done, err := met()
		return done, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *move) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := m.writers.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// cutover prepares one. The gates of preflight are left out: the test servers
// run without fsync, which is a blocker there.
func (m *move) cutover(t *testing.T) *cutover.Cutover {
	t.Helper()
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	return c
}

// run does a cutover that must succeed.
func (m *move) run(t *testing.T) {
	t.Helper()
	if err := m.cutover(t).Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// writes waits until writers were answered n more times by the given side.
func (m *move) writes(t *testing.T, side pg.Side) {
	t.Helper()
	const n = 20
	served := func() int {
		s := m.writers.Ledger().Sides()
		if side == pg.Old {
			return s.TransactionsOnOld
		}
		return s.TransactionsOnNew
	}
	before := served()
	until(t, fmt.Sprintf("%d writes on the %s server", n, side), func() (bool, error) { return served() >= before+n, nil })
}

// proved ends the writers and proves that the given server has all that was
// acknowledged, and that no write was taken out of turn.
func (m *move) proved(t *testing.T, side pg.Side) {
	t.Helper()
	m.stop(t)
	url := m.oldURL
	if side == pg.New {
		url = m.newURL
	}
	p, err := workload.Prove(t.Context(), connect(t, url), m.writers.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if p.Acknowledged == 0 {
		t.Error("nothing was acknowledged: the proof proves nothing")
	}
	t.Log(p)
}

// atRest is what undo must bring back: no trace of an attempt but its number.
type atRest struct {
	old     string // catalog
	fences  string // on new
	oldTurn string
	newTurn string
}

const turnSQL = `select format('armed %s open %s', armed, open) from pgcutover.turn`

const checkSQL = `select prosrc from pg_proc where oid = 'pgcutover.check()'::regprocedure`

const fencesSQL = `
select coalesce(string_agg(tgrelid::regclass || ' ' || tgenabled::text, ', ' order by tgrelid::regclass::text), 'none')
  from pg_trigger where tgname like 'pgcutover%fence' and tgrelid <> coalesce(to_regclass('pgcutover.probe'), 0)`

func (m *move) rest(t *testing.T) atRest {
	t.Helper()
	return atRest{
		old:     pgtest.Catalog(t, m.oldURL),
		fences:  pgtest.Value[string](t, m.newURL, fencesSQL) + pgtest.Value[string](t, m.newURL, checkSQL),
		oldTurn: pgtest.Value[string](t, m.oldURL, turnSQL),
		newTurn: pgtest.Value[string](t, m.newURL, turnSQL),
	}
}

// unchanged compares with how it was before.
func (m *move) unchanged(t *testing.T, before atRest) {
	t.Helper()
	now := m.rest(t)
	if d := pgtest.Diff(before.old, now.old); d != "" {
		t.Errorf("old is not as before:\n%s", d)
	}
	now.old, before.old = "", ""
	if now != before {
		t.Errorf("not as before:\n%+v\nnow:\n%+v", before, now)
	}
	if n := pgtest.Value[int](t, m.oldURL, `select count(*) from pgcutover.decision_forward`); n != 0 {
		t.Errorf("%d decisions on old", n)
	}
}

// is fails the test unless err is of the given kind of outcome.
func outcome[T error](t *testing.T, err error) T {
	t.Helper()
	var want T
	if !errors.As(err, &want) {
		t.Fatalf("error %v (%T), want %T", err, err, want)
	}
	return want
}
