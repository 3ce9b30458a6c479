package cutover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/unreplicated"
	"github.com/pgcutover/pgcutover/warmup"
)

func (c *Cutover) gatesStep() step.Step {
	return step.Step{
		Name:       "gates",
		About:      "check that everything is ready: lag, tables, statistics, schema, transactions, settings",
		Bound:      2 * time.Minute,
		Do:         c.gates,
		Statements: c.planning(c.gatesStatements),
	}
}

// gateFacts are what the gates saw.
type gateFacts struct {
	Lag      int64 `json:"lag_bytes"`
	Tables   int   `json:"tables"`
	Retained int64 `json:"retained_bytes"`
	// Unreplicated is what the step of that name is going to move.
	Unreplicated unreplicated.Inventory `json:"unreplicated"`
}

// recoverySQL asks whether a server is a standby. Postgres manual: 9.27.4, Recovery
// Control Functions.
const recoverySQL = `select pg_is_in_recovery()`

// primaries refuses standbys. They show all else as their primaries do, so that a move
// seems to be ready until something is written.
func (c *Cutover) primaries(ctx context.Context) error {
	for _, s := range []*pg.Server{c.Old, c.New} {
		var standby bool
		if err := s.Pool().QueryRow(ctx, recoverySQL).Scan(&standby); err != nil {
			return fmt.Errorf("asking whether the %s server is a standby: %w", s.Side(), err)
		}
		if standby {
			return blocked(fmt.Sprintf("put the primary's address into %s.url", s.Side()),
				"the %s server, %s, is in recovery: it is a standby and takes no writes", s.Side(), s.Address())
		}
	}
	return nil
}

