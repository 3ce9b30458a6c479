package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

func (c *Cutover) followStep() step.Step {
	return step.Step{
		Name:       "follow",
		About:      fmt.Sprintf("probe a write; drop the stream that was drained and, last, its slot; start the stream back; statistics; drop %s's fence triggers", c.Direction.Target()),
		Bound:      10*time.Minute + manyTables,
		Do:         c.follow,
		Statements: c.planning(c.followStatements),
	}
}

type followFacts struct {
	Analyzed int      `json:"analyzed"`
	Left     int      `json:"statistics_left,omitempty"` // tables that are due for ANALYZE still
	Detached int      `json:"detached"`
	Warnings []string `json:"warnings,omitempty"`
	// Proof is what was seen of the closed source.
	Proof *fence.Proof `json:"proof,omitempty"`
}

// proveClosed looks whether the source really takes no writes. The target
// serves: what is wrong is told, and is no reason to stop.
func (c *Cutover) proveClosed(ctx context.Context, facts *followFacts) *fence.Proof {
	proof, err := fence.Prove(ctx, c.source(), fence.ProveOptions{OnClosed: c.Settings.OnClosed, Within: c.Settings.ProveWithin})
	facts.Warnings = append(facts.Warnings, proof.Warnings...)
	if err != nil {
		facts.Warnings = append(facts.Warnings, err.Error())
		return nil
	}
	return &proof
}

func (c *Cutover) follow(ctx context.Context) (any, error) {
	if err := c.ensureLock(ctx); err != nil {
		return nil, err
	}
	if err := c.stillMine(ctx); err != nil {
		return nil, err
	}
	if err := c.probe(ctx); err != nil {
		return nil, err
	}
	if err := c.dropStream(ctx); err != nil {
		return nil, err
	}
	var facts followFacts
	if err := c.startWayBack(ctx); err != nil {
		facts.Warnings = append(facts.Warnings, err.Error())
	}
	facts.Proof = c.proveClosed(ctx, &facts)
	c.refreshStatistics(ctx, &facts)
	dropped, err := fence.DetachGuarded(ctx, c.target(), fence.Options{Bound: aheadBound, Progress: func(text string) { step.Progress(ctx, "%s", text) }},
		fence.Mine(c.target(), c.attempt))
	facts.Detached = dropped.Tables
	if errors.Is(err, pg.ErrTimeout) {
		facts.Warnings = append(facts.Warnings, fmt.Sprintf("fence triggers that do nothing are left on %s; pgcutover %s drops them: %v", c.Direction.Target(), c.ending(), err))
		err = nil
	}
	for _, w := range facts.Warnings {
		step.Progress(ctx, "%s", w)
	}
	return facts, err
}

// ending is the command that ends the move when the target serves.
func (c *Cutover) ending() string {
	if c.Direction == state.Back {
		return "abort"
	}
	return "complete"
}

// dropStream ends the stream that was drained. Its slot goes last, and only after
// the decision is on the target for good: should the target crash and lose its
// opening, the row can be sent again until then.
func (c *Cutover) dropStream(ctx context.Context) error {
	err := pg.Wait(ctx, fmt.Sprintf("the decision to arrive on the %s server", c.Direction.Target()), 20*time.Millisecond, time.Minute, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			if _, err := subscriber.Read(ctx, c.target(), c.stream); errors.Is(err, subscriber.ErrNone) {
				return true, "", nil // an earlier try came this far
			}
			there, err := state.Decided(ctx, c.target().Pool(), c.Direction, c.attempt)
			return there, "not yet", err
		})
	if err != nil {
		return hint.With(err, fmt.Sprintf("the %[1]s server serves; the stream to it is stuck: see its log, then run: pgcutover resume", c.Direction.Target()))
	}
	if _, err := subscriber.Drop(ctx, c.target(), c.stream); err != nil {
		return err
	}
	alive, err := subscriber.OIDs(ctx, c.target())
	if err != nil {
		return err
	}
	system := c.Move.New.System
	if c.Direction == state.Back {
		system = c.Move.Old.System
	}
	if err := publisher.DropSyncSlots(ctx, c.source(), system, alive, 30*time.Second); err != nil {
		return err
	}
	if err := publisher.DropSlot(ctx, c.source(), c.stream, 30*time.Second); err != nil {
		return err
	}
	return publisher.DropPublication(ctx, c.source(), c.stream)
}

// probeSQL writes a row and takes it back: it fails on a database whose
// default is read-only or whose fence is closed.
const probeSQL = `
begin;
create temporary table pgcutover_probe (n integer) on commit drop;
insert into pgcutover_probe values (1);
select pgcutover.check();
rollback`

// probe proves that a client of this role can write on the target, through a session
// that has none of the tool's settings.
func (c *Cutover) probe(ctx context.Context) error {
	conn, err := c.target().ConnectAsClient(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if _, err := conn.Exec(ctx, probeSQL); err != nil {
		return fmt.Errorf("probing a write on the %s server: %w", c.Direction.Target(), err)
	}
	return nil
}
