package step_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
)

// notes is an Observer that writes down what it is told.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) StepStarted(s step.Step, i, of int) { n.note("started %s %d/%d", s.Name, i, of) }
func (n *notes) StepSkipped(s step.Step, i, of int) { n.note("skipped %s %d/%d", s.Name, i, of) }
func (n *notes) StepDone(s step.Step, facts any, _ time.Duration) {
	n.note("done %s %v", s.Name, facts)
}

func (n *notes) StepFailed(s step.Step, err error, _ time.Duration) {
	n.note("failed %s: %v", s.Name, err)
}
func (n *notes) UndoStarted(s step.Step) { n.note("undoing %s", s.Name) }
func (n *notes) UndoDone(s step.Step, err error, _ time.Duration) {
	n.note("undone %s: %v", s.Name, err)
}
func (n *notes) Progress(name, text string)     { n.note("progress %s: %s", name, text) }
func (n *notes) Warning(name string, err error) { n.note("warning %s: %v", name, err) }

func TestObserverIsToldEverything(t *testing.T) {
	w := newWorld(cutover())
	w.at = func(ctx context.Context, p string) error {
		step.Progress(ctx, "at %q", p)
		if p == "did freeze" {
			return errBroken
		}
		return nil
	}
	n := &notes{}
	r := w.runner(t)
	r.Observer = n
	requires[*step.Aborted](t, r.Run(t.Context(), t.Context()))
	sameLines(t, "told", n.lines, []string{
		"started ahead 1/5", `progress ahead: at "do ahead"`, `progress ahead: at "did ahead"`, "done ahead map[of:ahead]",
		"started guard 2/5", `progress guard: at "do guard"`, `progress guard: at "did guard"`, "done guard map[of:guard]",
		"started freeze 3/5", `progress freeze: at "do freeze"`, `progress freeze: at "did freeze"`, "failed freeze: broken",
		"undoing freeze", `progress freeze: at "undo freeze"`, `progress freeze: at "undid freeze"`, "undone freeze: <nil>",
		"undoing ahead", `progress ahead: at "undo ahead"`, `progress ahead: at "undid ahead"`, "undone ahead: <nil>",
		"undoing guard", `progress guard: at "undo guard"`, `progress guard: at "undid guard"`, "undone guard: <nil>",
	})
}

func TestObserverIsToldOfSkippedSteps(t *testing.T) {
	w := newWorld(cutover())
	w.at = failAt("do open", errBroken, true)
	requires[*step.Unfinished](t, w.run(t))
	n := &notes{}
	r := w.runner(t)
	r.Observer = n
	if err := r.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, "told", n.lines, []string{
		"skipped ahead 1/5", "skipped guard 2/5", "skipped freeze 3/5", "skipped decide 4/5",
		"started open 5/5", "done open map[of:open]",
	})
}

// Progress is safe from many goroutines, without a listener, and with the
// observer that ignores everything.
func TestProgress(t *testing.T) {
	step.Progress(t.Context(), "nobody listens")
	n := &notes{}
	ctx := step.WithProgress(t.Context(), func(text string) { n.note("%s", text) })
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { step.Progress(ctx, "line %d", i) })
	}
	wg.Wait()
	slices.Sort(n.lines)
	if len(n.lines) != 10 || n.lines[9] != "line 9" {
		t.Fatalf("told %q", n.lines)
	}
	var o step.Observer = step.NopObserver{}
	o.StepStarted(step.Step{}, 1, 1)
	o.StepSkipped(step.Step{}, 1, 1)
	o.StepDone(step.Step{}, nil, 0)
	o.StepFailed(step.Step{}, errBroken, 0)
	o.UndoStarted(step.Step{})
	o.UndoDone(step.Step{}, nil, 0)
	o.Progress("", "")
	o.Warning("", errBroken)
}

// Hooks run around every step, after its intent is journaled and before its
// success is.
func TestHookOrder(t *testing.T) {
	w := newWorld(cutover())
	r := w.runner(t)
	r.Hook = func(_ context.Context, event string, s step.Step) error {
		w.trail = append(w.trail, fmt.Sprintf("%s (%s)", event, r.Log.State(s.Name)))
		return nil
	}
	if err := r.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range w.steps {
		want = append(want, fmt.Sprintf("before-%s (started)", s.Name), "do "+s.Name, fmt.Sprintf("after-%s (started)", s.Name))
	}
	sameLines(t, "trail", w.trail, want)
}

// A hook vetoes any step until the final one has begun; then it only warns.
func TestHookVeto(t *testing.T) {
	for _, when := range []string{"before-", "after-"} {
		for i, s := range cutover() {
			event := when + s.Name
			t.Run(event, func(t *testing.T) {
				w := newWorld(cutover())
				n := &notes{}
				r := w.runner(t)
				r.Observer = n
				r.Hook = func(_ context.Context, e string, _ step.Step) error {
					if e == event {
						return errBroken
					}
					return nil
				}
				err := r.Run(t.Context(), t.Context())
				if i > w.final() || event == "after-decide" {
					if err != nil {
						t.Fatalf("a hook stops a run that must go on: %v", err)
					}
					if !slices.Contains(n.lines, fmt.Sprintf("warning %s: hook %s: broken", s.Name, event)) {
						t.Fatalf("nobody is warned: %q", n.lines)
					}
					return
				}
				a := expect[*step.Aborted](t, err)
				if a.Step != s.Name || !a.Undone || !errors.Is(err, errBroken) {
					t.Fatalf("wrong report: %+v", a)
				}
				if did := w.did[s.Name]; (did == 1) != (when == "after-") {
					t.Fatalf("%s was done %d times", s.Name, did)
				}
				sameLines(t, "undos", w.undos(), w.undoOrder(i))
			})
		}
	}
}
