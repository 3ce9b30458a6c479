package upgrade

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/sequences"
)

// SequenceDiff compares the sequences of both servers with each other and with the
// rows that use them, in the direction that clients would be turned to. Sequences
// that the role may not read are differences too.
func (m *Move) SequenceDiff(ctx context.Context) ([]sequences.Difference, error) {
	var onOld, onNew []sequences.Reached
	both, each := errgroup.WithContext(ctx)
	both.Go(func() (err error) { onOld, err = reached(each, m.Old); return err })
	both.Go(func() (err error) { onNew, err = reached(each, m.New); return err })
	if err := both.Wait(); err != nil {
		return nil, err
	}
	target, err := m.turnsTo(ctx)
	if err != nil {
		return nil, err
	}
	from, to := plain(onOld), plain(onNew)
	if target == pg.Old {
		from, to = to, from
	}
	differences := sequences.CompareTo(target, from, to)
	sequences.AddRows(differences, onOld, onNew, m.Options.Margin)
	return differences, nil
}

// turnsTo returns the server that clients are not on: old, once they are on new.
func (m *Move) turnsTo(ctx context.Context) (pg.Side, error) {
	for _, s := range []*pg.Server{m.Old, m.New} {
		recorded, err := state.Load(ctx, s)
		if err != nil {
			return "", err
		}
		if recorded == nil {
			return pg.New, nil
		}
	}
	o, err := state.ReadTurn(ctx, m.Old.Pool())
	if err != nil {
		return "", err
	}
	n, err := state.ReadTurn(ctx, m.New.Pool())
	if err != nil {
		return "", err
	}
	if n.Open && !o.Open {
		return pg.Old, nil
	}
	return pg.New, nil
}

func reached(ctx context.Context, s *pg.Server) ([]sequences.Reached, error) {
	all, err := sequences.ReadReached(ctx, s.Pool(), s.Version())
	if err != nil {
		return nil, fmt.Errorf("on the %s server: %w", s.Side(), err)
	}
	return all, nil
}

func plain(all []sequences.Reached) []sequences.Sequence {
	out := make([]sequences.Sequence, len(all))
	for i, r := range all {
		out[i] = r.Sequence
	}
	return out
}

// SequenceRoom says how much of the margin that new was given is left, of every
// sequence that can be read, before a cutover.
func (m *Move) SequenceRoom(ctx context.Context) ([]sequences.Room, error) {
	onOld, onNew, err := m.readableSequences(ctx)
	if err != nil {
		return nil, err
	}
	return sequences.Rooms(onOld, onNew, m.Options.Margin), nil
}

// SequencePlan says what each sequence on new is to be set to now. Those that
// cannot be read are problems.
func (m *Move) SequencePlan(ctx context.Context) ([]sequences.Change, []sequences.Problem, error) {
	onOld, onNew, err := m.readableSequences(ctx)
	if err != nil {
		return nil, nil, err
	}
	changes, problems := sequences.Plan(onOld, onNew, m.Options.Margin)
	return changes, problems, nil
}

// ApplySequences sets new's sequences past old's, never backwards, and returns
// what it set.
func (m *Move) ApplySequences(ctx context.Context) ([]sequences.Change, error) {
	var made []sequences.Change
	err := m.locked(ctx, "sequences", func(ctx context.Context) error {
		changes, problems, err := m.SequencePlan(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, p := range problems {
			if p.Blocking {
				errs = append(errs, hint.With(fmt.Errorf("sequence %s: %s", p.Ident(), p.Text), p.Hint))
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
		made, err = sequences.Apply(ctx, m.New.Pool(), changes, sequences.Options{Settings: m.New.QuietSettings()})
		return err
	})
	return made, err
}

// readableSequences reads both servers; what the role may not read is marked.
func (m *Move) readableSequences(ctx context.Context) (onOld, onNew []sequences.Sequence, err error) {
	if onOld, err = readable(ctx, m.Old); err != nil {
		return nil, nil, err
	}
	onNew, err = readable(ctx, m.New)
	return onOld, onNew, err
}
