package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/schema"
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
		About:          fmt.Sprintf("refresh the materialized views on new; make the open fence triggers on %s, set %s's sequences ahead, try the guard, make the stream back but for its slot", c.Direction.Source(), c.Direction.Target()),
		Bound:          aheadBound + c.Settings.TerminateAfter + manyTables + c.Settings.RefreshWithin,
		UndoBound:      aheadBound + manyTables,
		Do:             c.ahead,
		Undo:           c.undoAhead,
		Statements:     c.planning(c.aheadStatements),
		UndoStatements: c.planning(c.undoAheadStatements),
	}
}

// busyBound is how long the undo waits for tables that somebody holds.
const busyBound = 5 * time.Second

// aheadFacts remember what each sequence on the target was given, for the comparison
// after the switch.
type aheadFacts struct {
	Triggers int             `json:"triggers"`
	Ended    []blocker.Ended `json:"ended,omitempty"` // sessions that were in the way
	Given    Given           `json:"given,omitempty"`
	// Refreshed are the materialized views on new.
	Refreshed *schema.Refreshed `json:"refreshed,omitempty"`
}

func (c *Cutover) ahead(ctx context.Context) (any, error) {
	refreshed, err := c.refreshViews(ctx) // first, since it may take long
	if err != nil {
		return nil, err
	}
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
	facts := aheadFacts{Triggers: made.Tables, Ended: made.Ended, Given: c.given, Refreshed: refreshed}
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

// ErrNotRefreshed means that the materialized views on new took too long.
var ErrNotRefreshed = errors.New("refreshing the materialized views took longer than refresh.bound")

// refreshViews brings the materialized views on new up to what its tables have.
// A rollback, which must not be kept waiting, leaves those on old as they are.
func (c *Cutover) refreshViews(ctx context.Context) (*schema.Refreshed, error) {
	if c.Direction == state.Back || c.Settings.RefreshWithin == 0 {
		return nil, nil //nolint:nilnil // nothing was to be refreshed
	}
	limit, cancel := context.WithTimeoutCause(ctx, c.Settings.RefreshWithin, ErrNotRefreshed)
	defer cancel()
	done, err := schema.RefreshAgain(limit, c.Old, c.New, func(text string) { step.Progress(ctx, "%s", text) })
	switch {
	case err != nil && errors.Is(context.Cause(limit), ErrNotRefreshed):
		return nil, blocked("raise refresh.bound, or refresh them after the cutover (refresh: { before_cutover: false })", "%v (%s): %v", ErrNotRefreshed, c.Settings.RefreshWithin, err)
	case err != nil:
		return nil, hint.With(err, "to cut over without that: refresh: { before_cutover: false }")
	case done.Views == 0:
		return nil, nil //nolint:nilnil // there are none
	}
	return &done, nil
}

func (c *Cutover) refreshStatements() ([]step.Statement, error) {
	if c.Direction == state.Back || c.Settings.RefreshWithin == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), planBound)
	defer cancel()
	views, err := schema.RefreshAgainSQL(ctx, c.Old, c.New)
	if err != nil {
		return nil, err
	}
	var out []step.Statement
	for _, sql := range views {
		out = append(out, step.Statement{Server: string(pg.New), SQL: sql})
	}
	return out, nil
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
