package step_test

import (
	"context"
	"slices"
	"testing"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

// behind is a list whose middle waits for no journal.
func behind() []step.Step {
	return []step.Step{
		{Name: "ahead", Undo: undoable},
		{Name: "lease", Undo: undoable},
		{Name: "freeze", Undo: undoable, Behind: true},
		{Name: "reverse", Undo: undoable, Behind: true},
		{Name: "decide", Final: true, Behind: true},
		{Name: "open", Behind: true},
		{Name: "follow"},
	}
}

// counting is a store that counts the writes.
type counting struct {
	journal.Store
	writes int
}

func (c *counting) Append(ctx context.Context, records ...journal.Record) error {
	c.writes++
	return c.Store.Append(ctx, records...)
}

func TestBehindWritesNothingMeanwhile(t *testing.T) {
	w := newWorld(behind())
	store := &counting{Store: w.store}
	w.store = store
	writes := map[string]int{}
	w.at = func(_ context.Context, point string) error {
		if point == "do freeze" || point == "did decide" {
			writes[point] = store.writes
		}
		return nil
	}
	if err := w.run(t); err != nil {
		t.Fatal(err)
	}
	if writes["do freeze"] != writes["did decide"] || writes["do freeze"] != 2 {
		t.Errorf("writes to the journal: %v", writes)
	}
	w.whole(t)
	sameLines(t, "journal", events(w.log(t))[:4], []string{"ahead started", "ahead succeeded", "lease started", "lease succeeded"})
}

// A process that dies at any point leaves a run that ends: forward when the
// final step has had its effect, else with nothing left behind.
func TestBehindCrashes(t *testing.T) {
	for _, s := range behind() {
		for _, point := range []string{"do " + s.Name, "did " + s.Name} {
			t.Run(point, func(t *testing.T) {
				w := newWorld(behind())
				w.at = func(_ context.Context, p string) error {
					if p == point {
						panic(crash{p})
					}
					return nil
				}
				if _, crashed := process(func() error { return w.run(t) }); !crashed {
					t.Fatal("did not crash")
				}
				w.at = quiet
				r := w.runner(t)
				if !w.effects["decide"] {
					if err := r.Undo(t.Context()); err != nil {
						t.Fatal(err)
					}
					w.clean(t)
					return
				}
				if err := r.Log.Settle(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				if err := r.Run(t.Context(), t.Context()); err != nil {
					t.Fatal(err)
				}
				w.whole(t)
				if w.did["decide"] != 1 || w.did["freeze"] != 1 {
					t.Errorf("what had happened was repeated: %v", w.trail)
				}
			})
		}
	}
}

// In the process that fails nothing is undone that it did not begin.
func TestBehindFails(t *testing.T) {
	w := newWorld(behind())
	w.at = failAt("do freeze", errBroken, false)
	aborted := expect[*step.Aborted](t, w.run(t))
	if !aborted.Undone || aborted.Step != "freeze" {
		t.Fatalf("%+v", aborted)
	}
	sameLines(t, "undos", w.undos(), []string{"undo freeze", "undo lease", "undo ahead"})
	w.clean(t)

	w = newWorld(behind())
	w.at = failAt("do decide", step.ErrRefuted, false)
	if !expect[*step.Aborted](t, w.run(t)).Undone {
		t.Fatal("not undone")
	}
	w.clean(t)
	if log := events(w.log(t)); !slices.Contains(log, "decide refuted") || !slices.Contains(log, "freeze undone") {
		t.Errorf("journal %v", log)
	}

	w = newWorld(behind())
	w.at = failAt("do decide", step.ErrUndecided, false)
	if !expect[*step.Unfinished](t, w.run(t)).Undecided || len(w.undos()) != 0 {
		t.Errorf("trail %v", w.trail)
	}
	if !w.log(t).Undecided() {
		t.Errorf("journal %v", events(w.log(t)))
	}
}
