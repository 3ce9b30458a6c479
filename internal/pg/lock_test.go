package pg_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestTryLock(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *pg.Server, url string) {
		ctx := t.Context()
		a, b := session(t, s), session(t, s)
		if err := pg.TryLock(ctx, a, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		err := pg.TryLock(ctx, b, time.Second)
		if !errors.Is(err, pg.ErrLockHeld) || !strings.Contains(err.Error(), "pgcutover/m/test") || hint.Of(err) == "" {
			t.Errorf("held: %v, hint %q", err, hint.Of(err))
		}
		b = session(t, s) // a question cut off by the bound takes its session along
		done := make(chan error, 1)
		go func() { done <- pg.TryLock(ctx, b, 30*time.Second) }()
		if err := pg.Unlock(ctx, a); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("after it was given back: %v", err)
		}
		// The lock is one per database.
		other := open(t, pgtest.Database(t, pgtest.Server(t, s.Major())))
		if err := pg.TryLock(ctx, session(t, other), 30*time.Second); err != nil {
			t.Errorf("in another database: %v", err)
		}
		pg.Close(ctx, b)
		until(t, "the lock to go with its session", func() bool {
			holder, err := pg.LockHolder(ctx, s)
			return err == nil && holder == ""
		})
	})
}

func TestHoldLock(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *pg.Server, url string) {
		ctx := t.Context()
		held, release, err := pg.HoldLock(ctx, s, "purpose", 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := pg.HoldLock(ctx, s, "another", time.Second); !errors.Is(err, pg.ErrLockHeld) {
			t.Errorf("a second one: %v", err)
		}
		if holder, err := pg.LockHolder(ctx, s); err != nil || !strings.Contains(holder, "pgcutover/m/purpose") {
			t.Errorf("the holder is %q, %v", holder, err)
		}
		release()
		if held.Err() == nil {
			t.Error("what is released is still held")
		}

		held, release, err = pg.HoldLock(ctx, s, "purpose", 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if n := pgtest.Value[int](t, url, `
			select count(pg_terminate_backend(a.pid))
			  from pg_stat_activity a
			  join pg_locks l on l.pid = a.pid and l.locktype = 'advisory' and l.granted
			 where a.application_name = 'pgcutover/m/purpose' and a.datname = current_database()`); n != 1 {
			t.Fatalf("%d sessions ended", n)
		}
		select {
		case <-held.Done():
			if err := context.Cause(held); pg.Code(err) != pg.AdminShutdown {
				t.Errorf("the cause is %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the loss of the lock was not noticed")
		}
	})
}

// The tool's own settings must hold whatever the database's and the role's are.
func TestSessionSettings(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *pg.Server, url string) {
		name := pgtest.Value[string](t, url, `select current_database()::text`)
		pgtest.Exec(t, url, `alter database `+name+` set default_transaction_read_only = on`, `alter database `+name+` set synchronous_commit = off`)
		const sql = `select current_setting('transaction_read_only') || ' ' || current_setting('synchronous_commit') || ' ' || current_setting('search_path')`
		fresh := open(t, url)
		for what, want := range map[string]string{"tool": "off on pg_catalog", "client": "on off \"$user\", public"} {
			conn := session(t, fresh)
			if what == "client" {
				var err error
				if conn, err = fresh.ConnectAsClient(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer pg.Close(t.Context(), conn)
			}
			var got string
			if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %q, %v, want %q", what, got, err, want)
			}
		}
		if fresh.Major() != pgtest.Value[int](t, url, `select current_setting('server_version_num')::int / 10000`) || fresh.Database() != name {
			t.Errorf("%d, %s", fresh.Major(), fresh.Database())
		}
		conn, err := fresh.Replication(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
		both := open(t, fresh.Conninfo()) // what the subscriber gets leads to the same place
		if both.Address() != fresh.Address() {
			t.Errorf("%s, %s", both.Address(), fresh.Address())
		}
	})
}
