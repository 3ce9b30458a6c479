package blocker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, major)
		})
	}
}

func open(t *testing.T, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: "m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// session is a client with an application_name, in a transaction.
func session(t *testing.T, url, application string, sql ...string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = application
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	for _, q := range append([]string{"begin"}, sql...) {
		do(t, conn, q)
	}
	return conn
}

func do(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), what, 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, s *pg.Server, mode blocker.Mode, tables ...string) []blocker.Session {
	t.Helper()
	found, err := blocker.Find(t.Context(), s.Pool(), s.Move(), mode, tables...)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// names shows who was found, for comparison.
func names(found []blocker.Session) string {
	var out []string
	for _, s := range found {
		name := s.Application
		if s.Kind == blocker.Prepared {
			name = s.GID
		}
		out = append(out, fmt.Sprintf("%s: %s, waits %t", name, s.Kind, s.Waits))
	}
	return strings.Join(out, "; ")
}

func TestFind(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		cluster := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{"max_prepared_transactions": "5"}})
		url := pgtest.Database(t, cluster)
		s := open(t, url)
		pgtest.Exec(t, url, `create schema "S x"`, `create table "S x"."T" (n integer)`, `create table public.u (n integer)`)
		const table = `"S x"."T"`
		for _, mode := range []blocker.Mode{blocker.ShareUpdateExclusive, blocker.ShareRowExclusive, blocker.Exclusive, blocker.AccessExclusive} {
			if found := find(t, s, mode, table, "public.u", "public.gone"); len(found) != 0 {
				t.Errorf("nobody is there, found %v", found)
			}
		}
		pgtest.Exec(t, url, `begin`, `insert into "S x"."T" values (1)`, `prepare transaction 'it''s'`)
		session(t, url, "other table", `insert into public.u values (1)`)
		session(t, url, "reader", `select * from "S x"."T"`)
		writer := session(t, url, "writer", `insert into "S x"."T" values (1)`)
		session(t, url, "pgcutover/another/lease", `lock table "S x"."T" in row share mode`)
		session(t, url, "pgcutover/m", `lock table "S x"."T" in row exclusive mode`)       // of this move
		session(t, url, "pgcutover/m/lease", `lock table "S x"."T" in row exclusive mode`) // of this move
		ddl := session(t, url, "ddl")
		go ddl.Exec(context.WithoutCancel(t.Context()), `alter table "S x"."T" add column x integer`) //nolint:errcheck // ends with the session
		until(t, "the DDL to wait", func() bool {
			return pgtest.Value[bool](t, url, `select exists (select 1 from pg_locks where not granted and mode = 'AccessExclusiveLock')`)
		})
		prepared, wrote, waits, tool := "it's: prepared transaction, waits false", "writer: client backend, waits false",
			"ddl: client backend, waits true", "pgcutover/another/lease: pgcutover, waits false"
		for mode, want := range map[blocker.Mode][]string{
			blocker.ShareUpdateExclusive: {waits},
			blocker.ShareRowExclusive:    {wrote, prepared, waits},
			blocker.Exclusive:            {wrote, tool, prepared, waits},
			blocker.AccessExclusive:      {"reader: client backend, waits false", wrote, tool, prepared, waits},
		} {
			if got := names(find(t, s, mode, table)); got != strings.Join(want, "; ") {
				t.Errorf("in the way of %s are\n%s, want\n%s", mode, got, strings.Join(want, "; "))
			}
		}

		found := find(t, s, blocker.ShareRowExclusive, table)
		for i, parts := range [][]string{
			{
				fmt.Sprintf("session %d (postgres, writer, from 127.0.0.1, idle in transaction, in a transaction for ", writer.PgConn().PID()),
				`which holds RowExclusiveLock on "S x"."T": insert into "S x"."T" values (1)`,
			},
			{`prepared transaction 'it's' of postgres`, `which holds RowExclusiveLock on "S x"."T"`},
			{"ddl", `which waits for AccessExclusiveLock on "S x"."T" behind [`, fmt.Sprint(writer.PgConn().PID())},
		} {
			for _, part := range parts {
				if text := found[i].String(); !strings.Contains(text, part) {
					t.Errorf("%q does not say %q", text, part)
				}
			}
		}
		if got := blocker.Advice(found); !strings.Contains(got, fmt.Sprintf("select pg_terminate_backend(%d);", writer.PgConn().PID())) {
			t.Errorf("the advice is %q", got)
		}
		if got := blocker.Advice(found[1:]); !strings.Contains(got, `ROLLBACK PREPARED 'it''s';`) {
			t.Errorf("the advice is %q", got)
		}
		pgtest.Exec(t, url, `rollback prepared 'it''s'`)
		session(t, url, "secretive", `lock table public.u in row exclusive mode`, `select 1 -- alter role r password 'hush hush'`)
		if text := blocker.Describe(find(t, s, blocker.ShareRowExclusive, "public.u")); strings.Contains(text, "hush") || !strings.Contains(text, "xxxxx") {
			t.Errorf("a password is told: %s", text)
		}
	})
}

