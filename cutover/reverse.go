package cutover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

func (c *Cutover) reverseStep() step.Step {
	return step.Step{
		Name:  "reverse",
		About: fmt.Sprintf("make the slot of the way back on %s: from here on whatever is written there can go back", c.Direction.Target()),
		Bound: c.Settings.MaxPause + time.Second,
		Do:    c.reverse,
		Undo:  c.undoReverse, UndoBound: 2*sourceBound + 20*time.Second,
		Behind:     true,
		Statements: c.planning(c.reverseStatements), UndoStatements: c.planning(c.undoReverseStatements),
	}
}

type reverseFacts struct {
	Slot       string `json:"slot,omitempty"` // empty when the way back is not kept
	Consistent string `json:"consistent_point,omitempty"`
}

// reverse makes the slot of the way back under this lease. One of an earlier
// attempt would send back all that the stream has brought since. It waits for
// transactions that write anywhere in the target's cluster; see gateWriting.
func (c *Cutover) reverse(ctx context.Context) (any, error) {
	if !c.Settings.WayBack {
		return reverseFacts{}, nil
	}
	if c.wayBack { // made a moment ago, under this very lease
		return reverseFacts{Slot: c.back().Name()}, nil
	}
	lsn, err := publisher.CreateWayBack(ctx, c.target(), c.back(), c.remaining())
	if err != nil {
		return nil, err
	}
	c.wayBack = true
	return reverseFacts{Slot: c.back().Name(), Consistent: lsn.String()}, nil
}

func (c *Cutover) undoReverse(ctx context.Context) error {
	if err := c.endLease(ctx); err != nil { // it holds the turn that is asked for below
		return err
	}
	if mine, err := c.undecided(ctx); !mine {
		return err
	}
	c.wayBack = false
	return patiently(ctx, c.Direction.Target(), func(ctx context.Context) error {
		return publisher.DropSlot(ctx, c.target(), c.back(), 10*time.Second)
	})
}

// undecided tells whether what this attempt made for the way back may go: false
// without an error when a newer attempt has the turn, which drops what it finds.
// Once it says yes the attempt cannot be decided any more: the lease held the
// turn that this waited for.
func (c *Cutover) undecided(ctx context.Context) (bool, error) {
	err := patiently(ctx, c.Direction.Source(), func(ctx context.Context) error {
		return fence.UndoOnSource(ctx, c.source(), c.Direction, c.attempt, func(pgx.Tx) error { return nil })
	})
	if errors.Is(err, fence.ErrNotMine) {
		return false, nil
	}
	return err == nil, err
}

// requireWayBack proves, just before the decision, that the slot still stands.
func (c *Cutover) requireWayBack(ctx context.Context) error {
	if !c.Settings.WayBack {
		return nil
	}
	if !c.wayBack {
		return errors.New("the slot of the way back was not made under this lease")
	}
	limit, cancel := context.WithTimeout(ctx, min(c.remaining(), 3*time.Second))
	defer cancel()
	_, err := publisher.ReadSlot(limit, c.target(), c.back())
	return err
}

// prepareWayBack makes what of the way back need not be in the pause: the
// publication on the target, and on the source a subscription that is disabled
// and has no slot yet. What earlier attempts left is dropped: it is never
// adopted.
func (c *Cutover) prepareWayBack(ctx context.Context) error {
	if err := c.dropStale(ctx); err != nil || !c.Settings.WayBack {
		return err
	}
	back := c.back()
	tables, err := publisher.Published(ctx, c.source(), c.stream)
	if err != nil {
		return err
	}
	if err := publisher.EnsurePublication(ctx, c.target(), back, tables, c.source().Major()); err != nil {
		return wayBackHint(err)
	}
	owner, err := subscriber.EnsureRole(ctx, c.source())
	if err != nil {
		return wayBackHint(err)
	}
	conninfo, err := c.target().Peer()
	if err != nil {
		return err
	}
	return wayBackHint(subscriber.Ensure(ctx, c.source(), back, conninfo, owner))
}

func wayBackHint(err error) error {
	if err == nil || hint.Of(err) != "" {
		return err
	}
	return hint.With(err, "this is for the way back; a move without one sets rollback.keep: false")
}

// dropStale drops the streams of the way back that earlier attempts left: those
// that flow against this direction. There is nobody who reads from them. What a
// newer attempt made is not this one's to drop.
func (c *Cutover) dropStale(ctx context.Context) error {
	earlier := func(name string) bool { return state.StreamAttempt(c.Move.Name, name) < c.attempt }
	if _, err := subscriber.DropAll(ctx, c.source(), earlier, nil); err != nil {
		return err
	}
	names, err := publisher.Names(ctx, c.target())
	if err != nil {
		return err
	}
	for _, name := range names {
		if !earlier(name) {
			continue
		}
		if err := publisher.Remove(ctx, c.target(), name, 10*time.Second, nil); err != nil {
			return err
		}
	}
	return nil
}

// dropWayBack takes back prepareWayBack.
func (c *Cutover) dropWayBack(ctx context.Context) error {
	if mine, err := c.undecided(ctx); !mine {
		return err
	}
	_, err := subscriber.Drop(ctx, c.source(), c.back())
	return errors.Join(err, patiently(ctx, c.Direction.Target(), func(ctx context.Context) error {
		return publisher.DropPublication(ctx, c.target(), c.back())
	}))
}

// startWayBack lets the stream back flow, once the one that was drained is gone
// on both servers: with both on, every change would go round for ever.
//
// What was made by this attempt counts, not what the config says now: it may be
// another process's that resumes. An error says that there is no way back, or
// that it does not flow yet; the target serves all the same.
func (c *Cutover) startWayBack(ctx context.Context) error {
	back := c.back()
	names, err := publisher.Names(ctx, c.target())
	if err != nil || !slices.Contains(names, back.Name()) {
		return err
	}
	if _, err := publisher.ReadSlot(ctx, c.target(), back); err != nil {
		return fmt.Errorf("there is no way back to the %s server: %w", c.Direction.Source(), err)
	}
	if err := subscriber.Connect(ctx, c.source(), back); err != nil {
		return err
	}
	err = pg.Wait(ctx, "the stream back to flow", 50*time.Millisecond, 30*time.Second, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			slot, err := publisher.ReadSlot(ctx, c.target(), back)
			return slot.Active, "the subscriber has not connected", err
		})
	if err != nil {
		return fmt.Errorf("%w: the log of the %s server says why it cannot connect back (%s.peer_url, pg_hba.conf); it goes on trying", err, c.Direction.Source(), c.Direction.Target())
	}
	return nil
}
