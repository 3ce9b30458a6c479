package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newSequences(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "sequences", Short: "Compare, script or set the sequences of new",
		Long: "Logical replication carries no sequences. The cutover sets them by itself; these commands are\nfor review and for the record.\n" + exitHelp,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSequencesDiff(a), newSequencesSQL(a), newSequencesApply(a))
	return cmd
}

// What the three commands print with --json.
type (
	sequenceDiff struct {
		Sequences []sequences.Difference `json:"sequences"`
	}
	sequenceScript struct {
		Changes  []sequences.Change  `json:"changes"`
		Problems []sequences.Problem `json:"problems"`
		SQL      string              `json:"sql"`
	}
	sequencesSet struct {
		Set []sequences.Change `json:"set"`
	}
)

func newSequencesDiff(a *app) *cobra.Command {
	return command("diff", "Show how the sequences of both servers differ", "diff changes nothing.", "  pgcutover sequences diff --json",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				differences, err := m.SequenceDiff(ctx)
				text := func(w io.Writer) error {
					for _, d := range differences {
						if _, err := fmt.Fprintln(w, d.Text); err != nil {
							return err
						}
					}
					return nil
				}
				return sequenceDiff{differences}, text, err
			})
		})
}

func newSequencesSQL(a *app) *cobra.Command {
	return command("sql", "Print the ALTER SEQUENCE ... RESTART WITH script", "sql changes nothing. The script can be run with psql on the new server.", "  pgcutover sequences sql > sequences.sql",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				changes, problems, err := m.SequencePlan(ctx)
				for _, p := range problems {
					a.say("%s: %s %s", p.Ident(), p.Text, p.Hint)
				}
				script := sequences.Script(changes)
				text := func(w io.Writer) error {
					_, err := io.WriteString(w, script)
					return err
				}
				return sequenceScript{changes, problems, script}, text, err
			})
		})
}

func newSequencesApply(a *app) *cobra.Command {
	return command("apply", "Set new's sequences past old's values plus the margin, never backwards", "apply changes the new server only. The cutover does the same by itself.", "  pgcutover sequences apply",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				made, err := m.ApplySequences(ctx)
				text := func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%d sequences set\n", len(made))
					return err
				}
				return sequencesSet{made}, text, err
			})
		})
}
