package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/traffic"
)

// Remains is what new knows of the last attempt when old is gone.
type Remains struct {
	Attempt int64 `json:"attempt"`
	Open    bool  `json:"open"`    // new takes the writes already
	Decided bool  `json:"decided"` // the decision arrived: nothing is missing
	Drained bool  `json:"drained"` // the marker arrived: all that old acknowledged before its last freeze is there
	// Promise is there when an earlier run of this command opened new.
	Promise *state.Promise `json:"promise,omitempty"`
}

// String says what that means.
func (r Remains) String() string {
	switch {
	case r.Promise != nil:
		return fmt.Sprintf("old was given up at %s, and new takes the writes", utc(r.Promise.At))
	case r.Open:
		return "new takes the writes already; nothing is missing on it"
	case r.Decided:
		return "the decision has arrived on new: nothing is missing on it"
	case r.Drained: // the sequences were set ahead before the marker was written
		return "the last cutover was under way: new has all that old acknowledged before it held its writers. If that cutover was undone, what old took afterwards is lost"
	}
	return "no cutover came far enough: whatever old acknowledged and had not sent is lost, and the sequences on new were never set: raise each past the greatest value in its column before clients write"
}

// Remains reads that. It refuses a new server that is not this move's, and an
// old one that is not gone.
func (m *Move) Remains(ctx context.Context) (Remains, error) {
	var r Remains
	recorded, err := m.recordedOn(ctx, m.New)
	if err != nil {
		return r, err
	}
	if err := m.mustBeGone(ctx, pg.Old, *recorded); err != nil {
		return r, err
	}
	turn, err := state.ReadTurn(ctx, m.New.Pool())
	if err != nil {
		return r, err
	}
	r.Attempt, r.Open = turn.Attempt, turn.Open
	if r.Promise, err = state.ReadPromise(ctx, m.New); err != nil {
		return r, err
	}
	if r.Decided, err = state.Decided(ctx, m.New.Pool(), state.Forward, turn.Attempt); err != nil {
		return r, err
	}
	r.Drained, err = state.Marked(ctx, m.New.Pool(), state.Forward, turn.Attempt)
	return r, err
}

// OpenWithoutOld makes new take the writes although old cannot be asked, and
// sends the clients there. It is for a human who knows that old is gone for
// good: should old come back and take writes, both servers do.
func (m *Move) OpenWithoutOld(ctx context.Context) error {
	err := state.Tx(ctx, m.New, "5s", func(tx pgx.Tx) error {
		turn, err := state.LockTurn(ctx, tx)
		if err != nil || turn.Open {
			return err
		}
		decided, err := state.Decided(ctx, tx, state.Forward, turn.Attempt)
		if err != nil {
			return err
		}
		if !decided {
			if _, err := state.DecideByPromise(ctx, tx, state.Forward); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, fence.OpenNowSQL)
		return err
	})
	if err != nil {
		return fmt.Errorf("opening the new server: %w", err)
	}
	turn, err := state.ReadTurn(ctx, m.New.Pool())
	if err != nil {
		return err
	}
	to := traffic.Target{Move: m.Options.Name, Attempt: turn.Attempt, New: m.New, Serving: pg.New}
	errs := []error{m.stopForward(ctx)}
	for _, d := range m.Options.Traffic {
		if err := errors.Join(d.Switch(ctx, to), d.Verify(ctx, to)); err != nil {
			errs = append(errs, fmt.Errorf("switching %s to the new server: %w", d.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// stopForward keeps an old server that comes back from sending anything.
func (m *Move) stopForward(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := subscriber.DropAll(limit, m.New, nil, nil)
	return err
}
