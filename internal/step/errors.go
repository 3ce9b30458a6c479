package step

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrUndecided is wrapped by the error of a final step's Do that does not know
// whether the step happened (the answer to a COMMIT was lost). Nothing is
// undone then.
var ErrUndecided = errors.New("whether the final step happened is not known")

// ErrRefuted is wrapped by the error of a final step's Do that looked and knows
// that the step did not happen. Any error that does not wrap ErrUndecided means
// the same, except when the step's context had ended: an interrupted step that
// does not say ErrRefuted is taken as undecided.
var ErrRefuted = errors.New("the final step did not happen")

// ErrGoingBack is wrapped when Run is called for a run that is being undone.
var ErrGoingBack = errors.New("the run is being undone and does not go forward again")

// ErrPastFinal is wrapped when Undo is called for a run that has passed its
// final step.
var ErrPastFinal = errors.New("the run has passed the point of no return and can only go forward")

// Aborted is returned by Run when a step failed, or the run was cancelled,
// before the point of no return, and the run was undone.
type Aborted struct {
	// Step is the step that failed or would have come next.
	Step string
	// Cause is why: the error of the step, or the cause of the cancelled context.
	Cause error
	// Undone tells whether every Undo succeeded.
	Undone bool
	// UndoErr joins the errors of the undos and of journaling them.
	UndoErr error
}

// Error names the step, the cause and what could not be undone.
func (e *Aborted) Error() string {
	switch text := at(e.Step, e.Cause); {
	case !e.Undone:
		return fmt.Sprintf("%s (not everything was undone: %v)", text, e.UndoErr)
	case e.UndoErr != nil:
		return fmt.Sprintf("%s (undone, but not all was recorded: %v)", text, e.UndoErr)
	default:
		return text + " (undone)"
	}
}

// Unwrap returns the cause and the errors of the undo.
func (e *Aborted) Unwrap() []error { return both(e.Cause, e.UndoErr) }

// Stopped is returned by Run when it ended before the point of no return and
// nothing was undone: the Runner was told to Keep what is done, or another
// process has taken over the run (journal.ErrConflict). Run goes on from there,
// Undo takes it back.
type Stopped struct {
	// Step is the step that failed or would have come next.
	Step string
	// Cause is why.
	Cause error
}

// Error names the step and the cause.
func (e *Stopped) Error() string { return at(e.Step, e.Cause) }

// Unwrap returns the cause.
func (e *Stopped) Unwrap() error { return e.Cause }

// Unfinished is returned by Run when the final step was begun and the run did
// not get to its end. Nothing was undone.
type Unfinished struct {
	// Step is the step that did not succeed. When all did and only the journal
	// is incomplete, it is the last one.
	Step string
	// Undecided tells that the final step may or may not have happened; Err
	// wraps ErrUndecided then. If false, the point of no return is passed for
	// certain.
	Undecided bool
	// Err is why.
	Err error
}

// Error names the step and the cause.
func (e *Unfinished) Error() string {
	if e.Undecided {
		return at(e.Step, e.Err)
	}
	return "past the point of no return, " + at(e.Step, e.Err)
}

// Unwrap returns the cause.
func (e *Unfinished) Unwrap() error { return e.Err }

// BoundError is the cause of a context whose bound ran out. It counts as
// context.DeadlineExceeded for errors.Is.
type BoundError struct {
	// What ran out of time: "step drain", "undo of drain", "hook before-drain".
	What string
	// Bound is how long it was given.
	Bound time.Duration
}

// Error names what ran out and its bound, such as "step drain: no end within 10s".
func (e *BoundError) Error() string { return fmt.Sprintf("%s: no end within %s", e.What, e.Bound) }

// Is tells that a bound that ran out is a deadline that was exceeded.
func (e *BoundError) Is(target error) bool { return target == context.DeadlineExceeded }

// at names the step in front of its error, unless the error begins with it.
func at(step string, err error) string {
	prefix := "step " + step + ": "
	return prefix + strings.TrimPrefix(err.Error(), prefix)
}

// both returns the errors that are not nil.
func both(errs ...error) []error {
	var some []error
	for _, err := range errs {
		if err != nil {
			some = append(some, err)
		}
	}
	return some
}
