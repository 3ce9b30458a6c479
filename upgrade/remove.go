package upgrade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/subscriber"
)

// ErrLeftovers means that something of the move could not be removed.
var ErrLeftovers = errors.New("something of the move is left")

// emptyBound is how long dropping a schema may take.
const emptyBound = 6 * time.Hour

// ErrCutOver means that the new server serves, so that abort is refused.
var ErrCutOver = errors.New("the cutover is done")

// RemoveOptions say how far Abort and Complete go.
type RemoveOptions struct {
	// OldOnly leaves the new server alone: for a new server that is gone.
	OldOnly bool
	// NewOnly makes Complete leave the old server alone: for one that is gone.
	NewOnly bool
	// Force lets Abort drop objects on new that neither the move made nor old
	// has.
	Force bool
	// KeepFence lets Complete leave old refusing writes.
	KeepFence bool
	// gather, where several databases are aborted, waits until all of them are
	// empty: until then roles that one of them made may be in use in another.
	gather func(context.Context) error
}

// remover is one run of Abort or Complete.
type remover struct {
	*Move
	options       RemoveOptions
	subscriptions map[pg.Side][]uint32 // OIDs that the subscriptions had
	systems       map[pg.Side]string   // system identifiers, for table synchronization slots
	// turns are what had the turn on each server when this run looked, where that
	// server has state: another tool may have gone on since.
	turns map[pg.Side]state.Turn
	// known are the servers that had state of this move: only there are
	// settings taken back, which elsewhere may be the operator's own.
	known map[pg.Side]bool
	// asked is what the plan is filled in with; nil before it was asked for.
	asked *removePlan
}

func newRemover(m *Move, o RemoveOptions) *remover {
	return &remover{Move: m, options: o, known: map[pg.Side]bool{}, turns: map[pg.Side]state.Turn{}, subscriptions: map[pg.Side][]uint32{}, systems: map[pg.Side]string{}}
}

// Abort removes all that the move has made on both servers, before a cutover,
// and proves it. The copied schema and data on new are dropped. It may be run
// again, also after a crash.
func (m *Move) Abort(soft, hard context.Context, o RemoveOptions) error {
	return m.locked(soft, "abort", func(ctx context.Context) error {
		r := newRemover(m, o)
		if err := r.mayAbort(ctx); err != nil {
			return err
		}
		return r.run(ctx, hard, "abort", r.AbortSteps())
	})
}

// Complete removes all that the move has made on both servers, after a
// cutover, and proves it. Unless KeepFence is set, old takes writes again
// afterwards: it is a server of its own from then on.
func (m *Move) Complete(soft, hard context.Context, o RemoveOptions) error {
	on := m.Old
	if o.NewOnly {
		on = m.New
	}
	return locked(soft, on, "complete", func(ctx context.Context) error {
		r := newRemover(m, o)
		if err := r.mayComplete(ctx); err != nil {
			return err
		}
		return r.run(ctx, hard, "complete", r.CompleteSteps())
	})
}

// run runs a removal. Its journal is in memory: the one on new is among what
// is removed, and every step finds out by looking what is left to do.
func (r *remover) run(ctx, hard context.Context, list string, steps []step.Step) error {
	log, err := journal.Open(ctx, &journal.Memory{}, journal.Spec{List: list, Steps: step.Journal(steps), Rerunnable: true})
	if err != nil {
		return err
	}
	return (&step.Runner{Log: log, Steps: steps, Observer: r.Observer, Keep: true}).Run(ctx, hard)
}

// servers returns those that are to be cleaned.
func (r *remover) servers() []*pg.Server {
	switch {
	case r.options.OldOnly:
		return []*pg.Server{r.Old}
	case r.options.NewOnly:
		return []*pg.Server{r.New}
	}
	return []*pg.Server{r.New, r.Old}
}

// mayAbort refuses another move's servers, a decided cutover and one that was
// interrupted. Either server may have lost its state already; then the other's
// word is enough to refuse: what serves must not be emptied.
func (r *remover) mayAbort(ctx context.Context) error {
	states, err := r.ownState(ctx)
	if err != nil {
		return err
	}
	for _, s := range r.servers() {
		if states[s.Side()] == nil {
			continue
		}
		turn, err := state.ReadTurn(ctx, s.Pool())
		if err != nil {
			return err
		}
		if turn.Open != (s.Side() == pg.Old) {
			advice := "to go back: pgcutover rollback; to end the move: pgcutover complete; if a cutover or rollback was interrupted: pgcutover resume"
			if r.options.OldOnly {
				advice = "if the new server is gone for good: pgcutover resume --new-is-lost opens old, and says first what is lost. If it serves: pgcutover complete"
			}
			return hint.With(fmt.Errorf("%w: the new server takes the writes, there is no way back by abort", ErrCutOver), advice)
		}
		r.turns[s.Side()] = turn
	}
	if states[pg.Old] == nil || states[pg.New] == nil {
		return nil // nothing but, perhaps, leftovers: the steps look for them
	}
	if err := r.goesOn(ctx); err != nil {
		return err
	}
	return r.notInterrupted(ctx, *states[pg.Old])
}

