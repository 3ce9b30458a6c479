package publisher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	Progress       func(string) // may be nil
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
// random while; as long as those who refused it are still there it does not ask
// again, because that would only hold others up. It gives up, with ErrNotFrozen
// and the names of those in the way, after the attempts.
func (l *Lease) Freeze(ctx context.Context, o FreezeOptions) (Frozen, error) {
	f := freezing{lease: l, options: o, began: time.Now(), lockTimeout: l.clamp(o.LockTimeout)}
	f.watch = &blocker.Watch{
		Server: l.server, Mode: blocker.Exclusive, TerminateAfter: o.TerminateAfter,
		Progress: o.Progress, Doing: "freezing writes",
	}
	err := f.run(ctx)
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
	result      Frozen
}

func (f *freezing) run(ctx context.Context) error {
	for turn := 1; ; turn++ {
		f.result.Attempts++
		err := f.lease.guarded(ctx, "gate", f.lockTimeout, FreezeSQL)
		if err == nil || !pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected) {
			return err
		}
		found, err := f.look(ctx)
		if err != nil {
			return err
		}
		if turn >= f.options.Attempts && !f.patient(found) {
			return f.giveUp(found)
		}
		f.progress(turn, found)
		if turn, err = f.rest(ctx, turn, found); err != nil {
			return err
		}
	}
}

// look fails only when a session was to be ended and that was refused: not to
// know who is in the way must not end the cutover.
func (f *freezing) look(ctx context.Context) ([]blocker.Session, error) {
	found, err := f.watch.Look(ctx, gate)
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

// rest leaves the writers room, and lets turns pass in which an attempt would
// meet the same sessions again; not the last one.
func (f *freezing) rest(ctx context.Context, turn int, met []blocker.Session) (int, error) {
	for {
		if err := pause(ctx, f.lockTimeout/2+rand.N(f.lockTimeout)); err != nil {
			return turn, err
		}
		found, err := f.look(ctx)
		if err != nil {
			return turn, err
		}
		if !blocker.Still(met, found) || turn+1 >= f.options.Attempts && !f.patient(found) {
			return turn, nil
		}
		turn++
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (f *freezing) progress(turn int, found []blocker.Session) {
	if f.options.Progress != nil {
		f.options.Progress(fmt.Sprintf("attempt %d of %d: the gate is held by %s", turn, max(turn, f.options.Attempts), blocker.Describe(found)))
	}
}

func (f *freezing) giveUp(found []blocker.Session) error {
	err := fmt.Errorf("freezing writes on the %s server: %w for %s (%d attempts of %s): %s", f.lease.server.Side(), ErrNotFrozen,
		time.Since(f.began).Round(time.Millisecond), f.result.Attempts, f.lockTimeout, blocker.Describe(found))
	advice := blocker.Advice(found)
	if advice != "" {
		advice += "\n"
	}
	return hint.With(err, advice+"then run: pgcutover cutover")
}
