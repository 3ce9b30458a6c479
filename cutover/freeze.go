package cutover

import (
	"context"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

func (c *Cutover) freezeStep() step.Step {
	// Each attempt waits lock_timeout and rests up to one and a half of it.
	bound := time.Duration(c.Settings.Attempts)*(c.Settings.LockTimeout*3+100*time.Millisecond) + 10*time.Second
	return step.Step{
		Name:           "freeze",
		About:          "make writers on old wait at the gate; those in the middle of a transaction finish first",
		Bound:          bound,
		Do:             c.freeze,
		Undo:           c.endLease,
		Statements:     step.Fixed(step.Statement{Server: "old", SQL: publisher.FreezeSQL}),
		UndoStatements: step.Fixed(step.Statement{Server: "old", SQL: "rollback"}),
	}
}

type freezeFacts struct {
	Attempts int     `json:"attempts"`
	LockMS   float64 `json:"lock_ms"` // from the first attempt to the lock
}

func (c *Cutover) freeze(ctx context.Context) (any, error) {
	began := time.Now()
	tries, err := c.lease.Freeze(ctx, c.Settings.LockTimeout, c.Settings.Attempts, func(text string) { step.Progress(ctx, "%s", text) })
	if err != nil {
		c.lease.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	c.frozenAt = time.Now()
	c.lease.ExpireAfter(c.Settings.MaxPause) //nolint:contextcheck // the clock must run whatever becomes of ctx
	return freezeFacts{Attempts: tries, LockMS: ms(time.Since(began))}, nil
}

// frozen wraps the Do of a step that runs while writers wait: when it fails
// they go on at once, before anything else is written or undone.
func (c *Cutover) frozen(do func(context.Context) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		facts, err := do(ctx)
		if err != nil && c.lease != nil {
			release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			c.lease.Rollback(release)
		}
		return facts, err
	}
}

// remaining is what is left of max_pause.
func (c *Cutover) remaining() time.Duration {
	return max(c.Settings.MaxPause-time.Since(c.frozenAt), time.Millisecond)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
