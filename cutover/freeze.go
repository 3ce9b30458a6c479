package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

func (c *Cutover) freezeStep() step.Step {
	// Each attempt waits lock_timeout and rests up to one and a half of it.
	bound := publisher.FreezeOptions{LockTimeout: c.Settings.LockTimeout, Attempts: c.Settings.Attempts, TerminateAfter: c.Settings.TerminateAfter}.Bound()
	return step.Step{
		Name:           "freeze",
		About:          fmt.Sprintf("make writers on %s wait at the gate; those in the middle of a transaction finish first", c.Direction.Source()),
		Bound:          bound + leaseBound, // it may have to be begun anew
		Do:             c.freeze,
		Undo:           c.endLease,
		Behind:         true,
		Statements:     c.planning(c.freezeStatements),
		UndoStatements: c.planning(c.endLeaseStatements),
	}
}

type freezeFacts struct {
	Attempts int             `json:"attempts"`
	Ended    []blocker.Ended `json:"ended,omitempty"` // sessions that were in the way
	LockMS   float64         `json:"lock_ms"`         // from the first attempt to the lock
}

func (c *Cutover) freeze(ctx context.Context) (any, error) {
	began := time.Now()
	if !c.pausedAt.IsZero() {
		// The poolers' clients wait through all attempts.
		limit, cancel := context.WithTimeoutCause(ctx, max(c.Settings.MaxPause-time.Since(c.pausedAt), time.Millisecond),
			fmt.Errorf("freezing writes while poolers are paused: %w (cutover.max_pause)", publisher.ErrExpired))
		defer cancel()
		ctx = limit
	}
	frozen, err := c.tryFreeze(ctx)
	if err != nil {
		c.lease.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	c.frozenAt = time.Now()
	c.lease.ExpireAfter(c.Settings.MaxPause) //nolint:contextcheck // the clock must run whatever becomes of ctx
	c.frozenUnreplicated(ctx)
	c.readSequences(ctx)
	return freezeFacts{Attempts: frozen.Attempts, Ended: frozen.Ended, LockMS: ms(time.Since(began))}, nil
}

// tryFreeze begins the lease anew when it was in the way itself.
func (c *Cutover) tryFreeze(ctx context.Context) (publisher.Frozen, error) {
	var all publisher.Frozen
	for {
		frozen, err := c.lease.Freeze(ctx, publisher.FreezeOptions{
			LockTimeout: c.Settings.LockTimeout, Attempts: c.Settings.Attempts, TerminateAfter: c.Settings.TerminateAfter, Yield: c.yields(),
			Looked:   !c.pausedAt.IsZero(), // pausing did
			Objects:  c.rest.hold,
			Progress: func(text string) { step.Progress(ctx, "%s", text) },
		})
		all.Attempts += frozen.Attempts
		all.Ended = append(all.Ended, frozen.Ended...)
		again, err := c.giveWay(ctx, err)
		if !again {
			return all, err
		}
		if err := c.leaseAnew(ctx); err != nil {
			return all, err
		}
	}
}

// leaseAnew begins the lease once more; clients of poolers need not wait meanwhile.
func (c *Cutover) leaseAnew(ctx context.Context) error {
	if err := c.resumePoolers(ctx); err != nil {
		return err
	}
	if _, err := c.beginLease(ctx); err != nil {
		return err
	}
	if poolers := c.poolers(); len(poolers) > 0 {
		return c.pauseAll(ctx, poolers)
	}
	return nil
}

// thawing is an Observer that lets the writers go on at the first failure before
// the decision, before anything is written to the journal or undone: the
// journal's server may be what does not answer.
type thawing struct {
	step.Observer
	cutover *Cutover
}

// StepFailed ends the lease's transaction. decide does so itself, where it is
// known that nothing was committed.
func (t thawing) StepFailed(s step.Step, err error, took time.Duration) {
	undecided := !s.Final || errors.Is(err, step.ErrRefuted)
	if c := t.cutover; undecided && !c.decided && c.lease != nil {
		c.lease.Rollback(context.Background())
		if !c.pausedAt.IsZero() {
			if err := c.resumePoolers(context.Background()); err != nil {
				t.Warning(s.Name, err) // the undo of the pause tries again
			}
		}
	}
	t.Observer.StepFailed(s, err, took)
}

// remaining is what is left of max_pause.
func (c *Cutover) remaining() time.Duration {
	return max(c.Settings.MaxPause-time.Since(c.frozenAt), time.Millisecond)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
