package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newCheck(a *app) *cobra.Command {
	var fix, yes bool
	var grants grantFlags
	cmd := command("check", "Find every reason why the move would fail or surprise",
		"check looks at both servers and changes nothing. Each finding has what was seen, why it\nmatters, the SQL or setting that mends it, and where more is said. Blockers make the exit\nstatus 3. With --fix it carries out those fixes that can be taken back, after showing them and\nasking; abort and complete take them back. --ignore sets findings aside by their ID, as\ncheck.ignore in the config does; what the gates of the cutover look at, they look at all the same.",
		"  pgcutover check\n  pgcutover check --json --old postgres://... --new postgres://...\n  pgcutover check --ignore versions.end-of-life,neighbours.publication\n  pgcutover check --fix",
		func(ctx context.Context) error {
			if asked, err := grants.asked(); err != nil {
				return err
			} else if asked {
				return a.grants(ctx, &grants)
			}
			return a.withMoves(ctx,
				func(m *upgrade.Move) error {
					return a.check(ctx, m.Check, func(report preflight.Report) error { return a.mend(ctx, m, report, yes) }, fix)
				},
				func(c *upgrade.Cluster) error {
					return a.check(ctx, c.Check, func(preflight.Report) error { return onlyOne("--fix") }, fix)
				})
		})
	grants.add(cmd)
	cmd.Flags().BoolVar(&fix, "fix", false, "carry out the fixes that can be taken back")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask (with --fix)")
	cmd.Flags().StringSliceVar(&a.flags.ignore, "ignore", nil, "IDs of findings to set aside")
	return cmd
}

// check runs the checks, mends what it is asked to, and prints what is left.
func (a *app) check(ctx context.Context, look func(context.Context) (preflight.Report, error), mend func(preflight.Report) error, fix bool) error {
	report, err := look(ctx)
	if err != nil {
		return err
	}
	if fix && len(upgrade.Mendable(report.Findings)) > 0 {
		if err := mend(report); err != nil {
			return err
		}
		if report, err = look(ctx); err != nil {
			return err
		}
	}
	if err := a.print(report, report.WriteText); err != nil {
		return err
	}
	if n := len(report.Blockers()); n > 0 {
		return fmt.Errorf("%w: %d", upgrade.ErrBlockers, n)
	}
	return nil
}

// mend shows, asks and carries out the fixes.
func (a *app) mend(ctx context.Context, m *upgrade.Move, report preflight.Report, yes bool) error {
	findings := upgrade.Mendable(report.Findings)
	for _, f := range findings {
		a.say("%s: %s", f.Object, f.Seen)
		a.say("    on %s: %s", serverOf(f), f.Fix)
		a.say("    undone at the end by: %s", f.Undo)
	}
	if err := a.confirm(yes, fmt.Sprintf("Run these %d fixes?", len(findings))); err != nil {
		return err
	}
	done, err := m.Mend(ctx, findings)
	if len(done) > 0 {
		a.say("%d of %d fixes made; abort and complete take them back", len(done), len(findings))
	}
	return err
}

func serverOf(f preflight.Finding) string {
	if f.FixOn != "" {
		return string(f.FixOn)
	}
	return f.Server
}
