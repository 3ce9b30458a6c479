package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/fill"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
	"github.com/pgcutover/pgcutover/warmup"
)

const database = "shop"

// world is both servers with their rows.
type world struct {
	settings
	shop
	rounds.Servers
	say func(format string, args ...any)

	fromHot, toWarm *pg.Server // of this repository's own way to warm
	hotSet          warmup.HotSet
	bytes           int64  // of the database on new
	preload         string // the library that makes new's reads wait; empty: none
}

// boot starts the servers, fills them unless that was done before, and lets
// the application read on old.
func boot(ctx context.Context, s settings, say func(string, ...any)) (*world, error) {
	w := &world{settings: s, shop: newShop(s.Size), say: say}
	// Not durable: nothing is written while it is measured.
	var err error
	w.Servers, err = rounds.Start(ctx, rounds.ServerOptions{
		Pair: s.Pair, Name: "bench-warm", Settings: fill.Settings(strconv.Itoa(s.Buffers) + "MB"), Dir: s.Dir, Size: s.Size, Say: say,
	})
	if err == nil {
		err = w.fill(ctx)
	}
	if err == nil {
		err = w.buildDelay(ctx)
	}
	if err == nil {
		err = w.production(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close(ctx))
	}
	return w, nil
}

// Close ends the sessions and closes the servers.
func (w *world) Close(ctx context.Context) error {
	if w.fromHot != nil {
		w.fromHot.Close()
	}
	w.disconnect()
	return w.Servers.Close(ctx)
}

// disconnect ends the sessions on new, before a restart.
func (w *world) disconnect() {
	if w.toWarm != nil {
		w.toWarm.Close()
		w.toWarm = nil
	}
}

// fill makes the database on both servers.
func (w *world) fill(ctx context.Context) (err error) {
	w.bytes, err = fill.Both(ctx, w.Old, w.New, database, fill.Content{
		Schema: w.schema(), Rows: w.rows(), Tables: w.tables(), Indexes: indexesSQL,
		// Statistics, the visibility map, and hint bits.
		Finish: []string{"vacuum (analyze)", "analyze shop.events"},
	}, w.say)
	return err
}

// productionSeed is that of the queries on old, which are others than those
// that are measured.
const productionSeed = 1000

// productionTimes is how many times as many queries old answers before as are
// measured in a round: production has run for long.
const productionTimes = 10

// production makes old's cache and counters what an application makes of them.
func (w *world) production(ctx context.Context) error {
	if err := w.Old.Restart(ctx); err != nil {
		return err
	}
	if err := pgserver.Execute(ctx, w.Old.URL(database), "create extension if not exists pg_buffercache", "select pg_stat_reset()"); err != nil {
		return err
	}
	began := time.Now()
	n := productionTimes * int(w.Window.Seconds()*float64(w.Rate))
	done, err := serve(ctx, w.Old.URL(database), w.shop, reads(w.shop, n, w.Skew, productionSeed), 0, w.Clients)
	if err != nil {
		return err
	}
	if done.empty > 0 {
		return fmt.Errorf("%d of %d queries on old found nothing", done.empty, n)
	}
	w.say("old: PostgreSQL %s, new: PostgreSQL %s, shared_buffers %d MB, database %d MB; %d queries on old took %s",
		w.Old.Version(), w.New.Version(), w.Buffers, w.bytes>>20, n, time.Since(began).Round(time.Second))
	if w.fromHot, err = pg.Open(ctx, pg.Options{Side: pg.Old, URL: w.Old.URL(database), Move: "bench"}); err != nil {
		return err
	}
	w.hotSet, err = warmup.ReadHotSet(ctx, w.fromHot, warmup.HotSetOptions{})
	return err
}
