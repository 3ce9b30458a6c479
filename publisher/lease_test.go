package publisher_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
)

const killLeaseSQL = `
select count(pg_terminate_backend(pid)) from pg_stat_activity
 where datname = current_database() and application_name like 'pgcutover/%/lease'`

func TestLeaseWhoseSessionIsKilled(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		writer := s.waiting(t)
		if n := pgtest.Value[int](t, s.url, killLeaseSQL); n != 1 {
			t.Fatalf("%d sessions killed", n)
		}
		goesOn(t, writer)
		select {
		case <-l.Context().Done():
			if err := context.Cause(l.Context()); !errors.Is(err, publisher.ErrLeaseLost) || pg.Code(err) != pg.AdminShutdown {
				t.Errorf("the cause is %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the lease did not notice")
		}
		s.refuses(t, l, publisher.ErrLeaseLost)
		if err := l.Alive(); !errors.Is(err, publisher.ErrLeaseLost) {
			t.Errorf("alive: %v", err)
		}
		s.leased(t) // the lock went with the session
	})
}

// refuses tells that nothing more can be done in the lease's transaction, and
// that what is tried does not run by itself either.
func (s *server) refuses(t *testing.T, l *publisher.Lease, want error) {
	t.Helper()
	err := l.Transaction(func(q state.Querier) error {
		t.Error("a statement ran outside of the transaction")
		_, err := q.Exec(t.Context(), insertSQL)
		return err
	})
	if !errors.Is(err, want) {
		t.Errorf("a statement: %v, want %v", err, want)
	}
	if err := protect(t, l); !errors.Is(err, want) {
		t.Errorf("protecting: %v, want %v", err, want)
	}
	if _, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 50 * time.Millisecond, Attempts: 1}); !errors.Is(err, want) {
		t.Errorf("freezing: %v, want %v", err, want)
	}
	if err := l.Commit(t.Context()); !errors.Is(err, want) {
		t.Errorf("committing: %v, want %v", err, want)
	} else if errors.Is(want, publisher.ErrExpired) != publisher.Refused(err) {
		t.Errorf("%v counts as refused: %t", err, publisher.Refused(err))
	}
}

func TestLeaseThatExpires(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		writer := s.waiting(t)
		const pause = 500 * time.Millisecond
		began := time.Now()
		l.ExpireAfter(pause)
		goesOn(t, writer)
		if took := time.Since(began); took < pause {
			t.Errorf("the pause ended after %s, its bound is %s", took, pause)
		}
		s.refuses(t, l, publisher.ErrExpired)
		if err := l.Alive(); err != nil { // the one-tool lock stays
			t.Errorf("the session: %v", err)
		}
		if n := pgtest.Value[int](t, s.url, `select count(*) from public.t`); n != 1 {
			t.Errorf("%d rows, want the writer's", n)
		}
	})
}

func TestLeaseRollsBack(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		writer := s.waiting(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l.Rollback(ctx) // although the tool was told to stop
		goesOn(t, writer)
		s.refuses(t, l, publisher.ErrExpired)
		l.Rollback(t.Context())
		if err := l.Begin(t.Context(), attempt+1); err == nil || !strings.Contains(err.Error(), "attempt 1") {
			t.Errorf("beginning another attempt's lease: %v", err)
		}
	})
}

// A silent network ends neither the writers' waiting nor the tool's: the server
// ends the idle transaction, the tool gives the session up.
func TestLeaseIntoSilence(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		writer := s.waiting(t)
		s.proxy.Stall()
		began := time.Now()
		l.Rollback(t.Context())
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("rolling back took %s", took)
		}
		if l.Context().Err() == nil {
			t.Error("the session was not given up")
		}
		goesOn(t, writer)
		s.proxy.Restore(t)
	})
}

// A statement into silence is given up after a while, whatever its caller's
// patience.
func TestLeaseStatementIntoSilence(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		s.proxy.Stall()
		began := time.Now()
		err := l.Transaction(func(q state.Querier) error {
			var n int
			return q.QueryRow(t.Context(), "select 1").Scan(&n)
		})
		if took := time.Since(began); !errors.Is(err, publisher.ErrLeaseLost) || took > 30*time.Second {
			t.Errorf("%v after %s", err, took)
		}
		s.proxy.Restore(t)
	})
}

