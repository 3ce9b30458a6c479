package step_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

func TestRunsEveryStepOnceInOrder(t *testing.T) {
	w := newWorld(cutover())
	store := &fragile{}
	w.store = store
	if err := w.run(t); err != nil {
		t.Fatal(err)
	}
	sameLines(t, "trail", w.trail, []string{"do ahead", "do guard", "do freeze", "do decide", "do open"})
	sameLines(t, "journal", events(w.log(t)), []string{
		"ahead started", "ahead succeeded", "guard started", "guard succeeded", "freeze started",
		"freeze succeeded", "decide started", "decide succeeded", "open started", "open succeeded",
	})
	// One write between two steps: the pause is measured in milliseconds.
	if store.n != len(w.steps)+1 {
		t.Fatalf("%d writes for %d steps", store.n, len(w.steps))
	}
	var facts map[string]string
	if found, err := w.log(t).Facts("freeze", &facts); err != nil || !found || facts["of"] != "freeze" {
		t.Fatalf("facts: %t, %v, %v", found, facts, err)
	}
	// Running it again does nothing.
	if err := w.run(t); err != nil || len(w.trail) != 5 {
		t.Fatalf("run again: %v, trail %v", err, w.trail)
	}
}

// Fail any list at any step, before or after it had its effect: before the
// point of no return everything is undone, in order and once; after it nothing
// is, and another run finishes.
func TestFailAtEveryStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		i := rapid.IntRange(0, len(w.steps)-1).Draw(t, "fails")
		point := rapid.SampledFrom([]string{"do ", "did "}).Draw(t, "when") + w.steps[i].Name
		cause := errBroken
		if i == w.final() && strings.HasPrefix(point, "did") {
			cause = errors.Join(step.ErrUndecided, errBroken) // it has happened: a no would be a lie
		}
		w.at = failAt(point, cause, true)
		err := w.run(t)
		if !errors.Is(err, errBroken) {
			t.Fatalf("the cause is lost: %v", err)
		}
		if i > w.final() || errors.Is(cause, step.ErrUndecided) {
			u := expect[*step.Unfinished](t, err)
			if u.Step != w.steps[i].Name || u.Undecided != (i == w.final()) {
				t.Fatalf("wrong report: %+v", u)
			}
			if len(w.undos()) > 0 {
				t.Fatalf("undone past the point of no return: %v", w.trail)
			}
			if err := w.run(t); err != nil {
				t.Fatalf("running again: %v", err)
			}
			w.whole(t)
			return
		}
		a := expect[*step.Aborted](t, err)
		if a.Step != w.steps[i].Name || !a.Undone || a.UndoErr != nil {
			t.Fatalf("wrong report: %+v", a)
		}
		if want := w.undoOrder(i); !slices.Equal(w.undos(), want) {
			t.Fatalf("undone in the order %v, want %v", w.undos(), want)
		}
		w.clean(t)
		if err := w.run(t); !errors.Is(err, step.ErrGoingBack) {
			t.Fatalf("an undone run can be run again: %v", err)
		}
	})
}

// A failing Undo does not keep the others from being undone, and is tried again
// by Undo.
func TestUndoGoesOnWhenOneFails(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		i := rapid.IntRange(0, min(w.final(), len(w.steps)-1)).Draw(t, "fails")
		j := rapid.IntRange(0, i).Draw(t, "undo fails")
		if w.steps[j].Undo == nil {
			return
		}
		stuck := errors.New("stuck")
		w.at = func(_ context.Context, p string) error {
			switch p {
			case "do " + w.steps[i].Name:
				return errBroken
			case "undo " + w.steps[j].Name:
				return stuck
			}
			return nil
		}
		err := w.run(t)
		a := expect[*step.Aborted](t, err)
		if a.Undone || !errors.Is(err, stuck) || !errors.Is(err, errBroken) {
			t.Fatalf("wrong report: %+v", a)
		}
		if want := w.undoOrder(i); !slices.Equal(w.undos(), want) {
			t.Fatalf("undone in the order %v, want %v", w.undos(), want)
		}
		if err := w.runner(t).Undo(t.Context()); !errors.Is(err, stuck) {
			t.Fatalf("undo that fails again: %v", err)
		}
		w.at = quiet
		before := w.undid[w.steps[j].Name]
		if err := w.runner(t).Undo(t.Context()); err != nil {
			t.Fatalf("undo that succeeds: %v", err)
		}
		if w.undid[w.steps[j].Name] != before+1 {
			t.Fatalf("the undo of %s was not repeated", w.steps[j].Name)
		}
		w.clean(t)
		for _, s := range w.steps {
			if s.Name != w.steps[j].Name && w.undid[s.Name] > 1 {
				t.Fatalf("%s was undone again", s.Name)
			}
		}
		if err := w.runner(t).Undo(t.Context()); err != nil || w.undid[w.steps[j].Name] != before+1 {
			t.Fatalf("undo with nothing left to undo: %v", err)
		}
	})
}

