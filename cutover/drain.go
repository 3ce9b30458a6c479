package cutover

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

func (c *Cutover) drainStep() step.Step {
	return step.Step{
		Name:  "drain",
		About: fmt.Sprintf("commit the marker on %s, wait until it is on %s, and make what was applied durable there", c.Direction.Source(), c.Direction.Target()),
		Bound: c.Settings.MaxPause,
		Do:    c.drain, Behind: true,
		Statements: c.planning(c.drainStatements),
	}
}

type drainFacts struct {
	ArrivedMS float64 `json:"arrived_ms"` // from the marker's commit to its arrival
	FlushMS   float64 `json:"flush_ms"`
}

func (c *Cutover) drain(ctx context.Context) (any, error) {
	c.beginClosing(ctx)
	if err := publisher.Mark(ctx, c.source(), c.Direction, c.attempt); err != nil {
		return nil, err
	}
	marked := time.Now()
	err := subscriber.WaitMarker(ctx, c.target(), c.Direction, c.attempt, c.remaining(), func(text string) { step.Progress(ctx, "marker: %s", text) })
	if err != nil {
		return nil, err
	}
	arrived := time.Now()
	if err := subscriber.FlushMarker(ctx, c.target(), c.Direction, c.attempt); err != nil {
		return nil, err
	}
	if err := c.awaitClosing(ctx); err != nil {
		return nil, err
	}
	return drainFacts{ArrivedMS: ms(arrived.Sub(marked)), FlushMS: ms(time.Since(arrived))}, nil
}