func TestLeaseThatFailed(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		err := l.Transaction(func(q state.Querier) error {
			_, err := q.Exec(t.Context(), "select 1/0")
			return err
		})
		if pg.Code(err) != "22012" {
			t.Fatalf("dividing by zero: %v", err)
		}
		if err := l.Commit(t.Context()); err == nil || !publisher.Refused(err) {
			t.Errorf("committing a failed transaction: %v", err)
		}
		l.Rollback(t.Context())

		// One that fails at COMMIT itself.
		pgtest.Exec(t, s.url, `create table public.d (n integer constraint later unique deferrable initially deferred)`)
		if err := l.Begin(t.Context(), attempt); err != nil {
			t.Fatal(err)
		}
		err = l.Transaction(func(q state.Querier) error {
			_, err := q.Exec(t.Context(), "insert into public.d values (1), (1)")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context()); pg.Code(err) != pg.UniqueViolation || !publisher.Refused(err) {
			t.Errorf("committing duplicates: %v", err)
		}
		if err := l.Alive(); err != nil {
			t.Error(err)
		}
	})
}

func TestLeaseCommits(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		l.ExpireAfter(time.Minute)
		err := l.Transaction(func(q state.Querier) error {
			_, err := q.Exec(t.Context(), "insert into pgcutover.decision_forward (attempt, stream) values (1, 0)")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if decided, err := state.Decided(t.Context(), s.Pool(), state.Forward, attempt); err != nil || !decided {
			t.Errorf("decided: %t, %v", decided, err)
		}
		s.refuses(t, l, publisher.ErrExpired)
	})
}

// The server ends transactions that are idle for five seconds; the lease's
// heartbeat keeps its own alive.
func TestLeaseOutlivesTheIdleTimeout(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		writer := s.waiting(t)
		select {
		case err := <-writer:
			t.Fatalf("the gate was opened: %v", err)
		case <-l.Context().Done():
			t.Fatal(context.Cause(l.Context()))
		case <-time.After(7 * time.Second):
		}
		if err := l.Transaction(func(state.Querier) error { return nil }); err != nil {
			t.Error(err)
		}
		l.Rollback(t.Context())
		goesOn(t, writer)
	})
}

func TestOneTool(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.leased(t)
		_, err := publisher.TakeLock(t.Context(), s.Server, time.Second)
		if !errors.Is(err, pg.ErrLockHeld) || !strings.Contains(err.Error(), "/lease") || hint.Of(err) == "" {
			t.Errorf("a second tool: %v, hint %q", err, hint.Of(err))
		}
		holder, err := pg.LockHolder(t.Context(), s.Server)
		if err != nil || !strings.Contains(holder, "/lease") {
			t.Errorf("the holder is %q, %v", holder, err)
		}
		l.Close(t.Context())
		s.leased(t)
	})
}

func TestProtectKeepsOut(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.frozen(t)
		conn := connect(t, s.url)
		for _, ddl := range []string{"alter table public.t add column x integer", "vacuum public.t", "create index concurrently on public.t (n)"} {
			for _, sql := range []string{"set lock_timeout = 100", ddl} {
				if _, err := conn.Exec(t.Context(), sql); sql == ddl && pg.Code(err) != pg.LockNotAvailable {
					t.Errorf("%s: %v", sql, err)
				}
			}
		}
		l.Rollback(t.Context())
		if _, err := conn.Exec(t.Context(), "begin; lock table public.t in share row exclusive mode"); err != nil {
			t.Fatal(err)
		}
		if err := l.Begin(t.Context(), attempt); err != nil {
			t.Fatal(err)
		}
		if err := protect(t, l); pg.Code(err) != pg.LockNotAvailable || hint.Of(err) == "" {
			t.Errorf("protecting a locked table: %v", err)
		}
		if n, err := publisher.LockCapacity(t.Context(), s.Server); err != nil || n < 1000 {
			t.Errorf("lock capacity %d, %v", n, err)
		}
	})
}
