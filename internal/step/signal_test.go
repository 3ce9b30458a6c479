package step_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/step"
)

var (
	errSignal = errors.New("interrupted by a signal")
	errAgain  = errors.New("interrupted by a second signal")
)

// The first signal comes at any point of any list: before the point of no
// return it undoes the run, from then on it changes nothing.
func TestSoftCancelAtEveryPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		i := rapid.IntRange(0, len(w.steps)-1).Draw(t, "step")
		point := rapid.SampledFrom([]string{"before-", "do ", "did ", "after-"}).Draw(t, "when") + w.steps[i].Name
		heed := rapid.Bool().Draw(t, "the step heeds its context")
		soft, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		reach := func(ctx context.Context, p string) error {
			if p != point {
				return nil
			}
			cancel(errSignal)
			if heed {
				return ctx.Err()
			}
			return nil
		}
		w.at = reach
		r := w.runner(t)
		r.Hook = func(ctx context.Context, event string, _ step.Step) error { return reach(ctx, event) }
		err := r.Run(soft, context.Background())

		// The run is past cancelling once the final step's Do is entered, and
		// also when the list has no step after the one that was cancelled.
		late := i > w.final() || (i == w.final() && !strings.HasPrefix(point, "before-"))
		lastWord := i == len(w.steps)-1 && !heed && !strings.HasPrefix(point, "before-")
		if late || lastWord {
			if err != nil {
				t.Fatalf("a signal that comes too late stops the run: %v", err)
			}
			w.whole(t)
			return
		}
		a := expect[*step.Aborted](t, err)
		if !a.Undone || !errors.Is(err, errSignal) {
			t.Fatalf("wrong report: %+v", a)
		}
		w.clean(t)
		begun := i
		if w.did[w.steps[i].Name] == 0 && !slices.Contains(events(w.log(t)), w.steps[i].Name+" started") {
			begun = i - 1
		}
		if want := w.undoOrder(begun); !slices.Equal(w.undos(), want) {
			t.Fatalf("undone in the order %v, want %v", w.undos(), want)
		}
	})
}

// The second signal comes at any point: nothing after it is begun. What it
// undoes is as with the first; what is past is left to another run.
func TestHardCancelAtEveryPoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		i := rapid.IntRange(0, len(w.steps)-1).Draw(t, "step")
		point := rapid.SampledFrom([]string{"do ", "did "}).Draw(t, "when") + w.steps[i].Name
		hard, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		w.at = func(ctx context.Context, p string) error {
			if p == point {
				cancel(errAgain)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		err := w.runner(t).Run(context.Background(), hard)
		if !errors.Is(err, errAgain) {
			t.Fatalf("the cause is lost: %v", err)
		}
		if i < w.final() {
			requires[*step.Aborted](t, err)
			w.clean(t)
			return
		}
		u := expect[*step.Unfinished](t, err)
		if u.Step != w.steps[i].Name || u.Undecided != (i == w.final()) || len(w.undos()) > 0 {
			t.Fatalf("wrong report: %+v; trail %v", u, w.trail)
		}
		if i+1 < len(w.steps) && w.did[w.steps[i+1].Name] > 0 {
			t.Fatalf("went on after the second signal: %v", w.trail)
		}
		w.at = quiet
		if err := w.run(t); err != nil {
			t.Fatalf("running again: %v", err)
		}
		w.whole(t)
	})
}

// Between two steps past the point of no return: the success is recorded, the
// next step is not begun.
func TestHardCancelBetweenSteps(t *testing.T) {
	w := newWorld(cutover())
	hard, cancel := context.WithCancelCause(t.Context())
	w.at = func(_ context.Context, p string) error {
		if p == "did decide" {
			cancel(errAgain)
		}
		return nil
	}
	err := w.runner(t).Run(t.Context(), hard)
	u := expect[*step.Unfinished](t, err)
	if u.Step != "open" || u.Undecided || !errors.Is(err, errAgain) || !w.log(t).PastFinal() || w.did["open"] > 0 {
		t.Fatalf("%+v, trail %v", u, w.trail)
	}
	if want := "past the point of no return, step open: interrupted by a second signal"; err.Error() != want {
		t.Fatalf("got %q, want %q", err, want)
	}
}

