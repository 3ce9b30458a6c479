package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/fill"
	"github.com/pgcutover/pgcutover/warmup"
)

// The ways to warm up.
const (
	cold        = "cold"            // nothing
	ours        = "ours"            // warm, with pg_buffercache on old and pg_prewarm on new
	oursReading = "ours-no-prewarm" // warm, without pg_prewarm
	oursCounted = "ours-counters"   // warm, without pg_buffercache
	whole       = "whole"           // pg_prewarm of every table, then every index
	hot         = "hot"             // the very queries that are measured, until nothing is missing
)

func named() []string { return []string{cold, ours, oursReading, oursCounted, whole, hot} }

// prepare is done before the restart: which extensions there are.
func (w *world) prepare(ctx context.Context, variant string) error {
	cache, prewarm := "create extension if not exists pg_buffercache", "create extension if not exists pg_prewarm"
	if err := pgserver.Execute(ctx, w.New.URL(database), cache); err != nil { // to see what is warm
		return err
	}
	if variant == oursReading {
		prewarm = "drop extension if exists pg_prewarm"
	}
	if variant == oursCounted {
		cache = "drop extension if exists pg_buffercache"
	}
	return errors.Join(pgserver.Execute(ctx, w.New.URL(database), prewarm), pgserver.Execute(ctx, w.Old.URL(database), cache))
}

// warm warms the restarted server.
func (w *world) warm(ctx context.Context, variant string, measured []read) error {
	switch variant {
	case ours, oursReading, oursCounted:
		return w.ours(ctx)
	case whole:
		return pgserver.Execute(ctx, w.New.URL(database), wholeTablesSQL, wholeIndexesSQL)
	case hot:
		return w.untilHot(ctx, measured)
	}
	return nil
}

// ours is this repository's warm, with the settings of a config file that says
// nothing.
func (w *world) ours(ctx context.Context) error {
	to, err := pg.Open(ctx, pg.Options{Side: pg.New, URL: w.New.URL(database), Move: "bench"})
	if err != nil {
		return err
	}
	w.toWarm = to
	hotSet, err := warmup.ReadHotSet(ctx, w.fromHot, warmup.HotSetOptions{Sample: time.Millisecond}) // nobody asks old now
	if err != nil {
		return err
	}
	report, err := warmup.Warm(ctx, to, warmup.WarmOptions{Jobs: fill.Jobs, Hot: &hotSet})
	for _, warning := range report.Warnings {
		w.say("    %s", warning)
	}
	if w.Explain {
		for _, t := range report.Tables {
			w.say("    %s", t)
		}
	}
	return err
}

// wholeTablesSQL reads every table with its out-of-line values, biggest first.
const wholeTablesSQL = `
select sum(pg_prewarm(c.oid, 'buffer', 'main'))
  from (select c.oid
          from pg_class as c
          join pg_namespace as n on n.oid = coalesce((select o.relnamespace from pg_class as o where o.reltoastrelid = c.oid), c.relnamespace)
         where n.nspname = 'shop' and c.relkind in ('r', 't')
         order by pg_relation_size(c.oid) desc) as c`

// wholeIndexesSQL reads every index, last, so that the tables do not push it
// out, biggest first.
const wholeIndexesSQL = `
select sum(pg_prewarm(c.oid, 'buffer', 'main'))
  from (select c.oid
          from pg_class as c
          join pg_index as i on i.indexrelid = c.oid
          join pg_class as t on t.oid = i.indrelid
          join pg_namespace as n on n.oid = coalesce((select o.relnamespace from pg_class as o where o.reltoastrelid = t.oid), t.relnamespace)
         where n.nspname = 'shop' and c.relkind = 'i'
         order by pg_relation_size(c.oid) desc) as c`

// hotPasses bounds how often the queries are asked before they are measured.
const hotPasses = 4

// untilHot asks the queries until less than one in a thousand reads a block.
func (w *world) untilHot(ctx context.Context, measured []read) error {
	for range hotPasses {
		before, err := w.blocksRead(ctx)
		if err != nil {
			return err
		}
		if _, err := serve(ctx, w.New.URL(database), w.shop, measured, 0, w.Clients); err != nil {
			return err
		}
		after, err := w.blocksRead(ctx)
		if err != nil || after-before <= int64(len(measured))/1000 {
			return err
		}
	}
	return nil
}

// warmth is which part of what production has in old's cache is in new's.
func (w *world) warmth(ctx context.Context) (float64, error) {
	to, err := pg.Open(ctx, pg.Options{Side: pg.New, URL: w.New.URL(database), Move: "bench"})
	if err != nil {
		return 0, err
	}
	defer to.Close()
	found, err := warmup.ReadWarmth(ctx, to, w.hotSet)
	return found.Fraction(), err
}

// sessionsSQL counts sessions whose counters are not yet in: those that end
// deliver them before they are gone.
const sessionsSQL = `
select count(*)
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type in ('client backend', 'parallel worker')`

const blocksReadSQL = `select blks_read from pg_stat_database where datname = current_database()`

// blocksRead is how many blocks sessions that have ended did not find in
// shared_buffers.
func (w *world) blocksRead(ctx context.Context) (int64, error) {
	w.disconnect()
	conn, err := pgx.Connect(ctx, w.New.URL(database))
	if err != nil {
		return 0, err
	}
	defer pg.Close(ctx, conn)
	if err := pg.Wait(ctx, "the sessions on new to end", waitEvery, waitBound, nil, func(ctx context.Context) (bool, string, error) {
		var sessions int
		err := conn.QueryRow(ctx, sessionsSQL).Scan(&sessions)
		return sessions == 0, fmt.Sprintf("%d are there", sessions), err
	}); err != nil {
		return 0, err
	}
	var blocks int64
	err = conn.QueryRow(ctx, blocksReadSQL).Scan(&blocks)
	return blocks, err
}

// missedSQL is how many blocks of each file were not found in shared_buffers.
const missedSQL = `
select indexrelname::text, idx_blks_read from pg_statio_user_indexes where schemaname = 'shop' union all
select relname::text, heap_blks_read from pg_statio_user_tables where schemaname = 'shop' union all
select relname || ' (toast)', toast_blks_read + tidx_blks_read from pg_statio_user_tables where schemaname = 'shop' and toast_blks_read is not null`

// missed returns those blocks by file.
func (w *world) missed(ctx context.Context) (map[string]int64, error) {
	conn, err := pgx.Connect(ctx, w.New.URL(database))
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, missedSQL)
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	var name string
	var blocks int64
	_, err = pgx.ForEachRow(rows, []any{&name, &blocks}, func() error { all[name] = blocks; return nil })
	return all, err
}

// dropFiles makes the operating system forget what it has cached of the files,
// by the advice that dd gives it (posix_fadvise, POSIX_FADV_DONTNEED). It says
// how that went: other systems' dd knows no such flag.
func dropFiles(ctx context.Context, files []string) string {
	var errs []error
	for _, file := range files {
		//nolint:gosec // files of the bench's own server
		text, err := exec.CommandContext(ctx, "dd", "if=/dev/null", "of="+file, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none").CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", err, text))
		}
	}
	if len(errs) > 0 {
		return fmt.Sprintf("NOT dropped (%v)", errors.Join(errs[:1]...))
	}
	return "dropped (posix_fadvise)"
}
