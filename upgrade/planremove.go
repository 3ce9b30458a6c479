package upgrade

import (
	"context"
	"errors"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

// removePlan is what the statements of abort and complete are filled in with.
type removePlan struct {
	subscriptions, streams map[pg.Side][]string
	tables                 map[pg.Side][]fence.Table // that bear a fence trigger
	on                     map[pg.Side]subscriber.Plan
}

// assume makes the plan that of a move that has come as far as the command needs:
// these are the streams that will be there, by the sides of their publisher.
func (r *remover) assume(ctx context.Context, streams ...state.Stream) error {
	p, err := r.plan(ctx)
	if err != nil {
		return err
	}
	p.subscriptions, p.streams = map[pg.Side][]string{}, map[pg.Side][]string{}
	for _, st := range streams {
		p.streams[st.Direction.Source()] = append(p.streams[st.Direction.Source()], st.Name())
		p.subscriptions[st.Direction.Target()] = append(p.subscriptions[st.Direction.Target()], st.Name())
		// That side was closed by what made the stream: all of its tables are fenced.
		side := st.Direction.Target()
		server := r.Old
		if side == pg.New {
			server = r.New
		}
		if p.tables[side], err = fence.Tables(ctx, server.Pool(), r.Options.Name); err != nil {
			return err
		}
		p.tables[side.Other()] = nil
	}
	r.asked = &p
	return nil
}

func (r *remover) planning(f func(removePlan) ([]step.Statement, error)) func(context.Context) ([]step.Statement, error) {
	return func(ctx context.Context) ([]step.Statement, error) {
		if r.asked == nil {
			ctx, cancel := context.WithTimeout(ctx, planBound)
			defer cancel()
			p, err := r.plan(ctx)
			if err != nil {
				return nil, err
			}
			r.asked = &p
		}
		return f(*r.asked)
	}
}

// plan looks at what is on the servers now.
func (r *remover) plan(ctx context.Context) (removePlan, error) {
	p := removePlan{
		subscriptions: map[pg.Side][]string{}, streams: map[pg.Side][]string{},
		tables: map[pg.Side][]fence.Table{}, on: map[pg.Side]subscriber.Plan{},
	}
	var errs []error
	for _, s := range r.servers() {
		var tables []fence.Table
		var err [4]error
		p.subscriptions[s.Side()], err[0] = subscriber.Names(ctx, s)
		p.streams[s.Side()], err[1] = publisher.Names(ctx, s)
		p.on[s.Side()], err[2] = subscriber.PlanFor(ctx, s)
		tables, err[3] = fence.Tables(ctx, s.Pool(), r.Options.Name)
		for _, t := range tables {
			if t.Fenced || t.Foreign {
				p.tables[s.Side()] = append(p.tables[s.Side()], t)
			}
		}
		errs = append(errs, err[:]...)
	}
	return p, errors.Join(errs...)
}

func (r *remover) subscriptionStatements(p removePlan) ([]step.Statement, error) {
	out := []step.Statement{lockStatement("this")}
	for _, s := range r.servers() {
		for _, name := range p.subscriptions[s.Side()] {
			for _, sql := range p.on[s.Side()].DropScripts(name) {
				out = append(out, step.Statement{Server: string(s.Side()), SQL: sql, Why: "subscription " + name})
			}
		}
	}
	return out, nil
}

func (r *remover) streamStatements(p removePlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, s := range r.servers() {
		for _, name := range p.streams[s.Side()] {
			slot, publication := publisher.NamedStatements(name)
			out = append(out,
				step.Statement{Server: string(s.Side()), SQL: slot[0], Why: "end the walsender that may still use it"},
				step.Statement{Server: string(s.Side()), SQL: slot[1], Expect: "0", WaitSeconds: 60, Why: "nobody streams from it"},
				step.Statement{Server: string(s.Side()), SQL: slot[2]},
				step.Statement{Server: string(s.Side()), SQL: publication})
		}
	}
	return out, nil
}

func (r *remover) fenceStatements(p removePlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, s := range r.servers() {
		side := string(s.Side())
		for _, t := range p.tables[s.Side()] {
			out = append(out, step.Statement{Server: side, SQL: fence.DetachScript(r.Options.Name, t), Why: "drop a fence trigger; if the lock is refused, again a little later"})
		}
		out = append(out, step.Statement{Server: side, SQL: state.Script("5s", state.TurnLockSQL, fence.RevertSQL, fence.ReadOnlySQL(s.Database(), false), "commit"), Why: "put back the database's comment, who may connect, and its default"})
	}
	return out, nil
}

func (r *remover) newFenceStatements(p removePlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, t := range p.tables[pg.New] {
		out = append(out, step.Statement{Server: "new", SQL: fence.DetachScript(r.Options.Name, t), Why: "drop a fence trigger"})
	}
	return out, nil
}

func (r *remover) stateStatements(p removePlan) ([]step.Statement, error) {
	var out []step.Statement
	for _, s := range r.servers() {
		side := string(s.Side())
		if s.Side() == pg.New || r.Options.Cutover.WayBack {
			out = append(out, step.Statement{Server: side, SQL: p.on[s.Side()].DropRoleStatement(), Why: "the role that owned the subscriptions, or its setting"})
		}
		if s.Side() == pg.Old && r.options.KeepFence {
			continue // the triggers need its functions
		}
		out = append(out, step.Statement{Server: side, SQL: state.DropSQL})
	}
	return out, nil
}
