package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

const analyzeLong = `analyze runs ANALYZE on the tables of new that need it, those first that are used most on old:
tables without statistics (partitioned parents and extended statistics included), with rough
ones only, with statistics older than the copy, and those of which much has changed since. Big
tables without statistics get rough ones first, by analyze.stages. Where new is 18 or later, what
it has no statistics of is given old's before that, unless analyze.carry is false.`

func newAnalyze(a *app) *cobra.Command {
	var all bool
	cmd := command("analyze", "Make planner statistics on new where they are missing or old", analyzeLong,
		"  pgcutover analyze\n  pgcutover analyze --all",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				if text := m.CarryFirst(ctx); text != "" {
					a.say("%s", text)
				}
				report, err := m.Analyze(ctx, all)
				return report, func(w io.Writer) error { return writeAnalysis(w, report) }, err
			})
		})
	cmd.Flags().BoolVar(&all, "all", false, "analyze every table again")
	return cmd
}

// writeAnalysis is for a report without an error: tables may have kept older
// statistics, have rough ones, or none as long as they have no rows.
func writeAnalysis(w io.Writer, report warmup.AnalyzeReport) error {
	unfinished := report.Unfinished()
	for _, t := range unfinished {
		became := "stays as it was"
		if len(t.Targets) > 0 {
			became = "has rough statistics, of target " + t.Targets[len(t.Targets)-1]
		}
		if _, err := fmt.Fprintf(w, "%s %s: %s\n", t.Table, became, t.Explain()); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d tables analyzed in %s, %d not\n", len(report.Tables)-len(unfinished), round(report.Took), len(unfinished))
	return err
}
