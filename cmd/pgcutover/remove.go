package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
)

// removed is what abort and complete print with --json.
type removed struct {
	Move      string   `json:"move"`
	Leftovers []string `json:"leftovers"` // always empty: anything left is an error
}

func newAbort(a *app) *cobra.Command {
	var (
		yes bool
		o   upgrade.RemoveOptions
	)
	cmd := command("abort", "Before a cutover: remove all that the move made, and prove it",
		"abort drops the stream and, on new, the schema and data that the move brought there. Then it\nlooks on both servers for anything left. Old is as it was before start.",
		"  pgcutover abort\n  pgcutover abort --old-only     # the new server is gone for good",
		func(ctx context.Context) error {
			question := "Drop the copied schema and data on new, and everything of the move on both servers?"
			if o.OldOnly {
				question = "Remove everything of the move on old, and leave new as it is? Old goes on taking writes: if new serves, keep every client away from old."
			}
			if err := a.confirm(yes, question); err != nil {
				return err
			}
			which := both
			if o.OldOnly {
				which = oldOnly
			}
			one := func(m *upgrade.Move) error { return a.removed(m, m.Abort(ctx, a.hard, o)) }
			if which != both {
				return a.withServers(ctx, which, one)
			}
			return a.withMoves(ctx, one, func(c *upgrade.Cluster) error {
				return a.removeAll(c, c.Abort(ctx, a.hard, o))
			})
		})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.OldOnly, "old-only", false, "clean the old server only, when new cannot be reached any more")
	cmd.Flags().BoolVar(&o.Force, "force", false, "also drop objects on new that neither the move made nor old has")
	return cmd
}

func newComplete(a *app) *cobra.Command {
	var (
		yes bool
		o   upgrade.RemoveOptions
	)
	cmd := command("complete", "After a cutover: remove all that the move made, and prove it",
		"complete removes everything of the move from both servers and looks for anything left. The old\nserver is an ordinary one afterwards and takes writes again, unless --keep-fence is given.",
		"  pgcutover complete\n  pgcutover complete --keep-fence\n  pgcutover complete --new-only     # the old server is gone for good",
		func(ctx context.Context) error {
			question := "Remove everything of the move? The old server will take writes again (--keep-fence prevents that): no client may have its address any more, not even as a second host."
			if o.NewOnly {
				question = "Remove everything of the move on new, without looking at old?"
			}
			if o.KeepFence {
				question = "Remove everything of the move but the fence on the old server?"
			}
			if err := a.confirm(yes, question); err != nil {
				return err
			}
			which := both
			if o.NewOnly {
				which = newOnly
			}
			one := func(m *upgrade.Move) error { return a.removed(m, m.Complete(ctx, a.hard, o)) }
			if which != both {
				return a.withServers(ctx, which, one)
			}
			return a.withMoves(ctx, one, func(c *upgrade.Cluster) error {
				return a.removeAll(c, c.Complete(ctx, a.hard, o))
			})
		})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.NewOnly, "new-only", false, "clean the new server only, when old cannot be reached any more")
	cmd.Flags().BoolVar(&o.KeepFence, "keep-fence", false, "let the old server go on refusing writes")
	return cmd
}

func (a *app) removed(m *upgrade.Move, err error) error {
	if err != nil {
		return err
	}
	return a.print(removed{Move: m.Options.Name, Leftovers: []string{}}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Done: nothing of move %q is left.\n", m.Options.Name)
		return err
	})
}
