package cutover

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

func (c *Cutover) leaseStep() step.Step {
	return step.Step{
		Name:  "lease",
		About: fmt.Sprintf("begin the lease on %s: take the turn, keep DDL out, fence what was made meanwhile", c.Direction.Source()),
		Bound: 30 * time.Second,
		Do:    c.beginLease,
		Undo:  c.endLease,
		Statements: step.Fixed(
			step.Statement{Server: string(c.Direction.Source()), SQL: "begin"},
			step.Statement{Server: string(c.Direction.Source()), SQL: state.TurnLockSQL, Why: "every undo elsewhere waits for this row"},
			step.Statement{Server: string(c.Direction.Source()), SQL: "lock table only <every table> in share update exclusive mode", Why: "writers are not touched; DDL and vacuum stay out"},
			step.Statement{Server: string(c.Direction.Source()), SQL: fence.AttachSQL(c.Move.Name, fence.Table{Schema: "<schema>", Name: "<every table made since ahead>"})}),
		UndoStatements: step.Fixed(step.Statement{Server: string(c.Direction.Source()), SQL: "rollback"}),
	}
}

type leaseFacts struct {
	Protected int `json:"protected_tables"`
	Fenced    int `json:"fenced_meanwhile"`
}

func (c *Cutover) beginLease(ctx context.Context) (any, error) {
	tables, err := c.protectable(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.lease.Begin(ctx, c.attempt); err != nil {
		return nil, err
	}
	facts := leaseFacts{Protected: len(tables)}
	if _, err := c.lease.Protect(ctx, tables, publisher.ProtectOptions{Progress: func(text string) { step.Progress(ctx, "%s", text) }}); err != nil {
		return nil, err
	}
	err = c.lease.Transaction(func(q state.Querier) error {
		facts.Fenced, err = fence.AttachMissing(ctx, q, c.Move.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Once more, now that DDL is kept away from the tables: what was made or
	// altered since the gates would be missing on new.
	if _, err := c.gateTables(ctx); err != nil {
		return nil, err
	}
	if c.Gates != nil {
		err = c.Gates(ctx)
	}
	return facts, err
}

// protectable lists the tables to keep DDL away from: all of them, or, where
// that would fill more than half of the server's lock table, partitioned and
// inheritance parents only.
func (c *Cutover) protectable(ctx context.Context) ([]string, error) {
	tables, err := fence.Tables(ctx, c.source().Pool(), c.Move.Name)
	if err != nil {
		return nil, err
	}
	capacity, err := publisher.LockCapacity(ctx, c.source())
	if err != nil {
		return nil, err
	}
	all := int64(len(tables)) <= capacity/2
	names := make([]string, 0, len(tables))
	for _, t := range tables {
		if all || t.Partitioned || t.Parent {
			names = append(names, t.Identifier())
		}
	}
	return names, nil
}

// endLease lets the writers go on and gives up what the lease holds.
func (c *Cutover) endLease(ctx context.Context) error {
	if c.lease != nil {
		c.lease.Rollback(ctx)
	}
	return nil
}
