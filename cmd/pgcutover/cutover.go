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
	"github.com/pgcutover/pgcutover/warmup"
)

// cutoverResult is what cutover, rollback and resume print with --json.
type cutoverResult struct {
	Move      string             `json:"move"`
	Attempt   int64              `json:"attempt"`
	Serving   string             `json:"serving"`
	PauseMS   float64            `json:"write_pause_ms,omitempty"`
	StepsMS   map[string]float64 `json:"steps_ms,omitempty"` // time spent in each step
	Direction string             `json:"direction,omitempty"`
	// Condition is what the first queries find on the server that serves now.
	Condition *upgrade.Condition `json:"condition,omitempty"`
}

// turning is one cutover or rollback as the command line asked for it.
type turning struct {
	yes, dryRun bool
	terminate   time.Duration
	from, to    *pg.Server
	before      func() error // says what is to be known before the question
	warm        bool         // read on the target what clients will ask for, last of all
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
				t.warm = true
				return a.turn(ctx, m, c, t)
			}, func(c *upgrade.Cluster) error {
				all, err := c.NewTurning(ctx, state.Forward, false)
				if err != nil {
					return err
				}
				t.warm = true
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
	var hot *warmup.HotSet
	if t.warm {
		if hot = a.warmOnce(ctx, m); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	times := &stopwatch{Observer: c.Observer, ms: map[string]float64{}}
	c.Observer = times
	if err := c.Run(ctx, a.hard); err != nil {
		return err
	}
	result := cutoverResult{
		Move: m.Options.Name, Attempt: c.Attempt(), Serving: string(t.to.Side()),
		PauseMS: milliseconds(c.Pause()), StepsMS: times.ms,
		Condition: a.condition(ctx, m, t.to.Side(), hot),
	}
	return a.print(result, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Done: the %s server (%s) takes the writes. They were held up for %s.\n", t.to.Side(), t.to.Address(), round(c.Pause()))
		if err != nil {
			return err
		}
		if err := writeCondition(w, result.Condition); err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, t.advice(c.Settings.WayBack))
		return err
	})
}

// advice is what to do afterwards. Without a way back there is no rollback, and after one
// no cutover.
func (t *turning) advice(wayBack bool) string {
	if wayBack {
		return t.next
	}
	return "No way back is kept (rollback.keep: false). When you are content: pgcutover complete"
}

// conditionBound is how long the look after a cutover may take: it is done, and
// who waits for the report wants to know that.
const conditionBound = 10 * time.Second

// condition looks at the server that serves now, whose cache is compared with what
// was hot before. What cannot be seen is a warning: the cutover is done.
func (a *app) condition(ctx context.Context, m *upgrade.Move, side pg.Side, hot *warmup.HotSet) *upgrade.Condition {
	limit, cancel := context.WithTimeout(ctx, conditionBound)
	defer cancel()
	c, err := m.Condition(limit, side)
	if err != nil {
		a.say("warning: looking at the tables of the %s server: %v (pgcutover status shows them)", side, err)
		return nil
	}
	if hot != nil {
		if err := m.ReadCache(limit, &c, hot); err != nil {
			a.say("warning: %v", err)
		}
	}
	return &c
}

// writeCondition writes all tables while they are few, else what sums them up.
func writeCondition(w io.Writer, c *upgrade.Condition) error {
	if c == nil {
		return nil
	}
	const few = 30
	if len(c.Tables) <= few {
		return c.WriteText(w)
	}
	for _, line := range c.Summary() {
		if _, err := fmt.Fprintln(w, "  "+line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "  all %d tables: pgcutover status --tables\n", len(c.Tables))
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
