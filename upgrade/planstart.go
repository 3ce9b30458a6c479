package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/probe"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/warmup"
)

// startPlan is what the statements of start are filled in with: the whole of it,
// as if nothing had been done yet.
type startPlan struct {
	move         state.Move
	turn         int64 // the number that the turn begins with
	before       schema.State
	tables       []publisher.Table
	fenced       []fence.Table // those that will be on new
	onOld, onNew subscriber.Plan
	sections     map[schema.Section][]string // what pg_restore sends
	globals      globalsPlan
	refresh      []string
	analyze      []warmup.AnalyzeStage
}

// planBound is how long the servers are asked for a plan; pg_dump takes most of
// it.
const planBound = 30 * time.Minute

func (s *start) planning(f func(startPlan) ([]step.Statement, error)) func(context.Context) ([]step.Statement, error) {
	return func(ctx context.Context) ([]step.Statement, error) {
		if s.asked == nil {
			ctx, cancel := context.WithTimeout(ctx, planBound)
			defer cancel()
			p, err := s.plan(ctx)
			if err != nil {
				return nil, err
			}
			s.asked = &p
		}
		return f(*s.asked)
	}
}

func (s *start) plan(ctx context.Context) (startPlan, error) {
	p := startPlan{turn: state.FirstTurn(time.Now())}
	move, err := state.Observe(ctx, s.Options.Name, s.Old, s.New)
	if err != nil {
		return p, err
	}
	p.move = *move
	if found, err := state.Before(ctx, s.New, &p.before); err != nil {
		return p, err
	} else if !found {
		if p.before, err = schema.Snapshot(ctx, s.New); err != nil {
			return p, err
		}
	}
	if p.tables, err = publisher.Tables(ctx, s.Old, s.scope.Match); err != nil {
		return p, err
	}
	if p.fenced, err = fence.Tables(ctx, s.Old.Pool(), s.Options.Name); err != nil {
		return p, err
	}
	if p.onOld, err = subscriber.PlanFor(ctx, s.Old); err != nil {
		return p, err
	}
	if p.onNew, err = subscriber.PlanFor(ctx, s.New); err != nil {
		return p, err
	}
	if p.refresh, err = schema.RefreshStatements(ctx, s.Old); err != nil {
		return p, err
	}
	analyze := s.Options.Analyze
	if analyze.Usage, err = warmup.ReadUsage(ctx, s.Old); err != nil {
		return p, err
	}
	if p.analyze, err = warmup.AnalyzePlan(ctx, s.Old, s.New, analyze); err != nil {
		return p, err
	}
	if p.globals, err = s.planGlobals(ctx); err != nil {
		return p, err
	}
	p.sections, err = s.scripts(ctx)
	return p, err
}

