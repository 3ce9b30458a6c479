package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

func newCheck(a *app) *cobra.Command {
	return command("check", "Find every reason why the move would fail or surprise",
		"check looks at both servers and changes nothing. Each finding has what was seen, why it\nmatters, and the SQL or setting that mends it. Blockers make the exit status 3.",
		"  pgcutover check\n  pgcutover check --json --old postgres://... --new postgres://...",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				report, err := m.Check(ctx)
				if err != nil {
					return err
				}
				if err := a.print(report, report.WriteText); err != nil {
					return err
				}
				if n := len(report.Blockers()); n > 0 {
					return fmt.Errorf("%w: %d", upgrade.ErrBlockers, n)
				}
				return nil
			})
		})
}
