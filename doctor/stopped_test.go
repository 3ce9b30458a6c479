package doctor_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
)

// stopper ends a run, without an undo, when a step begins.
type stopper struct {
	step.NopObserver
	at   string
	stop func()
}

func (s stopper) StepStarted(begun step.Step, _, _ int) {
	if begun.Name == s.at {
		s.stop()
	}
}

// stopAt runs a cutover that is stopped, as by two signals, when a step begins.
func (m *move) stopAt(t *testing.T, name string) {
	t.Helper()
	c, err := m.upgrade.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	c.Gates = nil
	c.Observer = stopper{at: name, stop: func() { cancel(errors.New("stopped")) }}
	if err := c.Run(ctx, ctx); err == nil {
		t.Fatalf("the cutover was not stopped at %s", name)
	}
}

func (m *move) resume(t *testing.T) {
	t.Helper()
	c, err := m.upgrade.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if _, err := c.Resume(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// A cutover that was stopped before its decision has undone everything, and
// doctor has nothing to say. One that was stopped after it is resume's: doctor
// says so, touches nothing, and has nothing to say when it is resumed.
func TestStoppedCutover(t *testing.T) {
	t.Parallel()
	for name, decided := range map[string]bool{"decide": false, "follow": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := started(t, pgtest.Pairs(t)[0])
			m.stopAt(t, name)
			if !decided {
				m.silent(t, "after the undo")
				return
			}
			r := m.examined(t, doctor.Options{Fix: true})
			expect(t, r,
				want{"cutover.interrupted", preflight.Both, blocker, doctor.This, false, "attempt", []string{"follow failed"}},
				want{"fence.leftover-trigger", "new", warning, doctor.This, false, "_fence", nil},
				want{"slot.unfinished", "new", warning, doctor.This, false, "pgcutover_" + m.name, nil},
				want{"subscription.unfinished", "old", warning, doctor.This, false, "pgcutover_" + m.name, []string{"disabled; it has no slot"}})
			if len(r.Mended) != 0 {
				t.Errorf("mended: %+v", r.Mended)
			}
			m.resume(t)
			m.silent(t, "after resume")
		})
	}
}
