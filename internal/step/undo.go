package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// Undo takes back every step that was begun and is not undone, last one first,
// UndoLast steps after all others. It is for a run that an earlier process left
// behind; Run undoes its own failures. ctx gives values only: each Undo has its
// own bound and is not cancelled.
//
// When the final step had begun, the caller must have looked it up and know for
// certain that it did not happen: Undo records it as refuted. A run that passed
// its final step is refused with ErrPastFinal. When another process writes to
// the same run, Undo stops with journal.ErrConflict. Otherwise every step is
// tried, also when one or the journal fails, and all errors are joined; Undo
// may then be called again. There is nothing to do, and no error, when all is
// undone.
func (r *Runner) Undo(ctx context.Context) error {
	x, err := r.begin(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	if r.Log.PastFinal() {
		spec := r.Log.Spec()
		return fmt.Errorf("undoing %s, run %d: %w", spec.List, spec.Run, ErrPastFinal)
	}
	var first []journal.Record
	if r.Log.Undecided() {
		for _, s := range r.Steps {
			if s.Final {
				first = append(first, journal.Record{Step: s.Name, Event: journal.Refuted})
			}
		}
	}
	_, err = x.undo(ctx, first)
	return err
}

// abort records the failure of s, undoes the run and says so.
func (x *run) abort(soft context.Context, s Step, cause error, records []journal.Record) error {
	undone, err := x.undo(soft, records)
	if errors.Is(err, errTakenOver) {
		return &Stopped{Step: s.Name, Cause: errors.Join(cause, err)}
	}
	return &Aborted{Step: s.Name, Cause: cause, Undone: undone, UndoErr: err}
}

// errTakenOver marks that another process was seen before anything was undone.
var errTakenOver = errors.New("nothing was undone")

// undo writes the first records and takes everything back. undone tells whether
// every Undo succeeded; err also holds the errors of the journal.
func (x *run) undo(soft context.Context, first []journal.Record) (undone bool, err error) {
	u := &undoing{run: x, queue: first}
	undone, acted := true, false
	for _, s := range x.unrecorded(first) {
		if err := x.undoStep(soft, s); err != nil {
			u.errs = append(u.errs, fmt.Errorf("undo of step %s: %w", s.Name, err))
			undone = false
		}
	}
	if !undone {
		return false, u.end(soft)
	}
	for _, s := range x.standing(first) {
		u.queue = append(u.queue, journal.Record{Step: s.Name, Event: journal.UndoStarted})
		if s.Undo != nil {
			u.write(soft, false)
			if u.foreign != nil {
				if !acted {
					return false, fmt.Errorf("%w: %w", errTakenOver, u.foreign)
				}
				return false, errors.Join(append(u.errs, u.foreign)...)
			}
			acted = true
			if err := x.undoStep(soft, s); err != nil {
				u.errs = append(u.errs, fmt.Errorf("undo of step %s: %w", s.Name, err))
				undone = false
				continue
			}
		}
		u.queue = append(u.queue, journal.Record{Step: s.Name, Event: journal.Undone})
	}
	return undone, u.end(soft)
}

// end writes what is left and joins the errors.
func (u *undoing) end(soft context.Context) error {
	u.write(soft, true)
	return errors.Join(append(u.errs, u.journal, u.illegal, u.foreign)...)
}

// undoing is the journal during an undo. The undo must not wait for a journal
// that does not answer while writers may be held up: after one failed write the
// records are kept for the end.
type undoing struct {
	*run
	queue   []journal.Record
	errs    []error
	journal error // of the last write, if it failed: records are missing
	illegal error // a write that was refused: the records are lost
	foreign error // another process drives this run
}

func (u *undoing) write(soft context.Context, last bool) {
	if u.journal != nil && !last {
		return
	}
	err := u.run.write(soft, u.queue)
	u.queue = nil
	switch {
	case err == nil:
		u.journal = nil
	case u.taken:
		u.foreign = err
	case errors.Is(err, journal.ErrIllegal):
		u.illegal = errors.Join(u.illegal, err)
	default:
		u.journal = err
	}
}

// unrecorded returns the steps that may have been begun although no record
// says so, last one first: those whose journal comes behind, once what precedes
// them stands.
func (x *run) unrecorded(first []journal.Record) []Step {
	var out []Step
	reached := false
	if !x.inherited {
		return nil // what this process did not begin nobody did
	}
	for _, s := range x.Steps {
		state := x.Log.State(s.Name)
		none := state == journal.None && !carried(first, s.Name)
		switch {
		case s.Final:
			slices.Reverse(out)
			return out
		case none && s.Behind && reached:
			if s.Undo != nil {
				out = append(out, s)
			}
		default:
			reached = !none && state != journal.Undone
		}
	}
	slices.Reverse(out)
	return out
}

// standing returns the steps to take back, in the order of undoing. first are
// records that are about to be written.
func (x *run) standing(first []journal.Record) []Step {
	var ordinary, last []Step
	for _, s := range slices.Backward(x.Steps) {
		switch state := x.Log.State(s.Name); {
		case (state == journal.None && !carried(first, s.Name)) || state == journal.Undone:
		case s.UndoLast:
			last = append(last, s)
		default:
			ordinary = append(ordinary, s)
		}
	}
	return append(ordinary, last...)
}

func (x *run) undoStep(soft context.Context, s Step) error {
	bound := s.UndoBound
	if bound == 0 {
		bound = DefaultUndoBound
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(soft), bound,
		&BoundError{What: "undo of " + s.Name, Bound: bound})
	defer cancel()
	ctx = WithProgress(ctx, func(text string) { x.observer.Progress(s.Name, text) })
	began := time.Now()
	x.observer.UndoStarted(s)
	err := explain(ctx, s.Undo(ctx))
	x.observer.UndoDone(s, err, time.Since(began))
	return err
}
