package fence_test

import (
	"errors"
	"testing"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// armedNew is a new server on which the guard waits for attempt 3, with its
// marker or without.
func armedNew(t *testing.T, s *server, marked bool) {
	t.Helper()
	closedNew(t, s)
	if err := fence.Arm(t.Context(), s.Server, 3); err != nil {
		t.Fatal(err)
	}
	if marked {
		pgtest.Exec(t, s.url, `set default_transaction_read_only = off`, `insert into pgcutover.marker_forward (attempt, stream) values (3, 0)`)
	}
}

func prepared(t *testing.T, s *server) *fence.Opening {
	t.Helper()
	opening, err := fence.PrepareOpen(t.Context(), s.Server, 3)
	if err != nil {
		t.Fatal(err)
	}
	return opening
}

func TestPreparedOpening(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		armedNew(t, s, true)
		opening := prepared(t, s)
		s.isOpen(t, false)
		opening.Drop(t.Context())
		opening.Drop(t.Context())
		s.isOpen(t, false)
		if err := opening.Commit(t.Context()); err == nil {
			t.Error("an opening that was dropped can be committed")
		}
		s.isOpen(t, false)

		opening = prepared(t, s)
		err := opening.Commit(t.Context())
		for pg.IsCode(err, pg.IdleInTransaction) { // it lasts half a second only
			opening = prepared(t, s)
			err = opening.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		opening.Drop(t.Context())
		s.isOpen(t, true)
		if again, err := fence.PrepareOpen(t.Context(), s.Server, 3); err == nil {
			again.Drop(t.Context())
			t.Error("an open server can be prepared to open")
		}
		s.isOpen(t, true)
		(*fence.Opening)(nil).Drop(t.Context())
	})
}

func TestPreparingRefuses(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		armedNew(t, s, false)
		for attempt, want := range map[int64]error{2: fence.ErrNotMine, 4: fence.ErrNotMine, 3: fence.ErrNotYet} {
			if _, err := fence.PrepareOpen(t.Context(), s.Server, attempt); !errors.Is(err, want) {
				t.Errorf("attempt %d: %v, want %v", attempt, err, want)
			}
		}
		s.isOpen(t, false)
	})
}

// A tool that is stopped with an opening in its hands must not keep the guard
// from its work: the decision may be on its way.
func TestGuardOutlivesAPreparedOpening(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		armedNew(t, s, true)
		opening := prepared(t, s)
		s.arrives(t, 3) // waits for the server to end the opening's transaction
		s.isOpen(t, true)
		if err := opening.Commit(t.Context()); err == nil {
			t.Error("the opening lasted longer than the guard waits")
		}
		s.isOpen(t, true)
	})
}

// Whoever needs the turn, such as a tool that takes the next attempt, gets it
// soon; what was prepared for the attempt before opens nothing any more.
func TestPreparedOpeningIsOverWithItsAttempt(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		armedNew(t, s, true)
		opening := prepared(t, s)
		if err := fence.Arm(t.Context(), s.Server, 4); err != nil {
			t.Fatal(err)
		}
		if err := opening.Commit(t.Context()); err == nil {
			t.Error("an opening of an earlier attempt was committed")
		}
		s.isOpen(t, false)
	})
}
