package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

func newWarm(a *app) *cobra.Command {
	return command("warm", "Read recent rows on new, so that they are in its cache",
		"warm reads the newest rows of every table on new, through its indexes. It may be repeated\nbefore the cutover.",
		"  pgcutover warm",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				report, err := m.Warm(ctx)
				return report, func(w io.Writer) error {
					for _, t := range report.Tables {
						if _, err := fmt.Fprintln(w, t); err != nil {
							return err
						}
					}
					for _, warning := range report.Warnings {
						a.say("warning: %s", warning)
					}
					_, err := fmt.Fprintf(w, "%d rows, %d bytes read in %s\n", report.Rows, report.Bytes, round(report.Took))
					return err
				}, err
			})
		})
}

func newAnalyze(a *app) *cobra.Command {
	return command("analyze", "Make planner statistics on new, in stages",
		"analyze runs ANALYZE on every table of new, partitioned parents included, with the statistics\ntargets of analyze.stages one after the other, so that rough statistics are there early.",
		"  pgcutover analyze",
		func(ctx context.Context) error {
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				report, err := m.Analyze(ctx)
				return report, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%d tables analyzed in %s, %d without statistics\n", len(report.Tables), round(report.Took), len(report.Missing))
					return err
				}, err
			})
		})
}
