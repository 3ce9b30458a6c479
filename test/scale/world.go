package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// world is two servers with a database each.
type world struct {
	old, new *pgserver.Cluster
	servers  rounds.Servers // the same
	durable  bool
	explain  bool
	say      func(format string, args ...any)
}

const (
	database = "scale"
	// appRole is the application: it owns the database and all in it, and is no
	// superuser.
	appRole = "scale_app"
)

// bootOptions say what servers a case wants.
type bootOptions struct {
	Old, New int  // majors
	Durable  bool // fsync from the beginning; else from the first write on, which the gates insist on
	Locks    int  // max_locks_per_transaction of both
	Settings map[string]string
	Explain  bool // tell what the longest transactions waited for
}

// settings are PostgreSQL's own defaults where they bear on the size of the lock
// table, and what keeps checkpoints out of the measured seconds.
func (o bootOptions) settings() map[string]string {
	s := map[string]string{
		"max_connections": "100", "max_wal_senders": "10", "max_replication_slots": "10", "max_worker_processes": "8",
		"max_logical_replication_workers": "4", "max_locks_per_transaction": strconv.Itoa(o.Locks),
		"shared_buffers": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min",
		"wal_retrieve_retry_interval": "500ms",
	}
	for name, value := range o.Settings {
		s[name] = value
	}
	return s
}

// boot starts both servers and makes an empty database on each.
func boot(ctx context.Context, o bootOptions, say func(string, ...any)) (*world, error) {
	servers, err := rounds.Start(ctx, rounds.ServerOptions{
		Pair: rounds.Pair{Old: o.Old, New: o.New}, Name: "scale", Durable: o.Durable, Settings: o.settings(), Say: say,
	})
	if err != nil {
		return nil, err
	}
	w := &world{old: servers.Old, new: servers.New, servers: servers, durable: o.Durable, explain: o.Explain, say: say}
	for _, c := range []*pgserver.Cluster{w.old, w.new} {
		if err := pgserver.Execute(ctx, c.URL("postgres"), "create role "+appRole+" login", "create database "+database+" owner "+appRole); err != nil {
			return nil, errors.Join(err, w.close(ctx))
		}
	}
	return w, nil
}

func (w *world) close(ctx context.Context) error { return w.servers.Close(ctx) }

// restart restarts both servers with a setting changed.
func (w *world) restart(ctx context.Context, setting string) error {
	for _, c := range []*pgserver.Cluster{w.old, w.new} {
		if err := pgserver.Execute(ctx, c.URL("postgres"), setting, "checkpoint"); err != nil { // a long one would not end within the bound of a stop
			return err
		}
		if err := c.Restart(ctx); err != nil {
			return err
		}
	}
	return nil
}

// asApp is the application's connection string for one server.
func asApp(c *pgserver.Cluster) string {
	u, err := url.Parse(c.URL(database))
	if err != nil {
		return c.URL(database)
	}
	u.User = url.User(appRole)
	return u.String()
}

// write lets clients write to whichever server takes writes.
func (w *world) write(ctx context.Context, l load) (*clients, error) {
	if !w.durable {
		for _, c := range []*pgserver.Cluster{w.old, w.new} {
			if err := pgserver.Execute(ctx, c.URL("postgres"), "alter system set fsync = on", "alter system set full_page_writes = on", "select pg_reload_conf()"); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if l.url, err = workload.Multihost(asApp(w.old), asApp(w.new)); err != nil {
		return nil, err
	}
	return l.start(ctx)
}

// serving is the connection string of the server that serves.
func (w *world) serving(cutOver bool) string {
	if cutOver {
		return w.new.URL(database)
	}
	return w.old.URL(database)
}

// The two schemas: what is in scope when not all is, and the rest.
const (
	busy = "busy"
	idle = "idle"
)

// tablesSQL makes tables, each with a sequence that it owns and, in every tenth,
// a row. Many transactions, because each table takes some locks.
const tablesSQL = `
do $$
begin
  for n in %[2]d .. %[3]d loop
    execute format('create table %[1]s.%%I (id bigserial primary key, token bigint not null, client integer not null, note text)', 't_' || n);
    if n %% 10 = 0 then
      execute format('insert into %[1]s.%%I (token, client, note) values (0, 0, ''there before'')', 't_' || n);
    end if;
  end loop;
end $$`

// makeBatch is how many tables one transaction makes.
const makeBatch = 500

// fill makes the tables of both schemas on old, as the application.
func (w *world) fill(ctx context.Context, inBusy, inIdle int) error {
	statements := []string{"create schema " + busy, "create schema " + idle}
	for schema, n := range map[string]int{busy: inBusy, idle: inIdle} {
		for from := 1; from <= n; from += makeBatch {
			statements = append(statements, fmt.Sprintf(tablesSQL, schema, from, min(from+makeBatch-1, n)))
		}
	}
	began := time.Now()
	err := pgserver.Execute(ctx, asApp(w.old), statements...)
	if err == nil {
		// As on a server that has lived for a while: the catalogs' statistics are
		// there, and no autovacuum of a new table comes in between.
		err = pgserver.Execute(ctx, w.old.URL(database), "vacuum (analyze)")
	}
	w.say("made %d tables with their sequences on old in %.1f s", inBusy+inIdle, time.Since(began).Seconds())
	return err
}

// value returns what a query says.
func value[T any](ctx context.Context, address, sql string) (out T, err error) {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return out, fmt.Errorf("connecting: %w", err)
	}
	defer pg.Close(ctx, conn)
	err = conn.QueryRow(ctx, sql).Scan(&out)
	return out, err
}
