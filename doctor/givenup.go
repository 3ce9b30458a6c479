package doctor

import (
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/preflight"
)

// givenUp tells whether an operator gave one server up, and nothing was decided
// since: such a move can only be ended.
func (e *examination) givenUp() bool {
	return e.promised != 0 && e.promised >= max(e.pos.Forward, e.pos.Back)
}

// givenUpFindings says how such a move is ended, and that the server that was
// given up must not be used should it be back.
func (e *examination) givenUpFindings() []Finding {
	if !e.givenUp() {
		return nil
	}
	serving := e.pos.Serving()
	lost := e.on(serving.Other())
	f := Finding{
		ID: "move.given-up", Severity: preflight.Warning, Server: on(serving), Object: fmt.Sprintf("attempt %d", e.promised), Whose: This,
		Seen: fmt.Sprintf("the %s server was given up (resume --%[1]s-is-lost), and the %s one was opened", lost.side, serving),
		Why:  "Nothing of the move goes on: it can only be ended.",
		Next: "run: pgcutover abort --old-only",
	}
	if serving == pg.New {
		f.Next = "run: pgcutover complete --new-only"
	}
	if lost.kind(e.name) != live {
		return []Finding{f}
	}
	f.Severity, f.Server = preflight.Blocker, preflight.Both
	f.Seen += "; it is back"
	f.Why = fmt.Sprintf("What the %s server has and the other one has not is not carried over by anybody. No client may reach it.", lost.side)
	f.Next = "run: pgcutover status, which says how the move is ended"
	return []Finding{f}
}
