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
	"github.com/pgcutover/pgcutover/warmup"
)

func (c *Cutover) followStep() step.Step {
	return step.Step{
		Name:       "follow",
		About:      "drop the forward stream and, last, its slot; probe a write; statistics; drop new's fence triggers",
		Bound:      10 * time.Minute,
		Do:         c.follow,
		Statements: c.followStatements,
	}
}

func (c *Cutover) followStatements() ([]step.Statement, error) {
	var out []step.Statement
	for _, sql := range subscriber.DropStatements(c.Move.Name) {
		out = append(out, step.Statement{Server: "new", SQL: sql})
	}
	out = append(out,
		step.Statement{Server: "old", SQL: "select pg_drop_replication_slot('" + publisher.StreamName(c.Move.Name) + "')"},
		step.Statement{Server: "new", SQL: probeSQL, Why: "a write by a session with no settings of ours, rolled back"},
		step.Statement{Server: "new", SQL: "analyze <tables changed beyond their threshold>"})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tables, err := fence.Tables(ctx, c.New.Pool(), c.Move.Name)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		out = append(out, step.Statement{Server: "new", SQL: fence.DetachSQL(c.Move.Name, t)})
	}
	return out, nil
}

type followFacts struct {
	Analyzed int      `json:"analyzed"`
	Detached int      `json:"detached"`
	Warnings []string `json:"warnings,omitempty"`
}

func (c *Cutover) follow(ctx context.Context) (any, error) {
	if err := c.ensureLock(ctx); err != nil {
		return nil, err
	}
	if err := c.probe(ctx); err != nil {
		return nil, err
	}
	if err := c.dropStream(ctx); err != nil {
		return nil, err
	}
	var facts followFacts
	report, err := warmup.AnalyzeTables(ctx, c.New, nil, warmup.AnalyzeOptions{Jobs: c.Settings.AnalyzeJobs})
	if err != nil {
		// New serves: worse statistics are a warning, not a reason to stop.
		facts.Warnings = append(facts.Warnings, fmt.Sprintf("statistics: %v", err))
	}
	facts.Analyzed = len(report.Tables)
	facts.Detached, err = fence.Detach(ctx, c.New, aheadBound, func(text string) { step.Progress(ctx, "%s", text) })
	if errors.Is(err, pg.ErrTimeout) {
		facts.Warnings = append(facts.Warnings, fmt.Sprintf("fence triggers that do nothing are left on new; pgcutover complete drops them: %v", err))
		err = nil
	}
	for _, w := range facts.Warnings {
		step.Progress(ctx, "%s", w)
	}
	return facts, err
}

// dropStream ends the forward stream. Its slot goes last, and only after the
// decision is on new for good: should new crash and lose its opening, the row
// can be sent again until then.
func (c *Cutover) dropStream(ctx context.Context) error {
	err := pg.Wait(ctx, "the decision to arrive on the new server", 20*time.Millisecond, time.Minute, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			if _, err := subscriber.Read(ctx, c.New); errors.Is(err, subscriber.ErrNone) {
				return true, "", nil // an earlier try came this far
			}
			there, err := state.Decided(ctx, c.New.Pool(), c.attempt)
			return there, "not yet", err
		})
	if err != nil {
		return hint.With(err, "the new server serves; the forward stream is stuck: see the new server's log, then run: pgcutover resume")
	}
	if _, err := subscriber.Drop(ctx, c.New); err != nil {
		return err
	}
	alive, err := subscriber.OIDs(ctx, c.New)
	if err != nil {
		return err
	}
	if err := publisher.DropSyncSlots(ctx, c.Old, c.Move.New.System, alive, 30*time.Second); err != nil {
		return err
	}
	return publisher.DropSlot(ctx, c.Old, 30*time.Second)
}

// probeSQL writes a row and takes it back: it fails on a database whose
// default is read-only or whose fence is closed.
const probeSQL = `
begin;
create temporary table pgcutover_probe (n integer) on commit drop;
insert into pgcutover_probe values (1);
select pgcutover.check();
rollback`

// probe proves that a client of this role can write on new, through a session
// that has none of the tool's settings.
func (c *Cutover) probe(ctx context.Context) error {
	conn, err := c.New.ConnectAsClient(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if _, err := conn.Exec(ctx, probeSQL); err != nil {
		return fmt.Errorf("probing a write on the new server: %w", err)
	}
	return nil
}
