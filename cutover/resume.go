package cutover

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Direction says which way Resume went.
type Direction string

// The two ways to end an interrupted cutover.
const (
	Forward Direction = "forward" // it was decided: the rest was done
	Back    Direction = "back"    // it was not: all was undone, old takes the writes
)

// Resume ends the newest interrupted cutover: forward when its decision was
// made, back when it was not. It takes the one-tool lock first, so that a no
// is definitive. ErrNothing when nothing was interrupted.
func (c *Cutover) Resume(soft, hard context.Context) (Direction, error) {
	if err := c.lock(soft); err != nil {
		return "", err
	}
	defer c.unlock(soft)
	last, err := state.LastAttempt(soft, c.Old, c.New)
	if err != nil {
		return "", err
	}
	if last == 0 {
		return "", ErrNothing
	}
	c.attempt = last
	c.decided, err = state.Decided(soft, c.Old.Pool(), last)
	if err != nil {
		return "", err
	}
	runner, err := c.runner(soft)
	if err != nil {
		return "", err
	}
	switch {
	case c.decided && runner.Log.Done():
		return "", hint.With(ErrNothing, "the cutover is done; run: pgcutover complete")
	case c.decided:
		if err := c.remember(runner.Log); err != nil {
			return Forward, err
		}
		err := runner.Run(soft, hard)
		if errors.Is(err, step.ErrGoingBack) {
			// The protocol has no way to come here.
			return Forward, hint.With(fmt.Errorf("attempt %d was decided, but its journal says that it was being undone: %w", last, err),
				"look at both servers with pgcutover status before anything else: if the new server takes writes, keep the old one closed; if not, keep it so and report this")
		}
		return Forward, err
	case runner.Log.Standing():
		if err := runner.Undo(soft); err != nil {
			return Back, fmt.Errorf("undoing attempt %d: %w", last, err)
		}
		return Back, nil
	}
	return "", ErrNothing
}
