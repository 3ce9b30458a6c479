package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

func newStart(a *app) *cobra.Command {
	var until string
	cmd := command("start", "Copy schema and data to new and keep new up to date",
		"start runs the checks, then the phases of the move that are not done yet: schema,\npublication and slot, subscription, copy, indexes, catch-up, warm, analyze. Interrupted,\nor failed and mended, run it again: it continues. Clients go on using old meanwhile.",
		"  pgcutover start\n  pgcutover start --until copy",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				report, err := m.Start(ctx, a.hard, until)
				if errors.Is(err, upgrade.ErrBlockers) {
					if werr := report.WriteText(a.err); werr != nil {
						return werr
					}
				}
				if err != nil {
					return err
				}
				status, err := m.Status(ctx)
				if err != nil {
					return err
				}
				return a.print(status, status.WriteText)
			})
		})
	cmd.Flags().StringVar(&until, "until", "", "stop after this phase")
	return cmd
}
