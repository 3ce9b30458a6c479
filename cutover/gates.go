package cutover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/warmup"
)

func (c *Cutover) gatesStep() step.Step {
	return step.Step{
		Name:  "gates",
		About: "check that everything is ready: lag, tables, statistics, schema, transactions, settings",
		Bound: 2 * time.Minute,
		Do:    c.gates,
		Statements: step.Fixed(
			step.Statement{Server: "old", SQL: state.TakeAttemptSQL, Why: "take the number of this attempt"}),
	}
}

// gateFacts are what the gates saw.
type gateFacts struct {
	Lag      int64 `json:"lag_bytes"`
	Tables   int   `json:"tables"`
	Retained int64 `json:"retained_bytes"`
}

func (c *Cutover) gates(ctx context.Context) (any, error) {
	var errs []error
	lag, err := c.gateLag(ctx)
	errs = append(errs, err)
	tables, err := c.gateTables(ctx)
	errs = append(errs, err, c.gateStatistics(ctx), c.gateNewClosed(ctx))
	if c.Gates != nil {
		errs = append(errs, c.Gates(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return gateFacts{Lag: lag.Bytes, Tables: tables, Retained: lag.Retained}, nil
}

// Blocked returns an error that says that the move is not ready, and what to
// do; it wraps ErrBlocked.
func Blocked(advice, text string) error { return blocked(advice, "%s", text) }

func blocked(advice, format string, args ...any) error {
	return hint.With(fmt.Errorf("%w: %s", ErrBlocked, fmt.Sprintf(format, args...)), advice)
}

func (c *Cutover) gateLag(ctx context.Context) (publisher.Lag, error) {
	lag, err := publisher.ReadLag(ctx, c.Old)
	if errors.Is(err, publisher.ErrNoSlot) {
		return lag, blocked("the stream cannot go on: run pgcutover abort, then start", "%s", err)
	}
	if err != nil {
		return lag, err
	}
	if !lag.Connected {
		return lag, blocked("see the apply worker's error in the new server's log; it retries every few seconds", "the new server does not stream from the old one")
	}
	if lag.Bytes > c.Settings.MaxLag {
		return lag, blocked("wait until the lag is smaller (pgcutover status --watch), or raise cutover.max_lag",
			"the new server is %d bytes behind, more than cutover.max_lag (%d)", lag.Bytes, c.Settings.MaxLag)
	}
	return lag, nil
}

// gateTables proves that what is in scope, what is published and what is
// subscribed are the same tables, and that all of them are ready.
func (c *Cutover) gateTables(ctx context.Context) (int, error) {
	want, err := publisher.Tables(ctx, c.Old, c.Settings.InScope)
	if err != nil {
		return 0, err
	}
	published, err := publisher.Published(ctx, c.Old)
	if err != nil {
		return 0, err
	}
	states, err := subscriber.States(ctx, c.New)
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
		if len(missing) > 0 {
			return 0, blocked("tables were made since start: their rows would be lost. Run pgcutover abort, then start", "not %s: %v", pair.what, missing)
		}
		if len(extra) > 0 {
			return 0, blocked("tables were dropped, renamed or taken out of scope since start. Run pgcutover abort, then start", "%s but not in scope on old: %v", pair.what, extra)
		}
	}
	if len(waiting) > 0 {
		return 0, blocked("wait until they are ready: pgcutover status --watch", "tables still being copied: %s", strings.Join(waiting, ", "))
	}
	return len(want), nil
}

func (c *Cutover) gateStatistics(ctx context.Context) error {
	without, err := warmup.WithoutStatistics(ctx, c.New)
	if err != nil {
		return err
	}
	if len(without) > 0 {
		return blocked("run: pgcutover analyze", "%d tables on new have rows but no statistics, for example %v", len(without), without[0])
	}
	return nil
}

// gateNewClosed proves that nobody but the stream can have written to new.
func (c *Cutover) gateNewClosed(ctx context.Context) error {
	turn, err := state.ReadTurn(ctx, c.New.Pool())
	if err != nil {
		return err
	}
	if turn.Open {
		return blocked("run: pgcutover status", "the new server is open for writes already")
	}
	tables, err := fence.Tables(ctx, c.New.Pool(), c.Move.Name)
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
		return blocked("somebody made these tables on new, or disabled the trigger: drop them there, or run pgcutover abort, then start",
			"tables on new without a fence: %s", strings.Join(open, ", "))
	}
	return nil
}
