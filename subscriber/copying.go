package subscriber

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ErrStalled means that the copy of tables came to nothing for long, while the
// workers failed or were not there.
var ErrStalled = errors.New("nothing was copied")

// CopyStall is how long WaitReady waits without any progress while workers fail.
const CopyStall = 10 * time.Minute

const (
	// settled is how long a worker has to live to count as one that works.
	settled = time.Minute
	// lookAgain is how often it is asked why tables are not copied.
	lookAgain = 15 * time.Second
)

// CopyWatch is how WaitReady watches over the copy of tables.
type CopyWatch struct {
	// Stall is how long nothing may be copied while workers fail; zero means
	// CopyStall.
	Stall time.Duration
	// Why says why tables are not copied, as far as it can be told; nil when
	// nobody knows. It is asked about tables that no worker copies.
	Why func(context.Context, []TableState) ([]Reason, error)
}

// readySQL counts the tables of a subscription, those that are ready, and how far
// they have all come: no table goes back. States of ten thousand, five times a
// second, would keep a processor busy.
const readySQL = `
select count(*), count(*) filter (where r.srsubstate = 'r'), coalesce(sum(strpos('idfsr', r.srsubstate::text)), 0)
  from (select distinct subid, subname from pg_stat_subscription) s
  join pg_subscription_rel r on r.srsubid = s.subid
 where s.subname = $1`

// processesSQL lists the processes of a subscription; table is 0 for the one that
// applies.
const processesSQL = `
select coalesce(w.relid, 0)::oid, w.pid, coalesce(r.srsubstate::text, '')
  from pg_stat_subscription w
  left join pg_subscription_rel r on r.srsubid = w.subid and r.srrelid = w.relid
 where w.subname = $1 and w.pid is not null`

type worker struct {
	Table uint32
	PID   int32
	State string
}

// copying is one wait for the copy.
type copying struct {
	server *pg.Server
	stream state.Stream
	watch  CopyWatch

	furthest int64            // of all states
	most     map[string]int64 // bytes of each table that were copied at most
	since    time.Time        // of the last progress
	errors   int64            // of all workers, by then
	before   int64            // and before this wait
	born     map[int32]time.Time
	reasons  []Reason
	names    []string // the tables that no worker copies
	looked   time.Time
}

// WaitReady waits until every table of the subscription is copied and follows the
// stream. It has no bound of its own, since copying may take days: its bound is
// ctx. Tables whose workers fail again and again are named in the progress line,
// with the reason as far as it can be told. When nothing was copied for watch's
// time it returns ErrStalled, and leaves everything as it is: the workers go on
// trying, and waiting may begin again.
func WaitReady(ctx context.Context, s *pg.Server, st state.Stream, watch CopyWatch, progress func(string)) error {
	if watch.Stall <= 0 {
		watch.Stall = CopyStall
	}
	c := &copying{server: s, stream: st, watch: watch, most: map[string]int64{}, born: map[int32]time.Time{}}
	err := pg.Wait(ctx, "all tables to be copied", 200*time.Millisecond, 0, progress, c.look)
	if errors.Is(err, ErrStalled) {
		return hint.With(err, c.advice())
	}
	return err
}

func (c *copying) look(ctx context.Context) (bool, string, error) {
	var all, ready int
	var come int64
	if err := c.server.Pool().QueryRow(ctx, readySQL, c.stream.Name()).Scan(&all, &ready, &come); err != nil {
		return false, "", fmt.Errorf("counting the subscription's tables: %w", err)
	}
	if all == 0 {
		return false, "", fmt.Errorf("subscription %q has no tables: %w", c.stream.Name(), ErrNone)
	}
	if ready == all {
		return true, "", nil
	}
	w, err := ReadWorker(ctx, c.server, c.stream)
	if err != nil {
		return false, "", err
	}
	running, err := CopyProgress(ctx, c.server)
	if err != nil {
		return false, "", err
	}
	works, err := c.works(ctx)
	if err != nil {
		return false, "", err
	}
	now, failed := time.Now(), w.SyncErrors+w.ApplyErrors
	if c.since.IsZero() {
		c.since, c.errors, c.before = now, failed, failed
	}
	if c.further(come, running) || works {
		c.since, c.errors = now, failed
	}
	idle := now.Sub(c.since)
	stalled := idle > c.watch.Stall && (failed > c.errors || c.alone())
	if !stalled && failed == c.before && idle < settled {
		c.names, c.reasons = nil, nil
	} else if err := c.ask(ctx, running, stalled); err != nil {
		return false, "", err
	}
	detail := c.describe(ready, all, running, failed)
	if stalled {
		return false, "", fmt.Errorf("%w for %s: %s", ErrStalled, idle.Round(time.Second), detail)
	}
	return false, detail, nil
}