// limited is the tool as a role that may see and end nobody.
func limited(t *testing.T, url string) *pg.Server {
	t.Helper()
	role := fmt.Sprintf("limited%d", time.Now().UnixNano())
	pgtest.Exec(t, url, "create role "+role+" login")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop role "+role) })
	return open(t, pgtest.WithUser(t, url, role, ""))
}

func TestFindWithoutRights(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := pgtest.Database(t, pgtest.Server(t, major))
		pgtest.Exec(t, url, `create table public.t (n integer)`)
		writer := session(t, url, "writer", `insert into public.t values (1)`)
		found := find(t, limited(t, url), blocker.ShareRowExclusive, "public.t")
		if len(found) != 1 || found[0].Kind != blocker.Hidden || found[0].PID != int32(writer.PgConn().PID()) {
			t.Fatalf("found %+v", found)
		}
		if got := blocker.Advice(found); !strings.Contains(got, "pg_monitor") {
			t.Errorf("the advice is %q", got)
		}
		if text := found[0].String(); strings.Contains(text, "insert") {
			t.Errorf("%q tells what is hidden", text)
		}
	})
}

func TestTerminate(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := pgtest.Database(t, pgtest.Server(t, major))
		pgtest.Exec(t, url, `create table public.t (n integer)`, `insert into public.t values (1)`)
		s := open(t, url)
		var said []string
		w := &blocker.Watch{Server: s, Mode: blocker.ShareRowExclusive, Doing: "testing", Progress: func(text string) { said = append(said, text) }}
		look := func() []blocker.Session {
			t.Helper()
			found, err := w.Look(t.Context(), "public.t")
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
		client := session(t, url, "client", `insert into public.t values (1)`)
		tool := session(t, url, "pgcutover/another", `insert into public.t values (1)`)
		if found := look(); w.Hopeful(found) {
			t.Error("nobody is going to be ended")
		}
		w.TerminateAfter = time.Hour
		if found := look(); !w.Hopeful(found) || len(w.Ended()) != 0 {
			t.Errorf("ended at once: %v", w.Ended())
		}
		<-time.After(200 * time.Millisecond)
		// A new transaction of the same session has its time anew.
		do(t, client, `commit; begin; insert into public.t values (1)`)
		w.TerminateAfter = 200 * time.Millisecond
		began, first := time.Now(), look()
		until(t, "the session to be ended", func() bool {
			if found := look(); !blocker.Still(first, found) || blocker.Still(first, nil) {
				t.Error("the same transaction is not known again")
			}
			return len(w.Ended()) > 0
		})
		if took := time.Since(began); took < w.TerminateAfter {
			t.Errorf("ended after %s", took)
		}
		ended := w.Ended()
		if len(ended) != 1 || ended[0].How != "terminated" || !strings.Contains(ended[0].Session, "client, from") || len(said) != 1 || !strings.Contains(said[0], "testing: terminated session") {
			t.Errorf("ended %+v, said %q", ended, said)
		}
		if _, err := client.Exec(t.Context(), `select 1`); pg.Code(err) != pg.AdminShutdown {
			t.Errorf("the client met %v", err)
		}
		do(t, tool, `select 1`)
		until(t, "the other tool to be left", func() bool { return names(look()) == "pgcutover/another: pgcutover, waits false" })
		if len(w.Ended()) != 1 {
			t.Errorf("ended more: %v", w.Ended())
		}
	})
}

