package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/fill"
	"github.com/pgcutover/pgcutover/warmup"
)

const database = "shop"

// world is both servers with their rows.
type world struct {
	settings
	shop
	say      func(format string, args ...any)
	Old, New *pgserver.Cluster

	fromHot, toWarm *pg.Server // of this repository's own way to warm
	hotSet          warmup.HotSet
	bytes           int64  // of the database on new
	preload         string // the library that makes new's reads wait; empty: none
}

// serverSettings: nothing is written while it is measured, so that what makes
// filling faster changes nothing. A vacuum in the background would read.
func (s settings) serverSettings() map[string]string {
	return map[string]string{
		"shared_buffers":       strconv.Itoa(s.Buffers) + "MB",
		"wal_level":            "minimal",
		"max_wal_senders":      "0",
		"max_wal_size":         "1GB",
		"maintenance_work_mem": "128MB",
		"autovacuum":           "off",
		"max_connections":      "100",
	}
}

// boot starts the servers, fills them unless that was done before, and lets
// the application read on old.
func boot(ctx context.Context, s settings, say func(string, ...any)) (*world, error) {
	w := &world{settings: s, shop: newShop(s.Size), say: say}
	if err := pgserver.Install(ctx, func(text string) { say("%s", text) }, s.Old, s.New); err != nil {
		return nil, err
	}
	err := w.start(ctx)
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

func (w *world) start(ctx context.Context) error {
	for _, c := range []struct {
		major int
		name  string
		into  **pgserver.Cluster
	}{{w.settings.Old, "bench-warm-old", &w.Old}, {w.settings.New, "bench-warm-new", &w.New}} {
		dir := ""
		if w.Dir != "" {
			dir = filepath.Join(w.Dir, c.name+"-"+strconv.Itoa(c.major)+"-"+strconv.Itoa(w.Size))
		}
		cluster, err := pgserver.Start(ctx, pgserver.Options{Major: c.major, Name: c.name, Dir: dir, Settings: w.serverSettings()})
		if err != nil {
			return err
		}
		*c.into = cluster
	}
	return nil
}

// Close stops the servers and removes them unless they are to be kept.
func (w *world) Close(ctx context.Context) error {
	if w.fromHot != nil {
		w.fromHot.Close()
	}
	w.disconnect()
	var errs []error
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

// disconnect ends the sessions on new, before a restart.
func (w *world) disconnect() {
	if w.toWarm != nil {
		w.toWarm.Close()
		w.toWarm = nil
	}
}

// fill makes the database on old, and on new as a copy does it: rows table by
// table, then the indexes.
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
			// Statistics, the visibility map, and hint bits.
			return pgserver.Execute(ctx, url, "vacuum (analyze)", "analyze shop.events")
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
	var err error
	w.bytes, err = fill.Value[int64](ctx, w.New.URL(database), "select pg_database_size(current_database())")
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
