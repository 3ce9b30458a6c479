package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newStart(a *app) *cobra.Command {
	var (
		until     string
		sync, yes bool
	)
	cmd := command("start", "Copy schema and data to new and keep new up to date",
		"start runs the checks, then the phases of the move that are not done yet: schema,\npublication and slot, subscription, copy, indexes, statistics, catch-up, warm, analyze. Interrupted,\nor failed and mended, run it again: it continues. Clients go on using old meanwhile.",
		"  pgcutover start\n  pgcutover start --until copy\n  pgcutover start --sync-schema",
		func(ctx context.Context) error {
			if sync {
				return a.syncSchema(ctx, yes)
			}
			return a.withMoves(ctx, func(m *upgrade.Move) error {
				report, err := m.Start(ctx, a.hard, until)
				if err := a.started(report, err); err != nil {
					return err
				}
				status, err := m.Status(ctx)
				if err != nil {
					return err
				}
				return a.print(status, status.WriteText)
			}, func(c *upgrade.Cluster) error {
				report, err := c.Start(ctx, a.hard, until)
				if err := a.started(report, err); err != nil {
					return err
				}
				status, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.print(status, status.WriteText)
			})
		})
	cmd.Flags().StringVar(&until, "until", "", "stop after this phase")
	cmd.Flags().BoolVar(&sync, "sync-schema", false, "bring new in line with what was changed in old's schema since start, new tables included")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --sync-schema: do not ask")
	cmd.MarkFlagsMutuallyExclusive("until", "sync-schema")
	cmd.Flags().StringSliceVar(&a.flags.ignore, "ignore", nil, "IDs of findings of check that are no reason not to start")
	return cmd
}

// started shows what the checks found: all of it when they keep the move from
// starting, otherwise what a person should have seen beforehand.
func (a *app) started(report preflight.Report, err error) error {
	if errors.Is(err, upgrade.ErrBlockers) || (err == nil && report.Warnings > 0) {
		if werr := report.WriteText(a.err); werr != nil {
			return werr
		}
	}
	return err
}
