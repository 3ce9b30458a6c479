package fence_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

const (
	decideSQL = `insert into pgcutover.decision_forward (attempt, stream) values ($1, 0)`
	markSQL   = `insert into pgcutover.marker_forward (attempt, stream) values ($1, 0)`
)

// arrives delivers a decision as an apply worker does.
func (s *server) arrives(t *testing.T, attempt int64) {
	t.Helper()
	conn := connect(t, s.url)
	do(t, conn, `set session_replication_role = replica; set default_transaction_read_only = off`)
	do(t, conn, decideSQL, attempt)
}

// isOpen compares all that says whether the new server takes writes: the turn,
// the check, and the database's default.
func (s *server) isOpen(t *testing.T, want bool) {
	t.Helper()
	turn, err := state.ReadTurn(t.Context(), s.Pool())
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, s.url)
	var readOnly string
	if err := conn.QueryRow(t.Context(), `select current_setting('default_transaction_read_only')`).Scan(&readOnly); err != nil {
		t.Fatal(err)
	}
	err = exec(t, conn, `begin read write; insert into public.t values (1)`)
	if turn.Open != want || readOnly == "on" == want || (err == nil) != want || err != nil && pg.Code(err) != pg.ReadOnlyTransaction {
		t.Errorf("want open %t; turn %+v, default_transaction_read_only %s, a write: %v", want, turn, readOnly, err)
	}
	if turn.Open && turn.Armed {
		t.Error("the guard is still armed")
	}
}

// closedNew is a new server before the cutover.
func closedNew(t *testing.T, s *server) {
	t.Helper()
	pgtest.Exec(t, s.url, `create table public.t (id integer)`)
	s.fenced(t)
	if err := fence.SetReadOnly(t.Context(), s.Server, true); err != nil {
		t.Fatal(err)
	}
}

func TestGuard(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		closedNew(t, s)
		s.arrives(t, 1) // never armed
		s.isOpen(t, false)
		if err := fence.Arm(t.Context(), s.Server, 3); err != nil {
			t.Fatal(err)
		}
		s.arrives(t, 2) // of an attempt that is over
		s.arrives(t, 4) // of one that has not begun
		s.isOpen(t, false)
		if err := fence.Disarm(t.Context(), s.Server, 3); err != nil {
			t.Fatal(err)
		}
		s.arrives(t, 3)
		s.isOpen(t, false)
		if err := fence.Arm(t.Context(), s.Server, 2); !errors.Is(err, fence.ErrNotMine) {
			t.Errorf("a stale tool arms: %v", err)
		}
		if err := fence.Arm(t.Context(), s.Server, 5); err != nil {
			t.Fatal(err)
		}
		// A row that no apply worker writes opens nothing.
		do(t, connect(t, s.url), `set default_transaction_read_only = off`)
		tx := begun(t, s.url, `set transaction read write`)
		do(t, tx, decideSQL, int64(5))
		do(t, tx, `commit`)
		s.isOpen(t, false)
		pgtest.Exec(t, s.url, `set default_transaction_read_only = off`, `delete from pgcutover.decision_forward where attempt = 5`)

		s.arrives(t, 5)
		s.isOpen(t, true)
		s.arrives(t, 6) // nothing is opened twice
		s.isOpen(t, true)
		if err := fence.Arm(t.Context(), s.Server, 6); !errors.Is(err, fence.ErrNotMine) {
			t.Errorf("arming an open server: %v", err)
		}
		if err := fence.Disarm(t.Context(), s.Server, 5); !errors.Is(err, fence.ErrDecided) {
			t.Errorf("disarming an opened one: %v", err)
		}
	})
}

func TestDryRunOpensNothing(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		closedNew(t, s)
		if err := fence.DryRun(t.Context(), s.Server); err != nil {
			t.Fatal(err)
		}
		s.isOpen(t, false)
		pgtest.Exec(t, s.url, `set default_transaction_read_only = off`, `drop function pgcutover.open_now()`)
		if err := fence.DryRun(t.Context(), s.Server); pg.Code(err) != pg.UndefinedFunction {
			t.Errorf("without its body: %v", err)
		}
	})
}

