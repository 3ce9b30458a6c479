package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
)

const slotsSQL = `select count(*) from pg_replication_slots where database = current_database()`

// A slot cannot be made while somebody writes: past its bound it says who, and
// leaves nothing that would retain WAL.
func TestSlotBehindALongTransaction(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		conn := connect(t, s.url)
		if _, err := conn.Exec(t.Context(), "begin; "+insertSQL); err != nil {
			t.Fatal(err)
		}
		var said []string
		began := time.Now()
		_, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 3*time.Second, func(text string) { said = append(said, text) })
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("it gave up after %s", took)
		}
		want := fmt.Sprintf("session %d ", conn.PgConn().PID())
		if !errors.Is(err, pg.ErrTimeout) || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("error %v, hint %q: want a timeout that names %s", err, hint.Of(err), want)
		}
		if len(said) == 0 || !strings.Contains(said[len(said)-1], want) {
			t.Errorf("progress %q does not name %s", said, want)
		}
		if n := pgtest.Value[int](t, s.url, slotsSQL); n != 0 {
			t.Errorf("%d slots are left", n)
		}
		if _, err := conn.Exec(t.Context(), "commit"); err != nil {
			t.Fatal(err)
		}
		if _, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 30*time.Second, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestSlotTwice(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		if _, err := publisher.ReadSlot(t.Context(), s.Server, forward(s.Server)); !errors.Is(err, publisher.ErrNoSlot) {
			t.Errorf("reading no slot: %v", err)
		}
		first, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 30*time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.url, insertSQL)
		second, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 30*time.Second, nil)
		if err != nil || second != first || first == 0 {
			t.Errorf("made at %s, adopted at %s, %v", first, second, err)
		}
		slot, err := publisher.ReadSlot(t.Context(), s.Server, forward(s.Server))
		if err != nil || slot.Confirmed != first || slot.Active || slot.Plugin != "pgoutput" || slot.Retained() <= 0 {
			t.Errorf("%+v, %v", slot, err)
		}
		lag, err := publisher.ReadLag(t.Context(), s.Server, forward(s.Server))
		if err != nil || lag.Connected || lag.Bytes <= 0 || lag.Retained < lag.Bytes {
			t.Errorf("%+v, %v", lag, err)
		}
		for range 2 {
			if err := publisher.DropSlot(t.Context(), s.Server, forward(s.Server), 5*time.Second); err != nil {
				t.Error(err)
			}
		}
		if n := pgtest.Value[int](t, s.url, slotsSQL); n != 0 {
			t.Errorf("%d slots are left", n)
		}
	})
}

// A walsender that uses the slot is ended.
func TestDropSlotInUse(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		tables, err := publisher.Tables(t.Context(), s.Server, everything)
		if err != nil {
			t.Fatal(err)
		}
		if err := publisher.EnsurePublication(t.Context(), s.Server, forward(s.Server), tables, 18); err != nil {
			t.Fatal(err)
		}
		lsn, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 30*time.Second, nil)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := s.Replication(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		name := state.FirstStream(s.Move()).Name()
		err = pglogrepl.StartReplication(t.Context(), conn, name, lsn, pglogrepl.StartReplicationOptions{
			Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names '" + name + "'"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if lag, err := publisher.ReadLag(t.Context(), s.Server, forward(s.Server)); err != nil || !lag.Connected {
			t.Errorf("%+v, %v, want a walsender", lag, err)
		}
		if err := publisher.DropSlot(t.Context(), s.Server, forward(s.Server), 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if n := pgtest.Value[int](t, s.url, slotsSQL); n != 0 {
			t.Errorf("%d slots are left", n)
		}
	})
}

func everything(string, string) bool { return true }

