package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
)

// limited is the tool with a role that has only the given roles' rights.
func (s *server) limited(t *testing.T, of ...string) *pg.Server {
	t.Helper()
	role := fmt.Sprintf("limited_%s_%d", s.Move(), len(of))
	pgtest.Exec(t, s.url, "create role "+role+" login", "grant all on schema pgcutover to "+role, "grant all on all tables in schema pgcutover to "+role)
	for _, r := range of {
		pgtest.Exec(t, s.url, "grant "+r+" to "+role)
	}
	tool, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: pgtest.WithUser(t, s.url, role, ""), Move: s.Move()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tool.Close()
		pgtest.Exec(t, s.url, "drop owned by "+role, "drop role "+role)
	})
	return tool
}

func mayHold(t *testing.T, s *pg.Server) bool {
	t.Helper()
	may, err := publisher.MayHoldObjects(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return may
}

// What the catalogs say about the right is what the server does.
func TestMayHoldObjects(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		locks := func(tool *pg.Server) error {
			_, err := tool.Pool().Exec(t.Context(), "begin; "+publisher.HoldObjectsSQL+"; rollback")
			return err
		}
		if err := locks(s.Server); !mayHold(t, s.Server) || err != nil {
			t.Errorf("a superuser may not: %v", err)
		}
		if tool := s.limited(t); mayHold(t, tool) || locks(tool) == nil {
			t.Error("anybody may")
		}
		if s.Major() < 17 {
			return
		}
		if tool := s.limited(t, "pg_maintain", "pg_read_all_stats", "pg_signal_backend"); !mayHold(t, tool) || locks(tool) != nil {
			t.Errorf("a member of pg_maintain may not: %v", locks(tool))
		}
	})
}

// held is a lease and a hold beside it, had together, that watch each other.
func (s *server) held(t *testing.T, tool *pg.Server) (*publisher.Lease, *publisher.ObjectHold) {
	t.Helper()
	l, err := publisher.TakeLock(t.Context(), tool, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.WithoutCancel(t.Context())) })
	if err := l.Begin(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	h, err := publisher.OpenObjectHold(t.Context(), tool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Release(context.WithoutCancel(t.Context())) })
	h.Wait = true
	if _, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 50, Objects: h}); err != nil {
		t.Fatal(err)
	}
	h.Watch(t.Context(), state.Forward, attempt, time.Minute)
	return l, h
}

const waitsForObjectsSQL = `
select count(*) from pg_locks
 where not granted and relation in ('pg_catalog.pg_largeobject'::regclass, 'pg_catalog.pg_largeobject_metadata'::regclass)`

func (s *server) writesObject(t *testing.T, conn *pgx.Conn) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), `select lo_from_bytea(0, 'late')`)
		done <- err
	}()
	until(t, "a writer of large objects to wait", func() bool { return pgtest.Value[int](t, s.url, waitsForObjectsSQL) == 1 })
	return done
}

// Writers of large objects wait with the others and go on with them, whether or
// not the tool does anything about it.
func TestObjectsAreHeldWithTheLease(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		l, h := s.held(t, s.Server)
		writer := s.writesObject(t, connect(t, s.url))
		if err := h.Alive(); err != nil {
			t.Error(err)
		}
		l.Rollback(t.Context())
		goesOn(t, writer)
		until(t, "the hold to notice", func() bool { return errors.Is(h.Alive(), publisher.ErrObjectsFree) })
	})
}

// With the decision they are ended by the server, without the tool.
func TestObjectWritersAreEndedByTheDecision(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		tool := s.Server
		role := "writer_" + s.Move()
		pgtest.Exec(t, s.url, "create role "+role+" login")
		t.Cleanup(func() { pgtest.Exec(t, s.url, "drop role "+role) })
		if s.Major() >= 17 {
			tool = s.limited(t, "pg_maintain", "pg_read_all_stats", "pg_signal_backend")
			pgtest.Exec(t, s.url, "grant pg_read_all_data to "+tool.User())
		}
		l, _ := s.held(t, tool)
		writer := s.writesObject(t, connect(t, pgtest.WithUser(t, s.url, role, "")))
		err := l.Transaction(func(q state.Querier) error {
			_, err := q.Exec(t.Context(), `insert into pgcutover.decision_forward (attempt, stream) values ($1, 0)`, attempt)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-writer; pg.Code(err) != pg.AdminShutdown {
			t.Errorf("the writer was answered %v", err)
		}
		if n := pgtest.Value[int](t, s.url, `select count(*) from pg_largeobject_metadata`); n != 0 {
			t.Errorf("%d large objects were taken after the decision", n)
		}
	})
}

// Transactions that write both, in either order, do not keep the freeze away: it
// turns its own order round.
func TestFreezeBesideWritersOfBoth(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		for name, first := range map[string]string{"object first": `select lo_create(0)`, "row first": insertSQL} {
			client := connect(t, s.url)
			if _, err := client.Exec(t.Context(), "begin; "+first); err != nil {
				t.Fatal(err)
			}
			second := insertSQL
			if first == insertSQL {
				second = `select lo_from_bytea(0, 'x')`
			}
			done := make(chan error, 1)
			go func() {
				// Until the freeze is under way, in which the client then waits.
				until(t, "the freeze", func() bool {
					return pgtest.Value[bool](t, s.url, `select exists (select 1 from pg_locks l join pg_stat_activity a using (pid)
						where l.mode in ('ShareLock', 'ExclusiveLock') and a.application_name like 'pgcutover/%' and l.relation in ('pg_largeobject'::regclass, 'pgcutover.gate'::regclass))`)
				})
				_, err := client.Exec(context.WithoutCancel(t.Context()), second+"; commit")
				done <- err
			}()
			l, h := s.held(t, s.Server)
			goesOn(t, done)
			h.Release(t.Context())
			l.Close(t.Context())
			t.Log(name)
		}
	})
}

// A transaction that only made a large object holds no lock, and is waited for.
func TestFreezeWaitsForUnfinishedObjects(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		client := connect(t, s.url)
		if _, err := client.Exec(t.Context(), "begin; select lo_create(0)"); err != nil {
			t.Fatal(err)
		}
		l := s.begun(t)
		h, err := publisher.OpenObjectHold(t.Context(), s.Server)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Release(context.WithoutCancel(t.Context()))
		h.Wait = true
		o := publisher.FreezeOptions{LockTimeout: 30 * time.Millisecond, Attempts: 2, Objects: h}
		if _, err := l.Freeze(t.Context(), o); !errors.Is(err, publisher.ErrNotFrozen) || !strings.Contains(err.Error(), fmt.Sprintf("%d ", client.PgConn().PID())) {
			t.Errorf("%v, which does not name session %d", err, client.PgConn().PID())
		}
		h.Wait = false
		if _, err := l.Freeze(t.Context(), o); err != nil {
			t.Error(err)
		}
	})
}
