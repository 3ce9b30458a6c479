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
		Statements: step.Fixed(step.Statement{Server: string(c.Direction.Target()), SQL: fence.TryOpenSQL, Why: "if this attempt has the turn, and the decision is there, or is known from " + string(c.Direction.Source()) + " and the marker is there"}),
	}
}

type openFacts struct {
	By      string  `json:"by"` // tool or guard
	PauseMS float64 `json:"pause_ms,omitempty"`
}

func (c *Cutover) open(ctx context.Context) (any, error) {
	facts := openFacts{By: "guard"}
	err := pg.Wait(ctx, fmt.Sprintf("the condition for opening the %s server", c.Direction.Target()), 5*time.Millisecond, 50*time.Second, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
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
