package cutover

import (
	"context"
	"errors"
	"time"

	"github.com/pgcutover/pgcutover/internal/state"
)

// SetResolveBound changes how long a lost answer is looked for.
func SetResolveBound(c *Cutover, d time.Duration) { c.resolveWithin = d }

// SetCommitBound changes how long the COMMIT's answer is waited for.
func SetCommitBound(c *Cutover, d time.Duration) { c.commitWithin = d }

// Begin takes the one-tool lock and the next attempt, as Run does before the
// first step, and returns what gives the lock back.
func Begin(ctx context.Context, c *Cutover) (end func(), err error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	if err := c.mayBegin(ctx); err != nil && !errors.Is(err, ErrAlreadyDone) {
		c.unlock(ctx)
		return nil, err
	}
	if c.attempt, err = state.TakeAttempt(ctx, c.source(), c.target()); err != nil {
		c.unlock(ctx)
		return nil, err
	}
	return func() { c.unlock(ctx) }, nil
}

// Primaries refuses standbys, as the beginning of a cutover does.
func Primaries(ctx context.Context, c *Cutover) error { return c.primaries(ctx) }
