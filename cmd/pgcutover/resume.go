package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newResume(a *app) *cobra.Command {
	return command("resume", "Finish what a crash interrupted, forward or back",
		"resume finds out whether the interrupted cutover or rollback was decided. If so it does the rest;\nif not it undoes everything, and the writes stay where they were. It may be run from any machine.",
		"  pgcutover resume",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				c, err := m.NewCutover(ctx)
				if err != nil {
					return err
				}
				outcome, err := c.Resume(ctx, a.hard)
				if err != nil {
					return err
				}
				serving := c.Direction.Source()
				text := "Undone: the %s server takes the writes, as before.\n"
				if outcome == cutover.Finished {
					serving = c.Direction.Target()
					text = "Finished: the %s server takes the writes. To see what is next: pgcutover status\n"
				}
				result := cutoverResult{Move: m.Options.Name, Attempt: c.Attempt(), Serving: string(serving), Direction: string(outcome)}
				return a.print(result, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, text, serving)
					return err
				})
			})
		})
}
