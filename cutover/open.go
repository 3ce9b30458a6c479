package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/step"
)

func (c *Cutover) openStep() step.Step {
	return step.Step{
		Name:       "open",
		About:      fmt.Sprintf("open the fence on %s, if the decision is there or the marker proves that all else is", c.Direction.Target()),
		Bound:      time.Minute,
		Do:         c.open,
		Behind:     true,
		Statements: c.planning(c.openStatements),
	}
}

// prepareBound is how long clients wait for what is only to make the opening
// quicker.
const prepareBound = 100 * time.Millisecond

// prepareOpening makes the opening of the target ready for the decision. Without
// it the open step does all of it.
func (c *Cutover) prepareOpening(ctx context.Context) {
	if c.opening != nil {
		return
	}
	limit, cancel := context.WithTimeout(ctx, prepareBound)
	defer cancel()
	opening, err := fence.PrepareOpen(limit, c.target(), c.attempt)
	if err != nil {
		step.Progress(ctx, "the opening could not be prepared, which costs a moment: %v", err)
		return
	}
	c.opening = opening
}

func (c *Cutover) dropOpening(ctx context.Context) {
	c.opening.Drop(ctx)
	c.opening = nil
}

// openPrepared opens the target by what decide has prepared, and tells whether
// that went well.
func (c *Cutover) openPrepared(ctx context.Context) bool {
	if c.opening == nil || !c.decided {
		return false
	}
	err := c.opening.Commit(ctx)
	c.dropOpening(ctx)
	if err != nil {
		step.Progress(ctx, "what was prepared could not be used: %v", err)
	}
	return err == nil
}

type openFacts struct {
	By       string  `json:"by"`                 // tool or guard
	Prepared bool    `json:"prepared,omitempty"` // all but the COMMIT was done before the decision
	PauseMS  float64 `json:"pause_ms,omitempty"`
}

func (c *Cutover) open(ctx context.Context) (any, error) {
	facts := openFacts{By: "guard"}
	err := pg.Wait(ctx, fmt.Sprintf("the condition for opening the %s server", c.Direction.Target()), 5*time.Millisecond, 50*time.Second, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			if c.openPrepared(ctx) {
				facts.By, facts.Prepared = "tool", true
				return true, "", nil
			}
			opened, err := fence.Open(ctx, c.target(), c.attempt, c.decided)
			if errors.Is(err, fence.ErrNotYet) {
				return false, "neither the decision nor the marker is there yet", nil
			}
			if err != nil && !errors.Is(err, fence.ErrNotMine) {
				// The target restarts, the network broke, or somebody altered the database
				// at the same moment: nobody takes writes, so it is asked again.
				return false, err.Error(), nil
			}
			if opened {
				facts.By = "tool"
			}
			return err == nil, "", err
		})
	if err != nil {
		return nil, err
	}
	c.decided = true
	if !c.frozenAt.IsZero() {
		c.pause = time.Since(c.frozenAt)
		facts.PauseMS = ms(c.pause)
	}
	return facts, nil
}
