package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

func newRollback(a *app) *cobra.Command {
	var t turning
	var leave bool
	cmd := command("rollback", "After a cutover: turn the writes back to old, losing nothing",
		"rollback is the same cutover the other way round: what was written on new since has gone to old\nthrough the stream back, the sequences go back too, and the writes turn within the same pause.\nAfterwards cutover turns them forward again, without copying anything, any number of times.\nFirst it says what would stay on new: tables and other DDL made there since the cutover.",
		"  pgcutover rollback --dry-run\n  pgcutover rollback --yes\n  pgcutover rollback --leave-behind --yes",
		func(ctx context.Context) error {
			return a.withMove(ctx, func(m *upgrade.Move) error {
				c, err := m.NewRollback(ctx, leave)
				if err != nil {
					return err
				}
				t.from, t.to = m.New, m.Old
				t.before = func() error {
					stays, err := m.NotGoingBack(ctx)
					if err != nil {
						return err
					}
					if len(stays) == 0 {
						a.say("Everything goes back: both servers have the same tables and schema.")
						return nil
					}
					a.say("These stay on the new server:")
					for _, s := range stays {
						a.say("  %s", s)
					}
					return nil
				}
				t.next = "To go forward again: pgcutover cutover. To give the move up: pgcutover abort"
				return a.turn(ctx, m, c, t)
			})
		})
	t.flags(cmd)
	cmd.Flags().BoolVar(&leave, "leave-behind", false, "go back although tables or DDL made on new since the cutover stay there")
	return cmd
}

func (t *turning) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&t.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&t.dryRun, "dry-run", false, "show every statement and stop")
	cmd.Flags().DurationVar(&t.terminate, "terminate-blockers-after", 0, "end sessions that stand in the way for that long, such as 30s (default: what the config says)")
}

// question is what is asked before the writes turn.
func (t *turning) question(m *upgrade.Move) string {
	return fmt.Sprintf("Turn the writes of move %q from %s to %s?", m.Options.Name, t.from.Address(), t.to.Address())
}
