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
