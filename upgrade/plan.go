package upgrade

import (
	"context"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Plan is the whole procedure as it would run now: every statement that
// changes a server, in order, with its undo and bound, and what to look at before
// going on.
type Plan struct {
	Variables []step.Variable `json:"variables"`
	Sessions  []step.Session  `json:"sessions"`
	Start     []step.Entry    `json:"start"`
	Cutover   []step.Entry    `json:"cutover"`
	Rollback  []step.Entry    `json:"rollback"`
	Complete  []step.Entry    `json:"complete"`
	Abort     []step.Entry    `json:"abort"`

	runbook step.Runbook
}

// Runbook is the plan for a person who does it by hand.
func (p Plan) Runbook() step.Runbook { return p.runbook }

// Plan describes the move without doing any of it, and changes nothing on either
// server; pg_dump reads the schema of old. Start is planned from its beginning,
// also when it is done already. Statements that depend on what is on the servers
// are those of this moment; what will be there only when the move is further is
// worked out from what is there now.
func (m *Move) Plan(ctx context.Context) (Plan, error) {
	recorded, err := state.Observe(ctx, m.Options.Name, m.Old, m.New)
	if err != nil {
		return Plan{}, err
	}
	started, err := m.started(ctx)
	if err != nil {
		return Plan{}, err
	}
	s := &start{Move: m, recorded: *recorded}
	lists := planLists{start: s.phases(), forward: m.cutover(*recorded), back: m.rollback(*recorded)}
	if err := m.assume(ctx, started, &lists); err != nil {
		return Plan{}, err
	}
	p, err := lists.plan(ctx)
	if err != nil {
		return p, err
	}
	if err := m.estimate(ctx, &p); err != nil {
		return p, err
	}
	m.fillRunbook(&p, s.asked)
	return p, nil
}

// started tells whether both servers have the state of this move.
func (m *Move) started(ctx context.Context) (bool, error) {
	for _, s := range []*pg.Server{m.Old, m.New} {
		have, err := state.Load(ctx, s)
		if err != nil || have == nil {
			return false, err
		}
	}
	return true, nil
}

// planLists are the lists of a plan, and the numbers of the attempts.
type planLists struct {
	start                      []step.Step
	forward, back              *cutover.Cutover
	complete, abort            []step.Step
	forwardAttempt, backwardTo int64
}

// assume gives the lists the numbers and streams that they will have when their
// turn comes.
func (m *Move) assume(ctx context.Context, started bool, l *planLists) error {
	pos := state.Position{Move: m.Options.Name, Attempt: state.FirstTurn(time.Now())}
	if started {
		var err error
		if pos, err = state.Locate(ctx, m.Old, m.New); err != nil {
			return err
		}
	}
	complete, abort := newRemover(m, RemoveOptions{}), newRemover(m, RemoveOptions{})
	l.complete, l.abort = complete.CompleteSteps(), abort.AbortSteps()
	l.forwardAttempt = pos.Attempt + 1
	if !started {
		l.forward.Assume(l.forwardAttempt, pos.Stream(state.Forward), m.Old)
	}
	if pos.Serving() == pg.New { // the cutover is done
		l.backwardTo = pos.Attempt + 1
		return nil
	}
	// A rollback follows the cutover.
	back := state.WayBack(m.Options.Name, state.Forward, l.forwardAttempt)
	l.backwardTo = l.forwardAttempt + 1
	l.back.Assume(l.backwardTo, back, m.Old)
	if !started {
		if err := abort.assume(ctx, m.first()); err != nil {
			return err
		}
	}
	if !m.Options.Cutover.WayBack {
		return complete.assume(ctx)
	}
	return complete.assume(ctx, back)
}

// plan asks all steps for their statements, and adds the journal's.
func (l planLists) plan(ctx context.Context) (Plan, error) {
	var p Plan
	for _, part := range []struct {
		into  *[]step.Entry
		steps []step.Step
		list  string // of the journal; empty when that is in memory
		run   int64
	}{
		{&p.Start, l.start, List, 0},
		{&p.Cutover, l.forward.Steps(), cutover.List, l.forwardAttempt},
		{&p.Rollback, l.back.Steps(), cutover.List, l.backwardTo},
		{&p.Complete, l.complete, "", 0},
		{&p.Abort, l.abort, "", 0},
	} {
		var err error
		if *part.into, err = step.Plan(ctx, part.steps); err != nil {
			return p, err
		}
		if part.list == "" {
			continue
		}
		seq := int64(1)
		err = step.Records(*part.into, func(records []journal.Record) (step.Statement, error) {
			sql := state.JournalSQL(part.list, part.run, seq, records)
			seq += int64(len(records))
			return step.Statement{Server: string(pg.New), SQL: sql, Why: "the journal: how far this is"}, nil
		})
		if err != nil {
			return p, err
		}
	}
	return p, nil
}
