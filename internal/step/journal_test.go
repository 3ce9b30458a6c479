package step_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

var errDisk = errors.New("disk full")

// The journal fails at any write, once or from then on, whether or not the
// write landed. Before the point of no return that undoes the run, although it
// cannot be recorded; after it the run goes on to its end.
func TestJournalFailsAtEveryWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		at := rapid.IntRange(0, len(w.steps)).Draw(t, "write")
		forever := rapid.Bool().Draw(t, "forever")
		fail := func(n int) error {
			if n == at || (forever && n > at) {
				return errDisk
			}
			return nil
		}
		store := &fragile{}
		if rapid.Bool().Draw(t, "landed") {
			store.after = fail
		} else {
			store.before = fail
		}
		w.store = store
		err := w.run(t)
		store.before, store.after = nil, nil

		// Write number at is the one in front of step at. The one in front of
		// the final step still is before its beginning.
		if at <= w.final() {
			a := expect[*step.Aborted](t, err)
			if !a.Undone || !errors.Is(err, errDisk) || (a.UndoErr != nil) != forever {
				t.Fatalf("wrong report: %+v", a)
			}
			want := w.undoOrder(at)
			if !slices.Equal(w.undos(), want) {
				t.Fatalf("undone in the order %v, want %v", w.undos(), want)
			}
			// What could not be recorded is done again by Undo.
			if l := w.log(t); !l.Undecided() && !l.PastFinal() {
				if err := w.runner(t).Undo(t.Context()); err != nil {
					t.Fatalf("undo with a journal that works again: %v", err)
				}
			} else if !forever || w.effects[w.steps[w.final()].Name] {
				t.Fatalf("a final step that was not done is not refuted: %v", events(l))
			} else if err := w.runner(t).Undo(t.Context()); err != nil {
				t.Fatalf("undo with a journal that works again: %v", err)
			}
			w.clean(t)
			return
		}
		for _, s := range w.steps {
			if w.did[s.Name] != 1 {
				t.Fatalf("%s was done %d times; trail %v", s.Name, w.did[s.Name], w.trail)
			}
		}
		switch {
		case forever:
			if u := expect[*step.Unfinished](t, err); u.Undecided || !errors.Is(err, errDisk) {
				t.Fatalf("wrong report: %+v", u)
			}
		case at == len(w.steps):
			// The last write failed and there is none after it to repair it.
			requires[*step.Unfinished](t, err)
		case err != nil:
			t.Fatalf("all is done and recorded, yet: %v", err)
		}
		if err := w.run(t); err != nil {
			t.Fatalf("running again with a journal that works: %v", err)
		}
		w.whole(t)
	})
}

// slow is a Store that does not answer.
type slow struct{}

func (slow) Append(ctx context.Context, _ ...journal.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func (slow) Load(ctx context.Context, _ string, _ int64) ([]journal.Record, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A journal that does not answer holds the undo up once before it and once
// after it, not at every step: writers may be waiting.
func TestUndoDoesNotWaitForTheJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(cutover())
		switching := &switched{Store: &journal.Memory{}}
		w.store = switching
		var began, undoing time.Time
		w.at = func(_ context.Context, p string) error {
			switch p {
			case "do freeze":
				switching.Store = slow{}
				began = time.Now()
				return errBroken
			case "undid guard":
				undoing = time.Now()
			}
			return nil
		}
		r := w.runner(t)
		r.JournalBound = 2 * time.Second
		a := expect[*step.Aborted](t, r.Run(t.Context(), t.Context()))
		if !a.Undone || len(w.undos()) != 3 {
			t.Fatalf("%+v, trail %v", a, w.trail)
		}
		if took := undoing.Sub(began); took != 2*time.Second {
			t.Errorf("the last undo came %s after the failure", took)
		}
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("the run ended %s after the failure", took)
		}
		want := "step freeze: broken (undone, but not all was recorded: journal write: no end within 2s: " +
			"reading the journal of cutover run 3 after a failed write: context deadline exceeded)"
		if a.Error() != want {
			t.Errorf("got %q", a.Error())
		}
	})
}

// switched is a Store that can be exchanged.
type switched struct{ journal.Store }

