package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/publisher"
)

// begun is a lease whose transaction has begun.
func (s *server) begun(t *testing.T) *publisher.Lease {
	t.Helper()
	l := s.leased(t)
	if err := l.Begin(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	return l
}

// holding is a client that has written and not committed.
func (s *server) holding(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := connect(t, s.url)
	for _, sql := range []string{"begin", insertSQL} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// Round trips count: they are part of the pause.
func TestFreezeTakesOneRoundTrip(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		var messages atomic.Int32
		s.proxy.OnFrontend(func(conn int, _ byte, payload []byte) pgtest.Action {
			beat := strings.HasPrefix(string(payload), "select 1\x00") || strings.HasPrefix(string(payload), "-- ping")
			if strings.HasSuffix(s.proxy.Parameters(conn)["application_name"], "/lease") && !beat {
				messages.Add(1)
			}
			return pgtest.Forward
		})
		once := publisher.FreezeOptions{LockTimeout: 50 * time.Millisecond, Attempts: 1}
		holder := s.holding(t)
		if _, err := l.Freeze(t.Context(), once); !errors.Is(err, publisher.ErrNotFrozen) || messages.Swap(0) != 2 {
			t.Errorf("refused: %v; want two messages, the second to go on", err)
		}
		pg.Close(t.Context(), holder)
		until(t, "the holder to go", func() bool {
			return pgtest.Value[int](t, s.url, `select count(*) from pg_locks where relation = 'pgcutover.gate'::regclass`) == 0
		})
		if _, err := l.Freeze(t.Context(), once); err != nil || messages.Load() != 1 {
			t.Errorf("%v, %d messages, want one", err, messages.Load())
		}
	})
}

// A freeze that is refused says by whom, and does not hold writers up by asking
// again while they are there.
func TestFreezeNamesWhoIsInTheWay(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		holder := s.holding(t)
		<-time.After(1100 * time.Millisecond) // a short one would be asked again for
		var said []string
		frozen, err := l.Freeze(t.Context(), publisher.FreezeOptions{
			LockTimeout: 30 * time.Millisecond, Attempts: 8, Progress: func(text string) { said = append(said, text) },
		})
		pid := holder.PgConn().PID()
		if !errors.Is(err, publisher.ErrNotFrozen) || !strings.Contains(hint.Of(err), fmt.Sprintf("pg_terminate_backend(%d)", pid)) {
			t.Fatalf("%v, hint %q", err, hint.Of(err))
		}
		who := fmt.Sprintf("session %d (postgres, from 127.0.0.1, idle in transaction, in a transaction for ", pid)
		if !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), "holds RowShareLock on pgcutover.gate: "+insertSQL) {
			t.Errorf("%v does not name %s", err, who)
		}
		if frozen.Attempts != 2 || len(said) != 1 || !strings.Contains(said[0], "attempt 1 of 8: the gate is held by "+who) {
			t.Errorf("%d attempts, want the first and the last; said %q", frozen.Attempts, said)
		}
		if len(frozen.Ended) != 0 {
			t.Errorf("ended %v", frozen.Ended)
		}
		// It is had as soon as the holder is done, in the same transaction.
		time.AfterFunc(200*time.Millisecond, func() { pg.Close(context.WithoutCancel(t.Context()), holder) })
		frozen, err = l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 500})
		if err != nil || frozen.Attempts > 6 {
			t.Errorf("%v, %d attempts", err, frozen.Attempts)
		}
		goesOnAfter(t, l, s.waiting(t))
	})
}

// goesOnAfter ends the lease and waits for a writer.
func goesOnAfter(t *testing.T, l *publisher.Lease, writer <-chan error) {
	t.Helper()
	l.Rollback(t.Context())
	goesOn(t, writer)
}

func TestFreezeEndsWhoIsInTheWay(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		holder := s.holding(t)
		const after = 300 * time.Millisecond
		began := time.Now()
		// One attempt, which is why it must go on for the sake of the session's end.
		frozen, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 50 * time.Millisecond, Attempts: 1, TerminateAfter: after})
		if took := time.Since(began); err != nil || took < after {
			t.Fatalf("%v after %s", err, took)
		}
		if len(frozen.Ended) != 1 || frozen.Ended[0].How != "terminated" || !strings.Contains(frozen.Ended[0].Session, fmt.Sprint(holder.PgConn().PID())) {
			t.Errorf("ended %+v", frozen.Ended)
		}
		if _, err := holder.Exec(t.Context(), "select 1"); pg.Code(err) != pg.AdminShutdown {
			t.Errorf("the holder met %v", err)
		}
		goesOnAfter(t, l, s.waiting(t))
	})
}

