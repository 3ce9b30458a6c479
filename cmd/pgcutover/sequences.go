package main

import (
	"context"
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

const diffLong = `Compares position and definition of every sequence, and what rows have of their
numbers, with the statements that mend what differs. Those that are equal, or ahead on
new, are counted only. diff changes nothing and locks nothing that a writer needs.`

func newSequencesDiff(a *app) *cobra.Command {
	var all bool
	cmd := command("diff", "Show how the sequences of both servers differ", diffLong, "  pgcutover sequences diff\n  pgcutover sequences diff --json",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				differences, err := m.SequenceDiff(ctx)
				text := func(w io.Writer) error {
					_, err := io.WriteString(w, sequences.Text(differences, all))
					return err
				}
				return sequenceDiff{differences}, text, err
			})
		})
	cmd.Flags().BoolVar(&all, "all", false, "name those that are equal or ahead too, and the columns that were not looked at")
	return cmd
}

func newSequencesSQL(a *app) *cobra.Command {
	return command("sql", "Print the ALTER SEQUENCE ... RESTART WITH script", "sql changes nothing. The script can be run with psql on the new server; sequences that it\ncannot set stand in it as comments, with what mends them.", "  pgcutover sequences sql > sequences.sql",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				changes, problems, err := m.SequencePlan(ctx)
				for _, p := range problems {
					a.say("%s", p)
				}
				script := sequences.Script(changes, problems)
				text := func(w io.Writer) error {
					_, err := io.WriteString(w, script)
					return err
				}
				return sequenceScript{append([]sequences.Change{}, changes...), append([]sequences.Problem{}, problems...), script}, text, err
			})
		})
}

func newSequencesApply(a *app) *cobra.Command {
	return command("apply", "Set new's sequences past old's values plus the margin, never backwards", "apply changes the new server only. The cutover does the same by itself.", "  pgcutover sequences apply",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				made, err := m.ApplySequences(ctx)
				text := func(w io.Writer) error {
					_, err := io.WriteString(w, sequences.SetText(made))
					return err
				}
				return sequencesSet{append([]sequences.Change{}, made...)}, text, err
			})
		})
}
