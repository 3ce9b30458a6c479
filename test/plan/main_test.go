package plan

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"strings"
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
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

//go:embed schema.sql
var schemaSQL string

// rolesSQL is what belongs to the server, or to the database as a whole. A role is
// the server's, and so has the move's name.
const rolesSQL = `
create role "app-NAME" login connection limit 7;
grant usage on schema shop to "app-NAME";
alter table shop.orders owner to "app-NAME";
grant select on public.lines to "app-NAME";
alter role "app-NAME" in database NAME set search_path = shop, public;
alter database NAME set work_mem = '8MB';
comment on database NAME is 'a shop; and more'`

var moveCount atomic.Int64

// move is a move of the schema above from a fresh database to another.
type move struct {
	*upgrade.Move
	name           string
	oldURL, newURL string
}

func (m *move) url(server string) string {
	if server == "old" {
		return m.oldURL
	}
	return m.newURL
}

func eachPair(t *testing.T, test func(t *testing.T, pair pgtest.Pair)) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) { test(t, pair) })
	}
}

// newMove makes both databases and opens the move.
func newMove(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	m := &move{name: fmt.Sprintf("plan%d", moveCount.Add(1))}
	m.oldURL, m.newURL = database(t, pgtest.Server(t, pair.Old), m.name), database(t, pgtest.Server(t, pair.New), m.name)
	schema := schemaSQL
	if pair.Old < 11 { // partitioned tables have no keys there
		schema = strings.Replace(schema, ", primary key (id, at)) partition by", ") partition by", 1)
		schema = strings.Replace(schema, "create sequence", "alter table shop.events_2025 add primary key (id, at);\nalter table shop.events_2026 add primary key (id, at);\ncreate sequence", 1)
	}
	pgtest.Exec(t, m.oldURL, schema)
	pgtest.Exec(t, m.oldURL, strings.ReplaceAll(rolesSQL, "NAME", m.name), "analyze")
	o := upgrade.Options{
		Name: m.name, Old: upgrade.Endpoint{URL: m.oldURL}, New: upgrade.Endpoint{URL: m.newURL},
		Margin: 1000, IndexJobs: 1,
		Analyze: warmup.AnalyzeOptions{Jobs: 1}, Warm: warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: cutover.Settings{
			MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 20,
			OnClosed: fence.Error, WayBack: true, AnalyzeJobs: 1, ProveWithin: 100 * time.Millisecond,
		},
	}
	var err error
	if m.Move, err = upgrade.Open(t.Context(), o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// markdown prints the plan as it is now.
func (m *move) markdown(t *testing.T) string {
	t.Helper()
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	var b bytes.Buffer
	if err := plan.Runbook().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// start has the tool start the move.
func (m *move) start(t *testing.T) {
	t.Helper()
	if report, err := m.Start(t.Context(), t.Context(), ""); err != nil {
		t.Fatalf("%v\n%s\n%+v", err, hint.Of(err), report.Blockers())
	}
}

// turn has the tool do the cutover.
func (m *move) turn(t *testing.T) {
	t.Helper()
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run(t, c)
}

// back has the tool do the rollback.
func (m *move) back(t *testing.T) {
	t.Helper()
	c, err := m.NewRollback(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c)
}

func run(t *testing.T, c *cutover.Cutover) {
	t.Helper()
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// database makes a durable database of that name, dropped at the test's end with
// the role that a move of that name makes. Autovacuum is off there: a statement of
// the runbook that meets its lock is refused, and nobody here would run it again.
func database(t *testing.T, c *pgserver.Cluster, name string) string {
	t.Helper()
	admin := c.URL("postgres")
	pgtest.Exec(t, admin, "alter system set fsync = on", "alter system set full_page_writes = on", "alter system set autovacuum = off", "select pg_reload_conf()",
		"create database "+name+" template template0")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		err := pg.Wait(ctx, "the database to be dropped", 100*time.Millisecond, 0, nil, func(ctx context.Context) (bool, string, error) {
			return drop(ctx, c, name) == nil, "not yet", nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	return c.URL(name)
}

const subscriptionsSQL = `
select s.subname::text from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = $1`

func drop(ctx context.Context, c *pgserver.Cluster, name string) error {
	admin, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer pg.Close(ctx, admin)
	rows, err := admin.Query(ctx, subscriptionsSQL, name)
	if err != nil {
		return err
	}
	subscriptions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, s := range subscriptions {
		if err := dropSubscription(ctx, c.URL(name), s); err != nil {
			return err
		}
	}
	for _, sql := range []string{
		`select pg_terminate_backend(pid) from pg_stat_activity where datname = '` + name + `'`,
		`select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '` + name + `' and not active`,
		`drop database if exists ` + name,
		`drop role if exists pgcutover_` + name,
		`drop role if exists "app-` + name + `"`,
	} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

func dropSubscription(ctx context.Context, url, name string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, sql := range []string{
		"set default_transaction_read_only = off", "alter subscription " + name + " disable",
		"alter subscription " + name + " set (slot_name = none)", "drop subscription " + name,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
