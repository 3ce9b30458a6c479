package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

func newStatus(a *app) *cobra.Command {
	var (
		watch bool
		every time.Duration
	)
	cmd := command("status", "Say where the move stands and whether a cutover could begin now",
		"status looks at both servers and changes nothing: phase, copy progress, lag, retained WAL,\nstatistics, sequences, and the verdict: can I cut over now, if not why, can I still go back.",
		"  pgcutover status\n  pgcutover status --watch\n  pgcutover status --json",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				for {
					status, err := m.Status(ctx)
					if err != nil {
						return err
					}
					if err := a.print(status, status.WriteText); err != nil || !watch {
						return err
					}
					tick := time.NewTimer(every)
					select {
					case <-ctx.Done():
						tick.Stop()
						return nil
					case <-tick.C:
					}
				}
			})
		})
	cmd.Flags().BoolVar(&watch, "watch", false, "print again and again until interrupted")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "interval of --watch")
	return cmd
}
