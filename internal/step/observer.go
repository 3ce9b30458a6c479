package step

import (
	"context"
	"fmt"
	"time"
)

// Observer is told what a Runner does. The Runner calls all methods but
// Progress one after another and waits for them, also while writers wait for
// the run: they must be quick. Progress may be called at any time and
// concurrently. Embed NopObserver to implement only some.
type Observer interface {
	// StepStarted: step number i (from 1) of n begins.
	StepStarted(s Step, i, n int)
	// StepSkipped: an earlier run has done step number i of n already.
	StepSkipped(s Step, i, n int)
	// StepDone: the step succeeded with these facts (as Do returned them).
	StepDone(s Step, facts any, took time.Duration)
	// StepFailed: the step did not succeed.
	StepFailed(s Step, err error, took time.Duration)
	// UndoStarted: the step is being taken back.
	UndoStarted(s Step)
	// UndoDone: the undo has ended; err is nil if it succeeded.
	UndoDone(s Step, err error, took time.Duration)
	// Progress: a line of text from within a step, its hook or its undo.
	Progress(step, text string)
	// Warning: something went wrong that does not stop the run: a hook or a
	// journal write after the point of no return.
	Warning(step string, err error)
}

// NopObserver is an Observer that ignores everything.
type NopObserver struct{}

// StepStarted does nothing.
func (NopObserver) StepStarted(Step, int, int) {}

// StepSkipped does nothing.
func (NopObserver) StepSkipped(Step, int, int) {}

// StepDone does nothing.
func (NopObserver) StepDone(Step, any, time.Duration) {}

// StepFailed does nothing.
func (NopObserver) StepFailed(Step, error, time.Duration) {}

// UndoStarted does nothing.
func (NopObserver) UndoStarted(Step) {}

// UndoDone does nothing.
func (NopObserver) UndoDone(Step, error, time.Duration) {}

// Progress does nothing.
func (NopObserver) Progress(string, string) {}

// Warning does nothing.
func (NopObserver) Warning(string, error) {}

type progressKey struct{}

// WithProgress returns a context whose Progress lines go to tell, which may be
// called concurrently. A Runner does this for its steps; use it for work that
// runs outside of a list.
func WithProgress(ctx context.Context, tell func(text string)) context.Context {
	return context.WithValue(ctx, progressKey{}, tell)
}

// Progress reports a line of progress (formatted as by fmt.Sprintf) to whoever
// runs the step that ctx belongs to. Without anybody it does nothing. Safe to
// call concurrently.
func Progress(ctx context.Context, format string, args ...any) {
	if tell, ok := ctx.Value(progressKey{}).(func(string)); ok {
		tell(fmt.Sprintf(format, args...))
	}
}
