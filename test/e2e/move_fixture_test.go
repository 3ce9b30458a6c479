package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// appRole is an ordinary role: it owns the databases, and clients write as it.
const appRole = "shop_app"

// server is one of the two databases of a move.
type server struct {
	cluster  *pgserver.Cluster
	url, app string // as superuser, and as the application
	name     string // what ledgers call it; empty before the shop is there
}

// move is a shop on an old server, an empty database on a new one, and a
// config file for the tool.
type move struct {
	name, dir string
	old, new  server
	hooks     string
}

var (
	moveCount atomic.Int64
	preparing sync.Mutex
	prepared  = map[*pgserver.Cluster]bool{}
)

// prepare makes the application's role on a server that all tests share, and
// the server durable: the tool refuses to cut over where an acknowledged write
// can be lost, while pgtest's servers are made for speed.
func prepare(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	preparing.Lock()
	defer preparing.Unlock()
	if prepared[c] {
		return
	}
	admin := c.URL("postgres")
	pgtest.Exec(t, admin, "create role "+appRole+" login",
		"alter system set fsync = on", "alter system set full_page_writes = on", "select pg_reload_conf()")
	until(t, "durable settings", time.Minute, func() bool {
		return pgtest.Value[string](t, admin, "select current_setting('fsync') || current_setting('full_page_writes')") == "onon"
	}, nil)
	prepared[c] = true
}

// newMove makes both databases and the config file. more is appended to it.
func newMove(t *testing.T, pair pgtest.Pair, more ...string) *move {
	t.Helper()
	return newMoveBetween(t, pgtest.Server(t, pair.Old), pgtest.Server(t, pair.New), more...)
}

