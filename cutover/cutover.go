package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/traffic"
)

// List is what the journal calls this list.
const List = "cutover"

// Settings are the bounds of a cutover; see the config file's cutover section.
type Settings struct {
	MaxLag      int64         // bytes the subscriber may be behind at the gates
	MaxPause    time.Duration // how long writers may wait at the most
	LockTimeout time.Duration // how long one attempt to freeze may hold writers up
	Attempts    int           // attempts to freeze
	OnClosed    fence.OnClosed
	Margin      int64 // steps that sequences are set ahead
	AnalyzeJobs int
	InScope     func(schema, table string) bool
}

// Cutover is one try at turning the writes. Make it with New; it is used once.
type Cutover struct {
	Old, New *pg.Server
	Move     state.Move
	Settings Settings
	Drivers  []traffic.Driver
	Hooks    traffic.Hooks
	Observer step.Observer
	// Gates are further conditions that the caller wants checked in the first
	// step, such as those of package preflight. An error that wraps ErrBlocked
	// says that the move is not ready.
	Gates func(context.Context) error

	attempt  int64
	lease    *publisher.Lease
	given    []sequences.Change // what new's sequences were set to
	frozenAt time.Time
	pause    time.Duration
	decided  bool // known from old: COMMIT answered, or the row was read there
	// resolveWithin is how long a lost answer to the COMMIT is looked for; 0
	// means resolveBound.
	resolveWithin time.Duration
	// commitWithin is how long the COMMIT's answer is waited for; 0 means
	// commitBound.
	commitWithin time.Duration
}

// ErrBlocked is wrapped when the gates find that the move is not ready.
var ErrBlocked = errors.New("not ready for the cutover")

// ErrInterrupted means that an earlier cutover was interrupted and must be
// finished or undone first.
var ErrInterrupted = errors.New("an earlier cutover was interrupted")

// ErrAlreadyDone means that the new server serves already.
var ErrAlreadyDone = errors.New("the cutover is done: the new server takes the writes")

// ErrNothing means that there is nothing to resume.
var ErrNothing = errors.New("nothing was interrupted")

// Steps returns the list, in order. Plan, help, progress and report come from
// it. Poolers' pause stands between lease and freeze, the stream back between
// sequences and decide, once they are built.
func (c *Cutover) Steps() []step.Step {
	return []step.Step{
		c.gatesStep(),
		c.aheadStep(),
		c.guardStep(),
		c.leaseStep(),
		c.freezeStep(),
		c.drainStep(),
		c.sequencesStep(),
		c.decideStep(),
		c.openStep(),
		c.switchStep(),
		c.followStep(),
	}
}

// Attempt is the number of this try, 0 before Run has taken it.
func (c *Cutover) Attempt() int64 { return c.attempt }

// Pause is how long writers were held up, from the frozen gate to the open new
// server, by the tool's clock.
func (c *Cutover) Pause() time.Duration { return c.pause }

// lockBound is how long to wait for the one-tool lock: the session of a tool
// that has just died takes up to its idle timeout to end.
const lockBound = 15 * time.Second

// Run does the cutover. soft is cancelled by a first signal, hard by a second
// one. It returns what step.Runner.Run returns.
func (c *Cutover) Run(soft, hard context.Context) error {
	if err := c.lock(soft); err != nil {
		return err
	}
	defer c.unlock(soft)
	if err := c.mayBegin(soft); err != nil {
		return err
	}
	attempt, err := state.TakeAttempt(soft, c.Old, c.New)
	if err != nil {
		return err
	}
	c.attempt = attempt
	return c.run(soft, hard)
}

// run opens the journal of this attempt and runs the list. Losing the lease's
// session counts as a first signal: before decide it undoes.
func (c *Cutover) run(soft, hard context.Context) error {
	runner, err := c.runner(soft)
	if err != nil {
		return err
	}
	held, cancel := context.WithCancelCause(soft)
	defer cancel(nil)
	stop := c.lease.OnLost(cancel)
	defer stop()
	return runner.Run(held, hard)
}

