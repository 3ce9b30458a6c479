package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// run is one call of Runner.Run or Runner.Undo, and lives no longer. The soft
// context is what its methods are called with.
type run struct {
	*Runner
	// hard ends with the second signal, and stopped then returns why.
	hard    context.Context
	stopped func() error

	observer Observer
	// resumed tells that an earlier process began the final step and nobody
	// knows here how it ended.
	resumed bool
	// begun tells that the final step has begun: nothing is undone any more,
	// unless that step turns out not to have happened, and soft is not heeded.
	begun bool
	// inherited tells that an earlier process worked on this run.
	inherited bool
	// taken tells that another process was seen to write to this run.
	taken bool
	// carry are records that go out with the next write.
	carry []journal.Record
	// aside is a write that goes on beside the steps; nil when there is none.
	aside chan error
	// missed are errors of journal writes that could not stop the run.
	missed []error
}

// Run does every step that has not succeeded yet, in order, and those marked
// Always again. It returns nil when all have succeeded, and otherwise
//   - *Aborted: failed or cancelled before the point of no return, and undone;
//   - *Stopped: the same, but nothing was undone;
//   - *Unfinished: the final step was begun, or is passed; nothing was undone
//     and another Run goes on;
//   - another error when the run could not begin: a list that Check refuses, a
//     Log for another list, or ErrGoingBack.
//
// The package documentation explains soft and hard. A journal that cannot be
// written counts as a failure of the step before the final step has begun;
// after that it is reported to the Observer, the run goes on, and the error is
// returned only if the records cannot be written at the end either.
func (r *Runner) Run(soft, hard context.Context) error {
	x, err := r.begin(hard)
	if err != nil {
		return err
	}
	spec := r.Log.Spec()
	if r.Log.GoingBack() {
		return fmt.Errorf("running %s, run %d: %w", spec.List, spec.Run, ErrGoingBack)
	}
	x.resumed = r.Log.Undecided()
	x.begun = x.resumed || r.Log.PastFinal()
	done := r.Log.Done()
	for i, s := range r.Steps {
		if r.Log.State(s.Name) == journal.Succeeded && (done || !s.Always) {
			x.observer.StepSkipped(s, i+1, len(r.Steps))
			continue
		}
		if err := x.forward(soft, i); err != nil {
			return err
		}
	}
	return x.finish(soft)
}

// begin checks that the Runner can run at all.
func (r *Runner) begin(hard context.Context) (*run, error) {
	if err := Check(r.Steps); err != nil {
		return nil, fmt.Errorf("checking the list of steps: %w", err)
	}
	spec := r.Log.Spec()
	if !slices.Equal(spec.Steps, Journal(r.Steps)) {
		return nil, fmt.Errorf("running %s, run %d: the journal was opened for other steps", spec.List, spec.Run)
	}
	for _, s := range r.Steps {
		if s.Final && r.Keep {
			return nil, fmt.Errorf("running %s, run %d: a list with a final step (%s) is undone when it fails, it cannot be kept",
				spec.List, spec.Run, s.Name)
		}
	}
	x := &run{
		Runner: r, observer: r.Observer, inherited: r.Log.Begun(),
		hard: hard, stopped: func() error { return context.Cause(hard) },
	}
	if x.observer == nil {
		x.observer = NopObserver{}
	}
	return x, nil
}

// forward does step i: intent, hook, Do, hook. Its success is left in carry,
// to be written together with the next step's intent. A failure is dealt with
// here: the error returned is what Run returns.
func (x *run) forward(soft context.Context, i int) error {
	s := x.Steps[i]
	if err := x.cancelled(soft); err != nil {
		return x.fail(soft, s, err, false)
	}
	began := time.Now()
	x.observer.StepStarted(s, i+1, len(x.Steps))
	o := x.attempt(soft, s)
	if o.err != nil {
		x.observer.StepFailed(s, o.err, time.Since(began))
		return x.fail(soft, s, o.err, o.certain)
	}
	x.observer.StepDone(s, o.facts, time.Since(began))
	x.carry = append(x.carry, journal.Record{Step: s.Name, Event: journal.Succeeded, Facts: o.encoded})
	return nil
}

// outcome is how an attempt at a step ended.
type outcome struct {
	facts   any
	encoded json.RawMessage
	err     error
	// certain tells, of an attempt at the final step that ended with an error,
	// that the step is known not to have happened.
	certain bool
}

