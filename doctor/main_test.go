package doctor_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var moveCount atomic.Int64

func eachPair(t *testing.T, test func(t *testing.T, pair pgtest.Pair)) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) {
			t.Parallel()
			test(t, pair)
		})
	}
}

// move is a move between two databases of a test.
type move struct {
	name           string
	oldURL, newURL string
	old, new       *pg.Server
	upgrade        *upgrade.Move
}

// databases makes the two databases, the old one with two tables.
func databases(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	oldServer, newServer := pgtest.Server(t, pair.Old), pgtest.Server(t, pair.New)
	m := &move{name: fmt.Sprintf("doc%03d", moveCount.Add(1))}
	// Roles outlive a test's database.
	for _, admin := range []string{oldServer.URL("postgres"), newServer.URL("postgres")} {
		t.Cleanup(func() { pgtest.Exec(t, admin, "drop role if exists pgcutover_"+m.name) })
	}
	m.oldURL, m.newURL = pgtest.Database(t, oldServer), pgtest.Database(t, newServer)
	pgtest.Exec(t, m.oldURL,
		`create table public.item (id bigserial primary key, name text)`,
		`create table public."Odd ""name" (id integer primary key)`,
		`insert into public.item (name) select 'x' from generate_series(1, 50)`, `analyze`)
	return m
}

// opened opens the move of two databases.
func opened(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	m := databases(t, pair)
	var err error
	m.upgrade, err = upgrade.Open(t.Context(), upgrade.Options{
		Name: m.name, Old: upgrade.Endpoint{URL: m.oldURL}, New: upgrade.Endpoint{URL: m.newURL}, Margin: 100, IndexJobs: 1,
		Analyze: warmup.AnalyzeOptions{Stages: []warmup.Stage{1}, Jobs: 1}, Warm: warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: cutover.Settings{MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 20, OnClosed: fence.Error, WayBack: true, ProveWithin: 100 * time.Millisecond},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.upgrade.Close)
	m.old, m.new = m.upgrade.Old, m.upgrade.New
	return m
}

// started is an opened move after start.
func started(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	m := opened(t, pair)
	if report, err := m.upgrade.Start(t.Context(), t.Context(), ""); err != nil {
		t.Fatalf("%v\n%s\n%+v", err, hint.Of(err), report.Blockers())
	}
	return m
}

// turn runs a cutover or, back, a rollback.
func (m *move) turn(t *testing.T, d state.Direction) {
	t.Helper()
	c, err := m.upgrade.NewCutover(t.Context())
	if d == state.Back {
		c, err = m.upgrade.NewRollback(t.Context(), false)
	}
	if err == nil {
		c.Gates = nil // other tests' prepared transactions are no reason
		err = c.Run(t.Context(), t.Context())
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// url is a side's.
func (m *move) url(side pg.Side) string {
	if side == pg.New {
		return m.newURL
	}
	return m.oldURL
}

// settle is short: what these tests break stays broken.
const settle = 500 * time.Millisecond

// examined runs doctor on both servers.
func (m *move) examined(t *testing.T, o doctor.Options) doctor.Report {
	t.Helper()
	if o.Old == "" && o.New == "" {
		o.Old, o.New = m.oldURL, m.newURL
	}
	if o.Settle == 0 {
		o.Settle = settle
	}
	if o.PreparedAge == 0 {
		o.PreparedAge = time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := doctor.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return m.ownOnly(t, r)
}

// ownOnly takes out what other tests' databases on the shared clusters show:
// slots, roles and subscriptions belong to the whole cluster.
func (m *move) ownOnly(t *testing.T, r doctor.Report) doctor.Report {
	t.Helper()
	r.Findings = slices.DeleteFunc(r.Findings, func(f doctor.Finding) bool {
		text := f.Object + " " + f.Seen
		if f.ID == "origin.orphan" {
			return !strings.Contains(text, m.number())
		}
		return (f.Whose == doctor.Other || f.Whose == doctor.Another) &&
			(strings.Contains(text, `database "test`) || strings.Contains(text, `"pgcutover_doc`)) &&
			!strings.Contains(text, databaseName(m.oldURL)) && !strings.Contains(text, databaseName(m.newURL)) && !strings.Contains(text, "pgcutover_"+m.name)
	})
	return r
}

func databaseName(url string) string {
	name, _, _ := strings.Cut(url[strings.LastIndex(url, "/")+1:], "?")
	return name
}

// number tells the moves of this binary apart.
func (m *move) number() string { return strings.TrimPrefix(m.name, "doc") }

// silent fails unless doctor finds nothing; what passes, such as a worker that
// begins anew, may last longer than settle on a busy machine.
func (m *move) silent(t *testing.T, when string) {
	t.Helper()
	var r doctor.Report
	for range 5 {
		if r = m.examined(t, doctor.Options{}); len(r.Findings) == 0 {
			return
		}
	}
	t.Fatalf("%s: not silent:\n%s", when, text(t, r))
}

func text(t *testing.T, r doctor.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// of returns the findings of an ID on a server.
func of(r doctor.Report, id, server string) []doctor.Finding {
	var out []doctor.Finding
	for _, f := range r.Findings {
		if f.ID == id && f.Server == server {
			out = append(out, f)
		}
	}
	return out
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

// writable says whether a client can write a row, and takes it back.
func writable(t *testing.T, url string) error {
	t.Helper()
	conn := connect(t, url)
	defer pg.Close(t.Context(), conn)
	if _, err := conn.Exec(t.Context(), `begin`); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(t.Context(), `insert into public.item (name) values ('client')`)
	return err
}

// asTool runs statements as the tool does: whatever the read-only default.
func asTool(t *testing.T, url string, sql ...string) {
	t.Helper()
	pgtest.Exec(t, url, append([]string{`set default_transaction_read_only = off`}, sql...)...)
}
