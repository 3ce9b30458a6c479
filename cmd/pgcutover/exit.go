package main

import (
	"context"
	"errors"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/probe"
	"github.com/pgcutover/pgcutover/upgrade"
)

// Exit statuses; the help texts list them.
const (
	exitDone        = 0
	exitFailed      = 1   // failed; nothing changed, or all undone
	exitUsage       = 2   // wrong flags or config
	exitBlocked     = 3   // check or the gates found blockers
	exitAborted     = 4   // a cutover was aborted and undone safely
	exitUnfinished  = 5   // past the point of no return and unfinished: run resume
	exitInterrupted = 130 // interrupted, undone
)

const exitHelp = `
Exit status: 0 done; 1 failed, nothing changed or all undone; 2 usage or config;
3 blockers found; 4 a cutover was aborted and undone safely; 5 past the point of
no return and unfinished (run: pgcutover resume); 130 interrupted: a cutover was
undone, start goes on when run again.`

// usageError is a wrong flag or config.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

// exitCode says which status an error stands for. Unfinished, and undone in part
// only, come first: they must never hide behind an interruption or a blocker.
func exitCode(err error, soft context.Context) int {
	var (
		unfinished *step.Unfinished
		aborted    *step.Aborted
		usage      *usageError
	)
	switch {
	case errors.As(err, &unfinished), errors.Is(err, upgrade.ErrSplit):
		return exitUnfinished
	case errors.As(err, &aborted) && (!aborted.Undone || aborted.UndoErr != nil): // resume ends what is recorded as standing
		return exitFailed
	case errors.Is(err, cutover.ErrBlocked), errors.Is(err, upgrade.ErrBlockers):
		return exitBlocked
	case errors.Is(err, probe.ErrFailed): // a probe is always ended by a signal, or by its time
		return exitFailed
	case errors.Is(context.Cause(soft), errInterrupted):
		return exitInterrupted
	case aborted != nil:
		return exitAborted
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}
