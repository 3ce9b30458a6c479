package cutover_test

import (
	"errors"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

// The transaction that the freeze gave up on also holds its table's trigger. The
// undo does not wait for it for ever: what it leaves there is open, the cutover
// counts as undone, and the next one takes it as it is.
func TestUndoBesideAnOpenTransaction(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.Options.Cutover.Attempts = 2
		singles := m.singles(t)

		c := m.cutover(t)
		var long *holder
		c.Observer = &onDone{step: "lease", call: func() { long = hold(t, m.oldURL, insertSingleSQL) }}
		err := c.Run(t.Context(), t.Context())
		if aborted := outcome[*step.Aborted](t, err); !aborted.Undone || !errors.Is(err, publisher.ErrNotFrozen) {
			t.Fatalf("%v, want freeze to give up and everything undone", err)
		}
		singles.more(t, 20) // into the very table whose trigger was left
		m.writes(t, pg.Old)
		long.end(t)
		singles.end(t)

		m.Options.Cutover.Attempts = settings().Attempts
		if err := m.cutover(t).Run(t.Context(), t.Context()); err != nil {
			t.Fatal(err)
		}
		m.writes(t, pg.New)
	})
}