func TestOpen(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		closedNew(t, s)
		if err := fence.Arm(t.Context(), s.Server, 3); err != nil {
			t.Fatal(err)
		}
		refuses := func(attempt int64, known bool, want error) {
			t.Helper()
			if opened, err := fence.Open(t.Context(), s.Server, attempt, known); !errors.Is(err, want) || opened {
				t.Errorf("opening attempt %d, known from old %t: %t, %v, want %v", attempt, known, opened, err, want)
			}
			s.isOpen(t, false)
		}
		conn := begun(t, s.url, `set transaction read write`)
		do(t, conn, markSQL, int64(2))
		do(t, conn, decideSQL, int64(2))
		do(t, conn, `commit`)
		refuses(2, true, fence.ErrNotMine)
		refuses(4, true, fence.ErrNotMine)
		refuses(3, false, fence.ErrNotYet)
		refuses(3, true, fence.ErrNotYet) // decided, but what came before is not known to be here

		do(t, conn, `begin read write`)
		do(t, conn, markSQL, int64(3))
		refuses(3, true, fence.ErrNotYet) // not committed
		do(t, conn, `commit`)
		refuses(3, false, fence.ErrNotYet) // drained, but not decided
		for _, want := range []bool{true, false} {
			if opened, err := fence.Open(t.Context(), s.Server, 3, true); err != nil || opened != want {
				t.Errorf("opened %t, %v, want %t", opened, err, want)
			}
			s.isOpen(t, true)
		}
	})
}

func TestOpenByTheDecisionAlone(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		closedNew(t, s)
		if err := fence.Arm(t.Context(), s.Server, 1); err != nil {
			t.Fatal(err)
		}
		conn := begun(t, s.url, `set transaction read write`)
		do(t, conn, decideSQL, int64(1)) // by no apply worker, so that the guard stays out of it
		do(t, conn, `commit`)
		if opened, err := fence.Open(t.Context(), s.Server, 1, false); err != nil || !opened {
			t.Errorf("opened %t, %v", opened, err)
		}
		s.isOpen(t, true)
	})
}

func TestUndoOnSource(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer)`, `update pgcutover.turn set attempt = 2`)
		s.fenced(t)
		ran := 0
		undo := func(attempt int64) error {
			return fence.UndoOnSource(t.Context(), s.Server, state.Forward, attempt, func(tx pgx.Tx) error {
				ran++
				_, err := tx.Exec(t.Context(), fence.DetachSQL(s.Move(), fence.Table{Schema: "public", Name: "t"}))
				return err
			})
		}
		for _, stale := range []int64{1, 3} {
			if err := undo(stale); !errors.Is(err, fence.ErrNotMine) || ran != 0 {
				t.Errorf("undoing attempt %d: %v", stale, err)
			}
			if err := fence.DetachForUndo(t.Context(), s.Server, state.Forward, stale, 10*time.Second, nil); !errors.Is(err, fence.ErrNotMine) {
				t.Errorf("detaching for attempt %d: %v", stale, err)
			}
		}

		// It waits for the turn, so that a decision under way is seen.
		lease := begun(t, s.url, state.TurnLockSQL)
		done := make(chan error, 1)
		go func() { done <- undo(2) }()
		until(t, "the undo to wait for the turn", func() bool {
			return pgtest.Value[int](t, s.url, `select count(*) from pg_locks where not granted and pid in
				(select pid from pg_stat_activity where datname = current_database())`) == 1
		})
		do(t, lease, decideSQL, int64(2))
		do(t, lease, `commit`)
		if err := <-done; !errors.Is(err, fence.ErrDecided) || ran != 0 {
			t.Errorf("undoing what was decided meanwhile: %v", err)
		}
		if err := fence.DetachForUndo(t.Context(), s.Server, state.Forward, 2, 10*time.Second, nil); !errors.Is(err, fence.ErrDecided) {
			t.Errorf("detaching what is decided: %v", err)
		}
		if n := s.triggers(t); n != 1 {
			t.Errorf("%d triggers", n)
		}

		pgtest.Exec(t, s.url, `update pgcutover.turn set attempt = 3`)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := fence.DetachForUndo(ctx, s.Server, state.Forward, 3, 10*time.Second, nil); err != nil || s.triggers(t) != 0 {
			t.Errorf("undoing an undecided attempt: %v", err)
		}
	})
}
