package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/fill"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

const database = "bench"

// world is both servers: old with statistics, new with the same rows.
type world struct {
	settings
	rounds.Servers
	pair rounds.Pair
	say  func(format string, args ...any)

	from, to    *pg.Server
	vacuumdb    string
	vacuumMajor int
	bytes       int64
	reference   []float64 // estimates after a plain ANALYZE
}

func boot(ctx context.Context, s settings, p rounds.Pair, say func(string, ...any)) (*world, error) {
	w := &world{settings: s, pair: p, say: say}
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
	// Commits are durable, as each ANALYZE is one.
	w.Servers, err = rounds.Start(ctx, rounds.ServerOptions{
		Pair: w.pair, Name: "bench-analyze", Durable: true, Settings: fill.Settings("512MB"), Dir: w.Dir, Size: w.Rows, Say: w.say,
	})
	return err
}

// Close ends the sessions and closes the servers.
func (w *world) Close(ctx context.Context) error {
	for _, s := range []*pg.Server{w.from, w.to} {
		if s != nil {
			s.Close()
		}
	}
	return w.Servers.Close(ctx)
}

// fill makes the database on both servers: rows, indexes, and what a vacuum
// leaves, statistics on old.
func (w *world) fill(ctx context.Context) (err error) {
	w.bytes, err = fill.Both(ctx, w.Old, w.New, database, fill.Content{
		Schema: w.schema(), Rows: w.rows(), Tables: w.tables(), Indexes: indexesSQL,
		Finish: []string{"vacuum (analyze)", "analyze bench.readings"},
	}, w.say)
	return err
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