func TestPublication(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create schema "Odd S"`, `create table "Odd S"."t ""1""" (id integer primary key)`, `create unlogged table public.u (n integer)`,
			`create table public.p (n integer) partition by list (n)`, `create table public.p1 partition of public.p for values in (1)`)
		tables, err := publisher.Tables(t.Context(), s.Server, func(schema, name string) bool { return name != "p1" })
		if want := `[{Schema:Odd S Name:t "1"} {Schema:public Name:t}]`; err != nil || fmt.Sprintf("%+v", pairs(tables)) != want {
			t.Fatalf("in scope are %+v, %v, want %s", pairs(tables), err, want)
		}
		for range 2 {
			if err := publisher.EnsurePublication(t.Context(), s.Server, forward(s.Server), tables, 18); err != nil {
				t.Fatal(err)
			}
		}
		have, err := publisher.Published(t.Context(), s.Server, forward(s.Server))
		if missing, extra := publisher.Compare(tables, have); err != nil || len(missing)+len(extra) > 0 {
			t.Errorf("published %v, %v", have, err)
		}
		pgtest.Exec(t, s.url, "drop table public.t", "create table public.n (id integer primary key)")
		if tables, err = publisher.Tables(t.Context(), s.Server, everything); err != nil {
			t.Fatal(err)
		}
		err = publisher.EnsurePublication(t.Context(), s.Server, forward(s.Server), tables, 18)
		if err == nil || !strings.Contains(err.Error(), "public.n") || hint.Of(err) == "" {
			t.Errorf("another list of tables: %v", err)
		}
		for range 2 {
			if err := publisher.Mark(t.Context(), s.Server, state.Forward, 7); err != nil {
				t.Error(err)
			}
			if err := publisher.DropPublication(t.Context(), s.Server, forward(s.Server)); err != nil {
				t.Error(err)
			}
		}
		if n := pgtest.Value[int](t, s.url, "select count(*) from pgcutover.marker_forward where attempt = 7"); n != 1 {
			t.Errorf("%d markers", n)
		}
		if n := pgtest.Value[int](t, s.url, "select count(*) from pg_publication"); n != 0 {
			t.Errorf("%d publications are left", n)
		}
	})
}

// pairs shows tables without their method String.
func pairs(tables []publisher.Table) []struct{ Schema, Name string } {
	out := make([]struct{ Schema, Name string }, len(tables))
	for i, t := range tables {
		out[i] = struct{ Schema, Name string }(t)
	}
	return out
}

// The half-made slot of a tool that died is made anew: it has no position to
// stream from.
func TestSlotHalfMade(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		blocker := connect(t, s.url)
		if _, err := blocker.Exec(t.Context(), "begin; "+insertSQL); err != nil {
			t.Fatal(err)
		}
		dying, cancel := context.WithCancel(t.Context())
		defer cancel()
		conn, err := s.Replication(dying)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn.Exec(dying, publisher.CreateSlotStatement(forward(s.Server))).ReadAll() //nolint:errcheck // it is cut off
		}()
		const workersSQL = `select coalesce(max(active_pid), 0) from pg_replication_slots where database = current_database()`
		var dead int
		until(t, "a half-made slot", func() bool {
			dead = pgtest.Value[int](t, s.url, workersSQL)
			return dead > 0
		})
		adopting := make(chan error, 1)
		go func() {
			_, err := publisher.EnsureSlot(t.Context(), s.Server, forward(s.Server), 30*time.Second, nil)
			adopting <- err
		}()
		until(t, "the half-made slot to go and another to be begun", func() bool {
			now := pgtest.Value[int](t, s.url, workersSQL)
			return now > 0 && now != dead
		})
		if _, err := blocker.Exec(t.Context(), "commit"); err != nil {
			t.Fatal(err)
		}
		cancel()
		<-done
		if err := <-adopting; err != nil {
			t.Fatal(err)
		}
		if slot, err := publisher.ReadSlot(t.Context(), s.Server, forward(s.Server)); err != nil || slot.Confirmed == 0 {
			t.Errorf("%+v, %v", slot, err)
		}
	})
}