// A run whose soft context has ended before it begins does nothing.
func TestCancelledBeforeTheFirstStep(t *testing.T) {
	w := newWorld(cutover())
	soft, cancel := context.WithCancelCause(t.Context())
	cancel(errSignal)
	err := w.runner(t).Run(soft, t.Context())
	a := expect[*step.Aborted](t, err)
	if a.Step != "ahead" || !a.Undone || len(w.trail) > 0 || w.log(t).Begun() {
		t.Fatalf("%+v, trail %v, journal %v", a, w.trail, events(w.log(t)))
	}
	if want := "step ahead: interrupted by a signal (undone)"; err.Error() != want {
		t.Fatalf("got %q, want %q", err, want)
	}
}

// Every bound ends what it bounds and says what that was.
func TestBounds(t *testing.T) {
	hang := func(point string) func(context.Context, string) error {
		return func(ctx context.Context, p string) error {
			if p == point {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
	}
	shape := func() []step.Step {
		s := cutover()
		for i := range s {
			s[i].Bound = 10 * time.Second
			s[i].UndoBound = 5 * time.Second
		}
		s[0].UndoBound = 0
		return s
	}
	t.Run("Do", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, began := newWorld(shape()), time.Now()
			w.at = hang("do freeze")
			err := w.run(t)
			if want := "step freeze: no end within 10s (undone)"; err == nil || err.Error() != want {
				t.Fatalf("got %v, want %q", err, want)
			}
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
				t.Fatalf("after %s: %v", time.Since(began), err)
			}
			b := expect[*step.BoundError](t, err)
			if b.What != "step freeze" || b.Bound != 10*time.Second {
				t.Fatalf("%+v", b)
			}
		})
	})
	t.Run("Do with an error of its own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(shape())
			w.at = func(ctx context.Context, p string) error {
				if err := hang("do freeze")(ctx, p); err != nil {
					return errors.New("waiting for the marker: timeout")
				}
				return nil
			}
			err := w.run(t)
			if want := "step freeze: no end within 10s: waiting for the marker: timeout (undone)"; err == nil || err.Error() != want {
				t.Fatalf("got %v, want %q", err, want)
			}
		})
	})
	t.Run("final step", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(shape())
			w.at = hang("do decide")
			u := expect[*step.Unfinished](t, w.run(t))
			want := "step decide: whether the final step happened is not known: step decide: no end within 10s"
			if !u.Undecided || u.Error() != want {
				t.Fatalf("got %q, want %q", u, want)
			}
		})
	})
	t.Run("Undo", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(shape())
			w.at = func(ctx context.Context, p string) error {
				switch p {
				case "do decide":
					return errBroken
				case "undo freeze", "undo ahead":
					return hang(p)(ctx, p)
				}
				return nil
			}
			began := time.Now()
			err := w.run(t)
			a := expect[*step.Aborted](t, err)
			want := "step decide: broken (not everything was undone: " +
				"undo of step freeze: undo of freeze: no end within 5s\nundo of step ahead: undo of ahead: no end within 30s)"
			if a.Undone || err.Error() != want || time.Since(began) != 35*time.Second {
				t.Fatalf("after %s got %q, want %q", time.Since(began), err, want)
			}
		})
	})
	t.Run("hook", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(shape())
			r := w.runner(t)
			r.Hook = func(ctx context.Context, event string, _ step.Step) error { return hang("before-freeze")(ctx, event) }
			err := r.Run(t.Context(), t.Context())
			if want := "step freeze: hook before-freeze: hook before-freeze: no end within 10s (undone)"; err == nil || err.Error() != want {
				t.Fatalf("got %v, want %q", err, want)
			}
		})
	})
}
