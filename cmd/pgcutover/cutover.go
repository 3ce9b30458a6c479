package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
)

// cutoverResult is what cutover, rollback and resume print with --json.
type cutoverResult struct {
	Move      string             `json:"move"`
	Attempt   int64              `json:"attempt"`
	Serving   string             `json:"serving"`
	PauseMS   float64            `json:"write_pause_ms,omitempty"`
	StepsMS   map[string]float64 `json:"steps_ms,omitempty"` // time spent in each step
	Direction string             `json:"direction,omitempty"`
}

// turning is one cutover or rollback as the command line asked for it.
type turning struct {
	yes, dryRun bool
	terminate   time.Duration
	from, to    *pg.Server
	before      func() error // says what is to be known before the question
	next        string       // what to do afterwards
}

func newCutover(a *app) *cobra.Command {
	var t turning
	cmd := command("cutover", "Turn the clients' writes from old to new",
		"cutover checks the gates, shows the steps, asks, and turns the writes. Until the step decide\nwhatever fails is undone and old goes on; after it there is only forward, and resume finishes\nwhat was interrupted. Nothing waits longer than cutover.max_pause.",
		"  pgcutover cutover --dry-run\n  pgcutover cutover --yes",
		func(ctx context.Context) error {
			t.next = "To go back: pgcutover rollback. When you are content: pgcutover complete"
			return a.withMoves(ctx, func(m *upgrade.Move) error {
				c, err := m.NewCutover(ctx)
				if err != nil {
					return err
				}
				t.from, t.to = m.Old, m.New
				t.before = func() error { return a.sayRewritten(ctx, "", m) }
				return a.turn(ctx, m, c, t)
			}, func(c *upgrade.Cluster) error {
				all, err := c.NewTurning(ctx, state.Forward, false)
				if err != nil {
					return err
				}
				t.before = func() error {
					for _, m := range c.Moves {
						if err := a.sayRewritten(ctx, m.Database+": ", m.Move); err != nil {
							return err
						}
					}
					return nil
				}
				return a.turnAll(ctx, c, all, t)
			})
		})
	t.flags(cmd)
	return cmd
}

// sayRewritten warns of rows that may differ without anything in the stream that
// says so: it is for a person to know.
func (a *app) sayRewritten(ctx context.Context, prefix string, m *upgrade.Move) error {
	text, err := m.Rewritten(ctx)
	if err == nil && text != "" {
		a.say("%swarning: %s", prefix, text)
	}
	return err
}

// turn shows, asks and runs.
func (a *app) turn(ctx context.Context, m *upgrade.Move, c *cutover.Cutover, t turning) error {
	if t.terminate > 0 {
		c.Settings.TerminateAfter = t.terminate
	}
	if t.dryRun {
		entries, err := step.Plan(ctx, c.Steps())
		if err != nil {
			return err
		}
		return a.print(entries, func(w io.Writer) error { return step.WriteText(w, entries) })
	}
	if t.before != nil {
		if err := t.before(); err != nil {
			return err
		}
	}
	if err := c.Ready(ctx); err != nil {
		return err
	}
	for i, s := range c.Steps() {
		a.say("%2d. %-10s %s", i+1, s.Name, s.About)
	}
	if err := a.confirm(t.yes, t.question(m)); err != nil {
		return err
	}
	times := &stopwatch{Observer: c.Observer, ms: map[string]float64{}}
	c.Observer = times
	if err := c.Run(ctx, a.hard); err != nil {
		return err
	}
	result := cutoverResult{
		Move: m.Options.Name, Attempt: c.Attempt(), Serving: string(t.to.Side()),
		PauseMS: milliseconds(c.Pause()), StepsMS: times.ms,
	}
	return a.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Done: the %s server (%s) takes the writes. They were held up for %s.\n%s\n", t.to.Side(), t.to.Address(), round(c.Pause()), t.next)
		return err
	})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