// scripts has pg_dump read the schema, which changes nothing, and pg_restore
// write it as SQL.
func (s *start) scripts(ctx context.Context) (out map[schema.Section][]string, err error) {
	archive, err := schema.Dump(ctx, s.Old, os.TempDir())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	out = map[schema.Section][]string{}
	for _, section := range schema.Sections() {
		if out[section], err = archive.Script(ctx, s.New, section); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// recordStatements are what comes before the phases: see record.
func (s *start) recordStatements(p startPlan) ([]step.Statement, error) {
	out := []step.Statement{lockStatement("start")}
	for _, server := range []*pg.Server{s.Old, s.New} {
		out = append(out, step.Statement{Server: string(server.Side()), SQL: state.CreateScript(server, p.move, p.turn), Why: "schema pgcutover, by which both servers remember the move; the turn's number is that of this moment"})
	}
	out = append(out, step.Statement{Server: "new", SQL: pg.Fill(state.SetBeforeSQL, p.before), Why: "what new was like, for abort"})
	for i := range out {
		out[i].Early = true
	}
	return out, nil
}

// lockStatement takes the one-tool lock for a command.
func lockStatement(command string) step.Statement {
	return step.Statement{
		Server: "old", Session: step.Lease, SQL: pg.TryLockSQL, Expect: "t", Early: true,
		Why: "the one-tool lock for " + command + ": as long as this session lives no other pgcutover works on the move; close it at the end",
	}
}

func (s *start) prepareStatements(p startPlan) ([]step.Statement, error) {
	out, err := s.recordStatements(p)
	if err != nil {
		return nil, err
	}
	for _, server := range []*pg.Server{s.Old, s.New} {
		database := p.move.Old.Database
		if server.Side() == pg.New {
			database = p.move.New.Database
		}
		statements := append(fence.InstallStatements(server, s.Options.Cutover.OnClosed, database), "commit")
		out = append(out,
			step.Statement{Server: string(server.Side()), SQL: state.Script("5s", statements...), Why: "the fence's functions"},
			step.Statement{Server: string(server.Side()), SQL: state.Script("5s", append(probe.InstallStatements(), "commit")...), Why: "the table that probes write to"})
	}
	return append(out, step.Statement{Server: "new", SQL: fence.ReadOnlySQL(s.New.Database(), true), Why: "multihost clients keep to old"}), nil
}

func (s *start) restoreStatements(p startPlan, section schema.Section) []step.Statement {
	var out []step.Statement
	for _, sql := range p.sections[section] {
		out = append(out, step.Statement{Server: "new", Session: step.Restore, SQL: sql, Why: fmt.Sprintf("what pg_restore sends of the section %s", section)})
	}
	return out
}

func (s *start) schemaStatements(p startPlan) ([]step.Statement, error) {
	out := onNew(p.globals.extensions, "at the newest version that both servers have")
	out = append(out, s.restoreStatements(p, schema.PreData)...)
	out = append(out, s.restoreStatements(p, schema.Identity)...)
	for _, t := range p.fenced {
		out = append(out, step.Statement{Server: "new", SQL: fence.AttachScript(s.Options.Name, t), Why: "a fence trigger: clients that write there are refused"})
	}
	return append(out, s.fencedStatement()), nil
}

func (s *start) fencedStatement() step.Statement {
	return step.Statement{Server: "new", SQL: fence.UnfencedSQL(s.Options.Name), Expect: "0", Why: "every table is fenced"}
}

func (s *start) publishStatements(p startPlan) ([]step.Statement, error) {
	return []step.Statement{
		{Server: "old", SQL: publisher.CreatePublicationSQL(s.first(), p.tables, s.New.Major()), Why: "before the slot"},
		{Server: "old", Session: step.Replication, SQL: publisher.CreateSlotStatement(s.first()), Why: "waits for every transaction that is writing"},
	}, nil
}

func (s *start) subscribeStatements(p startPlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, sql := range p.onNew.RoleStatements() {
		out = append(out, step.Statement{Server: "new", SQL: sql, Why: "the subscription's owner may write although the database's default is read-only"})
	}
	if s.Options.Cutover.WayBack {
		for _, sql := range p.onOld.RoleStatements() {
			out = append(out, step.Statement{Server: "old", SQL: sql, Why: "the same for the way back"})
		}
	}
	return append(out,
		step.Statement{Server: "new", Session: step.Subscribe, SQL: p.onNew.CreateScript(s.first()), Why: "disabled, on the slot that is there, with the tables still to copy"},
		step.Statement{Server: "new", SQL: p.onNew.AlterScript(subscriber.EnableSQL(s.first())), Why: "Postgres begins to copy"}), nil
}

func (s *start) copyStatements(startPlan) ([]step.Statement, error) {
	return []step.Statement{{Server: "new", SQL: subscriber.ReadySQL(s.first()), Expect: "t", WaitSeconds: long.Seconds(), Why: "all tables are copied and follow the stream"}}, nil
}

func (s *start) indexStatements(p startPlan) ([]step.Statement, error) {
	out := []step.Statement{
		{Server: "new", SQL: p.onNew.AlterScript(subscriber.DisableSQL(s.first())), Why: "building indexes beside the apply worker could deadlock"},
		{Server: "new", SQL: subscriber.StoppedSQL(s.first()), Expect: "0", WaitSeconds: 60, Why: "its workers have ended"},
	}
	out = append(out, s.restoreStatements(p, schema.PostData)...)
	return append(out,
		step.Statement{Server: "new", SQL: p.onNew.AlterScript(subscriber.EnableSQL(s.first())), Why: "also when something before has failed: the stream must not stand still"},
		s.fencedStatement()), nil
}

func (s *start) catchUpStatements(startPlan) ([]step.Statement, error) {
	return []step.Statement{{
		Server: "old", SQL: publisher.CloseBehindSQL(s.first(), s.Options.Cutover.MaxLag), Expect: "t", WaitSeconds: long.Seconds(),
		Why: "new is connected and at most cutover.max_lag bytes behind",
	}}, nil
}

func (s *start) refreshStatements(p startPlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, sql := range p.refresh {
		out = append(out, step.Statement{Server: "new", SQL: sql, Why: "filled on old; one that reads another that is not filled yet: after that one"})
	}
	return out, nil
}

func (s *start) analyzeStatements(p startPlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, stage := range p.analyze {
		why := fmt.Sprintf("statistics target %s", stage.Stage)
		out = append(out, step.Statement{Server: "new", Session: step.Analyze, SQL: stage.Setup, Why: "the stage of " + why})
		for _, sql := range stage.Statements {
			out = append(out, step.Statement{Server: "new", Session: step.Analyze, SQL: sql, Why: why})
		}
	}
	return out, nil
}
