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
	// TerminateAfter is how long a client's session may stand in the way of the
	// fence triggers, the lease or the freeze before it is ended; 0 means that
	// none is ended.
	TerminateAfter time.Duration
	// RevokeConnect takes the clients' right to connect to the closed database,
	// beside the fence; it comes back exactly when the server is opened again.
	RevokeConnect bool
	// WayBack prepares the stream by which a rollback loses nothing.
	WayBack bool
	// Unreplicated says what becomes of unlogged tables and large objects.
	Unreplicated Unreplicated
	// RefreshWithin is how long the materialized views on new may take to be
	// refreshed before a cutover; 0 means that they are not.
	RefreshWithin time.Duration
	// ProveWithin is how long the closed source is watched, after the turn, for
	// writes that slip through; 0 means two seconds.
	ProveWithin time.Duration
	// LeaveBehind lets a rollback go although tables and other objects made on
	// new since the cutover do not go back with it.
	LeaveBehind bool
}

// Cutover is one try at turning the writes: from old to new, or, as a rollback,
// from new to old. It is used once.
type Cutover struct {
	Old, New *pg.Server
	// Direction is Forward for a cutover, Back for a rollback. Resume sets it to
	// that of the newest attempt.
	Direction state.Direction
	Move      state.Move
	Settings  Settings
	Drivers   []traffic.Driver
	Hooks     traffic.Hooks
	Observer  step.Observer
	// Gates are further conditions that the caller wants checked in the first
	// step, such as those of package preflight. An error that wraps ErrBlocked
	// says that the move is not ready.
	Gates func(context.Context) error
	// Hasty makes the gates say how things stand, without waiting for what may
	// pass in a moment.
	Hasty bool
	// Watch starts a watchdog that ends the poolers' pause should this process
	// vanish, and is stopped by what it returns. Nil for none.
	Watch func(ctx context.Context, w Watched) (stop func(), err error)
	// Meet, for databases that turn together, waits at each of Meetings until all
	// of them are as far. Its error keeps the step from being done. Nil for a
	// database that turns alone.
	Meet func(ctx context.Context, step string) error

	attempt  int64
	stream   state.Stream    // what is drained: from the source to the target
	ours     func()          // gives back the one-tool lock on old that a rollback holds beside the lease's
	unwatch  func()          // stops the watchdog
	pausedAt time.Time       // when the poolers were told to pause; zero before
	oldHeld  context.Context //nolint:containedctx // ends when a rollback loses the one-tool lock on old
	wayBack  bool            // the slot of the way back was made under this lease
	lease    *publisher.Lease
	// contested are the tables, as quoted names, on which clients waited for the
	// lease; not nil: DDL is kept away from parents only, and not from these.
	contested map[string]bool
	yielded   int                // how often the lease gave way
	given     []sequences.Change // what the target's sequences were set to
	asked     *planned           // what the plan is filled in with; nil before it was asked for
	assumed   *assumed           // by a plan that is ahead of its time
	reader    *sequences.Readers // of the source
	reading   *reading           // the source's sequences, read beside the drain
	rest      rest               // what logical replication does not carry
	closed    *closed            // what the lease's COMMIT will make true, done beside the drain
	opening   *fence.Opening     // of the target, for the decision; nil when it could not be prepared
	frozenAt  time.Time
	pause     time.Duration
	decided   bool // known from old: COMMIT answered, or the row was read there
	// resolveWithin is how long a lost answer to the COMMIT is looked for; 0
	// means resolveBound.
	resolveWithin time.Duration
	// commitWithin is how long the COMMIT's answer is waited for; 0 means
	// commitBound.
	commitWithin time.Duration
}

// ErrBlocked is wrapped when the gates find that the move is not ready.
var ErrBlocked = errors.New("not ready")

// ErrInterrupted means that an earlier cutover was interrupted and must be
// finished or undone first.
var ErrInterrupted = errors.New("an earlier attempt was interrupted")

// ErrAlreadyDone means that the new server serves already.
var ErrAlreadyDone = errors.New("the cutover is done: the new server takes the writes")

// ErrNotCutOver means that old serves, so that there is nothing to roll back.
var ErrNotCutOver = errors.New("the old server takes the writes: there is nothing to roll back")

// ErrNothing means that there is nothing to resume.
var ErrNothing = errors.New("nothing was interrupted")

// Steps returns the list, in order. Plan, help, progress and report come from
// it.
func (c *Cutover) Steps() []step.Step {
	return []step.Step{
		c.gatesStep(),
		c.aheadStep(),
		c.guardStep(),
		c.leaseStep(),
		c.pauseStep(),
		c.freezeStep(),
		c.drainStep(),
		c.unreplicatedStep(),
		c.reverseStep(),
		c.sequencesStep(),
		c.decideStep(),
		c.openStep(),
		c.switchStep(),
		c.followStep(),
	}
}

// source is the server whose clients write until the decision.
func (c *Cutover) source() *pg.Server { return c.server(c.Direction.Source()) }

// target is the server that takes the writes after it.
func (c *Cutover) target() *pg.Server { return c.server(c.Direction.Target()) }

func (c *Cutover) server(side pg.Side) *pg.Server {
	if side == pg.New {
		return c.New
	}
	return c.Old
}

// identity is what the source was when the move began.
func (c *Cutover) identity() state.Identity {
	if c.Direction == state.Back {
		return c.Move.New
	}
	return c.Move.Old
}

// back is the stream that this attempt leaves for the way back.
func (c *Cutover) back() state.Stream { return state.WayBack(c.Move.Name, c.Direction, c.attempt) }

