package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

// leaseBound is long because the gates are looked at again, which read all of the
// catalogs; no writer waits meanwhile.
const leaseBound = 2 * time.Minute

func (c *Cutover) leaseStep() step.Step {
	bound := leaseBound + c.Settings.TerminateAfter
	if c.Meet != nil {
		bound += meetBound
	}
	return step.Step{
		Name:           "lease",
		About:          fmt.Sprintf("begin the lease on %s: take the turn, keep DDL out, fence what was made meanwhile", c.Direction.Source()),
		Bound:          bound,
		Do:             c.beginLease,
		Undo:           c.endLease,
		Statements:     c.planning(c.leaseStatements),
		UndoStatements: c.planning(c.endLeaseStatements),
	}
}

type leaseFacts struct {
	Protected int `json:"protected_tables"`
	Fenced    int `json:"fenced_meanwhile"`
}

// beginLease gives way to clients that wait for its locks on tables: the next
// try leaves those alone.
func (c *Cutover) beginLease(ctx context.Context) (any, error) {
	for {
		facts, err := c.tryLease(ctx)
		if again, err := c.giveWay(ctx, err); !again {
			return facts, err
		}
	}
}

// mostYields is how often an attempt gives way before it insists.
const mostYields = 5

// yields tells whether the lease still gives way.
func (c *Cutover) yields() bool { return c.yielded < mostYields }

// giveWay tells, after an error, that the lease's tables had to be let go of,
// and lets go of them; the lease is to be begun again then.
func (c *Cutover) giveWay(ctx context.Context, err error) (again bool, _ error) {
	var held *publisher.HoldsUpError
	if !errors.As(err, &held) || ctx.Err() != nil {
		return false, err
	}
	c.lease.Rollback(ctx)
	step.Progress(ctx, "%v: they go first", held)
	if c.contested == nil {
		c.contested = map[string]bool{}
	}
	for _, table := range held.Tables {
		c.contested[table] = true
	}
	c.yielded++
	// What the lease had fenced in its own transaction is open again.
	_, err = fence.Attach(ctx, c.source(), yieldBound, func(text string) { step.Progress(ctx, "%s", text) })
	return err == nil, err
}

// yieldBound is how long new tables may keep the lease waiting then.
const yieldBound = 5 * time.Second

func (c *Cutover) tryLease(ctx context.Context) (leaseFacts, error) {
	var facts leaseFacts
	tables, err := c.protectable(ctx)
	if err != nil {
		return facts, err
	}
	if err := c.meetSequences(ctx); err != nil {
		return facts, err
	}
	c.closed = nil
	if err := c.lease.Begin(ctx, c.attempt); err != nil {
		return facts, err
	}
	facts.Protected = len(tables)
	if _, err := c.lease.Protect(ctx, tables, publisher.ProtectOptions{
		Yield: c.yields(), TerminateAfter: c.Settings.TerminateAfter, Progress: func(text string) { step.Progress(ctx, "%s", text) },
	}); err != nil {
		return facts, err
	}
	err = c.lease.Transaction(func(q state.Querier) error {
		if facts.Fenced, err = fence.AttachMissing(ctx, q, c.source()); err != nil {
			return err
		}
		return c.prepareClosing(ctx, q)
	})
	if err != nil {
		return facts, err
	}
	// Once more, now that DDL is kept away from the tables: what was made or
	// altered since the gates would be missing on new.
	again := func(ctx context.Context) error {
		if _, err := c.gateTables(ctx); err != nil {
			return err
		}
		if err := c.meetUnreplicated(ctx); err != nil || c.Gates == nil {
			return err
		}
		return c.Gates(ctx)
	}
	if c.yields() {
		return facts, c.lease.Yielding(ctx, false, again)
	}
	return facts, again(ctx)
}

// closing is how the source is closed.
func (c *Cutover) closing() fence.Closing {
	return fence.Closing{OnClosed: c.Settings.OnClosed, Database: c.identity().Database, Since: time.Now(), RevokeConnect: c.Settings.RevokeConnect}
}

// prepareClosing does what of the closing clients need not wait for: it becomes
// true with the lease's COMMIT too, and not at all with its ROLLBACK.
func (c *Cutover) prepareClosing(ctx context.Context, q state.Querier) error {
	if _, err := fence.Comment(ctx, q, c.source(), time.Now()); err != nil {
		return err
	}
	if c.Settings.Unreplicated.objects() {
		if _, err := fence.LockObjects(ctx, q); err != nil {
			return err
		}
	}
	if !c.Settings.RevokeConnect {
		return nil
	}
	_, err := fence.RevokeConnect(ctx, q, c.source())
	return err
}

// protectable lists the tables to keep DDL away from: all of them, or, where
// that would fill more than half of the server's lock table, partitioned and
// inheritance parents only; so too where clients have waited for these locks, and
// then not those that they waited for.
func (c *Cutover) protectable(ctx context.Context) ([]string, error) {
	tables, err := fence.Tables(ctx, c.source().Pool(), c.Move.Name)
	if err != nil {
		return nil, err
	}
	capacity, err := publisher.LockCapacity(ctx, c.source())
	if err != nil {
		return nil, err
	}
	return c.toProtect(tables, capacity), nil
}

func (c *Cutover) toProtect(tables []fence.Table, capacity int64) []string {
	all := c.contested == nil && int64(len(tables)) <= capacity/2
	names := make([]string, 0, len(tables))
	for _, t := range tables {
		if all || (t.Partitioned || t.Parent) && !c.contested[t.Identifier()] {
			names = append(names, t.Identifier())
		}
	}
	return names
}

// endLease lets the writers go on and gives up what the lease holds.
func (c *Cutover) endLease(ctx context.Context) error {
	if c.lease != nil {
		c.lease.Rollback(ctx)
	}
	return nil
}
