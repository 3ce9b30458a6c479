package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newResume(a *app) *cobra.Command {
	var oldLost, newLost, yes bool
	cmd := command("resume", "Finish what a crash interrupted, forward or back",
		"resume finds out whether the interrupted cutover or rollback was decided. If so it does the rest;\nif not it undoes everything, and the writes stay where they were. It may be run from any machine.\nWhen one server will never come back, --old-is-lost and --new-is-lost open the other one: they say\nfirst what is lost with it, and ask.",
		"  pgcutover resume\n  pgcutover resume --old-is-lost     # old will never come back: new takes the writes\n  pgcutover resume --new-is-lost     # new will never come back: old takes the writes again",
		func(ctx context.Context) error {
			switch {
			case oldLost:
				return a.withoutOld(ctx, yes)
			case newLost:
				return a.withoutNew(ctx, yes)
			}
			return upgrade.IfGoneForGood(a.resume(ctx))
		})
	cmd.Flags().BoolVar(&oldLost, "old-is-lost", false, "open new without asking old, which is gone for good; unsafe if old comes back")
	cmd.Flags().BoolVar(&newLost, "new-is-lost", false, "open old without asking new, which is gone for good; unsafe if new comes back")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask (only with --old-is-lost and --new-is-lost)")
	cmd.MarkFlagsMutuallyExclusive("old-is-lost", "new-is-lost")
	return cmd
}

func (a *app) resume(ctx context.Context) error {
	return a.withMoves(ctx, func(m *upgrade.Move) error {
		c, err := m.NewCutover(ctx)
		if err != nil {
			return err
		}
		outcome, err := c.Resume(ctx, a.hard)
		if err != nil {
			return err
		}
		serving := c.Direction.Source()
		text := "Undone: the %s server takes the writes, as before.\n"
		if outcome == cutover.Finished {
			serving = c.Direction.Target()
			text = "Finished: the %s server takes the writes. To see what is next: pgcutover status\n"
		}
		result := cutoverResult{Move: m.Options.Name, Attempt: c.Attempt(), Serving: string(serving), Direction: string(outcome)}
		return a.print(result, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, text, serving)
			return err
		})
	}, func(c *upgrade.Cluster) error { return a.resumeAll(ctx, c) })
}

// withoutOld opens new although old cannot be asked.
func (a *app) withoutOld(ctx context.Context, yes bool) error {
	return a.withServers(ctx, newOnly, func(m *upgrade.Move) error {
		remains, err := m.Remains(ctx)
		if err != nil {
			return err
		}
		a.say("As new (%s) sees it: %s.", m.New.Address(), remains)
		if err := a.confirm(yes, "Is the old server gone for good, so that it can never take a write again? Then new takes the writes."); err != nil {
			return err
		}
		if err := m.OpenWithoutOld(ctx); err != nil {
			return hint.With(err, "the new server may be open already; run: pgcutover resume --old-is-lost")
		}
		result := cutoverResult{Move: m.Options.Name, Attempt: remains.Attempt, Serving: string(pg.New), Direction: string(cutover.Finished)}
		return a.print(result, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "Done: the new server (%s) takes the writes. Compare its sequences with what your clients know.\nTo remove what is left of the move: pgcutover complete --new-only\n", m.New.Address())
			return err
		})
	})
}
