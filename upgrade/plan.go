package upgrade

import (
	"context"

	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Plan is the whole procedure as it would run now: every statement that
// changes a server, in order, with its undo and bound.
type Plan struct {
	Start    []step.Entry `json:"start"`
	Cutover  []step.Entry `json:"cutover"`
	Rollback []step.Entry `json:"rollback"`
	Complete []step.Entry `json:"complete"`
	Abort    []step.Entry `json:"abort"`
}

// Plan describes the move without doing any of it. Statements that depend on
// what is on the servers are those of this moment.
func (m *Move) Plan(ctx context.Context) (Plan, error) {
	recorded, err := state.Observe(ctx, m.Options.Name, m.Old, m.New)
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	r := newRemover(m, RemoveOptions{})
	for _, part := range []struct {
		into  *[]step.Entry
		steps []step.Step
	}{
		{&p.Start, m.Phases()},
		{&p.Cutover, m.cutover(*recorded).Steps()},
		{&p.Rollback, m.rollback(*recorded).Steps()},
		{&p.Complete, r.CompleteSteps()},
		{&p.Abort, r.AbortSteps()},
	} {
		if *part.into, err = step.Plan(part.steps); err != nil {
			return p, err
		}
	}
	return p, nil
}
