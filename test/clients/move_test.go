package clients

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// appRole is the role that the clients write as.
const appRole = "clients_app"

// ledgerSQL makes the table that all clients write to. A row tells which server
// took it.
const ledgerSQL = `
create table ledger (
  id bigserial primary key,
  client text not null,
  n bigint not null,
  port int not null default current_setting('port')::int
);
grant select, insert on ledger to ` + appRole + `;
grant usage on sequence ledger_id_seq to ` + appRole

// move is a move whose start is done.
type move struct {
	*upgrade.Move
	name     string
	old, new *pgserver.Cluster
}

// newMove makes a database of one name on both servers, with the table on old,
// and starts the move.
func newMove(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	m := &move{name: fmt.Sprintf("clients%d", time.Now().UnixMilli()), old: pgtest.Server(t, pair.Old), new: pgtest.Server(t, pair.New)}
	for _, c := range []*pgserver.Cluster{m.old, m.new} {
		admin := c.URL("postgres")
		// Made for speed, while the tool refuses to cut over where an acknowledged
		// write can be lost.
		pgtest.Exec(t, admin, "alter system set fsync = on", "alter system set full_page_writes = on", "select pg_reload_conf()",
			"create role "+appRole+" login", "create database "+m.name+" template template0")
		t.Cleanup(func() { pgtest.Exec(t, admin, "drop role "+appRole) })
		t.Cleanup(func() { m.drop(t, c) })
	}
	pgtest.Exec(t, m.old.URL(m.name), ledgerSQL)
	var err error
	m.Move, err = upgrade.Open(t.Context(), m.options(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if report, err := m.Start(t.Context(), t.Context(), ""); err != nil {
		t.Fatalf("start: %v\n%+v", err, report)
	}
	return m
}

func (m *move) options() upgrade.Options {
	return upgrade.Options{
		Name:    m.name,
		Old:     upgrade.Endpoint{URL: m.old.URL(m.name)},
		New:     upgrade.Endpoint{URL: m.new.URL(m.name)},
		Margin:  100,
		Analyze: warmup.AnalyzeOptions{Stages: warmup.Stages(), Jobs: 1},
		Warm:    warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: cutover.Settings{
			MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 100, OnClosed: fence.Error,
			WayBack: true, ProveWithin: 100 * time.Millisecond,
		},
		Traffic: []traffic.Driver{traffic.Multihost{}},
	}
}

// cutover turns the writes to the new server.
func (m *move) cutover(t *testing.T) turn {
	t.Helper()
	c, err := m.NewCutover(t.Context())
	return m.turn(t, c, err, turn{from: m.old.Port(), to: m.new.Port()})
}

// rollback turns them back.
func (m *move) rollback(t *testing.T) turn {
	t.Helper()
	c, err := m.NewRollback(t.Context(), false)
	return m.turn(t, c, err, turn{from: m.new.Port(), to: m.old.Port()})
}

func (m *move) turn(t *testing.T, c *cutover.Cutover, err error, of turn) turn {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	of.began = time.Now()
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	of.ended = time.Now()
	t.Logf("writers were held for %s", c.Pause().Round(time.Millisecond))
	return of
}

// complete ends the move.
func (m *move) complete(t *testing.T) {
	t.Helper()
	if err := m.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// leftSQL lists what a failed test may leave that keeps a database from being
// dropped, as statements in the order in which they work.
const leftSQL = `
select format('alter subscription %1$I disable; alter subscription %1$I set (slot_name = none)', subname) from pg_subscription
 where subdbid = (select oid from pg_database where datname = current_database())
union all
select format('drop subscription %I', subname) from pg_subscription
 where subdbid = (select oid from pg_database where datname = current_database())`

// drop drops the move's database, whatever a failed test has left in it.
func (m *move) drop(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	err := pg.Wait(ctx, "dropping database "+m.name, 50*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		err := m.tryDrop(ctx, c)
		return err == nil, fmt.Sprint(err), nil
	})
	if err != nil {
		t.Error(err)
	}
}

func (m *move) tryDrop(ctx context.Context, c *pgserver.Cluster) error {
	inside, err := pgx.Connect(ctx, c.URL(m.name)+"&default_transaction_read_only=off")
	if err != nil {
		return err
	}
	defer pg.Close(ctx, inside)
	rows, err := inside.Query(ctx, leftSQL)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := inside.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	pg.Close(ctx, inside)
	admin, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer pg.Close(ctx, admin)
	for _, sql := range []string{
		"select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'",
		"select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '%s' and not active",
		"drop database %s",
		"drop role if exists pgcutover_%s",
	} {
		if _, err := admin.Exec(ctx, fmt.Sprintf(sql, m.name)); err != nil {
			return err
		}
	}
	return nil
}

// app is the application's connection string for one server.
func (m *move) app(t *testing.T, c *pgserver.Cluster) string {
	t.Helper()
	return pgtest.WithUser(t, c.URL(m.name), appRole, "")
}

// target is where clients connect to, in the forms in which they want it.
type target struct {
	conninfo string // libpq keywords
	jdbc     string
	hosts    string // old:port,new:port
	database string
}

func (m *move) target(t *testing.T) target {
	t.Helper()
	both, err := workload.Multihost(m.app(t, m.old), m.app(t, m.new))
	if err != nil {
		t.Fatal(err)
	}
	hosts := m.old.Addr() + "," + m.new.Addr()
	jdbc := url.URL{
		Scheme: "jdbc:postgresql", Host: hosts, Path: "/" + m.name,
		RawQuery: "user=" + appRole + "&sslmode=disable&targetServerType=primary",
	}
	return target{conninfo: both, jdbc: jdbc.String(), hosts: hosts, database: m.name}
}