// Attempt is the number of this try, 0 before Run has taken it.
func (c *Cutover) Attempt() int64 { return c.attempt }

// Decided tells whether this try has passed its point of no return.
func (c *Cutover) Decided() bool { return c.decided }

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
	attempt, err := state.TakeAttempt(soft, c.source(), c.target())
	if err != nil {
		return err
	}
	c.attempt = attempt
	return c.run(soft, hard)
}

// run opens the journal of this attempt and runs the list. Losing the lease's
// session counts as a first signal: before decide it undoes.
func (c *Cutover) run(soft, hard context.Context) error { //nolint:contextcheck // see oldHeld
	runner, err := c.runner(soft)
	if err != nil {
		return err
	}
	held, cancel := context.WithCancelCause(soft)
	defer cancel(nil)
	stop := c.lease.OnLost(cancel)
	defer stop()
	if other := c.oldHeld; other != nil {
		stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) }) //nolint:contextcheck // that context is the lock's lifetime
		defer stop()
	}
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

// situation is what drivers and hooks are told.
func (c *Cutover) situation() traffic.Target {
	t := traffic.Target{Move: c.Move.Name, Attempt: c.attempt, Old: c.Old, New: c.New, Serving: c.Direction.Source()}
	if c.decided {
		t.Serving = c.Direction.Target()
	}
	return t
}

// lock takes the one-tool lock in the lease's session, on the source. Whatever
// is no cutover takes the lock on old, so that a rollback holds that one too.
func (c *Cutover) lock(ctx context.Context) error {
	if c.Direction == state.Back && c.ours == nil {
		held, release, err := pg.HoldLock(ctx, c.Old, "rollback", lockBound)
		if err != nil {
			return err
		}
		c.ours, c.oldHeld = release, held
	}
	lease, err := publisher.TakeLock(ctx, c.source(), lockBound)
	if err != nil {
		c.unlock(ctx)
		return err
	}
	c.lease = lease
	return nil
}

func (c *Cutover) unlock(ctx context.Context) {
	c.dropOpening(ctx)
	c.leaveSequences(ctx)
	c.leaveUnreplicated(ctx)
	if c.lease != nil {
		c.lease.Close(ctx)
		c.lease = nil
	}
	if c.closed != nil {
		<-c.closed.done // the session is gone
		c.closed = nil
	}
	if c.ours != nil {
		c.ours()
		c.ours = nil
	}
}

// ensureLock makes sure that the one-tool lock is held before an action on
// somebody's sessions or traffic, taking it again when its session was lost.
func (c *Cutover) ensureLock(ctx context.Context) error {
	if c.lease != nil && c.lease.Alive() == nil { //nolint:contextcheck // asks within a bound of its own, also when ctx is cancelled
		return nil
	}
	c.unlock(ctx)
	return c.lock(ctx)
}

// mayBegin refuses while an earlier attempt is unfinished, when the target
// serves already, and when one of the servers is a standby. It sets the stream that
// will be drained.
func (c *Cutover) mayBegin(ctx context.Context) error {
	want := c.Direction
	if want == "" {
		want = state.Forward
	}
	pos, err := c.interrupted(ctx)
	if err != nil {
		return err
	}
	c.Direction, c.attempt = want, 0
	switch c.stream = pos.Stream(want); {
	case pos.Serving() == want.Source():
		return c.primaries(ctx)
	case want == state.Back:
		return hint.With(ErrNotCutOver, "run: pgcutover status")
	}
	return hint.With(ErrAlreadyDone, "run: pgcutover complete, or, to go back, pgcutover rollback")
}

// Interrupted returns nil when no earlier attempt stands in the way of a
// cutover, ErrInterrupted when one must be resumed, and ErrAlreadyDone when new
// serves.
func (c *Cutover) Interrupted(ctx context.Context) error {
	direction, attempt, stream := c.Direction, c.attempt, c.stream
	defer func() { c.Direction, c.attempt, c.stream = direction, attempt, stream }()
	pos, err := c.interrupted(ctx)
	if err == nil && pos.Serving() == pg.New {
		return ErrAlreadyDone
	}
	return err
}

// interrupted tells where the move stands, and ErrInterrupted when its newest
// attempt is unfinished.
func (c *Cutover) interrupted(ctx context.Context) (state.Position, error) {
	pos, err := state.Locate(ctx, c.Old, c.New)
	if err != nil || pos.Attempt == 0 {
		return pos, err
	}
	c.at(pos)
	runner, err := c.runner(ctx)
	if err != nil {
		return pos, err
	}
	what := c.what()
	switch {
	case pos.Decided() && !runner.Log.Done():
		return pos, hint.With(fmt.Errorf("%w: a %s after its point of no return (attempt %d)", ErrInterrupted, what, pos.Attempt), "run: pgcutover resume")
	case !pos.Decided() && runner.Log.Standing():
		return pos, hint.With(fmt.Errorf("%w: a %s (attempt %d)", ErrInterrupted, what, pos.Attempt), "run: pgcutover resume")
	}
	return pos, nil
}

// at makes c the newest attempt.
func (c *Cutover) at(pos state.Position) {
	c.attempt, c.Direction = pos.Attempt, pos.Direction()
	c.stream = pos.Stream(c.Direction)
}

// Unfinished returns nil when new serves and the newest attempt has ended, and
// otherwise why it is not so.
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
	holder, err := pg.LockHolder(ctx, c.source())
	if err != nil || holder == "" {
		return errors.Join(interrupted, err)
	}
	return hint.With(fmt.Errorf("%w: %s", pg.ErrLockHeld, holder), "wait for it to end; then run: pgcutover status")
}
