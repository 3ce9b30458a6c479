package sequences_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

// forty makes so many sequences, a third of them never used, and returns their names.
func forty(t *testing.T, s side) []sequences.Ref {
	t.Helper()
	s.exec(t, `create schema "A""b\c"; do $$ begin for i in 10 .. 49 loop execute 'create sequence "A""b\c"."s ' || i || '"'; end loop; end $$;
		select count(setval(c.oid::regclass, right(c.relname, 2)::int * 100)) from pg_class c where relkind = 'S' and right(c.relname, 2)::int % 3 > 0`)
	all := s.read(t)
	refs := make([]sequences.Ref, len(all))
	for i, one := range all {
		refs[i] = one.Ref
	}
	if len(refs) != 40 {
		t.Fatalf("%d sequences", len(refs))
	}
	return refs
}

// source reads s with sessions for ten sequences each; rest is asked in their place.
func source(t *testing.T, s side) sequences.Source {
	t.Helper()
	rest, err := pgxpool.New(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rest.Close)
	return sequences.Source{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, s.conn.Config()) },
		Rest:    rest, Version: s.version, PerSession: 10, Patience: time.Hour,
	}
}

func readers(t *testing.T, o sequences.Source, refs []sequences.Ref, want int) *sequences.Readers {
	t.Helper()
	r, err := sequences.NewReaders(t.Context(), o, refs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(context.WithoutCancel(t.Context())) })
	if r.Sessions() != want {
		t.Fatalf("%d sessions, want %d", r.Sessions(), want)
	}
	return r
}

// called are the values of those that were called, as one session sees them.
func called(t *testing.T, s side, refs []sequences.Ref) []sequences.Value {
	t.Helper()
	values, err := sequences.ReadValues(t.Context(), s.client, s.version, refs)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(values, func(v sequences.Value) bool { return !v.IsCalled })
}

// sameCalled reads and compares; what was never called may be there, too.
func sameCalled(t *testing.T, r *sequences.Readers, s side, refs []sequences.Ref) []sequences.Value {
	t.Helper()
	all, err := r.ReadCalled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(slices.Clone(all), func(v sequences.Value) bool { return !v.IsCalled })
	if want := called(t, s, refs); !slices.Equal(got, want) || len(want) != 27 {
		t.Errorf("%v, want %v", got, want)
	}
	return all
}

// Several sessions see what one sees, in the same order, again and again.
func TestReadersAgree(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		refs := forty(t, s)
		one, err := sequences.NewReader(t.Context(), s.conn, s.version, refs)
		if err != nil {
			t.Fatal(err)
		}
		r := readers(t, source(t, s), refs, 4)
		for range 3 {
			s.exec(t, `select count(nextval(c.oid::regclass)) from pg_class c where relkind = 'S' and right(c.relname, 2)::int % 3 > 0`)
			want, err := one.ReadCalled(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := sameCalled(t, r, s, refs); !slices.Equal(got, want) {
				t.Errorf("%v, one session sees %v", got, want)
			}
		}
	})
}

// A session that dies, or whose server has no room for so many, costs no value.
func TestReadersLoseSessions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		refs := forty(t, s)
		o := source(t, s)
		var pids []uint32
		connect, room := o.Connect, 4
		o.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			if len(pids) == room {
				return nil, &pgconn.PgError{Code: "53300", Message: "too many clients already"}
			}
			conn, err := connect(ctx)
			if err == nil {
				pids = append(pids, conn.PgConn().PID())
			}
			return conn, err
		}
		r := readers(t, o, refs, 4)
		for i, left := range []int{3, 2} {
			if !pgtest.Value[bool](t, s.url, `select pg_terminate_backend($1)`, pids[i]) {
				t.Fatal("not ended")
			}
			sameCalled(t, r, s, refs)
			sameCalled(t, r, s, refs)
			if r.Sessions() != left {
				t.Errorf("%d sessions, want %d", r.Sessions(), left)
			}
		}
		if err := r.Renew(t.Context()); err != nil || r.Sessions() != 2 {
			t.Errorf("%d sessions, %v", r.Sessions(), err)
		}
		room = 6
		if err := r.Renew(t.Context()); err != nil || r.Sessions() != 4 {
			t.Errorf("%d sessions, %v", r.Sessions(), err)
		}
		sameCalled(t, r, s, refs)
		pids, room = nil, 2
		sameCalled(t, readers(t, o, refs, 2), s, refs)
		pids, room = nil, 0
		if _, err := sequences.NewReaders(t.Context(), o, refs); err == nil || !strings.Contains(err.Error(), "too many clients") {
			t.Errorf("%v", err)
		}
	})
}

// A session that waits, here for somebody's open ALTER SEQUENCE, is not waited for.
func TestReadersDoNotWait(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		refs := forty(t, s)
		o := source(t, s)
		o.Patience = 20 * time.Millisecond
		r := readers(t, o, refs, 4)
		tx, err := s.client.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), fmt.Sprintf("alter sequence %s restart with 7", refs[10].Ident())); err != nil {
			t.Fatal(err)
		}
		values, err := r.ReadCalled(t.Context()) // for ever, if it waited
		if err != nil {
			t.Error(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		values = slices.DeleteFunc(values, func(v sequences.Value) bool { return !v.IsCalled })
		if want := called(t, s, refs); !slices.Equal(values, want) {
			t.Errorf("%v, want %v", values, want)
		}
	})
}

// What every session would be told is told, and the caller's bound is kept.
func TestReadersFail(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		refs := forty(t, s)
		r := readers(t, source(t, s), refs, 4)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.ReadCalled(over); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		s.exec(t, fmt.Sprintf("drop sequence %s", refs[25].Ident()))
		if _, err := r.ReadCalled(t.Context()); err == nil || !strings.Contains(err.Error(), refs[25].Ident()+" is not there") {
			t.Errorf("%v", err)
		}
		if _, err := sequences.NewReaders(t.Context(), source(t, s), refs); err == nil || !strings.Contains(err.Error(), refs[25].Ident()+" is not there") {
			t.Errorf("%v", err)
		}
	})
}
