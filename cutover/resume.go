package cutover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Outcome says which way Resume went.
type Outcome string

// The two ways to end an interrupted cutover or rollback.
const (
	Finished Outcome = "forward" // it was decided: the rest was done
	Undone   Outcome = "back"    // it was not: all was undone, the source takes the writes
)

// settled are the facts of steps that a dead process did and could not record.
var settled = json.RawMessage(`{"settled": "the decision is there"}`)

// Resume ends the newest interrupted attempt: forward when its decision was
// made, back when it was not. It takes the one-tool lock first, so that a no
// is definitive. ErrNothing when nothing was interrupted.
func (c *Cutover) Resume(soft, hard context.Context) (Outcome, error) {
	pos, err := state.Locate(soft, c.Old, c.New)
	if err != nil {
		return "", err
	}
	if pos.Attempt == 0 {
		return "", ErrNothing
	}
	c.Direction = pos.Direction() // tells on which server the lock is
	if err := c.lock(soft); err != nil {
		return "", err
	}
	defer c.unlock(soft)
	now, err := state.Locate(soft, c.Old, c.New)
	if err != nil {
		return "", err
	}
	if now.Attempt != pos.Attempt || now.Direction() != pos.Direction() {
		return "", hint.With(errors.New("another tool went on meanwhile"), "run: pgcutover status")
	}
	c.at(now)
	c.decided = now.Decided()
	if !c.decided {
		// The no counts only if it comes from the very server that the COMMIT would
		// have gone to: asked under the lock, like the decision itself.
		if is, err := state.Identify(soft, c.source()); err != nil || is != c.identity() {
			return "", hint.With(errors.Join(fmt.Errorf("the %s server is not, or not any more, the one that the move was started with (timeline %d, was %d)",
				c.Direction.Source(), is.Timeline, c.identity().Timeline), err), "if it failed over, a decision may have been lost with it: compare both servers before anything else")
		}
	}
	runner, err := c.runner(soft)
	if err != nil {
		return "", err
	}
	switch {
	case c.decided:
		return c.forward(soft, hard, runner)
	case runner.Log.Standing():
		if err := runner.Undo(soft); err != nil {
			return Undone, fmt.Errorf("undoing attempt %d: %w", c.attempt, err)
		}
		return Undone, nil
	}
	return "", ErrNothing
}

// forward does the rest of a decided attempt.
func (c *Cutover) forward(soft, hard context.Context, runner *step.Runner) (Outcome, error) {
	if runner.Log.Done() {
		return "", hint.With(ErrNothing, "the "+c.what()+" is done; run: pgcutover status")
	}
	if err := c.remember(runner.Log); err != nil {
		return Finished, err
	}
	// The steps that came before the decision have happened, whether or not
	// their process lived to write so.
	err := runner.Log.Settle(soft, settled)
	if !errors.Is(err, journal.ErrIllegal) {
		err = runner.Run(soft, hard) // what could not be written goes out with its first write
	}
	if errors.Is(err, step.ErrGoingBack) || errors.Is(err, journal.ErrIllegal) {
		// The protocol has no way to come here.
		return Finished, hint.With(fmt.Errorf("attempt %d was decided, but its journal says that it was being undone: %w", c.attempt, err),
			"look at both servers with pgcutover doctor before anything else: if one takes writes, keep the other one closed; report this")
	}
	return Finished, err
}

// what names the direction for people.
func (c *Cutover) what() string {
	if c.Direction.Target() == pg.Old {
		return "rollback"
	}
	return "cutover"
}
