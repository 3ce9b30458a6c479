package publisher_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/publisher"
)

// queueSQL counts the sessions that wait for a table lock of the database.
const queueSQL = `
select count(*)
  from pg_locks
 where not granted and locktype = 'relation' and database = (select oid from pg_database where datname = current_database())`

// behind runs sql in a session of its own, which comes to wait for a lock, and
// returns how it ended.
func behind(t *testing.T, s *server, conn *pgx.Conn, sql string) (wait func() error) {
	t.Helper()
	waiting := pgtest.Value[int](t, s.url, queueSQL)
	var group errgroup.Group
	group.Go(func() error {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), sql)
		return err
	})
	until(t, "the client to wait", func() bool { return pgtest.Value[int](t, s.url, queueSQL) > waiting })
	return group.Wait
}

// noDeadlockCheck keeps the server from ending the deadlock that a test makes,
// however slow the test is. It is for sessions that begin afterwards.
func (s *server) noDeadlockCheck(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, s.url, "alter database "+pgx.Identifier{s.Database()}.Sanitize()+" set deadlock_timeout = '30s'")
}

// heldUp is what a lease says that gives way because of public.t.
func heldUp(err error) bool {
	var held *publisher.HoldsUpError
	return errors.As(err, &held) && slices.Equal(held.Tables, []string{"public.t"})
}

// A transaction that has passed the gate is given way to, however far it stands
// behind somebody who waits for the lease: neither could end before the other.
func TestFreezeYields(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, "create table public.u (n integer)")
		if _, err := fence.Attach(t.Context(), s.Server, time.Minute, nil); err != nil {
			t.Fatal(err)
		}
		s.noDeadlockCheck(t)
		l := s.begun(t)
		passed := connect(t, s.url)
		if _, err := passed.Exec(t.Context(), "begin; insert into public.u values (1)"); err != nil {
			t.Fatal(err)
		}
		if err := protect(t, l); err != nil {
			t.Fatal(err)
		}
		locked := behind(t, s, connect(t, s.url), "begin; lock table public.t in share mode; commit")
		if held, err := l.HoldsUp(t.Context(), false); err != nil || len(held) > 0 {
			t.Errorf("%v, %v: nobody who has passed the gate waits", held, err)
		}
		if held, err := l.HoldsUp(t.Context(), true); err != nil || !slices.Equal(held, []string{"public.t"}) {
			t.Errorf("%v, %v: one waits", held, err)
		}
		wrote := behind(t, s, passed, insertSQL+"; commit")
		if err := l.Yielding(t.Context(), false, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !heldUp(err) {
			t.Errorf("%v", err)
		}
		if err := l.Yielding(t.Context(), false, func(ctx context.Context) error { <-ctx.Done(); return nil }); err != nil {
			t.Errorf("%v, although the work was done", err)
		}
		frozen, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 20, Yield: true})
		if !heldUp(err) || frozen.Attempts != 0 {
			t.Errorf("%+v, %v", frozen, err)
		}
		// Who has just looked tries once before it looks again.
		frozen, err = l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 20, Yield: true, Looked: true})
		if !heldUp(err) || frozen.Attempts != 1 {
			t.Errorf("having looked: %+v, %v", frozen, err)
		}
		if err := l.Alive(); err != nil {
			t.Error(err)
		}
		l.Rollback(t.Context())
		if err := errors.Join(locked(), wrote()); err != nil {
			t.Error(err)
		}
	})
}

// Who has a table that the lease wants, and wants one that the lease has.
func TestProtectYields(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, "create table public.u (n integer)")
		s.noDeadlockCheck(t)
		l := s.begun(t)
		client := connect(t, s.url)
		if _, err := client.Exec(t.Context(), "begin; lock table public.u in exclusive mode"); err != nil {
			t.Fatal(err)
		}
		if err := protect(t, l); err != nil {
			t.Fatal(err)
		}
		locked := behind(t, s, client, "lock table public.t in exclusive mode; commit")
		began := time.Now()
		_, err := l.Protect(t.Context(), []string{"public.u"}, publisher.ProtectOptions{Yield: true})
		if !heldUp(err) || time.Since(began) > 4*time.Second { // it would wait longer
			t.Errorf("%v after %s", err, time.Since(began))
		}
		l.Rollback(t.Context())
		if err := locked(); err != nil {
			t.Error(err)
		}
	})
}