// attempt journals the intent and does the step.
func (x *run) attempt(soft context.Context, s Step) outcome {
	if err := x.intend(soft, s); err != nil {
		return outcome{err: err, certain: !x.resumed}
	}
	if err := x.hook(soft, "before-"+s.Name, s); err != nil {
		return outcome{err: err, certain: true}
	}
	// The last moment at which a cancelled run can still be undone: nothing of
	// the final step has been done, by us or by a process before us.
	if err := x.cancelled(soft); err != nil {
		return outcome{err: err, certain: !x.resumed}
	}
	if s.Final {
		x.begun = true
	}
	ctx, cancel := x.context(soft, "step "+s.Name, s)
	defer cancel()
	facts, err := s.Do(ctx)
	if err != nil {
		no := errors.Is(err, ErrRefuted) || (ctx.Err() == nil && !x.resumed)
		return outcome{err: explain(ctx, err), certain: no && !errors.Is(err, ErrUndecided)}
	}
	encoded, err := encode(s, facts)
	if err != nil {
		if !x.begun {
			return outcome{err: err}
		}
		x.miss(s, err)
	}
	return outcome{facts: facts, encoded: encoded, err: x.hook(soft, "after-"+s.Name, s)}
}

// intend writes what is carried and the intent to do the step. For a step whose
// journal may come behind it only carries it on; once the final step has begun,
// when other clients of the journal's server are served again, it is written
// beside the step.
func (x *run) intend(soft context.Context, s Step) error {
	records := append(x.carry, journal.Record{Step: s.Name, Event: journal.Started})
	x.carry = nil
	if s.Behind && !x.taken {
		x.carry = records
		if x.begun && !s.Final {
			x.writeAside(soft)
		}
		return nil
	}
	err := x.write(soft, records)
	if err == nil {
		return nil
	}
	if x.begun && !x.taken {
		x.miss(s, err)
		return nil
	}
	return err
}

// miss notes an error that must not keep the run from going forward.
func (x *run) miss(s Step, err error) {
	x.observer.Warning(s.Name, err)
	x.missed = append(x.missed, err)
}

// fail ends the run at step s. certain matters for the final step only.
func (x *run) fail(soft context.Context, s Step, err error, certain bool) error {
	records := x.carry
	x.carry = nil
	x.join()
	started := x.Log.State(s.Name) == journal.Started || carried(records, s.Name)
	if started {
		records = append(records, journal.Record{Step: s.Name, Event: journal.Failed, Error: err.Error()})
	}
	finalNow := s.Final && (started || x.Log.Undecided())
	switch {
	case x.taken && !x.begun:
		return &Stopped{Step: s.Name, Cause: err}
	case finalNow && certain:
		records = append(records, journal.Record{Step: s.Name, Event: journal.Refuted})
		return x.abort(soft, s, err, records)
	case x.begun:
		return x.leave(soft, s, err, records)
	case x.Keep:
		return &Stopped{Step: s.Name, Cause: errors.Join(both(err, x.write(soft, records))...)}
	default:
		return x.abort(soft, s, err, records)
	}
}

// carried tells whether the intent to do a step is among records that are not
// written yet.
func carried(records []journal.Record, name string) bool {
	for _, r := range records {
		if r.Step == name && r.Event == journal.Started {
			return true
		}
	}
	return false
}

