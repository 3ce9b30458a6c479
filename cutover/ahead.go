package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/sequences"
)

// aheadBound is how long making or dropping the fence triggers may take, besides
// a few milliseconds for each table; manyTables is room for these.
const (
	aheadBound = 2 * time.Minute
	manyTables = 10 * time.Minute
)

func (c *Cutover) aheadStep() step.Step {
	return step.Step{
		Name:           "ahead",
		About:          fmt.Sprintf("make the open fence triggers on %s, set %s's sequences ahead, try the guard, make the stream back but for its slot", c.Direction.Source(), c.Direction.Target()),
		Bound:          aheadBound + c.Settings.TerminateAfter + manyTables,
		UndoBound:      aheadBound + manyTables,
		Do:             c.ahead,
		Undo:           c.undoAhead,
		Statements:     c.aheadStatements,
		UndoStatements: c.detachStatements,
	}
}

// busyBound is how long the undo waits for tables that somebody holds.
const busyBound = 5 * time.Second

// aheadFacts remember what each sequence on the target was given, for the comparison
// after the switch.
type aheadFacts struct {
	Triggers int             `json:"triggers"`
	Ended    []blocker.Ended `json:"ended,omitempty"` // sessions that were in the way
	Given    given           `json:"given,omitempty"`
}

func (c *Cutover) ahead(ctx context.Context) (any, error) {
	made, err := fence.AttachWith(ctx, c.source(), fence.Options{
		Bound: aheadBound + c.Settings.TerminateAfter, TerminateAfter: c.Settings.TerminateAfter,
		Progress: func(text string) { step.Progress(ctx, "%s", text) },
	})
	if err != nil {
		return nil, err
	}
	notes, err := fence.DryRunClose(ctx, c.source(), c.closing())
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		step.Progress(ctx, "%s", note)
	}
	if err := c.setSequencesAhead(ctx); err != nil {
		return nil, err
	}
	facts := aheadFacts{Triggers: made.Tables, Ended: made.Ended, Given: c.given}
	for _, change := range c.given {
		for _, w := range change.Warnings {
			step.Progress(ctx, "sequence %s: %s", change.Ident(), w)
		}
	}
	if err := fence.DryRun(ctx, c.target()); err != nil {
		return nil, err
	}
	return facts, c.prepareWayBack(ctx)
}

// undoAhead also waits for a source that is restarting: its crash is the
// likeliest reason for undoing.
func (c *Cutover) undoAhead(ctx context.Context) error {
	return errors.Join(c.detach(ctx), c.dropWayBack(ctx))
}

func (c *Cutover) detach(ctx context.Context) error {
	err := patiently(ctx, c.Direction.Source(), func(ctx context.Context) error {
		return fence.DetachForUndo(ctx, c.source(), c.Direction, c.attempt, busyBound, func(text string) { step.Progress(ctx, "%s", text) })
	})
	switch {
	case errors.Is(err, fence.ErrNotMine):
		return nil // a newer attempt owns the triggers now
	case errors.Is(err, pg.ErrTimeout):
		// The transaction that the freeze gave up on may hold its tables for
		// hours. The triggers there are open and do nothing; the next cutover
		// takes them as they are, abort drops them.
		step.Progress(ctx, "open fence triggers stay on tables that are in use: %v", err)
		return nil
	}
	return err
}

func (c *Cutover) aheadStatements() ([]step.Statement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tables, err := fence.Tables(ctx, c.source().Pool(), c.Move.Name)
	if err != nil {
		return nil, err
	}
	source, target := string(c.Direction.Source()), string(c.Direction.Target())
	var out []step.Statement
	for _, t := range tables {
		out = append(out, step.Statement{Server: source, SQL: fence.AttachSQL(c.Move.Name, t)})
	}
	changes, err := c.planSequences(ctx)
	switch {
	case err == nil && len(changes) > 0:
		out = append(out, step.Statement{Server: target, SQL: sequences.Script(changes), Why: "sequences past " + source + "'s values; the values are those of this moment"})
	case errors.Is(err, ErrBlocked): // before start the sequences are not on new yet
		why := ""
		if c.Direction.Target() == pg.New {
			why = "pgcutover sequences sql shows the values after start"
		}
		out = append(out, step.Statement{Server: target, SQL: "alter sequence <every sequence> restart with <" + source + "'s value plus margin>", Why: why})
	case err != nil:
		return nil, err
	}
	out = append(out, step.Statement{Server: target, SQL: "begin;\n" + fence.OpenNowSQL + ";\nrollback", Why: "try the guard's body"})
	back, err := c.wayBackStatements(ctx)
	return append(out, back...), err
}

func (c *Cutover) detachStatements() ([]step.Statement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tables, err := fence.Tables(ctx, c.source().Pool(), c.Move.Name)
	if err != nil {
		return nil, err
	}
	var out []step.Statement
	for _, t := range tables {
		out = append(out, step.Statement{Server: string(c.Direction.Source()), SQL: fence.DetachSQL(c.Move.Name, t)})
	}
	return append(out, c.dropWayBackStatements()...), nil
}
