package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/fill"
)

const database = "bench"

// world is both servers: old with statistics, new with the same rows.
type world struct {
	settings
	pair
	say      func(format string, args ...any)
	Old, New *pgserver.Cluster

	from, to    *pg.Server
	vacuumdb    string
	vacuumMajor int
	bytes       int64
	reference   []float64 // estimates after a plain ANALYZE
}

// serverSettings: a worker in the background would do the work of the variants.
// Commits are durable on both servers, as each ANALYZE is one.
func serverSettings() map[string]string {
	return map[string]string{
		"shared_buffers":       "512MB",
		"wal_level":            "minimal",
		"max_wal_senders":      "0",
		"max_wal_size":         "1GB",
		"maintenance_work_mem": "128MB",
		"autovacuum":           "off",
		"max_connections":      "100",
	}
}

func boot(ctx context.Context, s settings, p pair, say func(string, ...any)) (*world, error) {
	w := &world{settings: s, pair: p, say: say}
	if err := pgserver.Install(ctx, func(text string) { say("%s", text) }, p.Old, p.New); err != nil {
		return nil, err
	}
	err := w.start(ctx)
	if err == nil {
		err = w.fill(ctx)
	}
	if err == nil {
		err = w.connect(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	return w, nil
}

func (w *world) start(ctx context.Context) error {
	var err error
	if w.vacuumdb, w.vacuumMajor, err = pgclient.FindClient(ctx, "vacuumdb", w.pair.New); errors.Is(err, pgclient.ErrNotFound) {
		w.vacuumdb, w.vacuumMajor, err = pgclient.FindClient(ctx, "vacuumdb", 10)
	}
	if err != nil {
		return err
	}
	for _, c := range []struct {
		major int
		name  string
		into  **pgserver.Cluster
	}{{w.pair.Old, "bench-analyze-old", &w.Old}, {w.pair.New, "bench-analyze-new", &w.New}} {
		dir := ""
		if w.Dir != "" {
			dir = filepath.Join(w.Dir, fmt.Sprintf("%s-%d-%d", c.name, c.major, w.Rows))
		}
		cluster, err := pgserver.Start(ctx, pgserver.Options{Major: c.major, Name: c.name, Dir: dir, Durable: true, Settings: serverSettings()})
		if err != nil {
			return err
		}
		*c.into = cluster
	}
	return nil
}

// Close stops the servers and removes them unless they are to be kept.
func (w *world) Close(ctx context.Context) error {
	var errs []error
	for _, s := range []*pg.Server{w.from, w.to} {
		if s != nil {
			s.Close()
		}
	}
	for _, c := range []*pgserver.Cluster{w.Old, w.New} {
		if c == nil {
			continue
		}
		if w.Dir != "" { // the next run is to find it shut down
			errs = append(errs, c.Stop(context.WithoutCancel(ctx)))
		}
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// fill makes the database on both servers, each unless it was kept: rows,
// indexes, and what a vacuum leaves, statistics on old.
func (w *world) fill(ctx context.Context) error {
	began, filled := time.Now(), 0
	for _, c := range []*pgserver.Cluster{w.Old, w.New} {
		made, err := fill.Once(ctx, c, database, func(url string) error {
			if err := pgserver.Execute(ctx, url, w.schema()...); err != nil {
				return err
			}
			var err error
			if c == w.Old {
				err = fill.Execute(ctx, url, w.rows())
			} else {
				err = fill.Copy(ctx, w.Old.URL(database), url, w.tables())
			}
			if err != nil {
				return err
			}
			if err := fill.Execute(ctx, url, indexesSQL); err != nil {
				return err
			}
			return pgserver.Execute(ctx, url, "vacuum (analyze)", "analyze bench.readings")
		})
		if err != nil {
			return err
		}
		if made {
			filled++
		}
	}
	if filled > 0 {
		w.say("filled %d servers in %s", filled, time.Since(began).Round(time.Second))
	}
	return nil
}

// connect opens what the variants need, and notes what the planner makes of a
// plain ANALYZE.
func (w *world) connect(ctx context.Context) error {
	var err error
	if w.from, err = pg.Open(ctx, pg.Options{Side: pg.Old, URL: w.Old.URL(database), Move: "bench"}); err != nil {
		return err
	}
	if w.to, err = pg.Open(ctx, pg.Options{Side: pg.New, URL: w.New.URL(database), Move: "bench"}); err != nil {
		return err
	}
	if w.bytes, err = fill.Value[int64](ctx, w.New.URL(database), "select pg_database_size(current_database())"); err != nil {
		return err
	}
	if err := pgserver.Execute(ctx, w.New.URL(database), "analyze"); err != nil {
		return err
	}
	if w.reference, err = w.estimates(ctx); err != nil {
		return err
	}
	w.say("old: PostgreSQL %s, new: PostgreSQL %s, database %d MB, vacuumdb of %s, %d jobs",
		w.Old.Version(), w.New.Version(), w.bytes>>20, strconv.Itoa(w.vacuumMajor), w.Jobs)
	return nil
}