// What the error of a final step means.
func TestFinalStep(t *testing.T) {
	ended := func(ctx context.Context, cancel context.CancelCauseFunc, then error) error {
		cancel(errBroken)
		<-ctx.Done()
		if then != nil {
			return then
		}
		return ctx.Err()
	}
	for name, c := range map[string]struct {
		do        func(context.Context, context.CancelCauseFunc) error
		undecided bool
	}{
		"plain error":             {func(context.Context, context.CancelCauseFunc) error { return errBroken }, false},
		"refuted":                 {func(context.Context, context.CancelCauseFunc) error { return errors.Join(step.ErrRefuted, errBroken) }, false},
		"undecided":               {func(context.Context, context.CancelCauseFunc) error { return errors.Join(step.ErrUndecided, errBroken) }, true},
		"stopped":                 {func(x context.Context, c context.CancelCauseFunc) error { return ended(x, c, nil) }, true},
		"stopped, another error":  {func(x context.Context, c context.CancelCauseFunc) error { return ended(x, c, errors.New("reset")) }, true},
		"stopped, yet refuted":    {func(x context.Context, c context.CancelCauseFunc) error { return ended(x, c, step.ErrRefuted) }, false},
		"stopped, says undecided": {func(x context.Context, c context.CancelCauseFunc) error { return ended(x, c, step.ErrUndecided) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(cutover())
			hard, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w.at = func(ctx context.Context, p string) error {
				if p == "do decide" {
					return c.do(ctx, cancel)
				}
				return nil
			}
			err := w.runner(t).Run(t.Context(), hard)
			if !errors.Is(err, errBroken) {
				t.Fatalf("the cause is lost: %v", err)
			}
			l := w.log(t)
			if !c.undecided {
				if a := expect[*step.Aborted](t, err); !a.Undone || len(w.undos()) != 3 || l.State("decide") != journal.Undone {
					t.Fatalf("not undone: %v, trail %v, journal %v", err, w.trail, events(l))
				}
				if !slices.Contains(events(l), "decide refuted") {
					t.Fatalf("not refuted: %v", events(l))
				}
				return
			}
			u := expect[*step.Unfinished](t, err)
			if !u.Undecided || !errors.Is(err, step.ErrUndecided) || len(w.undos()) > 0 || !l.Undecided() {
				t.Fatalf("not left alone: %+v, trail %v, journal %v", u, w.trail, events(l))
			}
			w.at = quiet
			if err := w.run(t); err != nil || !w.effects["open"] {
				t.Fatalf("going on: %v, trail %v", err, w.trail)
			}
		})
	}
}