func (r *remover) notInterrupted(ctx context.Context, recorded state.Move) error {
	err := r.cutover(recorded).Interrupted(ctx)
	if errors.Is(err, cutover.ErrAlreadyDone) {
		return nil
	}
	return err
}

// ownState loads whatever state there is, by side, and checks that it belongs
// to this move and to these servers: a wrong URL must not empty or open
// somebody else's database.
func (r *remover) ownState(ctx context.Context) (map[pg.Side]*state.Move, error) {
	found := map[pg.Side]*state.Move{}
	for _, s := range r.servers() {
		m, err := state.Load(ctx, s)
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		if m.Side != s.Side() {
			return nil, hint.With(fmt.Errorf("the server given as %s is the %s server of the move %q", s.Side(), m.Side, m.Name), "old and new are swapped: correct the two URLs")
		}
		if err := m.Owns(ctx, r.Options.Name, r.servers()...); err != nil {
			return nil, state.WayOut(ctx, err, r.Old, r.New)
		}
		found[s.Side()] = m
		r.known[s.Side()] = true
		r.systems[pg.Old], r.systems[pg.New] = m.Old.System, m.New.System
	}
	return found, nil
}

func (r *remover) mayComplete(ctx context.Context) error {
	states, err := r.ownState(ctx)
	if err != nil {
		return err
	}
	m := states[pg.New]
	if m == nil {
		return nil // an earlier complete came past new
	}
	turn, err := state.ReadTurn(ctx, r.New.Pool())
	if err != nil {
		return err
	}
	if !turn.Open {
		return hint.With(errors.New("the old server still takes the writes: there is no cutover to complete"), "run pgcutover cutover, or pgcutover abort")
	}
	for _, s := range r.servers() {
		if states[s.Side()] == nil {
			continue
		}
		if r.turns[s.Side()], err = state.ReadTurn(ctx, s.Pool()); err != nil {
			return err
		}
	}
	if r.options.NewOnly {
		return nil
	}
	p, err := r.promised(ctx)
	if err != nil {
		return err
	}
	if p.promise != nil && p.promise.Serving == pg.New && !p.old.Open {
		return nil // old was given up and is back, closed: its cutover is not finished, and never will be
	}
	if err := p.err(); err != nil {
		return err
	}
	return r.cutover(*m).Unfinished(ctx)
}

// AbortSteps returns what Abort does, in order.
func (r *remover) AbortSteps() []step.Step {
	steps := r.streamSteps()
	if !r.options.OldOnly {
		steps = append(steps, step.Step{
			Name: "empty new", About: "drop the schema and data that the move brought to new", Bound: emptyBound, Do: r.emptyNew,
			Statements: step.Fixed(step.Statement{Server: "new", SQL: "-- drop every schema, table, type, function and extension that was not there before start"}),
		})
	}
	return append(steps, r.lastSteps(false, r.abortRoles())...)
}

// CompleteSteps returns what Complete does, in order.
func (r *remover) CompleteSteps() []step.Step {
	return append(r.streamSteps(), r.lastSteps(r.options.KeepFence, r.completeRoles())...)
}

func (r *remover) streamSteps() []step.Step {
	return []step.Step{
		{Name: "subscription", About: "drop the subscriptions on both servers", Bound: time.Minute, Do: r.dropSubscriptions, Statements: r.planning(r.subscriptionStatements)},
		{Name: "stream", About: "drop the slots and the publications on both servers", Bound: 4 * time.Minute, Do: r.dropStreams, Statements: r.planning(r.streamStatements)},
	}
}

func (r *remover) lastSteps(keepFence bool, roles []step.Step) []step.Step {
	fences := step.Step{
		Name: "fence", About: "drop the fence triggers and reset the read-only defaults", Bound: 10 * time.Minute, Do: r.dropFences,
		Statements: r.planning(r.fenceStatements),
	}
	if keepFence {
		fences = step.Step{
			Name: "fence", About: "drop the fence triggers on new; old goes on refusing writes", Bound: 10 * time.Minute, Do: r.dropNewFence,
			Statements: r.planning(r.newFenceStatements),
		}
	}
	steps := []step.Step{
		fences,
		{Name: "mended", About: "take back what check --fix changed for the time of the move", Bound: 10 * time.Minute, Do: r.unmend, Statements: r.unmendStatements},
	}
	return append(append(steps, roles...), []step.Step{
		{
			Name: "state", About: "drop the subscriptions' role and schema pgcutover", Bound: time.Minute, Do: r.dropState,
			Statements: r.planning(r.stateStatements),
		},
		{Name: "proof", About: "look on both servers for anything of the move", Bound: time.Minute, Do: r.prove},
	}...)
}

