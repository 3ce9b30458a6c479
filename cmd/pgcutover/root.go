package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

const rootLong = `pgcutover moves a live PostgreSQL database to a new major version or another
provider over logical replication: schema, copy, catch-up, warm cache, planner
statistics, then a cutover with a short write pause and sequences carried.

The usual order is
  pgcutover init, check, plan, start, status, cutover, complete
and before the cutover, at any time,
  pgcutover abort`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "pgcutover",
		Short:         "Move a live PostgreSQL database to a new server",
		Long:          rootLong + "\n" + exitHelp,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	flags := root.PersistentFlags()
	flags.StringVar(&a.flags.config, "config", "pgcutover.yaml", "config file")
	flags.StringVar(&a.flags.old, "old", "", "connection string of the old server, instead of a config file")
	flags.StringVar(&a.flags.new, "new", "", "connection string of the new server, instead of a config file")
	flags.StringVar(&a.flags.name, "name", "move", "name of the move, with --old and --new")
	flags.StringVar(&a.flags.database, "database", "", "only this one of the config's databases")
	flags.BoolVar(&a.flags.json, "json", false, "one JSON object on stdout; text goes to stderr")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		newInit(a), newCheck(a), newPlan(a), newStart(a), newStatus(a), withPlans(a, newWarm(a)), newAnalyze(a),
		newSequences(a), newCutover(a), newRollback(a), newWatchdog(a), newResume(a), newDoctor(a), newAbort(a), newComplete(a), newProbe(a), newDemo(a),
	)
	return root
}

// noArgs refuses arguments as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%s takes no arguments, got %q", cmd.Name(), args)}
	}
	return nil
}

// command fills in what all commands have in common.
func command(use, short, long, example string, runE func(context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long + "\n" + exitHelp, Example: example, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runE(cmd.Context()) },
	}
}
