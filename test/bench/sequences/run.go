package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// outcome is what one method did in one round.
type outcome struct {
	Pair     rounds.Pair
	Count    int
	Part     string
	Method   string
	Round    int
	Took     time.Duration
	Reading  time.Duration // of it
	Setting  time.Duration
	Again    int // sequences that were set again
	Sessions int // that read them
	Wrong    int // sequences on new that stand elsewhere than they should
	Judged   bool
	First    string // the first of these
}

func (o outcome) String() string {
	return fmt.Sprintf("%s, %d sequences, round %d  %-12s %-28s %9.1f ms (reading %.1f, setting %.1f)  again %d  wrong %d",
		o.Pair, o.Count, o.Round, o.Part, o.Method, figures.Milliseconds(o.Took), figures.Milliseconds(o.Reading), figures.Milliseconds(o.Setting), o.Again, o.Wrong)
}

// pair measures all counts between two majors.
func (s settings) pair(ctx context.Context, p rounds.Pair) ([]outcome, error) {
	var all []outcome
	for _, count := range s.Counts {
		outcomes, err := s.count(ctx, p, count)
		if err != nil {
			return nil, fmt.Errorf("%d sequences: %w", count, err)
		}
		all = append(all, outcomes...)
	}
	return all, nil
}

// count does the rounds with so many sequences, each beginning with another method.
func (s settings) count(ctx context.Context, p rounds.Pair, count int) (all []outcome, err error) {
	w, err := boot(ctx, p, count)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	return s.rounds(ctx, w, p, count)
}

func (s settings) rounds(ctx context.Context, w *world, p rounds.Pair, count int) (all []outcome, err error) {
	for round := range s.Rounds {
		for _, m := range rounds.Order(methods(), round) {
			o := outcome{Pair: p, Count: count, Part: m.part, Method: m.name, Round: round + 1, Judged: m.ours}
			if err := s.measure(ctx, w, m, &o); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", m.part, m.name, err)
			}
			rounds.Say("%s", o)
			all = append(all, o)
		}
	}
	return all, nil
}

// measure lets all sequences on old go on, so that there is something to do, and for
// the pause some more after new was set ahead; then it looks where new stands.
func (s settings) measure(ctx context.Context, w *world, m method, o *outcome) error {
	r := &run{world: w, margin: s.Margin}
	// A new server was not altered thousands of times before.
	if err := w.new.exec(ctx, "vacuum pg_class", "vacuum pg_sequence", "vacuum pg_attribute", "vacuum pg_depend"); err != nil {
		return err
	}
	if _, err := w.old.advance(ctx, 3*s.Margin, o.Count); err != nil {
		return err
	}
	before, err := w.old.read(ctx)
	if err != nil {
		return err
	}
	busy := 0
	if m.part == inPause {
		if err := r.setAhead(ctx, true); err != nil {
			return err
		}
		if busy, err = w.old.advance(ctx, s.Margin-10, max(o.Count*s.Busy/100, 8)); err != nil {
			return err
		}
	}
	if m.prepare != nil {
		if err := m.prepare(ctx, r); err != nil {
			return err
		}
		defer r.readers.Close(ctx)
		o.Sessions = r.readers.Sessions()
	}
	began := time.Now()
	if err := m.do(ctx, r); err != nil {
		return err
	}
	o.Took, o.Again = time.Since(began), r.again
	o.Reading, o.Setting = r.reading, r.setting
	if !m.ours {
		return nil
	}
	if m.part == inPause && r.again != busy {
		o.Wrong, o.First = o.Wrong+1, fmt.Sprintf("%d were set again, %d outran what new was given", r.again, busy)
	}
	return s.check(ctx, w, before, o)
}

// check computes where each sequence on new has to stand, without the code that is
// measured: past the position on old that counts by the margin.
func (s settings) check(ctx context.Context, w *world, before []sequences.Sequence, o *outcome) error {
	onOld, err := w.old.read(ctx)
	if err != nil {
		return err
	}
	onNew, err := w.new.read(ctx)
	if err != nil {
		return err
	}
	if len(onNew) != len(onOld) || len(before) != len(onOld) || len(onOld) != o.Count {
		return fmt.Errorf("%d sequences on old, %d on new", len(onOld), len(onNew))
	}
	for i, from := range onOld {
		if from.Value != before[i].Value && from.LastValue != before[i].LastValue+(s.Margin-10)*from.Increment {
			return fmt.Errorf("%s was advanced from %d to %d", from.Ident(), before[i].LastValue, from.LastValue)
		}
		next := from.LastValue + s.Margin*from.Increment
		if from.IsCalled {
			next += from.Increment
		}
		if to := onNew[i]; to.Ref != from.Ref || to.LastValue != next || to.IsCalled {
			o.Wrong++
			if o.First == "" {
				o.First = fmt.Sprintf("%s stands at %d (called: %t), not at %d", to.Ident(), to.LastValue, to.IsCalled, next)
			}
		}
	}
	return nil
}
