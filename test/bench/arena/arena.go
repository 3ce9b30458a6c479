// Package arena is where the benches happen: two throwaway servers with
// durable settings, and a fresh pair of databases on them for every run.
package arena

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// Options say what the arena is made of.
type Options struct {
	Old, New  int // majors
	Accounts  int // rows of the largest table
	Sequences int // sequences that no table owns
	Say       func(format string, args ...any)
}

// Arena is two servers. Close it.
type Arena struct {
	Options
	Old, New *pgserver.Cluster
	servers  rounds.Servers // the same
	made     int
}

// AppRole is the role of the load: it owns the database and everything in it,
// as applications often do, and is no superuser.
const AppRole = "bench_app"

// seed is the database that those on old are made from, blank the one for new.
const (
	seed  = "bench_seed"
	blank = "bench_blank"
)

// settings are those that matter for the time of a commit; fsync and
// synchronous_commit stay on. Checkpoints come by dropped databases only, which
// is between the runs.
func settings() map[string]string {
	return map[string]string{
		"shared_buffers":     "512MB",
		"max_wal_size":       "8GB",
		"checkpoint_timeout": "30min",
		"max_connections":    "200",
	}
}

// Boot starts both servers and makes the databases that those of the runs are
// copied from.
func Boot(ctx context.Context, o Options) (*Arena, error) {
	servers, err := rounds.Start(ctx, rounds.ServerOptions{
		Pair: rounds.Pair{Old: o.Old, New: o.New}, Name: "bench", Durable: true, Settings: settings(), Say: o.Say,
	})
	if err != nil {
		return nil, err
	}
	a := &Arena{Options: o, Old: servers.Old, New: servers.New, servers: servers}
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return a.template(inner, a.Old, seed, a.seedStatements()) })
	group.Go(func() error { return a.template(inner, a.New, blank, a.schemaStatements()) })
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, a.Close(ctx))
	}
	return a, nil
}

// template makes the role and a database with the statements in it, as the role.
func (a *Arena) template(ctx context.Context, c *pgserver.Cluster, name string, statements []string) error {
	if err := pgserver.Execute(ctx, c.URL("postgres"), "create role "+AppRole+" login", "create database "+name+" owner "+AppRole); err != nil {
		return err
	}
	if err := pgserver.Execute(ctx, AsApp(c, name), statements...); err != nil {
		return err
	}
	// A freeze now spares the runs the hint bits and the first autovacuum.
	return pgserver.Execute(ctx, c.URL(name), "vacuum (freeze, analyze)", "checkpoint")
}

// Close stops the servers and removes their data.
func (a *Arena) Close(ctx context.Context) error { return a.servers.Close(ctx) }

// Pair is a database of the same name on both servers.
type Pair struct {
	Old, New *pgserver.Cluster
	Name     string
	arena    *Arena
}

// Pair makes a fresh pair of databases: full on old, and on new with the schema
// but no rows, or empty when the method brings the schema itself.
func (a *Arena) Pair(ctx context.Context, emptyNew bool) (*Pair, error) {
	a.made++
	p := &Pair{Old: a.Old, New: a.New, Name: "bench" + strconv.Itoa(a.made), arena: a}
	from := blank
	if emptyNew {
		from = "template1"
	}
	if err := pgserver.Execute(ctx, a.Old.URL("postgres"), fmt.Sprintf("create database %s template %s owner %s", p.Name, seed, AppRole)); err != nil {
		return nil, err
	}
	return p, pgserver.Execute(ctx, a.New.URL("postgres"), fmt.Sprintf("create database %s template %s owner %s", p.Name, from, AppRole))
}

// OldURL and NewURL are the connection strings of the superuser, AppOld and
// AppNew those of the application.
func (p *Pair) OldURL() string { return p.Old.URL(p.Name) }

// NewURL is the superuser's connection string for the new server.
func (p *Pair) NewURL() string { return p.New.URL(p.Name) }

// AppOld is the application's connection string for the old server.
func (p *Pair) AppOld() string { return AsApp(p.Old, p.Name) }

// AppNew is the application's connection string for the new server.
func (p *Pair) AppNew() string { return AsApp(p.New, p.Name) }

// AsApp is the application's connection string for a database.
func AsApp(c *pgserver.Cluster, database string) string {
	u, err := url.Parse(c.URL(database))
	if err != nil {
		return c.URL(database)
	}
	u.User = url.User(AppRole)
	return u.String()
}
