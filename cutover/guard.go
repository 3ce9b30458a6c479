package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/step"
)

func (c *Cutover) guardStep() step.Step {
	return step.Step{
		Name:           "guard",
		About:          fmt.Sprintf("arm the guard: when the decision of this attempt arrives on %[1]s, it opens %[1]s by itself", c.Direction.Target()),
		Bound:          10 * time.Second,
		Do:             c.arm,
		Undo:           c.disarm,
		UndoBound:      2*sourceBound + 10*time.Second,
		UndoLast:       true, // only after it is certain that there is no decision
		Statements:     c.planning(c.guardStatements),
		UndoStatements: c.planning(c.undoGuardStatements),
	}
}

func (c *Cutover) arm(ctx context.Context) (any, error) {
	return nil, fence.Arm(ctx, c.target(), c.attempt)
}

// disarm comes last, and only once the source has said that there is no
// decision: a guard that was disarmed while one is on its way opens nobody.
func (c *Cutover) disarm(ctx context.Context) error {
	if mine, err := c.undecided(ctx); !mine {
		return err
	}
	err := patiently(ctx, c.Direction.Target(), func(ctx context.Context) error {
		return fence.Disarm(ctx, c.target(), c.attempt)
	})
	if errors.Is(err, fence.ErrNotMine) {
		return nil
	}
	return err
}
