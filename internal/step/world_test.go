package step_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

// tb is what *testing.T and *rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is what the steps act on. It outlives the processes that act.
type world struct {
	steps   []step.Step
	store   journal.Store
	effects map[string]bool // what Do has left behind
	did     map[string]int  // how often Do was entered
	undid   map[string]int
	trail   []string // "do a", "undo a", in order of being entered

	// at is asked at "do a" (before the effect), "did a" (after it), "undo a"
	// and "undid a". An error is what Do or Undo returns.
	at func(ctx context.Context, point string) error
}

func quiet(context.Context, string) error { return nil }

func newWorld(shape []step.Step) *world {
	w := &world{
		store: &journal.Memory{}, at: quiet,
		effects: map[string]bool{}, did: map[string]int{}, undid: map[string]int{},
	}
	for _, s := range shape {
		noUndo := s.Undo == nil
		s.About = "does " + s.Name
		if s.Bound == 0 {
			s.Bound = time.Minute
		}
		s.Do = func(ctx context.Context) (any, error) {
			w.trail = append(w.trail, "do "+s.Name)
			w.did[s.Name]++
			if err := w.at(ctx, "do "+s.Name); err != nil {
				return nil, err
			}
			w.effects[s.Name] = true
			return map[string]string{"of": s.Name}, w.at(ctx, "did "+s.Name)
		}
		s.Undo = func(ctx context.Context) error {
			w.trail = append(w.trail, "undo "+s.Name)
			w.undid[s.Name]++
			if err := w.at(ctx, "undo "+s.Name); err != nil {
				return err
			}
			delete(w.effects, s.Name)
			return w.at(ctx, "undid "+s.Name)
		}
		if noUndo {
			s.Undo = nil
		}
		w.steps = append(w.steps, s)
	}
	return w
}

// undoable marks a step of a shape as having an Undo; newWorld puts in the real one.
func undoable(context.Context) error { return nil }

// cutover is the shape used where a test is about one thing: two steps with an
// undo, the second undone last; the final step; one after it.
func cutover() []step.Step {
	return []step.Step{
		{Name: "ahead", Undo: undoable},
		{Name: "guard", Undo: undoable, UndoLast: true},
		{Name: "freeze", Undo: undoable},
		{Name: "decide", Final: true},
		{Name: "open"},
	}
}

// drawWorld draws a list of up to six steps.
func drawWorld(t *rapid.T) *world {
	n := rapid.IntRange(1, 6).Draw(t, "steps")
	final := rapid.IntRange(-1, n-1).Draw(t, "final")
	var shape []step.Step
	for i := range n {
		s := step.Step{Name: string(rune('a' + i)), Final: i == final}
		if !s.Final {
			s.UndoLast = rapid.IntRange(0, 3).Draw(t, "undo last") == 0
			s.Always = rapid.IntRange(0, 3).Draw(t, "always") == 0
		}
		if rapid.IntRange(0, 4).Draw(t, "undo") > 0 {
			s.Undo = undoable
		}
		shape = append(shape, s)
	}
	return newWorld(shape)
}

// final is the index of the final step; past the end if there is none.
func (w *world) final() int {
	if i := slices.IndexFunc(w.steps, func(s step.Step) bool { return s.Final }); i >= 0 {
		return i
	}
	return len(w.steps)
}

func (w *world) log(t tb) *journal.Log {
	t.Helper()
	spec := journal.Spec{List: "cutover", Run: 3, Steps: step.Journal(w.steps)}
	l, err := journal.Open(context.Background(), w.store, spec)
	if err != nil {
		t.Fatalf("the journal cannot be replayed: %v", err)
	}
	return l
}

func (w *world) runner(t tb) *step.Runner {
	t.Helper()
	return &step.Runner{Log: w.log(t), Steps: w.steps}
}

// run runs the list without signals.
func (w *world) run(t tb) error {
	t.Helper()
	return w.runner(t).Run(context.Background(), context.Background())
}

// undoOrder is the order in which the steps up to and including index i are
// taken back.
func (w *world) undoOrder(i int) []string {
	var order []string
	for _, last := range []bool{false, true} {
		for j := min(i, len(w.steps)-1); j >= 0; j-- {
			if s := w.steps[j]; s.Undo != nil && s.UndoLast == last {
				order = append(order, "undo "+s.Name)
			}
		}
	}
	return order
}

// undos is the part of the trail that is about undoing.
func (w *world) undos() []string {
	var undos []string
	for _, line := range w.trail {
		if line[:2] == "un" {
			undos = append(undos, line)
		}
	}
	return undos
}

// clean fails unless every effect that can be undone is.
func (w *world) clean(t tb) {
	t.Helper()
	for _, s := range w.steps {
		if s.Undo != nil && w.effects[s.Name] {
			t.Fatalf("%s was left behind; trail %v", s.Name, w.trail)
		}
	}
	if l := w.log(t); l.PastFinal() || l.Undecided() {
		t.Fatalf("the journal of an undone run says that its final step may have happened")
	}
}

// whole fails unless every step has had its effect.
func (w *world) whole(t tb) {
	t.Helper()
	for _, s := range w.steps {
		if !w.effects[s.Name] {
			t.Fatalf("%s is missing; trail %v", s.Name, w.trail)
		}
	}
	if !w.log(t).Done() {
		t.Fatalf("the journal does not say that all is done")
	}
}

// expect fails unless err is of type E, and returns it.
func expect[E error](t tb, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("got %T (%v), want %T", err, err, e)
	}
	return e
}

// requires is expect for a test that asks no more of the error than its type.
func requires[E error](t tb, err error) {
	t.Helper()
	_ = expect[E](t, err)
}

var errBroken = errors.New("broken")

// failAt makes one point fail with err, the first time only if once.
func failAt(point string, err error, once bool) func(context.Context, string) error {
	done := false
	return func(_ context.Context, p string) error {
		if p != point || (once && done) {
			return nil
		}
		done = true
		return err
	}
}

// crash is panicked with to end a process at a chosen point.
type crash struct{ at string }

// process runs f as a process that may crash; err is f's if it did not.
func process(f func() error) (err error, crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ours := r.(crash); !ours {
				panic(r)
			}
			crashed = true
		}
	}()
	return f(), false
}

// fragile is a Store that does something at its nth Append from now on.
type fragile struct {
	journal.Memory
	n      int // Appends so far
	before func(n int) error
	after  func(n int) error
}

func (f *fragile) Append(ctx context.Context, records ...journal.Record) error {
	n := f.n
	f.n++
	if f.before != nil {
		if err := f.before(n); err != nil {
			return err
		}
	}
	if err := f.Memory.Append(ctx, records...); err != nil {
		return err
	}
	if f.after != nil {
		return f.after(n)
	}
	return nil
}

func events(l *journal.Log) []string {
	var lines []string
	for _, r := range l.Records() {
		lines = append(lines, fmt.Sprintf("%s %s", r.Step, r.Event))
	}
	return lines
}

func sameLines(t tb, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s:\n got %q\nwant %q", what, got, want)
	}
}
