package warmup

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// readAll reads the rows of all tables, and then their indexes, in o.Jobs
// sessions.
func (w *warming) readAll(ctx context.Context, readers []*reader) error {
	err := w.together(ctx, readers, func(ctx context.Context, r *reader) {
		if r.warmth.Skipped == "" && r.warmth.Warning == "" {
			w.one(ctx, r, r.readRows)
		}
		if ctx.Err() == nil {
			w.note(r.warmth, len(readers))
		}
	})
	if err != nil {
		return err
	}
	return w.together(ctx, readers, func(ctx context.Context, r *reader) {
		if r.warmth.Method == NotRead || r.warmth.Warning != "" {
			return
		}
		before := r.warmth
		w.one(ctx, r, r.readIndexes)
		w.amend(before, r.warmth)
	})
}

// together calls f for each reader, with a session, in o.Jobs goroutines.
func (w *warming) together(ctx context.Context, readers []*reader, f func(context.Context, *reader)) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(w.options.Jobs, len(readers)) {
		g.Go(func() error {
			var conn *pgx.Conn
			defer func() { endSession(ctx, conn) }()
			for {
				at := int(next.Add(1)) - 1
				if at >= len(readers) {
					return nil
				}
				if conn == nil || conn.IsClosed() {
					endSession(ctx, conn)
					var err error
					if conn, err = w.server.Connect(ctx, "warm", w.settings()); err != nil {
						return fmt.Errorf("opening a session to read tables: %w", err)
					}
				}
				r := readers[at]
				r.conn = conn
				f(ctx, r)
				if ctx.Err() != nil {
					return fmt.Errorf("reading %s: %w", r.Table, cancelled(ctx))
				}
			}
		})
	}
	return g.Wait()
}

// one does a part of reading a table and turns any error into a warning.
func (w *warming) one(ctx context.Context, r *reader, do func(context.Context) error) {
	began := time.Now()
	r.deadline = sooner(began.Add(w.options.PerTable), w.deadline)
	var err error
	switch {
	case r.warmth.quiet:
	case began.After(w.deadline):
		if r.warmth.Method == NotRead {
			r.warmth.Skipped, r.warmth.grouped = fmt.Sprintf("the time for all tables (%s) was over", w.options.Total), true
		}
	case r.warmth.Share < w.blockSize && w.useful():
		r.warmth.Skipped, r.warmth.quiet = "it is hardly used on old, and the budget is small", true
	case r.warmth.Share < w.blockSize:
		r.warmth.Skipped, r.warmth.grouped = fmt.Sprintf("the budget of %d bytes is too small for so many tables", w.report.Budget), true
	case w.bounded && w.room.Load() < w.blockSize:
		if r.warmth.Method == NotRead {
			r.warmth.Skipped, r.warmth.grouped = "there are no buffers left that are not in use", true
		}
	default:
		err = do(ctx)
	}
	if err != nil {
		w.explain(ctx, r, err)
	}
	r.warmth.Took += time.Since(began)
}

func sooner(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// explain puts an error into the table's line.
func (w *warming) explain(ctx context.Context, r *reader, err error) {
	text := err.Error()
	switch {
	case pg.IsCode(err, pg.LockNotAvailable):
		text = "it is locked"
		var blockers []Blocker
		errAsk := r.answered(ctx, func(ctx context.Context) (err error) {
			blockers, err = blockersOf(ctx, r.conn, r.Table, 0, []uint32{r.OID})
			return err
		})
		if errAsk == nil && len(blockers) > 0 {
			text += ": " + blockers[0].String()
		}
	case pg.IsCode(err, pg.QueryCanceled):
		text = fmt.Sprintf("a statement took longer than %s", w.options.PerTable)
	}
	if r.warmth.Method == NotRead || r.warmth.Bytes == 0 {
		r.warmth.Method, r.warmth.Skipped = NotRead, text
		return
	}
	r.warmth.Warning = text
}

// note writes into the report and tells the caller; total is 0 for a table that
// is not among those to read.
func (w *warming) note(t TableWarmth, total int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines[t.Table] = len(w.report.Tables)
	w.report.Tables = append(w.report.Tables, t)
	w.report.Rows += t.Rows
	w.report.Bytes += t.Bytes
	w.report.Read += t.Read
	w.warn(t)
	if t.Hint != "" {
		w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("%s: %s", t.Table, t.Hint))
	}
	if total == 0 {
		return
	}
	w.done++
	if w.options.Progress != nil {
		w.options.Progress(WarmProgress{Table: t, Done: w.done, Total: total, Bytes: w.report.Bytes})
	}
}

// amend brings into the report what became of a table's indexes.
func (w *warming) amend(before, after TableWarmth) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Bytes += after.Bytes - before.Bytes
	w.report.Read += after.Read - before.Read
	w.report.Tables[w.lines[after.Table]] = after
	if cmp.Or(after.Warning, after.Skipped) != cmp.Or(before.Warning, before.Skipped) {
		w.warn(after)
	}
}

func (w *warming) warn(t TableWarmth) {
	if text := cmp.Or(t.Warning, t.Skipped); text != "" && t.grouped {
		w.grouped[text]++
	} else if text != "" && !t.quiet {
		w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("%s: %s", t.Table, text))
	}
}
