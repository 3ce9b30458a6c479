package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/warmup"
)

// statusAlone is what the one server that can be reached knows.
func (m *Move) statusAlone(ctx context.Context) (Status, error) {
	s := Status{Move: m.Options.Name, NoStats: []warmup.Table{}, At: time.Now().UTC()}
	here := m.Old
	if here == nil {
		here = m.New
	}
	if _, err := m.recordedOn(ctx, here); errors.Is(err, state.ErrNoMove) {
		s.Phase, s.Serving = "not started, or ended", "unknown"
		s.Verdict = Verdict{Reasons: []string{err.Error()}, Next: fmt.Sprintf("reach the %s server again", here.Side().Other()), CanGoBack: "unknown"}
		return s, nil
	} else if err != nil {
		return s, err
	}
	turn, err := state.ReadTurn(ctx, here.Pool())
	if err != nil {
		return s, err
	}
	promise, err := state.ReadPromise(ctx, here)
	if err != nil {
		return s, err
	}
	if s.Tool, err = pg.LockHolder(ctx, here); err != nil {
		return s, err
	}
	s.Serving = string(here.Side())
	if !turn.Open {
		s.Serving = "unknown"
	}
	if here.Side() == pg.Old {
		s.OldVersion, s.OldTurn = here.Major(), &turn
		return s, m.onlyOld(ctx, &s, turn, promise)
	}
	s.NewVersion, s.NewTurn = here.Major(), &turn
	return s, m.onlyNew(ctx, &s, turn, promise)
}

// onlyOld judges by old, when new cannot be reached.
func (m *Move) onlyOld(ctx context.Context, s *Status, turn state.Turn, promise *state.Promise) error {
	s.Phase = "new cannot be reached"
	switch {
	case promise != nil:
		s.Phase, s.GivenUp = "new was given up", true
		s.Verdict = Verdict{
			Reasons:   []string{fmt.Sprintf("new was given up at %s (resume --new-is-lost), and old was opened", utc(promise.At))},
			Next:      "pgcutover abort --old-only, which removes what is left of the move on old",
			CanGoBack: "old takes the writes. Should new come back, keep every client away from it: it takes writes too",
		}
	case turn.Open:
		s.Verdict = Verdict{
			Reasons:   []string{"old takes the writes; new has to be reached for a cutover"},
			Next:      "reach new again. If it is gone for good: pgcutover abort --old-only",
			CanGoBack: "yes: old takes the writes",
		}
	default:
		remains, err := m.OldRemains(ctx)
		told, err := toldOr(remains.String(), err)
		if err != nil {
			return err
		}
		s.Verdict = Verdict{
			Reasons:   []string{"old is closed: a cutover gave the writes to new"},
			Next:      "reach new again. If it is gone for good: pgcutover resume --new-is-lost, which says what is lost and asks",
			CanGoBack: "not without new, or with a loss: " + told,
		}
	}
	return nil
}

// onlyNew judges by new, when old cannot be reached.
func (m *Move) onlyNew(ctx context.Context, s *Status, turn state.Turn, promise *state.Promise) error {
	s.Phase = "old cannot be reached"
	switch {
	case promise != nil:
		s.Phase, s.GivenUp = "old was given up", true
		s.Verdict = Verdict{
			Reasons:   []string{fmt.Sprintf("old was given up at %s (resume --old-is-lost), and new was opened", utc(promise.At))},
			Next:      "pgcutover complete --new-only, which removes what is left of the move on new",
			CanGoBack: "no. Should old come back, keep every client away from it: it may take writes too",
		}
	case turn.Open:
		s.Verdict = Verdict{
			Reasons:   []string{"new takes the writes; old has to be reached for a rollback"},
			Next:      "reach old again. If it is gone for good: pgcutover complete --new-only; if its clients are not on new yet, pgcutover resume --old-is-lost before that",
			CanGoBack: "not without old",
		}
	default:
		remains, err := m.Remains(ctx)
		told, err := toldOr("as new sees it: "+remains.String(), err)
		if err != nil {
			return err
		}
		s.Verdict = Verdict{
			Reasons:   []string{"new is closed, and nobody can say whether old takes the writes"},
			Next:      "reach old again. If it is gone for good: pgcutover resume --old-is-lost, which says what is lost and asks",
			CanGoBack: told,
		}
	}
	return nil
}

// toldOr is what one server knows of the other's writes, or why the other one
// does not count as gone.
func toldOr(told string, err error) (string, error) {
	if !errors.Is(err, ErrAnswers) {
		return told, err
	}
	told = err.Error()
	if advice := hint.Of(err); advice != "" {
		told += " (" + advice + ")"
	}
	return told, nil
}
