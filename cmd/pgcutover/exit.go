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
	var usage *usageError
	runs := endings(err)
	switch {
	case runs.unfinished, errors.Is(err, upgrade.ErrSplit):
		return exitUnfinished
	case runs.standing: // resume ends what is recorded as standing
		return exitFailed
	case errors.Is(err, cutover.ErrBlocked), errors.Is(err, upgrade.ErrBlockers):
		return exitBlocked
	case errors.Is(err, probe.ErrFailed): // a probe is always ended by a signal, or by its time
		return exitFailed
	case errors.Is(context.Cause(soft), errInterrupted):
		return exitInterrupted
	case runs.aborted:
		return exitAborted
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// ended is how the runs in an error's tree ended.
type ended struct {
	unfinished bool // one is past its point of no return
	standing   bool // one was not undone altogether, or that is not recorded
	aborted    bool // one was aborted at all
}

// endings looks at the whole tree: of several databases one may be undone and
// another one not, and errors.As sees only the first.
func endings(err error) (all ended) {
	switch e := err.(type) { //nolint:errorlint // walking the tree node by node, joined branches included
	case *step.Unfinished:
		all.unfinished = true
	case *step.Aborted:
		all.aborted, all.standing = true, !e.Undone || e.UndoErr != nil
	}
	var below []error
	switch e := err.(type) { //nolint:errorlint // the same
	case interface{ Unwrap() error }:
		below = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		below = e.Unwrap()
	}
	for _, b := range below {
		one := endings(b)
		all.unfinished = all.unfinished || one.unfinished
		all.standing = all.standing || one.standing
		all.aborted = all.aborted || one.aborted
	}
	return all
}
