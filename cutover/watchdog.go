package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/traffic"
)

// Bounds of the watchdog.
const (
	// unknownBound is how long the clients of a paused pooler may wait while
	// nobody knows whether the attempt was decided.
	unknownBound = 3 * time.Second
	// watchBound is how long the watchdog looks for the decision at all.
	watchBound = 10 * time.Minute
)

// ErrTakenOver means that another tool works on the move: it ends the pause.
var ErrTakenOver = errors.New("another tool works on this move")

// Watched is what a watchdog is told of the attempt that it watches.
type Watched struct {
	Direction state.Direction `json:"direction"`
	Attempt   int64           `json:"attempt"`
}

// EndPause is the work of a watchdog, in a process of its own, once the tool
// that paused the poolers has vanished or stopped. A decision seen on either
// server sends the poolers to the target; a definitive no ends the pause; while neither is known the pause is
// ended after some seconds, with nothing else changed, which is always safe:
// the fences protect. It never sends clients back to the source. progress gets
// a line for each thing done.
func (c *Cutover) EndPause(ctx context.Context, w Watched, progress func(string)) error {
	c.Direction, c.attempt, c.decided = w.Direction, w.Attempt, false
	defer c.unlock(ctx)
	began, released := time.Now(), false
	return pg.Wait(ctx, "the poolers' pause to end", 100*time.Millisecond, watchBound, progress, func(ctx context.Context) (bool, string, error) {
		answer, err := c.verdict(ctx)
		if errors.Is(err, ErrTakenOver) {
			return false, "", err
		}
		switch {
		case answer == yes && err == nil:
			c.decided = true
			if err = c.sendPoolers(ctx); err == nil {
				err = c.stayed(ctx)
			}
			if err == nil {
				progress(fmt.Sprintf("the decision was made: the poolers' clients go to the %s server", c.Direction.Target()))
				return true, "", nil
			}
			c.decided = false
		case answer == no:
			if err = c.resumePoolers(ctx); err == nil {
				progress(fmt.Sprintf("there was no decision: the poolers' clients go on to the %s server", c.Direction.Source()))
				return true, "", nil
			}
		}
		// Not known, known and not open yet, or the pooler cannot be rewritten: its
		// clients must not wait for that.
		if !released && time.Since(began) > unknownBound {
			if failed := c.releasePoolers(ctx); failed != nil {
				return notYet(errors.Join(err, failed))
			}
			released = true
			progress(fmt.Sprintf("the pause was ended, nothing else changed (%v)", err))
		}
		return notYet(err)
	})
}

// stayed proves after a switch that the target still serves under this attempt.
// Had this process slept meanwhile, others may have turned the writes again.
func (c *Cutover) stayed(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	if err := c.stillMine(limit); err != nil {
		return errors.Join(err, c.mendPoolers(ctx))
	}
	return nil
}

// lookBound is how long one question to one server may take: a silent one must
// not keep the other from being asked.
const lookBound = 1500 * time.Millisecond

// brief runs f within lookBound.
func brief(ctx context.Context, f func(context.Context) error) error {
	limit, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	return f(limit)
}

// notYet is the answer of a look that is to be repeated.
func notYet(err error) (bool, string, error) { return false, err.Error(), nil }

type answer int

const (
	unknown answer = iota
	yes
	no
)

// verdict asks once whether the attempt was decided, the target first. err says
// why not more is known.
func (c *Cutover) verdict(ctx context.Context) (answer, error) {
	var there state.Turn
	asked := brief(ctx, func(ctx context.Context) (err error) {
		there, err = state.ReadTurn(ctx, c.target().Pool())
		return err
	})
	switch {
	case asked == nil && there.Attempt > c.attempt:
		return unknown, fmt.Errorf("%w: attempt %d", ErrTakenOver, there.Attempt)
	case asked == nil && there.Attempt == c.attempt && there.Open:
		return yes, nil // opened by the guard, or by a tool that knew the decision
	}
	for _, s := range []*pg.Server{c.target(), c.source()} {
		decided := false
		err := brief(ctx, func(ctx context.Context) (err error) {
			decided, err = state.Decided(ctx, s.Pool(), c.Direction, c.attempt)
			return err
		})
		if err == nil && decided {
			return yes, c.opened(ctx)
		}
	}
	return c.definitely(ctx)
}

// definitely asks the source under the one-tool lock, and only if it is the very
// server that the COMMIT would have gone to: then a missing row is a no.
func (c *Cutover) definitely(ctx context.Context) (answer, error) {
	once, cancel := context.WithTimeout(ctx, relockBound+3*time.Second)
	defer cancel()
	turn, err := state.ReadTurn(once, c.source().Pool())
	if err != nil {
		return unknown, err
	}
	if turn.Attempt > c.attempt {
		return unknown, fmt.Errorf("%w: attempt %d", ErrTakenOver, turn.Attempt)
	}
	if err := c.relock(once); err != nil {
		return unknown, err
	}
	now, err := state.Identify(once, c.source())
	if err != nil {
		return unknown, err
	}
	there, err := state.Decided(once, c.source().Pool(), c.Direction, c.attempt)
	switch {
	case err != nil:
		return unknown, err
	case there:
		return yes, c.opened(ctx)
	case now != c.identity():
		return unknown, fmt.Errorf("the %s server is another one than before", c.Direction.Source())
	}
	return no, nil
}

// opened waits no longer than the caller looks: the decision is there, and the
// guard opens the target when it arrives.
func (c *Cutover) opened(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	turn, err := state.ReadTurn(limit, c.target().Pool())
	if err != nil {
		return err
	}
	if turn.Attempt == c.attempt && !turn.Open {
		return fmt.Errorf("the decision was made, the %s server is not open yet", c.Direction.Target())
	}
	return nil
}

// sendPoolers sends every pooler's clients to the target.
func (c *Cutover) sendPoolers(ctx context.Context) error {
	return together(c.poolers(), func(p traffic.Pauser) error { return c.drive(ctx, p) })
}

// releasePoolers ends the pause without knowing who serves.
func (c *Cutover) releasePoolers(ctx context.Context) error {
	situation := c.situation()
	situation.Serving = ""
	return together(c.poolers(), func(p traffic.Pauser) error { return p.Resume(ctx, situation) })
}
