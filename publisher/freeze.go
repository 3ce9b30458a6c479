package publisher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// FreezeSQL makes writers wait at the gate: those in the middle of a
// transaction finish, others wait at their first write.
const FreezeSQL = `lock table pgcutover.gate in exclusive mode`

// gate is the table as Find wants it.
const gate = "pgcutover.gate"

// ErrNotFrozen means that the gate was not to be had: some write transaction
// stayed open through all attempts. Nothing has changed.
var ErrNotFrozen = errors.New("a write transaction stayed open")

// FreezeOptions bound Freeze.
type FreezeOptions struct {
	// LockTimeout is how long one attempt waits for the gate, and other writers
	// behind it; half of the server's deadlock_timeout at the most.
	LockTimeout time.Duration
	// Attempts is how often the gate is asked for.
	Attempts int
	// TerminateAfter is how long a client's session may hold the gate before it
	// is ended; 0 means that none is ended. While there is one that will be
	// ended, Freeze goes on beyond Attempts.
	TerminateAfter time.Duration
	// Yield makes Freeze return a *HoldsUpError, in place of asking for the gate
	// again, when the lease itself keeps a transaction from ending that has
	// passed the gate.
	Yield bool
	// Looked says that the caller has just looked for such a transaction, so that
	// the first attempt need not: poolers' clients wait for it.
	Looked bool
	// Objects, if not nil, holds the writers of large objects from the same attempt
	// on that gets the gate.
	Objects  *ObjectHold
	Progress func(string) // may be nil
}

// Bound is how long Freeze takes at the most.
func (o FreezeOptions) Bound() time.Duration {
	return time.Duration(o.Attempts)*(3*o.LockTimeout+100*time.Millisecond) + o.TerminateAfter + 10*time.Second
}

// Frozen says what it took.
type Frozen struct {
	Attempts int             `json:"attempts"`        // how often the gate was asked for
	Ended    []blocker.Ended `json:"ended,omitempty"` // sessions that were in the way
}

// Freeze locks the gate. Between its attempts it leaves the writers room, for a
// random while. As long as a transaction that refused it, and is not a short
// one, is still there, it lets an attempt pass, because that would only hold
// others up. It gives up, with ErrNotFrozen and the names of those in the way,
// after the attempts.
func (l *Lease) Freeze(ctx context.Context, o FreezeOptions) (Frozen, error) {
	f := freezing{lease: l, options: o, began: time.Now(), lockTimeout: l.clamp(o.LockTimeout)}
	f.watch = &blocker.Watch{
		Server: l.server, Mode: blocker.Exclusive, TerminateAfter: o.TerminateAfter,
		Progress: o.Progress, Doing: "freezing writes",
	}
	err := f.run(ctx)
	if err != nil && errors.Is(context.Cause(ctx), ErrExpired) {
		err = f.expired(ctx, err)
	}
	f.result.Ended = f.watch.Ended()
	return f.result, err
}

// clamp keeps a wait for the gate well below deadlock_timeout, so that the
// server never looks for a deadlock that we are part of, and below the bound of
// every statement.
func (l *Lease) clamp(lockTimeout time.Duration) time.Duration {
	lockTimeout = min(lockTimeout, leaseStatement-time.Second)
	if l.deadlock > 0 {
		lockTimeout = min(lockTimeout, l.deadlock/2)
	}
	return max(lockTimeout, 10*time.Millisecond)
}

type freezing struct {
	lease       *Lease
	options     FreezeOptions
	watch       *blocker.Watch
	lockTimeout time.Duration
	began       time.Time
	met         []blocker.Session // by the newest attempt
	refused     error             // how the newest attempt ended
	result      Frozen
}

func (f *freezing) run(ctx context.Context) error {
	for turn := 1; ; turn++ {
		if turn > 1 || !f.options.Looked {
			if err := f.yield(ctx); err != nil {
				return err
			}
		}
		f.result.Attempts++
		err := f.attempt(ctx)
		if err == nil || !pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected) && !errors.Is(err, errObjectsBusy) {
			return err
		}
		f.refused = err
		if err := f.yield(ctx); err != nil {
			return err
		}
		found, err := f.look(ctx)
		if err != nil {
			return err
		}
		f.met = found
		if turn >= f.options.Attempts && !f.patient(found) {
			return f.giveUp(found)
		}
		f.progress(turn, found)
		if turn, err = f.rest(ctx, turn, found); err != nil {
			return err
		}
	}
}

