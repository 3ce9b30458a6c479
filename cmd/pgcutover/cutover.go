package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
)

// cutoverResult is what cutover and resume print with --json.
type cutoverResult struct {
	Move      string  `json:"move"`
	Attempt   int64   `json:"attempt"`
	Serving   string  `json:"serving"`
	PauseMS   float64 `json:"write_pause_ms,omitempty"`
	Direction string  `json:"direction,omitempty"`
}

func newCutover(a *app) *cobra.Command {
	var yes, dryRun bool
	cmd := command("cutover", "Turn the clients' writes from old to new",
		"cutover checks the gates, shows the steps, asks, and turns the writes. Until the step decide\nwhatever fails is undone and old goes on; after it there is only forward, and resume finishes\nwhat was interrupted. Nothing waits longer than cutover.max_pause.",
		"  pgcutover cutover --dry-run\n  pgcutover cutover --yes",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				c, err := m.NewCutover(ctx)
				if err != nil {
					return err
				}
				if dryRun {
					entries, err := step.Plan(c.Steps())
					if err != nil {
						return err
					}
					return a.print(entries, func(w io.Writer) error { return step.WriteText(w, entries) })
				}
				if err := c.Ready(ctx); err != nil {
					return err
				}
				for i, s := range c.Steps() {
					a.say("%2d. %-10s %s", i+1, s.Name, s.About)
				}
				if err := a.confirm(yes, fmt.Sprintf("Turn the writes of move %q from %s to %s?", m.Options.Name, m.Old.Address(), m.New.Address())); err != nil {
					return err
				}
				if err := c.Run(ctx, a.hard); err != nil {
					return err
				}
				result := cutoverResult{Move: m.Options.Name, Attempt: c.Attempt(), Serving: "new", PauseMS: float64(c.Pause().Microseconds()) / 1000}
				return a.print(result, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "Done: the new server (%s) takes the writes. They were held up for %s.\nWhen you are content: pgcutover complete\n", m.New.Address(), round(c.Pause()))
					return err
				})
			})
		})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show every statement and stop")
	return cmd
}