func (r *remover) dropSubscriptions(ctx context.Context) (any, error) {
	var errs []error
	for _, s := range r.servers() {
		oids, err := subscriber.DropAll(ctx, s, nil, r.guard(s))
		r.subscriptions[s.Side()] = append(r.subscriptions[s.Side()], oids...)
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (r *remover) dropStreams(ctx context.Context) (any, error) {
	alive := map[pg.Side][]int64{} // none on a new server that is gone
	for _, s := range r.servers() {
		oids, err := subscriber.OIDs(ctx, s)
		if err != nil {
			return nil, err
		}
		alive[s.Side()] = oids
	}
	for _, s := range r.servers() {
		other := s.Side().Other()
		if err := publisher.DropSyncSlots(ctx, s, r.systems[other], alive[other], 30*time.Second); err != nil {
			return nil, err
		}
		names, err := publisher.Names(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if err := publisher.Remove(ctx, s, name, time.Minute, r.guard(s)); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (r *remover) emptyNew(ctx context.Context) (any, error) {
	var before schema.State
	found, err := state.Before(ctx, r.New, &before)
	if err != nil || !found {
		return nil, err // start did not come as far as restoring anything
	}
	ours, err := schema.Inventory(ctx, r.Old)
	if err != nil {
		return nil, err
	}
	// What old has dropped since start is the move's all the same.
	known, err := r.baseline(ctx)
	if err != nil {
		return nil, err
	}
	return nil, schema.Remove(ctx, r.New, before, schema.RemoveOptions{
		Ours: ours, Known: known, Force: r.options.Force, Guard: notInUse, Progress: func(text string) { step.Progress(ctx, "%s", text) },
	})
}

// notInUse is asked before anything is dropped on new: an abort that slept,
// and lost its lock, while another tool cut over must not empty what serves.
func notInUse(ctx context.Context, tx pgx.Tx) error {
	turn, err := state.LockTurn(ctx, tx)
	if err != nil {
		return err
	}
	if turn.Open || turn.Armed {
		return hint.With(fmt.Errorf("%w, or under way", ErrCutOver), "see where things stand: pgcutover status")
	}
	return nil
}

func (r *remover) dropFences(ctx context.Context) (any, error) {
	for _, s := range r.servers() {
		if err := r.dropFence(ctx, s); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// guard lets a change of s happen only while its turn is as this run saw it: an
// abort or complete that slept, and lost its lock, must not take away what
// another tool has made since, nor open a server. Nil where s has no state.
func (r *remover) guard(s *pg.Server) func(context.Context, pgx.Tx) error {
	seen, known := r.turns[s.Side()]
	if !known {
		return nil
	}
	return func(ctx context.Context, tx pgx.Tx) error {
		now, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if now != seen {
			return hint.With(fmt.Errorf("the turn on the %s server changed meanwhile (attempt %d, was %d): %w", s.Side(), now.Attempt, seen.Attempt, fence.ErrNotMine), "see where things stand: pgcutover status")
		}
		return nil
	}
}

// dropFence opens a server only while nobody has gone on since this run looked.
func (r *remover) dropFence(ctx context.Context, s *pg.Server) error {
	if err := r.detach(ctx, s); err != nil || !r.known[s.Side()] {
		return err
	}
	return r.reset(ctx, s)
}

func (r *remover) detach(ctx context.Context, s *pg.Server) error {
	progress := func(text string) { step.Progress(ctx, "%s", text) }
	if guard := r.guard(s); guard != nil {
		_, err := fence.DetachGuarded(ctx, s, fence.Options{Bound: 5 * time.Minute, Progress: progress}, guard)
		return err
	}
	_, err := fence.Detach(ctx, s, 5*time.Minute, progress)
	return err
}

// reset takes back what closing set on the database.
func (r *remover) reset(ctx context.Context, s *pg.Server) error {
	guard := r.guard(s)
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		if err := fence.Revert(ctx, tx, s); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fence.ReadOnlySQL(s.Database(), false))
		return err
	})
}

func (r *remover) dropNewFence(ctx context.Context) (any, error) { return nil, r.detach(ctx, r.New) }

func (r *remover) dropState(ctx context.Context) (any, error) {
	for _, s := range r.servers() {
		if s.Side() == pg.New || r.known[s.Side()] {
			if err := subscriber.DropRole(ctx, s); err != nil {
				return nil, err
			}
		}
		if s.Side() == pg.Old && r.options.KeepFence {
			continue // the triggers need its functions
		}
		if err := state.Drop(ctx, s); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

type proofFacts struct {
	Leftovers []string `json:"leftovers"`
}

func (r *remover) prove(ctx context.Context) (any, error) {
	facts := proofFacts{Leftovers: []string{}}
	for _, s := range r.servers() {
		if s.Side() == pg.Old && r.options.KeepFence {
			continue
		}
		found, err := state.Leftovers(ctx, s, r.subscriptions[s.Side()])
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			facts.Leftovers = append(facts.Leftovers, string(s.Side())+": "+f)
		}
	}
	if len(facts.Leftovers) > 0 {
		return facts, fmt.Errorf("%w: %s", ErrLeftovers, strings.Join(facts.Leftovers, "; "))
	}
	return facts, nil
}
