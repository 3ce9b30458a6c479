package cutover

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

func (c *Cutover) freezeStep() step.Step {
	// Each attempt waits lock_timeout and rests up to one and a half of it.
	bound := time.Duration(c.Settings.Attempts)*(c.Settings.LockTimeout*3+100*time.Millisecond) + 10*time.Second
	return step.Step{
		Name:           "freeze",
		About:          fmt.Sprintf("make writers on %s wait at the gate; those in the middle of a transaction finish first", c.Direction.Source()),
		Bound:          bound,
		Do:             c.freeze,
		Undo:           c.endLease,
		Behind:         true,
		Statements:     step.Fixed(step.Statement{Server: string(c.Direction.Source()), SQL: publisher.FreezeSQL}),
		UndoStatements: step.Fixed(step.Statement{Server: string(c.Direction.Source()), SQL: "rollback"}),
	}
}

type freezeFacts struct {
	Attempts int     `json:"attempts"`
	LockMS   float64 `json:"lock_ms"` // from the first attempt to the lock
}

func (c *Cutover) freeze(ctx context.Context) (any, error) {
	began := time.Now()
	frozen, err := c.lease.Freeze(ctx, publisher.FreezeOptions{
		LockTimeout: c.Settings.LockTimeout, Attempts: c.Settings.Attempts, Progress: func(text string) { step.Progress(ctx, "%s", text) },
	})
	if err != nil {
		c.lease.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	c.frozenAt = time.Now()
	c.lease.ExpireAfter(c.Settings.MaxPause) //nolint:contextcheck // the clock must run whatever becomes of ctx
	return freezeFacts{Attempts: frozen.Attempts, LockMS: ms(time.Since(began))}, nil
}

// thawing is an Observer that lets the writers go on at the first failure before
// the decision, before anything is written to the journal or undone: the
// journal's server may be what does not answer.
type thawing struct {
	step.Observer
	cutover *Cutover
}

// StepFailed ends the lease's transaction. decide does so itself, where it is
// known that nothing was committed.
func (t thawing) StepFailed(s step.Step, err error, took time.Duration) {
	if c := t.cutover; !s.Final && !c.decided && c.lease != nil {
		c.lease.Rollback(context.Background())
		c.resumePoolers(context.Background())
	}
	t.Observer.StepFailed(s, err, took)
}

// remaining is what is left of max_pause.
func (c *Cutover) remaining() time.Duration {
	return max(c.Settings.MaxPause-time.Since(c.frozenAt), time.Millisecond)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
