package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// triggers makes and drops the fence's triggers on very many tables of one server,
// beside its writers: no cutover, so that they can be looked at alone.
type triggers struct {
	bootOptions
	Busy, Idle    int // tables
	Clients, Rate int
	Rounds        int
}

func (c triggers) run(ctx context.Context, say func(string, ...any)) (o outcome, err error) {
	o = outcome{
		Case: "triggers", Pair: fmt.Sprintf("%d:%d", c.Old, c.New), Tables: c.Busy + c.Idle, InScope: c.Busy,
		Sequences: c.Busy + c.Idle, Locks: c.Locks,
	}
	w, err := boot(ctx, c.bootOptions, say)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	if err := w.fill(ctx, c.Busy, c.Idle); err != nil {
		return o, err
	}
	s, err := pg.Open(ctx, pg.Options{Side: pg.Old, URL: w.old.URL(database), Move: "scale"})
	if err != nil {
		return o, err
	}
	defer s.Close()
	if err := installed(ctx, s); err != nil {
		return o, err
	}
	ledger, err := w.under(ctx, load{clients: c.Clients, rate: c.Rate, script: anywhere(c.Busy)}, &o, say, func() error {
		return c.rounds(ctx, s, &o)
	})
	if err != nil {
		return o, err
	}
	o.Proof, err = ledger.prove(ctx, w.serving(false))
	return o, err
}

// rounds makes and drops all triggers; from the second time on the clients'
// sessions keep plans of the first.
func (c triggers) rounds(ctx context.Context, s *pg.Server, o *outcome) error {
	for range c.Rounds {
		for _, change := range []struct {
			what string
			all  func(context.Context, *pg.Server, fence.Options) (fence.Changed, error)
		}{{"making triggers", fence.AttachWith}, {"dropping triggers", fence.DetachWith}} {
			r := turned{What: change.what, began: time.Now()}
			changed, err := change.all(ctx, s, fence.Options{Bound: 2 * time.Minute})
			r.ended = time.Now()
			r.TookMS = milliseconds(r.ended.Sub(r.began))
			r.Steps = []timed{{Name: change.what, MS: r.TookMS, Facts: map[string]any{"tables": float64(changed.Tables)}, began: r.began}}
			if err := o.turn(r, err); err != nil {
				return err
			}
			wait(ctx, 2*settle)
		}
	}
	return nil
}

// installed makes the state and the fence's functions, as start does.
func installed(ctx context.Context, s *pg.Server) error {
	id, err := state.Identify(ctx, s)
	if err != nil {
		return err
	}
	if err := state.Create(ctx, s, state.Move{Name: s.Move(), Old: id, New: id}); err != nil {
		return err
	}
	return fence.Install(ctx, s, fence.Error, id.Database)
}
