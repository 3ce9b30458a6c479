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
	began, resumed := time.Now(), false
	return pg.Wait(ctx, "the poolers' pause to end", 100*time.Millisecond, watchBound, progress, func(ctx context.Context) (bool, string, error) {
		answer, err := c.verdict(ctx)
		switch {
		case errors.Is(err, ErrTakenOver):
			return false, "", err
		case answer == yes && err == nil:
			c.decided = true
			if err := c.sendPoolers(ctx); err != nil {
				return notYet(err)
			}
			// Had this process slept meanwhile, somebody may have turned the writes
			// again: then the next look says so.
			if err := c.stillMine(ctx); err != nil {
				c.decided = false
				return false, errors.Join(err, c.mendPoolers(ctx)).Error(), nil
			}
			progress(fmt.Sprintf("the decision was made: the poolers' clients go to the %s server", c.Direction.Target()))
			return true, "", nil
		case answer == no:
			if err := c.resumePoolers(ctx); err != nil {
				return notYet(err)
			}
			progress(fmt.Sprintf("there was no decision: the poolers' clients go on to the %s server", c.Direction.Source()))
			return true, "", nil
		case !resumed && time.Since(began) > unknownBound: // not known, or known and not open yet
			if err := c.releasePoolers(ctx); err != nil {
				return notYet(err)
			}
			resumed = true
			progress(fmt.Sprintf("not known yet whether the decision was made (%v): the pause was ended, nothing else changed", err))
		}
		return false, fmt.Sprint(err), nil
	})
}

// notYet is the answer of a look that is to be repeated.
func notYet(err error) (bool, string, error) { return false, err.Error(), nil }

type answer int

const (
	unknown answer = iota
	yes
	no
)

// verdict asks once whether the attempt was decided. err says why not more is
// known.
func (c *Cutover) verdict(ctx context.Context) (answer, error) {
	once, cancel := context.WithTimeout(ctx, relockBound+3*time.Second)
	defer cancel()
	if err := c.turnedOn(once); err != nil {
		return unknown, err
	}
	if turn, err := state.ReadTurn(once, c.target().Pool()); err == nil && turn.Attempt == c.attempt && turn.Open {
		return yes, nil // opened by a tool that knew the decision from the source
	}
	for _, s := range []*pg.Server{c.target(), c.source()} {
		if there, err := state.Decided(once, s.Pool(), c.Direction, c.attempt); err == nil && there {
			return yes, c.opened(once)
		}
	}
	if err := c.relock(once); err != nil {
		return unknown, err
	}
	// Under the lock, and from the very server that the COMMIT would have gone
	// to, a missing row is a no.
	now, err := state.Identify(once, c.source())
	if err != nil {
		return unknown, err
	}
	there, err := state.Decided(once, c.source().Pool(), c.Direction, c.attempt)
	switch {
	case err != nil:
		return unknown, err
	case there:
		return yes, nil
	case now != c.identity():
		return unknown, fmt.Errorf("the %s server is another one than before", c.Direction.Source())
	}
	return no, nil
}

// turnedOn returns ErrTakenOver when either server has seen a newer attempt: the
// tool that took it deals with the poolers.
func (c *Cutover) turnedOn(ctx context.Context) error {
	for _, s := range []*pg.Server{c.target(), c.source()} {
		turn, err := state.ReadTurn(ctx, s.Pool())
		if err == nil && turn.Attempt > c.attempt {
			return fmt.Errorf("%w: attempt %d", ErrTakenOver, turn.Attempt)
		}
	}
	return nil
}

// opened waits no longer than the caller looks: the decision is there, and the
// guard opens the target when it arrives.
func (c *Cutover) opened(ctx context.Context) error {
	turn, err := state.ReadTurn(ctx, c.target().Pool())
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