func (c *Cutover) runner(ctx context.Context) (*step.Runner, error) {
	steps := c.Steps()
	log, err := journal.Open(ctx, state.Journal{Server: c.New}, journal.Spec{List: List, Run: c.attempt, Steps: step.Journal(steps)})
	if err != nil {
		return nil, err
	}
	observer := c.Observer
	if observer == nil {
		observer = step.NopObserver{}
	}
	return &step.Runner{Log: log, Steps: steps, Observer: thawing{observer, c}, Hook: c.hook}, nil
}

func (c *Cutover) hook(ctx context.Context, event string, s step.Step) error {
	return c.Hooks.Run(ctx, event, s.Name, c.target())
}

func (c *Cutover) target() traffic.Target {
	t := traffic.Target{Move: c.Move.Name, Attempt: c.attempt, Old: c.Old, New: c.New, Serving: pg.Old}
	if c.decided {
		t.Serving = pg.New
	}
	return t
}

// lock takes the one-tool lock in the lease's session.
func (c *Cutover) lock(ctx context.Context) error {
	lease, err := publisher.TakeLock(ctx, c.Old, lockBound)
	if err != nil {
		return err
	}
	c.lease = lease
	return nil
}

func (c *Cutover) unlock(ctx context.Context) {
	if c.lease != nil {
		c.lease.Close(ctx)
	}
}

// ensureLock makes sure that the one-tool lock is held before an action on
// somebody's sessions or traffic, taking it again when its session was lost.
func (c *Cutover) ensureLock(ctx context.Context) error {
	if c.lease != nil && c.lease.Alive() == nil { //nolint:contextcheck // asks within a bound of its own, also when ctx is cancelled
		return nil
	}
	c.unlock(ctx)
	c.lease = nil
	return c.lock(ctx)
}

// mayBegin refuses while an earlier attempt is unfinished or decided.
func (c *Cutover) mayBegin(ctx context.Context) error {
	err := c.Interrupted(ctx)
	if errors.Is(err, ErrAlreadyDone) {
		return hint.With(err, "run: pgcutover complete")
	}
	return err
}

// Interrupted returns nil when no earlier attempt stands in the way of a new
// one, ErrInterrupted when one must be resumed, and ErrAlreadyDone when new
// serves.
func (c *Cutover) Interrupted(ctx context.Context) error {
	last, err := state.LastAttempt(ctx, c.Old, c.New)
	if err != nil || last == 0 {
		return err
	}
	c.attempt = last
	defer func() { c.attempt = 0 }()
	decided, err := state.Decided(ctx, c.Old.Pool(), last)
	if err != nil {
		return err
	}
	runner, err := c.runner(ctx)
	if err != nil {
		return err
	}
	switch {
	case decided && runner.Log.Done():
		return ErrAlreadyDone
	case decided:
		return hint.With(fmt.Errorf("%w after its point of no return (attempt %d)", ErrInterrupted, last), "run: pgcutover resume")
	case runner.Log.Standing():
		return hint.With(fmt.Errorf("%w (attempt %d)", ErrInterrupted, last), "run: pgcutover resume")
	}
	return nil
}

// Unfinished returns nil when the newest attempt was decided and all its steps
// are done, and otherwise why it is not so.
func (c *Cutover) Unfinished(ctx context.Context) error {
	err := c.Interrupted(ctx)
	switch {
	case errors.Is(err, ErrAlreadyDone):
		return nil
	case err != nil:
		return err
	}
	return hint.With(errors.New("there was no cutover"), "run: pgcutover cutover")
}

// Ready looks whether an earlier attempt stands in the way, and runs the gates,
// without beginning anything: nil when a cutover could begin now.
func (c *Cutover) Ready(ctx context.Context) error {
	if err := c.mayBegin(ctx); err != nil {
		if errors.Is(err, ErrInterrupted) {
			return c.underWay(ctx, err)
		}
		return err
	}
	_, err := c.gates(ctx)
	return err
}

// underWay tells an attempt that a tool is still at work on from one that was
// interrupted.
func (c *Cutover) underWay(ctx context.Context, interrupted error) error {
	holder, err := pg.LockHolder(ctx, c.Old)
	if err != nil || holder == "" {
		return errors.Join(interrupted, err)
	}
	return hint.With(fmt.Errorf("%w: %s", pg.ErrLockHeld, holder), "wait for it to end; then run: pgcutover status")
}