// newMoveBetween is newMove for servers of the test's own.
func newMoveBetween(t *testing.T, old, new *pgserver.Cluster, more ...string) *move {
	t.Helper()
	m := &move{name: fmt.Sprintf("e2e%d", moveCount.Add(1)), dir: t.TempDir()}
	m.old.cluster, m.new.cluster = old, new
	for _, s := range []*server{&m.old, &m.new} {
		m.createDatabase(t, s)
	}
	conn := connect(t, m.old.app)
	if err := workload.Create(t.Context(), conn, workload.LoadOptions{Rows: 300}); err != nil {
		t.Fatal(err)
	}
	m.hooks = filepath.Join(m.dir, "hooks")
	if err := os.Mkdir(m.hooks, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name: %s
old: { url: "%s" }
new: { url: "%s" }
copy: { jobs: 2 }
warm: { jobs: 1, before_cutover: 0s }
analyze: { jobs: 1 }
traffic:
  - multihost: {}
hooks: { dir: ./hooks }
%s`, m.name, m.old.url, m.new.url, strings.Join(more, "\n"))
	if err := os.WriteFile(filepath.Join(m.dir, "pgcutover.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// createDatabase makes the move's database on one server, by the same name on
// both since the clients' connection string has room for one.
func (m *move) createDatabase(t *testing.T, s *server) {
	t.Helper()
	admin := s.cluster.URL("postgres")
	prepare(t, s.cluster)
	pgtest.Exec(t, admin, fmt.Sprintf(writeOut, m.name), fmt.Sprintf("create database %s owner %s template template0", m.name, appRole))
	s.url = s.cluster.URL(m.name)
	s.app = pgtest.WithUser(t, s.url, appRole, "")
	t.Cleanup(func() { m.drop(t, s) })
}

// drop drops the move's database and role from a server, whatever a failed
// test has left there.
func (m *move) drop(t *testing.T, s *server) {
	t.Helper()
	admin := s.cluster.URL("postgres")
	var last error
	until(t, "dropping database "+m.name, 2*time.Minute, func() bool {
		last = m.tryDrop(admin)
		return last == nil
	}, func() string { return fmt.Sprint(last) })
}

// What takes a database away, in the order in which Postgres allows it.
// Subscriptions and slots are the tool's to drop; here is what it left.
const (
	endSessions = `select pg_terminate_backend(pid) from pg_stat_activity where datname = '%[1]s'`
	dropSlots   = `select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '%[1]s' and not active`
	// A database is made and dropped in a transaction that writes out what is dirty,
	// and for which another test's tool has to wait: little shall be left to write.
	writeOut     = `checkpoint -- before %[1]s`
	dropDatabase = `drop database if exists %[1]s`
	dropRole     = `drop role if exists pgcutover_%[1]s`
)

const subscriptionsLeft = `
select s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = $1`

func (m *move) tryDrop(admin string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, subscriptionsLeft, m.name)
	if err != nil {
		return err
	}
	subscriptions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range subscriptions {
		if err := m.dropSubscription(ctx, admin, name); err != nil {
			return err
		}
	}
	for _, sql := range []string{endSessions, dropSlots, writeOut, dropDatabase, dropRole} {
		if _, err := conn.Exec(ctx, fmt.Sprintf(sql, m.name)); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) dropSubscription(ctx context.Context, admin, name string) error {
	config, err := pgx.ParseConfig(admin)
	if err != nil {
		return err
	}
	config.Database = m.name
	config.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, sql := range []string{
		"alter subscription %s disable", "alter subscription %s set (slot_name = none)", "drop subscription %s",
	} {
		if _, err := conn.Exec(ctx, fmt.Sprintf(sql, name)); err != nil {
			return err
		}
	}
	return nil
}

// start runs the tool's start to its end.
func (m *move) start(t *testing.T) {
	t.Helper()
	m.run(t, exitDone, "start")
	m.identify(t)
}

// identify asks both servers, which have the shop by now, how ledgers call
// them.
func (m *move) identify(t *testing.T) {
	t.Helper()
	for _, s := range []*server{&m.old, &m.new} {
		var err error
		if s.name, err = workload.Identify(t.Context(), connect(t, s.url)); err != nil {
			t.Fatal(err)
		}
	}
}

// hook lets the tool run one of testdata/hooks at an event, such as
// before-drain. It is a link: writing an executable and running it at once
// fails now and then (ETXTBSY) in a process that forks all the time.
func (m *move) hook(t *testing.T, event, script string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "hooks", script))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(m.hooks, event)); err != nil {
		t.Fatal(err)
	}
}

// unhook takes a hook away.
func (m *move) unhook(t *testing.T, event string) {
	t.Helper()
	if err := os.Remove(filepath.Join(m.hooks, event)); err != nil {
		t.Fatal(err)
	}
}

// otherMoves matches what the tool calls things of its moves.
var otherMoves = regexp.MustCompile(`pgcutover_(e2e[0-9]+)`)

// catalog is pgtest.Catalog without what belongs to the moves of other tests
// on the same server: their roles.
func (m *move) catalog(t *testing.T, s server) string {
	t.Helper()
	var own strings.Builder
	for line := range strings.Lines(pgtest.Catalog(t, s.url)) {
		found := otherMoves.FindStringSubmatch(line)
		if found == nil || found[1] == m.name {
			own.WriteString(line)
		}
	}
	return own.String()
}

// catalogs is a snapshot of both servers.
type catalogs struct{ old, new string }

func (m *move) catalogs(t *testing.T) catalogs {
	t.Helper()
	return catalogs{m.catalog(t, m.old), m.catalog(t, m.new)}
}

// unchanged compares both servers with a snapshot.
func (m *move) unchanged(t *testing.T, since string, before catalogs) {
	t.Helper()
	now := m.catalogs(t)
	if diff := pgtest.Diff(before.old, now.old); diff != "" {
		t.Errorf("the old server is not what it was %s:\n%s", since, diff)
	}
	if diff := pgtest.Diff(before.new, now.new); diff != "" {
		t.Errorf("the new server is not what it was %s:\n%s", since, diff)
	}
}

const decidedSQL = `select count(*) > 0 from pgcutover.decision_forward`

// decided asks the old server whether a decision was made.
func (m *move) decided(t *testing.T) bool {
	t.Helper()
	return pgtest.Value[bool](t, m.old.url, decidedSQL)
}

const toolSessionsSQL = `
select count(*)
  from pg_stat_activity
 where datname = $1
   and application_name like 'pgcutover/%'`

// gone waits until no session of a killed tool is left on the old server: from
// then on nothing that it sent can happen any more. It asks from another
// database, since the tool may have been ending the sessions in this one.
func (m *move) gone(t *testing.T) {
	t.Helper()
	conn := connect(t, m.old.cluster.URL("postgres"))
	until(t, "the killed tool's sessions to end", time.Minute, func() bool {
		var n int
		if err := conn.QueryRow(t.Context(), toolSessionsSQL, m.name).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	}, nil)
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

// until waits for a condition, with a bound. state, if not nil, tells how
// things stand when the bound has passed.
func until(t *testing.T, what string, bound time.Duration, met func() bool, state func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(bound)
	defer limit.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-limit.C:
			detail := ""
			if state != nil {
				detail = ": " + state()
			}
			t.Fatalf("waited %s for %s%s", bound, what, detail)
		}
	}
}