// What may not be ended, or cannot be, makes the freeze give up.
func TestFreezeThatMayNotEnd(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		role := "limited_" + s.Move()
		pgtest.Exec(t, s.url, "create role "+role+" login", "grant pg_read_all_stats to "+role, "grant all on schema pgcutover to "+role,
			"grant all on all tables in schema pgcutover to "+role)
		t.Cleanup(func() { pgtest.Exec(t, s.url, "drop owned by "+role, "drop role "+role) })
		tool, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: pgtest.WithUser(t, s.url, role, ""), Move: s.Move()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tool.Close)
		l, err := publisher.TakeLock(t.Context(), tool, 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close(context.WithoutCancel(t.Context()))
		if err := l.Begin(t.Context(), attempt); err != nil {
			t.Fatal(err)
		}
		holder := s.holding(t)
		_, err = l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 2, TerminateAfter: 50 * time.Millisecond})
		if !errors.Is(err, blocker.ErrMayNotEnd) || !strings.Contains(hint.Of(err), "GRANT pg_signal_backend TO \""+role) {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		if _, err := holder.Exec(t.Context(), "commit"); err != nil {
			t.Error(err)
		}
	})
}

// The one lock mode that a server looks for deadlocks in is never waited for as
// long as that takes.
func TestFreezeStaysBelowDeadlockTimeout(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		name := pgtest.Value[string](t, s.url, `select current_database()::text`)
		pgtest.Exec(t, s.url, "alter database "+name+" set deadlock_timeout = '100ms'")
		l := s.begun(t)
		s.holding(t)
		_, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 5 * time.Second, Attempts: 1})
		if !errors.Is(err, publisher.ErrNotFrozen) || !strings.Contains(err.Error(), "attempts of 50ms") {
			t.Errorf("%v, want attempts of 50 ms", err)
		}
	})
}

func TestFreezeIsStopped(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		s.holding(t)
		told := errors.New("told to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(told) })
		began := time.Now()
		_, err := l.Freeze(ctx, publisher.FreezeOptions{LockTimeout: 50 * time.Millisecond, Attempts: 1000})
		if err == nil || time.Since(began) > 30*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// An application that deadlocks with itself: the gate is had beside it, within a
// few attempts, and none of its deadlocks has anything to do with us.
func TestFreezeBesideDeadlocks(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `insert into public.t (id, n) select i, 0 from generate_series(1001, 1012) i`,
			fmt.Sprintf(`alter database %s set deadlock_timeout = '500ms'`, pgtest.Value[string](t, s.url, `select current_database()::text`)))
		ctx, stop := context.WithCancel(t.Context())
		var group errgroup.Group
		var deadlocks atomic.Int32
		var withUs atomic.Pointer[string]
		for range 6 {
			conn := connect(t, s.url)
			group.Go(func() error {
				for ctx.Err() == nil {
					a := 1001 + rand.N(12)
					b := 1001 + (a-1000+rand.N(11))%12
					<-time.After(8 * time.Millisecond)
					_, err := conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`begin; update public.t set n = n + 1 where id = %d;
						select pg_sleep(0.002); update public.t set n = n + 1 where id = %d; commit`, a, b))
					var answer *pgconn.PgError
					if errors.As(err, &answer) && answer.Code == pg.DeadlockDetected {
						deadlocks.Add(1)
						if strings.Contains(answer.Detail, "Lock on relation") { // its own are about rows
							withUs.Store(&answer.Detail)
						}
						_, err = conn.Exec(context.WithoutCancel(ctx), "rollback")
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		until(t, "a deadlock", func() bool { return deadlocks.Load() > 0 })
		l := s.begun(t)
		attempts := 0
		const rounds = 6
		for range rounds {
			frozen, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 20})
			if err != nil {
				t.Fatal(err)
			}
			attempts += frozen.Attempts
			l.Rollback(t.Context())
			<-time.After(100 * time.Millisecond)
			if err := l.Begin(t.Context(), attempt); err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if err := group.Wait(); err != nil {
			t.Errorf("a client met %v", err)
		}
		if attempts > 4*rounds {
			t.Errorf("%d freezes took %d attempts", rounds, attempts)
		}
		if detail := withUs.Load(); detail != nil {
			t.Errorf("a deadlock that is not only the application's: %s", *detail)
		}
		t.Logf("%d freezes took %d attempts beside %d deadlocks", rounds, attempts, deadlocks.Load())
	})
}

func TestFreezeBound(t *testing.T) {
	o := publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 20, TerminateAfter: 30 * time.Second}
	if got := o.Bound(); got != 60*time.Second {
		t.Errorf("the bound is %s", got)
	}
}

