package rights

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// The roles of a move. owner owns the database and the shop, further owns a
// schema of its own and a table in somebody else's; writer, who owns nothing,
// is what clients are; tool is what pgcutover connects as.
const (
	owner   = "shop owner"
	further = "billing"
	writer  = "shop_app"
	tool    = "mover"

	database      = "shop"
	adminPassword = "admin-secret"
	password      = "it's-secret"
)

// server is one of the two databases of a move.
type server struct {
	cluster *pgserver.Cluster
	admin   string // the superuser's URL, into the database
	tool    string
	app     string
	name    string // what ledgers call it
}

// move is a shop on an old server and an empty database on a new one.
type move struct {
	dir      string
	old, new server
	hosted   bool // by a provider
}

// settings make apply workers start soon; talkative have every DDL statement in the
// log as well.
var (
	settings  = map[string]string{"wal_retrieve_retry_interval": "200ms"}
	talkative = map[string]string{"wal_retrieve_retry_interval": "200ms", "log_statement": "ddl"}
)

// newMove boots both servers and makes the shop, the application's roles on both,
// and a role for the tool on neither. more is appended to the config file.
func newMove(t *testing.T, oldMajor, newMajor int, more string) *move {
	t.Helper()
	m := &move{dir: t.TempDir()}
	for major, s := range map[int]*server{oldMajor: &m.old, newMajor: &m.new} {
		s.cluster = pgtest.Cluster(t, pgserver.Options{
			Major: major, Name: fmt.Sprintf("rights-%d", major), Password: adminPassword, Durable: true, Settings: talkative,
		})
		s.admin = s.cluster.URL(database)
		s.tool = pgtest.WithUser(t, s.admin, tool, password)
		s.app = pgtest.WithUser(t, s.admin, writer, password)
		pgtest.Exec(t, s.cluster.URL("postgres"),
			fmt.Sprintf(`create role %q nologin`, owner),
			fmt.Sprintf(`create role %q nologin`, further),
			fmt.Sprintf(`create role %q login password '%s'`, writer, strings.ReplaceAll(password, "'", "''")),
			fmt.Sprintf(`create database %s template template0 owner %q`, database, owner))
	}
	m.fill(t)
	m.configure(t, "pgcutover.yaml", m.old.tool, m.new.tool, more)
	m.configure(t, "admin.yaml", m.old.admin, m.new.admin, more)
	return m
}

// configure writes a config file into the move's folder.
func (m *move) configure(t *testing.T, name, old, new, more string) {
	t.Helper()
	text := fmt.Sprintf(`name: shop
old: { url: "%s" }
new: { url: "%s" }
copy: { jobs: 2 }
warm: { jobs: 1 }
analyze: { jobs: 1 }
traffic:
  - multihost: {}
hooks: { dir: ./hooks }
%s`, old, new, more)
	if err := os.MkdirAll(filepath.Join(m.dir, "hooks"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fill makes the shop as its owner, and what belongs to another role.
func (m *move) fill(t *testing.T) {
	t.Helper()
	config, err := pgx.ParseConfig(m.old.admin)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["role"] = owner
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context(), conn)
	if err := workload.Create(t.Context(), conn, workload.LoadOptions{Rows: 200}); err != nil {
		t.Fatal(err)
	}
	// Before 15 everybody may create in schema public.
	create := "grant create on schema public to billing"
	if m.old.cluster.Major() < 15 {
		create = "select 1"
	}
	pgtest.Exec(t, m.old.admin,
		"grant create on database shop to billing", create, "set role billing",
		"create schema billing",
		"create table billing.invoice (id int generated always as identity primary key, total numeric not null)",
		"create function billing.total() returns numeric language sql as 'select sum(total) from billing.invoice'",
		"create domain billing.amount as numeric check (value >= 0)",
		"create table public.rates (code text primary key, rate numeric)",
		"create unlogged table billing.draft (id int primary key references billing.invoice)",
		"insert into billing.invoice (total) select n from generate_series(1, 50) n",
		"insert into public.rates values ('EUR', 1)", "insert into billing.draft values (1), (2)",
		"reset role", "revoke create on database shop from billing")
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

// until waits for a condition, with a bound.
func until(t *testing.T, what string, bound time.Duration, met func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(bound)
	defer limit.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited %s for %s", bound, what)
		}
	}
}