// A role that sees sessions and may not end them says so.
func TestTerminateWithoutRights(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := pgtest.Database(t, pgtest.Server(t, major))
		pgtest.Exec(t, url, `create table public.t (n integer)`)
		s := limited(t, url)
		pgtest.Exec(t, url, "grant pg_read_all_stats to "+s.User())
		client := session(t, url, "client", `insert into public.t values (1)`)
		w := &blocker.Watch{Server: s, Mode: blocker.ShareRowExclusive, TerminateAfter: time.Nanosecond, Doing: "testing"}
		_, err := w.Look(t.Context(), "public.t")
		if err == nil { // its time begins with the first look
			_, err = w.Look(t.Context(), "public.t")
		}
		if !errors.Is(err, blocker.ErrMayNotEnd) || !strings.Contains(hint.Of(err), "GRANT pg_signal_backend TO") || len(w.Ended()) != 0 {
			t.Errorf("%v, hint %q, ended %v", err, hint.Of(err), w.Ended())
		}
		do(t, client, `select 1`)
	})
}

// vacuumed is a cluster whose autovacuum begins at once and takes its time.
func vacuumed(t *testing.T, major int) string {
	t.Helper()
	c := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{
		"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1",
		"autovacuum_vacuum_threshold": "10", "autovacuum_vacuum_scale_factor": "0",
	}})
	return c.URL("postgres")
}

// autovacuumsSQL counts those that have their lock: they say what they do before.
const autovacuumsSQL = `
select count(*)
  from pg_stat_activity
  join pg_locks l using (pid)
 where backend_type = 'autovacuum worker' and query like 'autovacuum: VACUUM%public.t%'
   and l.relation = 'public.t'::regclass and l.mode = 'ShareUpdateExclusiveLock' and l.granted`

func TestAutovacuumIsSentAway(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := vacuumed(t, major)
		s := open(t, url)
		pgtest.Exec(t, url, `create table public.t as select generate_series(1, 20000) as n`, `delete from public.t where n % 2 = 0`)
		until(t, "an autovacuum", func() bool { return pgtest.Value[int](t, url, autovacuumsSQL) == 1 })
		// Who may not do so goes on without an error.
		unable := &blocker.Watch{Server: limited(t, url), Mode: blocker.ShareUpdateExclusive, Doing: "testing"}
		pgtest.Exec(t, url, "grant pg_read_all_stats to "+unable.Server.User())
		found, err := unable.Look(t.Context(), "public.t")
		if err != nil || len(found) != 1 || found[0].Kind != blocker.Autovacuum || len(unable.Ended()) != 0 {
			t.Errorf("found %v, %v, ended %v", found, err, unable.Ended())
		}
		w := &blocker.Watch{Server: s, Mode: blocker.ShareUpdateExclusive, Doing: "testing"}
		found, err = w.Look(t.Context(), "public.t")
		if err != nil || len(found) != 1 || found[0].Kind != blocker.Autovacuum || !strings.Contains(blocker.Advice(found), "pg_cancel_backend") {
			t.Errorf("found %v, %v", found, err)
		}
		if ended := w.Ended(); len(ended) != 1 || ended[0].How != "cancelled" {
			t.Errorf("ended %+v", ended)
		}
		until(t, "the autovacuum to go", func() bool { return len(find(t, s, blocker.ShareUpdateExclusive, "public.t")) == 0 })
	})
}

// burnSQL uses up transaction ids: each block with an exception handler is a
// subtransaction that writes.
const burnSQL = `
do $$
begin
  create temporary table burn (n integer);
  for i in 1 .. 101000 loop
    begin
      insert into burn values (i);
    exception when division_by_zero then null;
    end;
  end loop;
  drop table burn;
end $$`

func TestWraparoundIsNot(t *testing.T) {
	majors := pgtest.Majors(t)
	for _, major := range slices.Compact([]int{majors[0], majors[len(majors)-1]}) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			url := vacuumed(t, major)
			s := open(t, url)
			pgtest.Exec(t, url, `create table public.t as select generate_series(1, 20000) as n`, `alter table public.t set (autovacuum_freeze_max_age = 100000)`, burnSQL)
			const wraparound = "autovacuum to prevent wraparound"
			until(t, "a vacuum", func() bool {
				return pgtest.Value[int](t, url, autovacuumsSQL+` and query like '%public.t (to prevent wraparound)'`) == 1
			})
			w := &blocker.Watch{Server: s, Mode: blocker.ShareUpdateExclusive, TerminateAfter: time.Nanosecond, Doing: "testing"}
			for range 2 {
				found, err := w.Look(t.Context(), "public.t")
				if err != nil || len(found) != 1 || found[0].Kind != wraparound || !strings.Contains(blocker.Advice(found), "does not give way") || w.Hopeful(found) {
					t.Errorf("found %v, %v", found, err)
				}
			}
			if len(w.Ended()) != 0 {
				t.Errorf("ended %+v", w.Ended())
			}
		})
	}
}