func (c *Cutover) gates(ctx context.Context) (any, error) {
	var errs []error
	lag, err := c.gateLag(ctx)
	errs = append(errs, err)
	tables, err := c.gateTables(ctx)
	errs = append(errs, err, c.gateStatistics(ctx), c.gateTargetClosed(ctx), c.gateWriting(ctx))
	found, err := c.gateUnreplicated(ctx)
	errs = append(errs, err)
	if c.Gates != nil {
		errs = append(errs, c.Gates(ctx))
	}
	for _, p := range c.poolers() {
		if err := p.Ready(ctx, c.situation()); err != nil {
			advice := hint.Of(err)
			if advice == "" {
				advice = "mend it, or take the pooler out of traffic"
			}
			errs = append(errs, blocked(advice, "%s: %v", p.Name(), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return gateFacts{Lag: lag.Bytes, Tables: tables, Retained: lag.Retained, Unreplicated: found}, nil
}

// Blocked returns an error that says that the move is not ready, and what to
// do; it wraps ErrBlocked.
func Blocked(advice, text string) error { return blocked(advice, "%s", text) }

func blocked(advice, format string, args ...any) error {
	return hint.With(fmt.Errorf("%w: %s", ErrBlocked, fmt.Sprintf(format, args...)), advice)
}

// anew is the advice where the stream and the tables do not agree any more.
func (c *Cutover) anew(what string) string {
	if c.Direction == state.Back {
		return what + ". To go back without them: pgcutover rollback --leave-behind"
	}
	return what + ". Run pgcutover abort, then start"
}

// inLine is the advice where the source's schema was changed since the stream was
// made.
func (c *Cutover) inLine(what string) string {
	if c.Direction == state.Back || c.stream.Attempt != 0 { // --sync-schema knows the stream that start has made
		return c.anew(what)
	}
	return what + ". Run: pgcutover start --sync-schema; after a change of tables.include or exclude: pgcutover abort, then start"
}

// noSlot is the advice where the stream's slot is not on the source. A standby has none
// of its primary's.
func (c *Cutover) noSlot() string {
	if c.Direction == state.Back {
		return "nothing that was written on new can go back (rollback.keep was false, the slot was dropped, or the url of new leads to a standby): see pgcutover status"
	}
	return c.anew("see that the url of old leads to its primary, not to a standby (select pg_is_in_recovery()); if it does, the stream cannot go on")
}

// gateLag waits a while also for a stream that has fallen behind: a burst in another
// database of the cluster is lag for a moment, until the walsender has read past it.
func (c *Cutover) gateLag(ctx context.Context) (publisher.Lag, error) {
	var lag publisher.Lag
	err := c.patiently(ctx, "the stream to be connected and close behind", func(ctx context.Context) (bool, string, error) {
		var err error
		lag, err = publisher.ReadLag(ctx, c.source(), c.stream)
		return lag.Connected && lag.Bytes <= c.Settings.MaxLag, fmt.Sprintf("%d bytes behind", lag.Bytes), err
	})
	if errors.Is(err, publisher.ErrNoSlot) {
		return lag, blocked(c.noSlot(), "%s", err)
	}
	if err != nil {
		return lag, err
	}
	if !lag.Connected {
		return lag, blocked(fmt.Sprintf("see the apply worker's error in the %s server's log; it retries every few seconds", c.Direction.Target()),
			"the %s server does not stream from the %s one", c.Direction.Target(), c.Direction.Source())
	}
	if lag.Bytes > c.Settings.MaxLag {
		return lag, blocked("wait until the lag is smaller (pgcutover status --watch), or raise cutover.max_lag",
			"the %s server is %d bytes behind, more than cutover.max_lag (%d)", c.Direction.Target(), lag.Bytes, c.Settings.MaxLag)
	}
	return lag, nil
}

// named is how many objects go into one message.
const named = 10

// few names the first of a long list.
func few[T any](list []T) string {
	names := make([]string, 0, named+1)
	for _, one := range list[:min(len(list), named)] {
		names = append(names, fmt.Sprint(one))
	}
	if n := len(list) - named; n > 0 {
		names = append(names, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}

// gateTables proves that what is in scope, what is published and what is
// subscribed are the same tables, and that all of them are ready.
func (c *Cutover) gateTables(ctx context.Context) (int, error) {
	want, err := publisher.Tables(ctx, c.source(), c.Settings.InScope)
	if err != nil {
		return 0, err
	}
	published, err := publisher.Published(ctx, c.source(), c.stream)
	if err != nil {
		return 0, err
	}
	states, err := subscriber.States(ctx, c.target(), c.stream)
	if err != nil {
		return 0, err
	}
	var subscribed []publisher.Table
	var waiting []string
	for _, t := range states {
		if t.Schema != "pgcutover" {
			subscribed = append(subscribed, publisher.Table{Schema: t.Schema, Name: t.Name})
		}
		if t.State != "r" {
			waiting = append(waiting, t.Schema+"."+t.Name)
		}
	}
	for _, pair := range []struct {
		what string
		have []publisher.Table
	}{{"published", published}, {"subscribed", subscribed}} {
		missing, extra := publisher.Compare(want, pair.have)
		if c.Direction == state.Back && c.Settings.LeaveBehind {
			break // what does not go back was named and accepted
		}
		if len(missing) > 0 {
			return 0, blocked(c.inLine("tables were made since: their rows would be lost"), "not %s: %s", pair.what, few(missing))
		}
		if len(extra) > 0 {
			return 0, blocked(c.inLine("tables were dropped, renamed or taken out of scope since"), "%s but not in scope on %s: %s", pair.what, c.Direction.Source(), few(extra))
		}
	}
	if len(waiting) > 0 {
		return 0, blocked("wait until they are ready: pgcutover status --watch", "tables still being copied: %s", few(waiting))
	}
	return len(want), nil
}

// gateStatistics is for the way forward: old served with what it has, and a
// rollback must not be kept waiting. A table that had no rows when start analyzed
// it, and has some now, is no reason to send anybody away: it is analyzed here.
func (c *Cutover) gateStatistics(ctx context.Context) error {
	if c.Direction == state.Back {
		return nil
	}
	holes, err := warmup.Holes(ctx, c.target())
	if err != nil {
		return err
	}
	if c.Hasty && mayFill(holes) {
		return nil
	}
	if len(holes) > 0 && !c.Hasty {
		if holes, err = c.fillHoles(ctx, holes); err != nil {
			return fmt.Errorf("making statistics that are missing: %w", err)
		}
	}
	if len(holes) > 0 {
		return blocked("run: pgcutover analyze", "%d tables on %s have rows but lack statistics, for example %s", len(holes), c.Direction.Target(), holes[0])
	}
	return nil
}

// gateBound is how long the gates wait for what mostly passes by itself, such as
// an apply worker that begins anew (5 s by default): nobody waits for the gates.
const gateBound = 7 * time.Second

// patiently polls until it is done, or the bound has passed, or, for somebody
// who wants to know how things stand, once. What it returns is an error of poll.
func (c *Cutover) patiently(ctx context.Context, name string, poll func(context.Context) (bool, string, error)) error {
	if c.Hasty {
		_, _, err := poll(ctx)
		return err
	}
	err := pg.Wait(ctx, name, 100*time.Millisecond, gateBound, func(text string) { step.Progress(ctx, "%s", text) }, poll)
	if errors.Is(err, pg.ErrTimeout) && ctx.Err() == nil {
		return nil
	}
	return err
}

// gateWriting looks for transactions that the slot of the way back would wait
// for, in the pause: those that have been writing for a while in any database
// of the target's cluster.
func (c *Cutover) gateWriting(ctx context.Context) error {
	if !c.Settings.WayBack {
		return nil
	}
	var who string
	err := c.patiently(ctx, "transactions that write on the "+string(c.Direction.Target())+" server", func(ctx context.Context) (bool, string, error) {
		seen, err := publisher.LongWriting(ctx, c.target(), time.Second)
		if err == nil {
			who = seen
		}
		return err == nil && seen == "", seen, err
	})
	if err != nil || who == "" {
		return err
	}
	return blocked("wait for them or end them: the slot of the way back would wait for them while clients wait (a move without a way back sets rollback.keep: false)",
		"transactions are writing on the %s server: %s", c.Direction.Target(), who)
}

// gateTargetClosed proves that nobody but the stream can have written to the
// target.
func (c *Cutover) gateTargetClosed(ctx context.Context) error {
	target := c.Direction.Target()
	turn, err := state.ReadTurn(ctx, c.target().Pool())
	if err != nil {
		return err
	}
	if turn.Open {
		return blocked("run: pgcutover status", "the %s server is open for writes already", target)
	}
	tables, err := fence.Tables(ctx, c.target().Pool(), c.Move.Name)
	if err != nil {
		return err
	}
	var open []string
	for _, t := range tables {
		if !t.Fenced {
			open = append(open, t.Identifier())
		}
	}
	if len(open) > 0 {
		return blocked(c.unfencedAdvice(), "tables on %s without a fence: %s", target, strings.Join(open, ", "))
	}
	return nil
}

// unfencedAdvice is what to do about tables on the target that have no fence. A
// rollback's target has served before, and its tables hold what is to stay.
func (c *Cutover) unfencedAdvice() string {
	made := fmt.Sprintf("somebody made these tables on %s, or disabled the trigger", c.Direction.Target())
	if c.Direction == state.Back {
		return made + ": drop those that were made there; for a disabled trigger see that nobody wrote to the table on old, then run: pgcutover doctor --fix; then: pgcutover rollback"
	}
	return made + ", or pgcutover start --sync-schema was interrupted: then run it again; otherwise drop them there, or run pgcutover abort, then start"
}