// After an undecided end, a plain error of the next process's final step is no
// proof that the first process's did not happen.
func TestResumedFinalStepNeedsProof(t *testing.T) {
	undecided := func(t *testing.T) *world {
		w := newWorld(cutover())
		w.at = failAt("did decide", step.ErrUndecided, true)
		requires[*step.Unfinished](t, w.run(t))
		return w
	}
	t.Run("plain error", func(t *testing.T) {
		w := undecided(t)
		w.at = failAt("do decide", errBroken, true)
		u := expect[*step.Unfinished](t, w.run(t))
		if !u.Undecided || !errors.Is(u, errBroken) || len(w.undos()) > 0 {
			t.Fatalf("%+v, trail %v", u, w.trail)
		}
		if err := w.run(t); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("refuted", func(t *testing.T) {
		w := undecided(t)
		w.at = failAt("do decide", step.ErrRefuted, true)
		requires[*step.Aborted](t, w.run(t))
		if len(w.undos()) != 3 {
			t.Fatalf("trail %v", w.trail)
		}
	})
	t.Run("veto is too late", func(t *testing.T) {
		w := undecided(t)
		r := w.runner(t)
		r.Hook = func(context.Context, string, step.Step) error { return errBroken }
		if err := r.Run(t.Context(), t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUndoOfAnInterruptedRun(t *testing.T) {
	t.Run("past final", func(t *testing.T) {
		w := newWorld(cutover())
		w.at = failAt("do open", errBroken, false)
		requires[*step.Unfinished](t, w.run(t))
		if err := w.runner(t).Undo(t.Context()); !errors.Is(err, step.ErrPastFinal) || len(w.undos()) > 0 {
			t.Fatalf("%v, trail %v", err, w.trail)
		}
	})
	t.Run("undecided, refuted by the caller", func(t *testing.T) {
		w := newWorld(cutover())
		w.at = failAt("do decide", step.ErrUndecided, false)
		requires[*step.Unfinished](t, w.run(t))
		if err := w.runner(t).Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameLines(t, "undos", w.undos(), []string{"undo freeze", "undo ahead", "undo guard"})
		sameLines(t, "journal", events(w.log(t))[8:], []string{
			"decide refuted", "decide undo_started", "decide undone", "freeze undo_started", "freeze undone",
			"ahead undo_started", "ahead undone", "guard undo_started", "guard undone",
		})
	})
	t.Run("nothing begun", func(t *testing.T) {
		w := newWorld(cutover())
		if err := w.runner(t).Undo(t.Context()); err != nil || w.log(t).Begun() {
			t.Fatalf("%v, journal %v", err, events(w.log(t)))
		}
	})
	t.Run("on a cancelled context", func(t *testing.T) {
		w := newWorld(cutover())
		_, crashed := process(func() error {
			w.at = func(_ context.Context, p string) error {
				if p == "did freeze" {
					panic(crash{p})
				}
				return nil
			}
			return w.run(t)
		})
		if !crashed {
			t.Fatal("did not crash")
		}
		w.at = func(ctx context.Context, _ string) error { return ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.runner(t).Undo(ctx); err != nil || len(w.undos()) != 3 {
			t.Fatalf("%v, trail %v", err, w.trail)
		}
	})
}

// A list that is kept is left as it is when it fails, and goes on from there.
func TestKeep(t *testing.T) {
	shape := []step.Step{{Name: "schema", Undo: undoable}, {Name: "copy", Undo: undoable}, {Name: "index", Undo: undoable}}
	w := newWorld(shape)
	w.at = failAt("do copy", errBroken, true)
	keep := func() error {
		r := w.runner(t)
		r.Keep = true
		return r.Run(t.Context(), t.Context())
	}
	err := keep()
	s := expect[*step.Stopped](t, err)
	if s.Step != "copy" || !errors.Is(err, errBroken) || err.Error() != "step copy: broken" {
		t.Fatalf("wrong report: %+v", s)
	}
	if err := keep(); err != nil {
		t.Fatal(err)
	}
	sameLines(t, "trail", w.trail, []string{"do schema", "do copy", "do copy", "do index"})

	w = newWorld(cutover())
	if err := keep(); err == nil || len(w.trail) > 0 {
		t.Fatalf("a list with a final step is kept: %v", err)
	}
}

// In a rerunnable list an undone run starts again from its first step.
func TestRerunnable(t *testing.T) {
	w := newWorld([]step.Step{{Name: "schema", Undo: undoable}, {Name: "copy", Undo: undoable}})
	w.at = failAt("do copy", errBroken, true)
	r := func() *step.Runner {
		l, err := journal.Open(t.Context(), w.store, journal.Spec{List: "start", Steps: step.Journal(w.steps), Rerunnable: true})
		if err != nil {
			t.Fatal(err)
		}
		return &step.Runner{Log: l, Steps: w.steps}
	}
	requires[*step.Aborted](t, r().Run(t.Context(), t.Context()))
	if err := r().Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, "trail", w.trail, []string{
		"do schema", "do copy", "undo copy", "undo schema", "do schema", "do copy",
	})
}

func TestRunnerRefusesWhatItCannotRun(t *testing.T) {
	w := newWorld(cutover())
	r := w.runner(t)
	r.Steps = r.Steps[:2]
	if err := r.Run(t.Context(), t.Context()); err == nil || len(w.trail) > 0 {
		t.Errorf("runs other steps than those of its journal: %v", err)
	}
	r = w.runner(t)
	r.Steps = slices.Clone(r.Steps)
	r.Steps[0].Bound = 0
	for _, err := range []error{r.Run(t.Context(), t.Context()), r.Undo(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), `step "ahead" has no bound`) {
			t.Errorf("runs a list that is wrong: %v", err)
		}
	}
}

func TestCheck(t *testing.T) {
	do := func(context.Context) (any, error) { return nil, nil }
	good := step.Step{Name: "a", Do: do, Bound: 1}
	change := func(f func(*step.Step)) []step.Step {
		s := good
		f(&s)
		return []step.Step{s}
	}
	if err := step.Check([]step.Step{good}); err != nil {
		t.Fatal(err)
	}
	final := func(name string) step.Step { return step.Step{Name: name, Do: do, Bound: 1, Final: true} }
	for want, steps := range map[string][]step.Step{
		"no steps":             nil,
		"step 1 has no name":   change(func(s *step.Step) { s.Name = "" }),
		"twice":                {good, good},
		"does nothing":         change(func(s *step.Step) { s.Do = nil }),
		"has no bound":         change(func(s *step.Step) { s.Bound = 0 }),
		"negative bound":       change(func(s *step.Step) { s.UndoBound = -1 }),
		"both final":           {final("a"), final("b")},
		"neither undone last":  change(func(s *step.Step) { s.Final, s.UndoLast = true, true }),
		"nor always repeated ": change(func(s *step.Step) { s.Final, s.Always = true, true }),
	} {
		if err := step.Check(steps); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
