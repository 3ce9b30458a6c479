package main

import (
	"context"
	"fmt"
	"io"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/upgrade"
)

// givenUp is what resume --new-is-lost prints with --json.
type givenUp struct {
	cutoverResult
	Remains upgrade.OldRemains `json:"remains"` // what old had when it was asked
	Raised  []sequences.Change `json:"sequences_raised"`
}

// withoutNew opens old although new cannot be asked.
func (a *app) withoutNew(ctx context.Context, yes bool) error {
	return a.withServers(ctx, oldOnly, func(m *upgrade.Move) error {
		remains, err := m.OldRemains(ctx)
		if err != nil {
			return err
		}
		a.say("As old (%s) sees it: %s.", m.Old.Address(), remains)
		a.sayNotRaised(remains)
		a.say("Should new come back and take writes, both servers do.")
		if err := a.confirm(yes, "Is the new server gone for good, so that it can never take a write again? Then old takes the writes."); err != nil {
			return err
		}
		done, err := m.OpenWithoutNew(ctx, a.hard, remains)
		if err != nil {
			return hint.With(err, "the old server may be open already; run: pgcutover resume --new-is-lost")
		}
		result := givenUp{
			cutoverResult: cutoverResult{Move: m.Options.Name, Attempt: done.Attempt, Serving: string(pg.Old), Direction: string(cutover.Undone)},
			Remains:       remains, Raised: done.Raised,
		}
		return a.print(result, func(w io.Writer) error {
			for _, c := range done.Raised {
				if _, err := fmt.Fprintf(w, "sequence %s: next %d\n", c.Ident(), c.Value); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintf(w, "Done: the old server (%s) takes the writes.\nTo remove what is left of the move: pgcutover abort --old-only\n", m.Old.Address())
			return err
		})
	})
}

// sayNotRaised names the sequences that the operator has to set.
func (a *app) sayNotRaised(r upgrade.OldRemains) {
	if len(r.NotRaised) == 0 {
		return
	}
	a.say("Nobody can say here how far new used these sequences: raise each past what your clients know, before\nyou go on (set default_transaction_read_only = off; select setval('<sequence>', <value>);):")
	for _, p := range r.NotRaised {
		a.say("  %s: %s", p.Ident(), p.Text)
	}
}
