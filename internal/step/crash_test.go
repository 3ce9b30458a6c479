package step_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

// attend does what an operator does with a run that was left behind: forward
// when it is past the point of no return, or was wanted forward; else back. The
// final step's outcome is looked up before anything is undone.
func attend(t tb, w *world, forward bool) error {
	t.Helper()
	r := w.runner(t)
	ctx := context.Background()
	happened := r.Log.PastFinal()
	if r.Log.Undecided() {
		happened = w.effects[w.steps[w.final()].Name]
	}
	switch {
	case r.Log.GoingBack():
		return r.Undo(ctx)
	case happened || forward:
		return r.Run(ctx, ctx)
	default:
		return r.Undo(ctx)
	}
}

// Processes crash before and after every record and around every effect, again
// and again. The journal can always be replayed, and whoever attends to the run
// brings it to one of two ends: all of it done, or all of it undone.
func TestCrashAnywhereThenResume(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		forward := rapid.Bool().Draw(t, "forward")
		failing := rapid.IntRange(-1, len(w.steps)-1).Draw(t, "fails")
		left := 0 // points until the crash
		visit := func(point string) {
			if left == 0 {
				panic(crash{point})
			}
			left--
		}
		store := &fragile{
			before: func(int) error { visit("before a record"); return nil },
			after:  func(int) error { visit("after a record"); return nil },
		}
		w.store = store
		failed := false
		w.at = func(_ context.Context, p string) error {
			visit(p)
			if failing >= 0 && failing <= w.final() && p == "do "+w.steps[failing].Name && !failed {
				failed = true
				return errBroken
			}
			return nil
		}
		crashes := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 4).Draw(t, "points until each crash")
		start := func() error { return w.run(t) }
		for _, left = range crashes {
			if _, crashed := process(start); !crashed {
				break
			}
			start = func() error { return attend(t, w, forward) }
		}
		left = -1
		err := attend(t, w, forward)
		if u := (*step.Unfinished)(nil); errors.As(err, &u) {
			// The final step failed in a process that found it undecided: it is
			// attended to once more. It fails only once.
			if !u.Undecided || failing != w.final() {
				t.Fatalf("unfinished for no reason: %v", err)
			}
			err = attend(t, w, forward)
		}
		switch l := w.log(t); {
		case l.Done():
			if err != nil {
				t.Fatalf("all done, yet: %v", err)
			}
			w.whole(t)
			if len(w.undos()) > 0 {
				t.Fatalf("done although something was undone: %v", w.trail)
			}
		default:
			if err != nil {
				requires[*step.Aborted](t, err)
			}
			w.clean(t)
			if f := w.final(); f < len(w.steps) && w.effects[w.steps[f].Name] && w.steps[f].Undo == nil {
				t.Fatalf("undone although the final step happened: %v", w.trail)
			}
			if forward && !l.GoingBack() && err == nil {
				t.Fatalf("neither done nor undone: %v", events(l))
			}
		}
	})
}

// A crash at every single point of one list, by enumeration.
func TestCrashAtEveryPointOfTheCutover(t *testing.T) {
	for n := 0; ; n++ {
		w := newWorld(cutover())
		left := n
		visit := func() {
			if left == 0 {
				panic(crash{})
			}
			left--
		}
		w.store = &fragile{
			before: func(int) error { visit(); return nil },
			after:  func(int) error { visit(); return nil },
		}
		w.at = func(context.Context, string) error { visit(); return nil }
		_, crashed := process(func() error { return w.run(t) })
		left = -1
		if !crashed {
			if n < 2*len(w.steps) {
				t.Fatalf("only %d points to crash at", n)
			}
			return
		}
		before := w.log(t)
		resumed := slices.Clone(w.trail)
		if err := attend(t, w, true); err != nil {
			t.Fatalf("resuming after a crash at point %d (%v): %v", n, resumed, err)
		}
		w.whole(t)
		for _, s := range w.steps {
			switch want := before.State(s.Name); {
			case want == journal.Succeeded && w.did[s.Name] != 1:
				t.Fatalf("crash at point %d: %s had succeeded and was redone", n, s.Name)
			case w.did[s.Name] > 2:
				t.Fatalf("crash at point %d: %s was done %d times", n, s.Name, w.did[s.Name])
			}
		}
	}
}

// A step marked Always is done again by every process that has something left
// to do, and not when all is done.
func TestAlwaysIsRedoneInANewProcess(t *testing.T) {
	shape := cutover()
	shape[0].Always = true
	w := newWorld(shape)
	w.at = failAt("do open", errBroken, true)
	requires[*step.Unfinished](t, w.run(t))
	if err := w.run(t); err != nil {
		t.Fatal(err)
	}
	if err := w.run(t); err != nil {
		t.Fatal(err)
	}
	sameLines(t, "trail", w.trail, []string{
		"do ahead", "do guard", "do freeze", "do decide", "do open", "do ahead", "do open",
	})
}

// When the step that must always be redone fails past the point of no return,
// nothing is undone.
func TestAlwaysThatFailsPastFinal(t *testing.T) {
	for _, end := range []string{"do open", "do decide"} {
		shape := cutover()
		shape[0].Always = true
		w := newWorld(shape)
		w.at = failAt(end, step.ErrUndecided, true)
		requires[*step.Unfinished](t, w.run(t))
		w.at = failAt("do ahead", errBroken, true)
		u := expect[*step.Unfinished](t, w.run(t))
		if u.Step != "ahead" || u.Undecided != (end == "do decide") || len(w.undos()) > 0 {
			t.Fatalf("%+v, trail %v", u, w.trail)
		}
		if err := w.run(t); err != nil {
			t.Fatalf("the next process: %v", err)
		}
	}
}
