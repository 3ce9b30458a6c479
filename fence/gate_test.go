package fence_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

const gateWaitersSQL = `
select count(*) from pg_locks
 where relation = 'pgcutover.gate'::regclass and not granted`

// Those who wait at the gate when it is closed for good must be refused by the
// new check, in every isolation level, whatever they have cached.
func TestWaitersAtTheGate(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer primary key, n integer)`, `insert into public.t values (1, 1)`)
		s.fenced(t)
		var waiters []*pgx.Conn
		var names []string
		for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
			for _, kind := range []string{"cold", "warm", "old snapshot", "has read the gate"} {
				conn := connect(t, s.url)
				if kind != "cold" {
					for range 8 {
						do(t, conn, `update public.t set n = n where id = $1`, -1)
					}
				}
				do(t, conn, `begin isolation level `+isolation)
				switch kind {
				case "old snapshot":
					do(t, conn, `select * from public.t`)
				case "has read the gate":
					do(t, conn, `select 1 from pgcutover.gate for key share; select * from public.t`)
					do(t, conn, `commit`) // its lock would hold the lease up
					do(t, conn, `begin isolation level `+isolation+`; select * from pgcutover.gate`)
				}
				waiters, names = append(waiters, conn), append(names, isolation+", "+kind)
			}
		}
		lease := begun(t, s.url, `lock table pgcutover.gate in exclusive mode`)
		errs := make([]error, len(waiters))
		var group errgroup.Group
		for i, conn := range waiters {
			group.Go(func() error {
				_, errs[i] = conn.Exec(context.WithoutCancel(t.Context()), `insert into public.t values ($1, 0)`, 100+i)
				if errs[i] == nil {
					_, errs[i] = conn.Exec(context.WithoutCancel(t.Context()), `commit`)
				}
				return nil
			})
		}
		until(t, "all to wait at the gate", func() bool { return pgtest.Value[int](t, s.url, gateWaitersSQL) == len(waiters) })
		do(t, lease, fence.ClosedSQL(s.Server, fence.Error, s.oid, time.Now()))
		do(t, lease, `commit`)
		group.Wait() //nolint:errcheck // errs has them
		for i, err := range errs {
			refused(t, names[i], err)
		}
		if n := pgtest.Value[int](t, s.url, `select count(*) from public.t`); n != 1 {
			t.Errorf("%d rows slipped", n-1)
		}
	})
}

// writing is writers of single rows, and how long the slowest had to wait.
type writing struct {
	mu      sync.Mutex
	longest time.Duration
	n       int
	stop    context.CancelFunc
	group   errgroup.Group
}

func (s *server) writing(t *testing.T, tables ...string) *writing {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &writing{stop: stop}
	for _, table := range tables {
		conn := connect(t, s.url)
		w.group.Go(func() error {
			for ctx.Err() == nil {
				began := time.Now()
				if _, err := conn.Exec(context.WithoutCancel(ctx), `insert into `+table+` values (1, 1)`); err != nil {
					return err
				}
				w.mu.Lock()
				w.longest = max(w.longest, time.Since(began))
				w.n++
				w.mu.Unlock()
				<-time.After(time.Millisecond)
			}
			return nil
		})
	}
	return w
}

// end returns the longest wait.
func (w *writing) end(t *testing.T) (longest time.Duration, n int) {
	t.Helper()
	w.stop()
	if err := w.group.Wait(); err != nil {
		t.Errorf("a writer met an error: %v", err)
	}
	return w.longest, w.n
}

func (s *server) triggers(t *testing.T) int {
	t.Helper()
	return pgtest.Value[int](t, s.url, `select count(*) from pg_trigger where tgname = $1 and tgenabled = 'A'`, fence.TriggerName(s.Move()))
}

// Making and dropping the triggers beside a long transaction: it gives up in
// time, says who is in the way, and holds nobody up meanwhile.
func TestAttachAndDetachUnderLoad(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		const tables = 60 // more than one batch
		for i := range tables {
			pgtest.Exec(t, s.url, fmt.Sprintf(`create table public.t%02d (id integer, n integer)`, i))
		}
		const detaching, mostHeldUp = "detaching for undo", 600 * time.Millisecond
		for _, what := range []struct {
			name string
			do   func(bound time.Duration) error
			want int
		}{
			{"attaching", func(bound time.Duration) error {
				_, err := fence.Attach(t.Context(), s.Server, bound, nil)
				return err
			}, tables},
			{"detaching", func(bound time.Duration) error {
				_, err := fence.Detach(t.Context(), s.Server, bound, nil)
				return err
			}, 0},
			{"attaching again", func(bound time.Duration) error {
				_, err := fence.Attach(t.Context(), s.Server, bound, nil)
				return err
			}, tables},
			{detaching, func(bound time.Duration) error {
				return fence.DetachForUndo(t.Context(), s.Server, state.Forward, 0, bound, nil)
			}, 0},
		} {
			long := begun(t, s.url, `insert into public.t10 values (1, 1)`)
			var err error
			var took, longest time.Duration
			var n int
			want := fmt.Sprintf("session %d ", long.PgConn().PID())
			named := func() bool {
				return errors.Is(err, pg.ErrTimeout) && strings.Contains(err.Error(), want) && strings.Contains(err.Error(), `"t10"`) && hint.Of(err) != ""
			}
			// A busy machine holds writers up, too, but not each time, and takes longer
			// to come to the table that is held.
			for _, bound := range []time.Duration{time.Second, 4 * time.Second, 12 * time.Second} {
				writers := s.writing(t, "public.t10", "public.t10", "public.t55")
				began := time.Now()
				err = what.do(bound)
				took = time.Since(began)
				if longest, n = writers.end(t); longest <= mostHeldUp && named() {
					break
				}
			}
			if !named() {
				t.Errorf("%s: %v, hint %q; want a timeout that names %s", what.name, err, hint.Of(err), want)
			}
			if took > 30*time.Second {
				t.Errorf("%s: gave up after %s", what.name, took)
			}
			if longest > mostHeldUp || n == 0 {
				t.Errorf("%s: %d writes, the longest took %s", what.name, n, longest)
			}
			do(t, long, `commit`)
			for range 2 {
				if err := what.do(20 * time.Second); err != nil {
					t.Errorf("%s: %v", what.name, err)
				}
			}
			if n := s.triggers(t); n != what.want {
				t.Errorf("%s: %d triggers, want %d", what.name, n, what.want)
			}
			t.Logf("%s: gave up after %s, %d writes, the longest took %s", what.name, took, n, longest)
		}
	})
}

// Whatever takes the fence from one table must be found.
func TestFenceWithAHole(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer)`, `create table public.u (id integer)`)
		q := s.Pool()
		if err := fence.AllFenced(t.Context(), q, s.Move()); !errors.Is(err, fence.ErrUnfenced) {
			t.Errorf("without any fence: %v", err)
		}
		s.fenced(t)
		if err := fence.AllFenced(t.Context(), q, s.Move()); err != nil {
			t.Error(err)
		}
		name := fence.TriggerName(s.Move())
		for _, hole := range []string{
			`create table public.made_since (id integer)`,
			`create unlogged table public.unlogged_since (id integer)`,
			`create table public.root_since (id integer) partition by list (id)`,
			`alter table public.t disable trigger ` + name,
			`alter table public.t enable trigger ` + name, // not in the replica role
			`alter table public.t enable replica trigger ` + name,
			`drop trigger ` + name + ` on public.t`,
			`drop trigger ` + name + ` on public.t; create function public.f() returns trigger language plpgsql as 'begin return null; end';
			 create trigger ` + name + ` before insert on public.t for each statement execute procedure public.f(); alter table public.t enable always trigger ` + name,
		} {
			tx := begun(t, s.url, "savepoint a")
			if _, err := tx.PgConn().Exec(t.Context(), hole).ReadAll(); err != nil {
				t.Fatalf("%s: %v", hole, err)
			}
			err := fence.AllFenced(t.Context(), tx, s.Move())
			if !errors.Is(err, fence.ErrUnfenced) {
				t.Errorf("%s: %v", hole, err)
			}
			made, err := fence.AttachMissing(t.Context(), tx, s.Server)
			mends := !strings.Contains(hole, "alter table")
			if mends && (made != 1 || err != nil || fence.AllFenced(t.Context(), tx, s.Move()) != nil) || !mends && err == nil {
				t.Errorf("%s: mended %d, %v", hole, made, err)
			}
			do(t, tx, `rollback`)
		}
		pgtest.Exec(t, s.url, `alter table public.t disable trigger `+name)
		if _, err := fence.Attach(t.Context(), s.Server, time.Minute, nil); err == nil || hint.Of(err) == "" {
			t.Errorf("attaching beside a disabled trigger: %v", err)
		}
		if _, err := fence.Detach(t.Context(), s.Server, time.Minute, nil); err != nil {
			t.Error(err)
		}
		if n := pgtest.Value[int](t, s.url, `select count(*) from pg_trigger where tgname = $1`, name); n != 0 {
			t.Errorf("%d triggers are left", n)
		}
	})
}

// A hole in the fence of new stops a rollback.
func TestHoleNamesTheCommand(t *testing.T) {
	for side, command := range map[pg.Side]string{pg.Old: "cutover", pg.New: "rollback"} {
		s := newServer(t, side, pgtest.Majors(t)[0])
		pgtest.Exec(t, s.url, `set default_transaction_read_only = off`, `create table public.t (id integer)`)
		err := fence.AllFenced(t.Context(), s.Pool(), s.Move())
		if !errors.Is(err, fence.ErrUnfenced) || !strings.Contains(err.Error(), "while the "+command+" ") || !strings.HasSuffix(hint.Of(err), "pgcutover "+command) {
			t.Errorf("on %s: %v, hint %q", side, err, hint.Of(err))
		}
	}
}
