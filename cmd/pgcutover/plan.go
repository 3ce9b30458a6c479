package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newPlan(a *app) *cobra.Command {
	var format string
	cmd := command("plan", "Print the whole procedure with every statement, undo and bound",
		"plan changes nothing. Statements that depend on what is on the servers are those of this moment.",
		"  pgcutover plan\n  pgcutover plan --format markdown > runbook.md\n  pgcutover plan --json",
		func(ctx context.Context) error {
			write := step.WriteText
			heading := "%s\n\n"
			switch format {
			case "text":
			case "markdown":
				write, heading = step.WriteMarkdown, "# %s\n\n"
			case "json":
				a.flags.json = true
			default:
				return &usageError{fmt.Errorf("--format is text, markdown or json, not %q", format)}
			}
			return a.withMove(ctx, func(m *upgrade.Move) error {
				plan, err := m.Plan(ctx)
				if err != nil {
					return err
				}
				return a.print(plan, func(w io.Writer) error {
					for _, part := range []struct {
						title   string
						entries []step.Entry
					}{{"start", plan.Start}, {"cutover", plan.Cutover}, {"rollback (after the cutover)", plan.Rollback}, {"complete (after the cutover)", plan.Complete}, {"abort (before the cutover)", plan.Abort}} {
						if _, err := fmt.Fprintf(w, heading, part.title); err != nil {
							return err
						}
						if err := write(w, part.entries); err != nil {
							return err
						}
						if _, err := fmt.Fprintln(w); err != nil {
							return err
						}
					}
					return nil
				})
			})
		})
	cmd.Flags().StringVar(&format, "format", "text", "text, markdown or json")
	return cmd
}
