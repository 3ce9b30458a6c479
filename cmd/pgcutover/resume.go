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
		"resume finds out whether the interrupted cutover was decided. If so it does the rest; if not\nit undoes everything, and old takes the writes as before. It may be run from any machine.",
		"  pgcutover resume",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				c, err := m.NewCutover(ctx)
				if err != nil {
					return err
				}
				direction, err := c.Resume(ctx, a.hard)
				if err != nil {
					return err
				}
				result := cutoverResult{Move: m.Options.Name, Attempt: c.Attempt(), Serving: "old", Direction: string(direction)}
				text := "Undone: the old server takes the writes, as before the cutover.\n"
				if direction == cutover.Forward {
					result.Serving = "new"
					text = "Finished: the new server takes the writes. When you are content: pgcutover complete\n"
				}
				return a.print(result, func(w io.Writer) error {
					_, err := fmt.Fprint(w, text)
					return err
				})
			})
		})
}
