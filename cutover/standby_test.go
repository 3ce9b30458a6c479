package cutover_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestStandby gives the address of a standby in place of its primary's: the move looks
// ready there, and nothing can be written.
func TestStandby(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		c := pgtest.Cluster(t, pgserver.Options{Major: pair.New})
		primary, err := pg.Open(t.Context(), pg.Options{URL: pgtest.Database(t, pgtest.Server(t, pair.Old)), Side: pg.Old})
		if err != nil {
			t.Fatal(err)
		}
		defer primary.Close()
		pgtest.BecomeStandby(t, c)
		standby, err := pg.Open(t.Context(), pg.Options{URL: c.URL("postgres"), Side: pg.New})
		if err != nil {
			t.Fatal(err)
		}
		defer standby.Close()
		err = cutover.Primaries(t.Context(), &cutover.Cutover{Old: primary, New: standby})
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), "the new server") || !strings.Contains(hint.Of(err), "new.url") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		if err := cutover.Primaries(t.Context(), &cutover.Cutover{Old: primary, New: primary}); err != nil {
			t.Error(err)
		}
	})
}
