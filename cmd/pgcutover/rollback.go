package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newRollback(a *app) *cobra.Command {
	var t turning
	var leave bool
	cmd := command("rollback", "After a cutover: turn the writes back to old, losing nothing",
		"rollback is the same cutover the other way round: what was written on new since has gone to old\nthrough the stream back, the sequences go back too, and the writes turn within the same pause.\nAfterwards cutover turns them forward again, without copying anything, any number of times.\nFirst it says what would stay on new: tables and other DDL made there since the cutover.",
		"  pgcutover rollback --dry-run\n  pgcutover rollback --yes\n  pgcutover rollback --leave-behind --yes",
		func(ctx context.Context) error {
			t.next = "To go forward again: pgcutover cutover. To give the move up: pgcutover abort"
			return a.withMoves(ctx, func(m *upgrade.Move) error {
				c, err := m.NewRollback(ctx, leave)
				if err != nil {
					return err
				}
				t.from, t.to = m.New, m.Old
				t.before = func() error { return a.staying(ctx, m, "") }
				return a.turn(ctx, m, c, t)
			}, func(c *upgrade.Cluster) error {
				all, err := c.NewTurning(ctx, state.Back, leave)
				if err != nil {
					return err
				}
				t.before = func() error {
					for _, m := range c.Moves {
						if err := a.staying(ctx, m.Move, m.Database+": "); err != nil {
							return fmt.Errorf("database %s: %w", m.Database, err)
						}
					}
					return nil
				}
				return a.turnAll(ctx, c, all, t)
			})
		})
	t.flags(cmd)
	cmd.Flags().BoolVar(&leave, "leave-behind", false, "go back although tables or DDL made on new since the cutover stay there")
	return cmd
}

// staying says what a rollback leaves on new.
func (a *app) staying(ctx context.Context, m *upgrade.Move, prefix string) error {
	stays, err := m.NotGoingBack(ctx)
	if err != nil {
		return err
	}
	if len(stays) == 0 {
		a.say("%sEverything goes back: both servers have the same tables and schema.", prefix)
		return nil
	}
	a.say("%sThese stay on the new server:", prefix)
	for _, s := range first(stays) {
		a.say("  %s", s)
	}
	return nil
}

// first caps a list that is to be read.
func first(lines []string) []string {
	const most = 20
	if len(lines) <= most {
		return lines
	}
	return append(lines[:most:most], fmt.Sprintf("and %d more; all of them: pgcutover status --json", len(lines)-most))
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
