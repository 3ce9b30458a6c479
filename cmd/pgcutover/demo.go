package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/demo"
)

func newDemo(a *app) *cobra.Command {
	o := demo.Options{}
	cmd := command("demo", "Move a shop between two throwaway local clusters, with live writers, and prove it",
		"demo starts two PostgreSQL clusters on this machine, loads a small shop, lets clients write all\nthe time, does the whole move, and compares every acknowledged write with the new server.",
		"  pgcutover demo\n  pgcutover demo --old 13 --new 17 --rows 50000 --writers 8 --json",
		func(ctx context.Context) error {
			if o.Old < 10 || o.New < o.Old || o.New > 18 {
				return &usageError{fmt.Errorf("--old and --new are majors from 10 to 18, and old is not newer than new")}
			}
			if o.Rows < 1 || o.Writers < 1 || o.Writers > 64 {
				return &usageError{fmt.Errorf("--rows is at least 1, --writers from 1 to 64")}
			}
			o.Observer = newNarrator(a)
			o.Say = a.say
			result, err := demo.Run(ctx, a.hard, o)
			if err != nil && !errors.Is(err, demo.ErrProof) {
				return err
			}
			return errors.Join(err, a.print(result, func(w io.Writer) error { return summary(w, result) }))
		})
	cmd.Flags().IntVar(&o.Old, "old", 15, "major version of the old server")
	cmd.Flags().IntVar(&o.New, "new", 18, "major version of the new server")
	cmd.Flags().IntVar(&o.Rows, "rows", 20000, "orders in the shop")
	cmd.Flags().IntVar(&o.Writers, "writers", 4, "concurrent clients")
	cmd.Flags().DurationVar(&o.After, "after", 3*time.Second, "how long to write on after the cutover")
	return cmd
}

func summary(w io.Writer, r demo.Result) error {
	_, err := fmt.Fprintf(w, `
PostgreSQL %s -> %s in %.0f s
  acknowledged writes   %d (%d on old, %d on new)
  lost                  %d
  duplicated            %d
  failed and retried    %d
  longest write gap     %.0f ms (writers were held for %.0f ms of it)
  sequences             %d checked, %d values handed out, %d twice
  without statistics    %d tables
  both servers writable %d times
`, r.OldVersion, r.NewVersion, r.DurationS, r.Acknowledged, r.AcknowledgedOnOld, r.AcknowledgedOnNew, r.Lost, r.Duplicated, r.FailedWrites,
		r.WritePauseMS, r.HeldMS, r.SequencesChecked, r.SequenceValuesChecked, r.SequenceValuesTwice, r.TablesWithoutStatistics, r.BothWritable)
	return err
}
