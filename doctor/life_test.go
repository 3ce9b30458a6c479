package doctor_test

import (
	"testing"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/upgrade"
)

// A move that is as it should be is no news, in whichever phase.
func TestHealthyMoveIsSilent(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := opened(t, pair)
		m.silent(t, "before start")
		if _, err := m.upgrade.Start(t.Context(), t.Context(), "prepare"); err != nil {
			t.Fatal(err)
		}
		m.silent(t, "after the first phase")
		if _, err := m.upgrade.Start(t.Context(), t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		m.silent(t, "after start")
		r := m.examined(t, doctor.Options{})
		if r.Move != m.name || r.Serving != "old" || !r.Healthy || len(r.Servers) != 2 || !*r.Servers[0].Writable || *r.Servers[1].Writable || r.Servers[1].State != "live" {
			t.Errorf("the report says %+v", r)
		}
		m.turn(t, state.Forward)
		m.silent(t, "after the cutover")
		if r := m.examined(t, doctor.Options{}); r.Serving != "new" || !r.Decided || *r.Servers[0].Writable || !*r.Servers[1].Writable {
			t.Errorf("the report says %+v", r)
		}
		m.turn(t, state.Back)
		m.silent(t, "after the rollback")
		m.turn(t, state.Forward)
		m.silent(t, "after the second cutover")
		if err := m.upgrade.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		m.silent(t, "after complete")
	})
}
