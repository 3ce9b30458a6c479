package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/step"
)

// 130, 4 and 3 promise that all was undone: an undo that failed must not hide
// behind a signal or a blocker.
func TestExitCodes(t *testing.T) {
	running := t.Context()
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	failed := errors.New("failed")
	blocked := fmt.Errorf("x: %w", cutover.ErrBlocked)
	for _, c := range []struct {
		name string
		err  error
		soft context.Context
		want int
	}{
		{"undone", &step.Aborted{Cause: failed, Undone: true}, running, exitAborted},
		{"undone after a signal", &step.Aborted{Cause: errInterrupted, Undone: true}, interrupted, exitInterrupted},
		{"blocked and undone", &step.Aborted{Cause: blocked, Undone: true}, running, exitBlocked},
		{"not undone", &step.Aborted{Cause: failed, UndoErr: failed}, running, exitFailed},
		{"not undone after a signal", &step.Aborted{Cause: errInterrupted, UndoErr: failed}, interrupted, exitFailed},
		{"blocked and not undone", &step.Aborted{Cause: blocked, UndoErr: failed}, running, exitFailed},
		{"unfinished after a signal", fmt.Errorf("x: %w", &step.Unfinished{Err: errInterrupted}), interrupted, exitUnfinished},
		{"one undone, another one not", errors.Join(&step.Aborted{Cause: failed, Undone: true}, fmt.Errorf("b: %w", &step.Aborted{Cause: failed, UndoErr: failed})), running, exitFailed},
		{"one undone, of another one not all recorded", errors.Join(&step.Aborted{Cause: failed, Undone: true}, &step.Aborted{Cause: failed, Undone: true, UndoErr: failed}), running, exitFailed},
		{"one undone, another one not, after a signal", fmt.Errorf("x: %w", errors.Join(&step.Aborted{Cause: errInterrupted, Undone: true}, &step.Aborted{Cause: failed, UndoErr: failed})), interrupted, exitFailed},
		{"all undone", errors.Join(&step.Aborted{Cause: failed, Undone: true}, &step.Aborted{Cause: failed, Undone: true}), running, exitAborted},
		{"one not undone, another one unfinished", errors.Join(&step.Aborted{Cause: failed, UndoErr: failed}, &step.Unfinished{Err: failed}), running, exitUnfinished},
		{"unfinished in what aborted", &step.Aborted{Cause: errors.Join(failed, &step.Unfinished{Err: failed}), Undone: true}, running, exitUnfinished},
		{"usage", &usageError{failed}, running, exitUsage},
	} {
		if got := exitCode(c.err, c.soft); got != c.want {
			t.Errorf("%s: exit status %d, want %d", c.name, got, c.want)
		}
	}
}

// Whatever else is advised, a cutover past its point of no return is told how
// it is finished.
func TestAdviceWhenUnfinished(t *testing.T) {
	for _, err := range []error{
		errors.New("bare"),
		hint.With(errors.New("x"), "check that the old server runs"),
		hint.With(errors.New("x"), "wait, then run: pgcutover resume"),
	} {
		if got := next(err, exitUnfinished); strings.Count(got, "pgcutover resume") != 1 {
			t.Errorf("advice for %v: %q", err, got)
		}
	}
	if got := next(errors.New("x"), exitFailed); got != "" {
		t.Errorf("advice for an ordinary failure: %q", got)
	}
}

// A cutover that keeps no way back does not send anybody to rollback.
func TestAdviceWithoutAWayBack(t *testing.T) {
	turn := turning{next: "To go back: pgcutover rollback"}
	if kept := turn.advice(true); kept != turn.next {
		t.Errorf("with a way back: %q", kept)
	}
	if lost := turn.advice(false); strings.Contains(lost, "pgcutover rollback") || !strings.Contains(lost, "pgcutover complete") {
		t.Errorf("without a way back: %q", lost)
	}
}