// leave ends a run whose final step has begun: recorded, nothing undone.
func (x *run) leave(soft context.Context, s Step, err error, records []journal.Record) error {
	if unwritten := x.write(soft, records); unwritten != nil {
		x.missed = append(x.missed, unwritten)
	}
	undecided := x.Log.Undecided()
	if undecided && !errors.Is(err, ErrUndecided) {
		err = fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	if !x.taken {
		err = errors.Join(both(err, x.unwritten())...)
	}
	return &Unfinished{Step: s.Name, Undecided: undecided, Err: err}
}

// finish writes the last record.
func (x *run) finish(soft context.Context) error {
	x.join()
	if len(x.carry) == 0 && x.Log.Unwritten() == 0 {
		return nil
	}
	last := x.Steps[len(x.Steps)-1]
	err := x.write(soft, x.carry)
	x.carry = nil
	if err != nil && !x.begun {
		return x.fail(soft, last, err, false)
	}
	if err != nil {
		x.miss(last, err)
	}
	if err := x.unwritten(); err != nil {
		return &Unfinished{Step: last.Name, Err: err}
	}
	return nil
}

// unwritten joins the errors of the journal, nil when all that was missed has
// been written since.
func (x *run) unwritten() error {
	if x.Log.Unwritten() > 0 {
		return errors.Join(x.missed...)
	}
	var lost []error
	for _, err := range x.missed {
		if errors.Is(err, journal.ErrIllegal) || errors.As(err, new(*encodeError)) {
			lost = append(lost, err)
		}
	}
	return errors.Join(lost...)
}

// cancelled returns why the run must not begin its next action; nil if it may.
func (x *run) cancelled(soft context.Context) error {
	if err := x.stopped(); err != nil {
		return err
	}
	if x.begun {
		return nil
	}
	return context.Cause(soft)
}

// context is what a step's Do, or a hook, works under.
func (x *run) context(soft context.Context, what string, s Step) (context.Context, context.CancelFunc) {
	base := soft
	if x.begun {
		base = context.WithoutCancel(soft)
	}
	base, cancelBase := context.WithCancelCause(base)
	stop := context.AfterFunc(x.hard, func() { cancelBase(x.stopped()) })
	ctx, cancel := context.WithTimeoutCause(base, s.Bound, &BoundError{What: what, Bound: s.Bound})
	ctx = WithProgress(ctx, func(text string) { x.observer.Progress(s.Name, text) })
	return ctx, func() {
		cancel()
		stop()
		cancelBase(nil)
	}
}

// hook calls the hook. Once the final step has begun it cannot fail.
func (x *run) hook(soft context.Context, event string, s Step) error {
	if x.Hook == nil {
		return nil
	}
	ctx, cancel := x.context(soft, "hook "+event, s)
	defer cancel()
	err := x.Hook(ctx, event, s)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("hook %s: %w", event, explain(ctx, err))
	if x.begun {
		x.observer.Warning(s.Name, err)
		return nil
	}
	return err
}

// writeAside writes what is carried without anybody waiting for it, unless such
// a write is still under way: then the next one takes it along.
func (x *run) writeAside(soft context.Context) {
	if x.aside != nil {
		select {
		case err := <-x.aside:
			x.asideDone(err)
		default:
			return
		}
	}
	records, done := x.carry, make(chan error, 1)
	x.carry, x.aside = nil, done
	go func() { done <- x.append(soft, records) }()
}

// join waits for a write that goes on beside the steps.
func (x *run) join() {
	if x.aside != nil {
		x.asideDone(<-x.aside)
	}
}

func (x *run) asideDone(err error) {
	x.aside = nil
	if err == nil {
		return
	}
	x.taken = x.taken || errors.Is(err, journal.ErrConflict)
	x.observer.Warning("journal", err)
	x.missed = append(x.missed, err)
}

// write appends to the journal, heeding no signal but within its own bound.
func (x *run) write(soft context.Context, records []journal.Record) error {
	x.join()
	err := x.append(soft, records)
	x.taken = x.taken || errors.Is(err, journal.ErrConflict)
	return err
}

func (x *run) append(soft context.Context, records []journal.Record) error {
	bound := x.JournalBound
	if bound == 0 {
		bound = DefaultJournalBound
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(soft), bound,
		&BoundError{What: "journal write", Bound: bound})
	defer cancel()
	return explain(ctx, x.Log.Append(ctx, records...))
}

// explain adds to an error that came from a context's end why it ended.
func explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	switch {
	case errors.Is(err, cause):
		return err
	case err == ctx.Err(): //nolint:errorlint // the bare error says nothing that the cause does not
		return cause
	default:
		return fmt.Errorf("%w: %w", cause, err)
	}
}

// encodeError is facts that are not JSON: they are lost, not late.
type encodeError struct {
	step string
	err  error
}

func (e *encodeError) Error() string {
	return fmt.Sprintf("encoding the facts of step %s: %v", e.step, e.err)
}
func (e *encodeError) Unwrap() error { return e.err }

func encode(s Step, facts any) (json.RawMessage, error) {
	if facts == nil {
		return nil, nil
	}
	text, err := json.Marshal(facts)
	if err != nil {
		return nil, &encodeError{step: s.Name, err: err}
	}
	return text, nil
}
