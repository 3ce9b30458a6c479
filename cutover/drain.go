package cutover

import (
	"context"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

func (c *Cutover) drainStep() step.Step {
	return step.Step{
		Name:  "drain",
		About: "commit the marker on old, wait until it is on new, and make what was applied durable there",
		Bound: c.Settings.MaxPause,
		Do:    c.drain,
		Statements: step.Fixed(
			step.Statement{Server: "old", SQL: publisher.MarkSQL},
			step.Statement{Server: "new", SQL: subscriber.FlushMarkerSQL, Why: "one synchronous commit, conditional on the marker"}),
	}
}

type drainFacts struct {
	ArrivedMS float64 `json:"arrived_ms"` // from the marker's commit on old to its arrival on new
	FlushMS   float64 `json:"flush_ms"`
}

func (c *Cutover) drain(ctx context.Context) (any, error) {
	if err := publisher.Mark(ctx, c.Old, c.attempt); err != nil {
		return nil, err
	}
	marked := time.Now()
	err := subscriber.WaitMarker(ctx, c.New, c.attempt, c.remaining(), func(text string) { step.Progress(ctx, "marker: %s", text) })
	if err != nil {
		return nil, err
	}
	arrived := time.Now()
	if err := subscriber.FlushMarker(ctx, c.New, c.attempt); err != nil {
		return nil, err
	}
	return drainFacts{ArrivedMS: ms(arrived.Sub(marked)), FlushMS: ms(time.Since(arrived))}, nil
}
