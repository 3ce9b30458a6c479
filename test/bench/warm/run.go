package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// outcome is what one run found.
type outcome struct {
	Variant string
	Round   int

	Warm     time.Duration // the warm-up
	WarmRead int64         // bytes that it read into shared_buffers
	Inside   float64       // the part of old's hot set that is in new's cache then
	P50, P99 time.Duration
	P999     time.Duration
	FirstP99 time.Duration // of the first tenth of the window
	Missed   int64         // blocks that the queries did not find in shared_buffers
	Queries  int
	OSCache  string
}

const (
	waitEvery = 20 * time.Millisecond
	waitBound = 30 * time.Second
	blockSize = 8192
)

// rounds runs every variant once in each round, each round beginning with
// another one.
func (w *world) rounds(ctx context.Context) ([]outcome, error) {
	var all []outcome
	for round := range w.Rounds {
		measured := reads(w.shop, int(w.Window.Seconds()*float64(w.Rate)), w.Skew, uint64(round))
		for _, name := range rounds.Order(w.Variants, round) {
			o := outcome{Variant: name, Round: round + 1}
			if err := w.run(ctx, &o, measured); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", o.Variant, o.Round, err)
			}
			w.say("round %d  %-15s  warm-up %6.1f s, %4d MB read, %3.0f %% of the hot set inside  p50 %7.2f  p99 %7.2f  p99.9 %7.2f  first tenth's p99 %7.2f ms  blocks missed %d by %d queries",
				o.Round, o.Variant, o.Warm.Seconds(), o.WarmRead>>20, 100*o.Inside, figures.Milliseconds(o.P50), figures.Milliseconds(o.P99),
				figures.Milliseconds(o.P999), figures.Milliseconds(o.FirstP99), o.Missed, o.Queries)
			all = append(all, o)
		}
	}
	return all, nil
}

// run restarts new with nothing in any cache, warms it, and asks.
func (w *world) run(ctx context.Context, o *outcome, measured []read) error {
	if err := w.prepare(ctx, o.Variant); err != nil {
		return err
	}
	if err := w.New.Stop(ctx); err != nil {
		return err
	}
	files, err := w.files()
	if err != nil {
		return err
	}
	o.OSCache = dropFiles(ctx, files)
	if err := w.restartNew(ctx); err != nil {
		return err
	}
	before, err := w.blocksRead(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := w.warm(ctx, o.Variant, measured); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	o.Warm = time.Since(began)
	warmed, err := w.blocksRead(ctx)
	if err != nil {
		return err
	}
	o.WarmRead = (warmed - before) * blockSize
	if o.Inside, err = w.warmth(ctx); err != nil {
		return err
	}
	if warmed, err = w.blocksRead(ctx); err != nil { // looking read the catalog
		return err
	}
	missed, err := w.missed(ctx)
	if err != nil {
		return err
	}
	result, err := serve(ctx, w.New.URL(database), w.shop, measured, w.Rate, w.Clients)
	if err != nil {
		return err
	}
	if result.empty > 0 {
		return fmt.Errorf("%d of %d queries found nothing", result.empty, len(measured))
	}
	after, err := w.blocksRead(ctx)
	if err != nil {
		return err
	}
	o.Missed, o.Queries = after-warmed, len(measured)
	latencies := result.sorted(len(measured))
	o.P50, o.P99, o.P999 = figures.Percentile(latencies, 0.5), figures.Percentile(latencies, 0.99), figures.Percentile(latencies, 0.999)
	o.FirstP99 = figures.Percentile(result.sorted(len(measured)/10), 0.99)
	return w.explain(ctx, missed)
}

// explain tells what the queries did not find in shared_buffers, file by file.
func (w *world) explain(ctx context.Context, before map[string]int64) error {
	if !w.Explain {
		return nil
	}
	after, err := w.missed(ctx)
	if err != nil {
		return err
	}
	names := slices.SortedFunc(maps.Keys(after), func(a, b string) int {
		return cmp.Compare(after[b]-before[b], after[a]-before[a])
	})
	for _, name := range names[:min(8, len(names))] {
		if n := after[name] - before[name]; n > 0 {
			w.say("    %d blocks of %s were missing", n, name)
		}
	}
	return nil
}

// smallFile is what is not worth forgetting.
const smallFile = 64 << 10

// files lists the files of new's tables and indexes.
func (w *world) files() ([]string, error) {
	var all []string
	err := filepath.WalkDir(filepath.Join(w.New.DataDir(), "base"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() >= smallFile {
			all = append(all, path)
		}
		return err
	})
	return all, err
}