// further reports whether anything has come further than ever before: a copy that
// begins again copies the same bytes again.
func (c *copying) further(come int64, running []Copying) bool {
	moved := come > c.furthest
	c.furthest = max(c.furthest, come)
	for _, r := range running {
		name := r.Schema + "." + r.Name
		if r.Bytes > c.most[name] {
			c.most[name], moved = r.Bytes, true
		}
	}
	return moved
}

// works reports whether a worker lives that copies, or catches up, without its
// bytes being shown: before 14 copies are not shown, before 15 errors are not
// counted, and a worker that is through with the copy has only the stream to read.
func (c *copying) works(ctx context.Context) (bool, error) {
	rows, err := c.server.Pool().Query(ctx, processesSQL, c.stream.Name())
	if err != nil {
		return false, fmt.Errorf("reading pg_stat_subscription: %w", err)
	}
	workers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[worker])
	if err != nil {
		return false, fmt.Errorf("reading pg_stat_subscription: %w", err)
	}
	now, works := time.Now(), false
	born := map[int32]time.Time{}
	for _, w := range workers {
		since, known := c.born[w.PID]
		if !known {
			since = now
		}
		born[w.PID] = since
		if now.Sub(since) < settled {
			continue
		}
		switch {
		case w.Table == 0: // it lives, whatever becomes of the copies
		case w.State == "f" || c.server.Major() < 15:
			works = true
		}
	}
	c.born = born
	return works, nil
}

// alone reports whether no worker lives that has settled.
func (c *copying) alone() bool {
	for _, since := range c.born {
		if c.server.Major() >= 15 && time.Since(since) >= settled {
			return false // its errors are counted
		}
	}
	return true
}

// ask finds the tables that no worker copies, and why: now and then, or at last.
func (c *copying) ask(ctx context.Context, running []Copying, last bool) error {
	if !last && time.Since(c.looked) < lookAgain {
		return nil
	}
	c.looked = time.Now()
	states, err := States(ctx, c.server, c.stream)
	if err != nil {
		return err
	}
	begun := uncopied(states, running, last)
	c.names = c.names[:0]
	for _, t := range begun {
		c.names = append(c.names, t.Schema+"."+t.Name)
	}
	if c.watch.Why == nil || len(begun) == 0 {
		c.reasons = nil
		return nil
	}
	c.reasons, err = c.watch.Why(ctx, begun)
	return err
}

// uncopied returns those tables that no worker copies: whose copy was begun or, when
// no worker has come so far as to begin, all that wait. When nothing has come further
// for long, at last, what seems to be copied is only at its next attempt.
func uncopied(states []TableState, running []Copying, last bool) []TableState {
	if last {
		running = nil
	}
	var begun, waiting []TableState
	for _, t := range states {
		switch {
		case slices.ContainsFunc(running, func(r Copying) bool { return r.Schema == t.Schema && r.Name == t.Name }):
		case t.State == "d":
			begun = append(begun, t)
		case t.State == "i":
			waiting = append(waiting, t)
		}
	}
	if len(begun) == 0 {
		return waiting
	}
	return begun
}

func (c *copying) describe(ready, all int, running []Copying, failed int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d tables copied", ready, all)
	for i, r := range running {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(running)-i)
			break
		}
		fmt.Fprintf(&b, ", %s.%s: %d rows", r.Schema, r.Name, r.Rows)
	}
	if failed > 0 {
		fmt.Fprintf(&b, "; the workers failed %d times", failed)
	}
	if len(c.names) > 0 {
		fmt.Fprintf(&b, "; nobody copies %s", strings.Join(c.names[:min(len(c.names), 3)], ", "))
		if n := len(c.names) - 3; n > 0 {
			fmt.Fprintf(&b, " and %d more", n)
		}
		for _, r := range c.reasons {
			fmt.Fprintf(&b, "; %s.%s: %s", r.Schema, r.Table, r.Text)
		}
	}
	if failed > 0 && len(c.reasons) == 0 {
		fmt.Fprintf(&b, ": see the %s server's log", c.server.Side())
	}
	return b.String()
}

// advice is what to do when nothing is copied.
func (c *copying) advice() string {
	again := "; then run: pgcutover start, which goes on where it stopped"
	for _, r := range c.reasons {
		if r.Mend != "" {
			return fmt.Sprintf("on the %s server: %s%s", c.server.Side(), r.Mend, again)
		}
	}
	return fmt.Sprintf("see the errors of the workers in the %s server's log%s", c.server.Side(), again)
}