// attempt asks for the gate, and for the writers of large objects. A transaction
// that writes both may have done one of them and wait for us with the other:
// most make the object first, others are met by turning the order round every
// other time. Between attempts neither is held.
func (f *freezing) attempt(ctx context.Context) error {
	objects := f.options.Objects
	if objects == nil {
		return f.lease.guarded(ctx, "gate", f.lockTimeout, FreezeSQL)
	}
	if f.result.Attempts%2 == 1 {
		if err := objects.take(ctx, f.lockTimeout); err != nil {
			return err
		}
		err := f.lease.guarded(ctx, "gate", f.lockTimeout, FreezeSQL)
		if err != nil {
			objects.give(ctx)
		}
		return err
	}
	return f.lease.guardedWith(ctx, "gate", f.lockTimeout, FreezeSQL, func() error { return objects.take(ctx, f.lockTimeout) })
}

// yield returns a *HoldsUpError when asking for the gate would be in vain; the
// server could even find a deadlock then that we are part of.
func (f *freezing) yield(ctx context.Context) error {
	if !f.options.Yield {
		return nil
	}
	return f.lease.yield(ctx, nil)
}

// look fails only when a session was to be ended and that was refused: not to
// know who is in the way must not end the cutover.
func (f *freezing) look(ctx context.Context) ([]blocker.Session, error) {
	tables := []string{gate}
	if f.options.Objects != nil {
		tables = append(tables, ObjectCatalogs...)
	}
	found, err := f.watch.Look(ctx, tables...)
	if errors.Is(err, blocker.ErrMayNotEnd) {
		return nil, err
	}
	return found, nil
}

// patient tells that more attempts make sense than were asked for: someone in
// the way is going to be ended.
func (f *freezing) patient(found []blocker.Session) bool {
	return f.watch.Hopeful(found) && time.Since(f.began) < f.options.TerminateAfter+time.Duration(f.options.Attempts)*2*f.lockTimeout
}

// longTransaction is the age from which a transaction is not expected to end
// within an attempt.
const longTransaction = time.Second

// rest leaves the writers room, and lets turns pass in which an attempt would
// meet the same long transactions again; not the last one.
func (f *freezing) rest(ctx context.Context, turn int, met []blocker.Session) (int, error) {
	long := slices.DeleteFunc(slices.Clone(met), func(s blocker.Session) bool { return s.Age < longTransaction.Seconds() })
	for {
		if err := pg.Pause(ctx, f.lockTimeout/2+rand.N(f.lockTimeout)); err != nil {
			return turn, err
		}
		found, err := f.look(ctx)
		if err != nil {
			return turn, err
		}
		if !blocker.Still(long, found) || turn+1 >= f.options.Attempts && !f.patient(found) {
			return turn, f.outlast(ctx, met, found)
		}
		turn++
	}
}

// outlastEvery is how often outlast looks.
const outlastEvery = 20 * time.Millisecond

// outlast waits until none of those met is left, for deadlock_timeout at the
// most: an application that deadlocked with itself is best asked right after.
func (f *freezing) outlast(ctx context.Context, met, found []blocker.Session) error {
	for began := time.Now(); blocker.Still(met, found) && time.Since(began) < f.lease.deadlock; {
		if err := pg.Pause(ctx, outlastEvery); err != nil {
			return err
		}
		var err error
		if found, err = f.look(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (f *freezing) progress(turn int, found []blocker.Session) {
	if f.options.Progress != nil {
		f.options.Progress(fmt.Sprintf("attempt %d of %d: the gate is held by %s", turn, max(turn, f.options.Attempts), blocker.Describe(found)))
	}
}

// expired names who was in the way when the time was over that clients of poolers
// may wait.
func (f *freezing) expired(ctx context.Context, err error) error {
	if len(f.met) == 0 {
		return err
	}
	err = fmt.Errorf("%w; the gate was held by %s: %w", context.Cause(ctx), blocker.Describe(f.met), err)
	return hint.With(err, blocker.Advice(f.met)+"\nthen run: pgcutover "+f.lease.command())
}

func (f *freezing) giveUp(found []blocker.Session) error {
	err := fmt.Errorf("freezing writes on the %s server: %w for %s (%d attempts of %s): %s", f.lease.server.Side(), ErrNotFrozen,
		time.Since(f.began).Round(time.Millisecond), f.result.Attempts, f.lockTimeout, blocker.Describe(found))
	if errors.Is(f.refused, errObjectsBusy) { // whoever holds the gate now was not in the way
		err = fmt.Errorf("freezing writes on the %s server: %w for %s (%d attempts of %s): %w", f.lease.server.Side(), ErrNotFrozen,
			time.Since(f.began).Round(time.Millisecond), f.result.Attempts, f.lockTimeout, f.refused)
	}
	advice := blocker.Advice(found)
	if advice != "" {
		advice += "\n"
	}
	return hint.With(err, advice+"then run: pgcutover "+f.lease.command())
}