// What DDL would change under the fence while the lease stands, beginning with
// partitions, which have no trigger of their own.
func TestProtectKeepsPartitionsOut(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.root (n integer) partition by list (n)`, `create table public.part (n integer)`,
			`create table public.parent (n integer)`, `create table public.heir (n integer)`)
		l := s.begun(t)
		if _, err := l.Protect(t.Context(), []string{"public.t", "public.root", "public.parent"}, publisher.ProtectOptions{}); err != nil {
			t.Fatal(err)
		}
		conn := connect(t, s.url)
		for _, ddl := range []string{
			`create table public.made partition of public.root for values in (1)`,
			`alter table public.root attach partition public.part for values in (2)`,
			`alter table public.heir inherit public.parent`,
			`create table public.born () inherits (public.parent)`,
			`alter table public.t alter column n type bigint using n + 7`,
			`alter table public.t disable trigger all`,
			`drop trigger pgcutover_` + s.Move() + `_fence on public.t`,
			`alter table public.t rename to u`,
			`drop table public.t`,
		} {
			if _, err := conn.Exec(t.Context(), `set lock_timeout = 50`); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), ddl); pg.Code(err) != pg.LockNotAvailable {
				t.Errorf("%s: %v", ddl, err)
			}
		}
		if _, err := conn.Exec(t.Context(), insertSQL); err != nil {
			t.Errorf("a writer is held up: %v", err)
		}
	})
}

func TestProtectNamesAndEndsWhoIsInTheWay(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l := s.begun(t)
		ddl := connect(t, s.url)
		if _, err := ddl.Exec(t.Context(), "begin; lock table public.t in share mode"); err != nil {
			t.Fatal(err)
		}
		var said []string
		_, err := l.Protect(t.Context(), []string{"public.t"}, publisher.ProtectOptions{Progress: func(text string) { said = append(said, text) }})
		who := fmt.Sprintf("session %d ", ddl.PgConn().PID())
		if pg.Code(err) != pg.LockNotAvailable || !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), "holds ShareLock on public.t") || hint.Of(err) == "" {
			t.Errorf("%v, hint %q; want it to name %s", err, hint.Of(err), who)
		}
		if !slices.ContainsFunc(said, func(text string) bool { return strings.Contains(text, "waiting for "+who) }) {
			t.Errorf("said %q", said)
		}
		ended, err := l.Protect(t.Context(), []string{"public.t"}, publisher.ProtectOptions{TerminateAfter: 10 * time.Millisecond})
		if err != nil || len(ended) != 1 || !strings.Contains(ended[0].Session, who) {
			t.Errorf("%v, ended %v", err, ended)
		}
		if _, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 5}); err != nil {
			t.Error(err)
		}
	})
}

// A freeze whose time is over, since clients of poolers wait, says who was in the
// way.
func TestFreezeThatExpires(t *testing.T) {
	s := newServer(t, pgtest.Majors(t)[0])
	l := s.begun(t)
	holder := s.holding(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, fmt.Errorf("poolers: %w", publisher.ErrExpired))
	defer cancel()
	_, err := l.Freeze(ctx, publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 1000})
	if !errors.Is(err, publisher.ErrExpired) || !strings.Contains(err.Error(), fmt.Sprintf("held by session %d", holder.PgConn().PID())) {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

// What to run once the way is free is the command that met somebody in its way.
func TestAdviceNamesTheCommand(t *testing.T) {
	for side, command := range map[pg.Side]string{pg.Old: "cutover", pg.New: "rollback"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			s := newServerOn(t, side, pgtest.Majors(t)[0])
			l := s.begun(t)
			holder := connect(t, s.url)
			if _, err := holder.PgConn().Exec(t.Context(), `begin; lock table pgcutover.gate in row share mode; lock table public.t in share update exclusive mode`).ReadAll(); err != nil {
				t.Fatal(err)
			}
			_, frozen := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 1})
			refused := protect(t, l)
			for _, err := range []error{frozen, refused} {
				if err == nil || !strings.HasSuffix(hint.Of(err), "run: pgcutover "+command) {
					t.Errorf("%v, hint %q", err, hint.Of(err))
				}
			}
			if refused == nil || !strings.Contains(refused.Error(), "during the "+command) {
				t.Error(refused)
			}
		})
	}
}
