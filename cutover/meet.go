package cutover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

// Meetings returns the steps at which databases that turn together wait for
// each other: what holds clients up begins for all at once, and nothing is
// decided before every one of them can decide. They wait before a step begins;
// at the last one, decide, behind everything that can still say no, so that
// nothing but the COMMIT follows.
func Meetings() []string { return []string{"lease", "pause", "freeze", "decide"} }

// meetBound is how long the others are waited for before the lease, while they
// look at their gates and make their triggers.
const meetBound = time.Hour

// decideMargin is what is left of max_pause for the COMMITs when the databases
// part.
const decideMargin = 250 * time.Millisecond

// hook runs the operator's hooks and then, so that these do not come between,
// waits for the other databases.
func (c *Cutover) hook(ctx context.Context, event string, s step.Step) error {
	if err := c.Hooks.Run(ctx, event, s.Name, c.situation()); err != nil {
		return err
	}
	name, before := strings.CutPrefix(event, "before-")
	if !before || c.Meet == nil || s.Final || !slices.Contains(Meetings(), name) {
		return nil
	}
	if name == "lease" {
		return c.Meet(ctx, name)
	}
	return c.meetHeld(ctx, name)
}

// meetHeld waits while the lease is held: no longer than clients of poolers may
// wait, and not at all when somebody waits for the lease.
func (c *Cutover) meetHeld(ctx context.Context, at string) error {
	if !c.pausedAt.IsZero() {
		limit, cancel := context.WithTimeoutCause(ctx, max(c.Settings.MaxPause-time.Since(c.pausedAt), time.Millisecond),
			fmt.Errorf("waiting for the other databases while poolers are paused: %w (cutover.max_pause)", publisher.ErrExpired))
		defer cancel()
		ctx = limit
	}
	return c.lease.Yielding(ctx, true, func(ctx context.Context) error { return c.Meet(ctx, at) })
}

// meetToDecide waits while writers are frozen, and leaves time for the COMMIT:
// whoever parts from the others here commits at once.
func (c *Cutover) meetToDecide(ctx context.Context) error {
	if c.Meet == nil {
		return nil
	}
	limit, cancel := context.WithTimeoutCause(ctx, max(c.remaining()-min(decideMargin, c.Settings.MaxPause/4), time.Millisecond),
		fmt.Errorf("waiting for the other databases while writes are frozen: %w (cutover.max_pause)", publisher.ErrExpired))
	defer cancel()
	if err := c.lease.Alive(); err != nil { //nolint:contextcheck // asks within a bound of its own
		return err
	}
	return c.Meet(limit, "decide")
}