// Another process has written to the run: it drives it now.
func TestAnotherProcessTakesOver(t *testing.T) {
	// takeOver makes another process write to the journal at a point.
	takeOver := func(w *world, point string) {
		w.at = func(ctx context.Context, p string) error {
			if p != point {
				return nil
			}
			l, err := journal.Open(ctx, w.store, journal.Spec{List: "cutover", Run: 3, Steps: step.Journal(w.steps)})
			if err != nil {
				return err
			}
			next, _ := l.Next()
			return l.Append(ctx, journal.Record{Step: next, Event: journal.Started, Error: "the other process"})
		}
	}
	t.Run("before final", func(t *testing.T) {
		w := newWorld(cutover())
		takeOver(w, "do guard")
		err := w.run(t)
		requires[*step.Stopped](t, err)
		if !errors.Is(err, journal.ErrConflict) || len(w.undos()) > 0 || w.did["freeze"] > 0 {
			t.Fatalf("%v, trail %v", err, w.trail)
		}
	})
	t.Run("before final, seen while undoing", func(t *testing.T) {
		w := newWorld(cutover())
		takeOver(w, "do guard")
		other := w.at
		w.at = func(ctx context.Context, p string) error {
			if err := other(ctx, p); err != nil {
				return err
			}
			return failAt("do guard", errBroken, false)(ctx, p)
		}
		err := w.run(t)
		requires[*step.Stopped](t, err)
		if !errors.Is(err, journal.ErrConflict) || !errors.Is(err, errBroken) || len(w.undos()) > 0 {
			t.Fatalf("%v, trail %v", err, w.trail)
		}
	})
	t.Run("in the middle of undoing", func(t *testing.T) {
		w := newWorld(cutover())
		w.at = func(ctx context.Context, p string) error {
			switch p {
			case "do decide":
				return errBroken
			case "undo freeze":
				records := []journal.Record{{List: "cutover", Run: 3, Seq: 99}}
				found, err := w.store.Load(ctx, "cutover", 3)
				if err != nil {
					return err
				}
				records[0].Seq = int64(len(found) + 1)
				return w.store.Append(ctx, records...)
			}
			return nil
		}
		a := expect[*step.Aborted](t, w.run(t))
		if a.Undone || !errors.Is(a, journal.ErrConflict) {
			t.Fatalf("%+v", a)
		}
		sameLines(t, "undos", w.undos(), []string{"undo freeze"})
	})
	t.Run("in the final step", func(t *testing.T) {
		w := newWorld(cutover())
		takeOver(w, "do decide")
		err := w.run(t)
		u := expect[*step.Unfinished](t, err)
		if u.Undecided || !errors.Is(err, journal.ErrConflict) || len(w.undos()) > 0 || w.did["open"] > 0 {
			t.Fatalf("%+v, trail %v", u, w.trail)
		}
	})
	t.Run("Undo", func(t *testing.T) {
		w := newWorld(cutover())
		w.at = failAt("do decide", step.ErrUndecided, false)
		requires[*step.Unfinished](t, w.run(t))
		late := w.runner(t)
		w.at = quiet
		if err := w.run(t); err != nil {
			t.Fatal(err)
		}
		if err := late.Undo(t.Context()); !errors.Is(err, journal.ErrConflict) || len(w.undos()) > 0 {
			t.Fatalf("a stale process undoes a run that another finished: %v, trail %v", err, w.trail)
		}
	})
}

// Facts that are not JSON are a failure where it can be undone, and a warning
// where the run must go on.
func TestFactsThatAreNotJSON(t *testing.T) {
	w := newWorld(cutover())
	w.steps[0].Do = func(context.Context) (any, error) { return func() {}, nil }
	if a := expect[*step.Aborted](t, w.run(t)); a.Step != "ahead" || !a.Undone {
		t.Fatalf("%+v", a)
	}
	w = newWorld(cutover())
	w.steps[3].Do = func(context.Context) (any, error) { return func() {}, nil }
	u := expect[*step.Unfinished](t, w.run(t))
	if !w.effects["open"] || u.Undecided {
		t.Fatalf("%+v, trail %v", u, w.trail)
	}
	if err := w.run(t); err != nil {
		t.Fatal(err)
	}
}
