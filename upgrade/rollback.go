package upgrade

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
)

// NotGoingBack lists what a rollback would leave on new: tables that the stream
// back does not carry, and whatever else differs between the two schemas. DDL
// does not travel in a stream.
func (m *Move) NotGoingBack(ctx context.Context) ([]string, error) {
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return nil, err
	}
	on, err := publisher.Tables(ctx, m.New, m.scope.Match)
	if err != nil {
		return nil, err
	}
	carried, err := publisher.Published(ctx, m.New, pos.Stream(state.Back))
	if err != nil {
		return nil, err
	}
	var out []string
	missing, _ := publisher.Compare(on, carried)
	if len(carried) == 0 && len(missing) > 0 {
		out = append(out, fmt.Sprintf("all %d tables: there is no stream back to old (rollback.keep was false, or it was removed); what was written on new since the cutover stays there", len(missing)))
		missing = nil
	}
	for _, t := range missing {
		out = append(out, fmt.Sprintf("table %s: made on new since the cutover; its rows stay there", t))
	}
	seen, err := m.recent(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range goingBack(seen.differences) {
		out = append(out, "schema: "+d.String())
	}
	if m.Old.Major() < 11 {
		out = append(out, "TRUNCATE: old (PostgreSQL 10) cannot receive it; rows truncated on new since the cutover are still on old")
	}
	return out, nil
}

// afterCutover fills in the status of a move whose new server serves.
func (m *Move) afterCutover(ctx context.Context, s *Status) error {
	s.Phase = "cut over"
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return err
	}
	s.Verdict = Verdict{Reasons: []string{"the cutover is done"}, Next: "pgcutover rollback to go back, or pgcutover complete to end the move"}
	if !m.Options.Cutover.WayBack {
		s.Verdict.CanGoBack, s.Verdict.Next = "no: the way back is not kept (rollback.keep: false)", "pgcutover complete"
		m.condition(ctx, s)
		return nil
	}
	if err := m.stream(ctx, s, pos.Stream(state.Back)); err != nil {
		return err
	}
	s.NotGoingBack, err = m.NotGoingBack(ctx)
	if err := s.notCompared(err); err != nil {
		return err
	}
	s.Verdict.CanGoBack = m.canGoBack(s)
	m.condition(ctx, s)
	return nil
}

// condition fills in what clients find on new, which serves. That it cannot be seen
// must not hide whether one can go back.
func (m *Move) condition(ctx context.Context, s *Status) {
	c, err := m.Condition(ctx, pg.New)
	if err != nil {
		s.Warnings = append(s.Warnings, err.Error())
		return
	}
	s.Condition = &c
	s.lockedSequences()
}

// canGoBack answers the question, and what it would cost.
func (m *Move) canGoBack(s *Status) string {
	switch {
	case s.Lag == nil:
		return "no: the stream back to old is gone"
	case s.Lag.WALStatus == "lost":
		return "no: the WAL of the stream back is lost"
	case !s.Lag.Connected:
		return fmt.Sprintf("not now: old is not connected to the stream back (%s of WAL wait for it on new); nothing is lost while the slot stands", bytes(s.Lag.Retained))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "yes: pgcutover rollback. Old is %s behind; what was written on new goes back, sequences too; writes pause as in the cutover", bytes(s.Lag.Bytes))
	if n := len(s.NotGoingBack); n > 0 {
		fmt.Fprintf(&b, ". %d things would stay on new: %s", n, strings.Join(s.NotGoingBack[:min(n, 3)], "; "))
	}
	return b.String()
}
