package fence_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// zooSQL makes tables that can be written to in many ways.
var zooSQL = []string{
	`create table public.t (id integer primary key, n integer)`,
	`insert into public.t select i, i from generate_series(1, 20) i`,
	`create table public.empty (id integer, n integer)`,
	`create view public.v as select * from public.t`,
	`create view public.ruled as select 1 as x`,
	`create rule r as on insert to public.ruled do instead insert into public.t values (new.x, 0)`,
	`create function public.definer() returns void language sql security definer as 'insert into public.t values (101, 0)'`,
	`create table public.parent (id integer primary key)`,
	`create table public.child (id integer primary key, parent integer references public.parent on delete cascade on update cascade)`,
	`insert into public.parent values (1), (2)`,
	`insert into public.child values (1, 1)`,
	`create table public.root (n integer) partition by list (n)`,
	`create table public.leaf partition of public.root for values in (1, 2)`,
	`insert into public.root values (1)`,
	`create table public.ancestor (n integer)`,
	`create table public.heir () inherits (public.ancestor)`,
	`insert into public.heir values (1)`,
	`create unlogged table public.unlogged (n integer)`,
	`create table public.deferring (n integer)`,
	`create function public.later() returns trigger language plpgsql as 'begin insert into public.t values (102, 0); return null; end'`,
	`create constraint trigger late after insert on public.deferring deferrable initially deferred for each row execute procedure public.later()`,
}

const contentSQL = `
select (select count(*) || ' ' || sum(n) from public.t) || ', ' || (select count(*) from public.empty) || ', '
    || (select count(*) || ' ' || sum(id) from public.parent) || ', ' || (select count(*) || ' ' || sum(parent) from public.child) || ', '
    || (select count(*) || ' ' || sum(n) from public.root) || ', ' || (select count(*) || ' ' || sum(n) from public.ancestor) || ', '
    || (select count(*) from public.unlogged) || ', ' || (select count(*) from public.deferring)`

// writes are ways of writing, all of which a closed fence must refuse; those
// that would write no row, too.
var writes = []struct {
	since int
	sql   string
}{
	{sql: `insert into public.t values (100, 0)`},
	{sql: `insert into public.t select 1, 1 where false`},
	{sql: `insert into public.t values (1, 0) on conflict do nothing`},
	{sql: `insert into public.t values (1, 0) on conflict (id) do update set n = 0`},
	{sql: `update public.t set n = 0`},
	{sql: `update public.t set n = 0 where false`},
	{sql: `delete from public.t`},
	{sql: `delete from public.t where false`},
	{sql: `truncate public.t`},
	{sql: `truncate public.parent cascade`},
	{sql: `with w as (insert into public.t values (100, 0) returning id) select count(*) from w`},
	{sql: `with w as (delete from public.t where false) select 1`},
	{sql: `insert into public.v values (100, 0)`},
	{sql: `update public.v set n = 0`},
	{sql: `insert into public.ruled values (100)`},
	{sql: `select public.definer()`},
	{sql: `do $$ begin insert into public.t values (100, 0); end $$`},
	{sql: `delete from public.parent where id = 1`},       // has a child
	{sql: `delete from public.parent where id = 2`},       // has none
	{sql: `update public.parent set id = 3 where id = 1`}, // cascades
	{sql: `insert into public.root values (2)`},           //
	{sql: `update public.root set n = 2`},                 //
	{sql: `insert into public.leaf values (2)`},           //
	{sql: `truncate public.root`},                         //
	{sql: `insert into public.ancestor values (2)`},       //
	{sql: `update public.ancestor set n = 2`},             // would reach the heir
	{sql: `update public.heir set n = 2`},                 //
	{sql: `insert into public.unlogged values (2)`},       //
	{sql: `insert into public.deferring values (1)`},      // refused at COMMIT by the other table's fence
	{15, `merge into public.t using (values (1)) as s (id) on t.id = s.id when matched then update set n = 0`},
	{15, `merge into public.t using (values (1)) as s (id) on t.id = s.id + 1000 when matched then update set n = 0`},
}

func TestClosedFenceRefuses(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, zooSQL...)
		s.fenced(t)
		s.unfence(t, "parent") // as when it had been forgotten
		s.unfence(t, "deferring")

		// What was begun before: a prepared statement with a custom and one with a
		// generic plan, an old snapshot, a cursor.
		warm := connect(t, s.url)
		for i := range 8 {
			do(t, warm, `insert into public.t values ($1, 0)`, 30+i)
		}
		do(t, warm, `prepare g as update public.t set n = n where id = 1`)
		for range 8 {
			do(t, warm, `execute g`)
		}
		snapshot := begun(t, s.url, `set transaction isolation level repeatable read`, `select * from public.t`)
		serializable := begun(t, s.url, `set transaction isolation level serializable`, `select * from public.t`)
		cursor := begun(t, s.url, `declare c cursor for select * from public.t`, `fetch c`)
		rolledBack := begun(t, s.url, `savepoint a`, `insert into public.t values (100, 0)`, `rollback to savepoint a`)

		before := pgtest.Value[string](t, s.url, contentSQL)
		s.close(t, fence.Error)
		refused(t, "prepared, custom plan", execArgs(t, warm, `insert into public.t values ($1, 0)`, 100))
		refused(t, "prepared, generic plan", exec(t, warm, `execute g`))
		refused(t, "repeatable read", exec(t, snapshot, `insert into public.t values (100, 0)`))
		refused(t, "serializable", exec(t, serializable, `update public.t set n = 0`))
		refused(t, "cursor", exec(t, cursor, `update public.t set n = 0 where current of c`))
		refused(t, "after a savepoint", exec(t, rolledBack, `insert into public.t values (100, 0)`))
		for _, role := range []string{"origin", "replica"} { // of a superuser
			conn := connect(t, s.url)
			do(t, conn, "set session_replication_role = "+role)
			for _, w := range writes {
				if s.Major() < w.since || role == "replica" && firesInOriginOnly(w.sql) {
					continue
				}
				refused(t, role+": "+w.sql, exec(t, conn, w.sql))
			}
			_, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader("100\t0\n"), "copy public.t from stdin")
			refused(t, role+": copy", err)
			_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader(""), "copy public.t from stdin")
			refused(t, role+": copy of nothing", err)
		}
		if after := pgtest.Value[string](t, s.url, contentSQL); after != before {
			t.Errorf("the tables held %s, now %s", before, after)
		}

		// It can be opened again, and is then open for all of that.
		pgtest.Exec(t, s.url, fence.OpenSQL)
		do(t, connect(t, s.url), writes[0].sql)
	})
}

// firesInOriginOnly tells a write that reaches a fenced table only through a
// trigger or rule that a replica-role session does not fire: what it writes is
// the table that the test has left without a fence.
func firesInOriginOnly(sql string) bool {
	return strings.Contains(sql, "public.parent where") || strings.Contains(sql, "public.parent set") || strings.Contains(sql, "public.deferring") || strings.Contains(sql, "public.ruled")
}

func exec(t *testing.T, conn *pgx.Conn, sql string) error { return execArgs(t, conn, sql) }

func execArgs(t *testing.T, conn *pgx.Conn, sql string, args ...any) error {
	t.Helper()
	_, err := conn.Exec(context.WithoutCancel(t.Context()), sql, args...)
	return err
}

// refused fails the test unless the server refused a write as a read-only one
// does.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	if pg.Code(err) != pg.ReadOnlyTransaction {
		t.Errorf("%s: %v, want SQLSTATE 25006", what, err)
	}
}

const swallowSQL = `
create function public.swallow() returns integer language plpgsql as $$
begin
  insert into public.t values (200, 0);
  return 1;
exception when others then
  return 2;
end $$`

// A function that swallows errors tells its client that all is well. Only the
// end of the session cannot be swallowed.
func TestClosedFenceDisconnects(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, zooSQL...)
		pgtest.Exec(t, s.url, swallowSQL)
		s.fenced(t)
		s.close(t, fence.Error)
		conn := connect(t, s.url)
		if err := exec(t, conn, `select public.swallow()`); err != nil {
			t.Errorf("the error was not to be swallowed: %v", err)
		}
		s.close(t, fence.Disconnect)
		if err := exec(t, conn, `select public.swallow()`); pg.Code(err) != pg.AdminShutdown {
			t.Errorf("%v, want the session ended", err)
		}
		if !conn.IsClosed() {
			t.Error("the session goes on")
		}
		if n := pgtest.Value[int](t, s.url, `select count(*) from public.t where id = 200`); n != 0 {
			t.Error("the row was written")
		}
	})
}

// A dump restored into another database must not be fenced there.
func TestClosedFenceIsBoundToItsDatabase(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, zooSQL...)
		s.fenced(t)
		pgtest.Exec(t, s.url, fence.ClosedSQL(s.Server, fence.Error, s.oid+1, time.Now()))
		do(t, connect(t, s.url), `insert into public.t values (100, 0)`)
	})
}

// The message must tell a client's owner what happens and what to do.
func TestClosedFenceSaysWhy(t *testing.T) {
	for side, want := range map[pg.Side]string{pg.Old: "The new server takes the writes", pg.New: "The old server takes the writes"} {
		t.Run(string(side), func(t *testing.T) {
			s := newServer(t, side, pgtest.Majors(t)[0])
			pgtest.Exec(t, s.url, `create table public.t (n integer)`)
			s.fenced(t)
			pgtest.Exec(t, s.url, fence.ClosedSQL(s.Server, fence.Error, s.oid, s.closing().Since))
			pgtest.Exec(t, s.url, `do $$
			declare m text; h text;
			begin
			  insert into public.t values (1);
			exception when read_only_sql_transaction then
			  get stacked diagnostics m = message_text, h = pg_exception_hint;
			  execute format('comment on function pgcutover.check() is %L', m || '|' || h);
			end $$`)
			said := pgtest.Value[string](t, s.url, `select obj_description('pgcutover.check()'::regprocedure)`)
			for _, part := range []string{
				"writes are refused: pgcutover moves this database", fmt.Sprintf("move %q", s.Move()), string(side) + " server, closed since 2026-05-04 03:02:01Z",
				want, "pgcutover status",
			} {
				if !strings.Contains(said, part) {
					t.Errorf("%q does not say %q", said, part)
				}
			}
		})
	}
}

// Replication passes the closed fence, and the read-only default: initial copy,
// rows, and TRUNCATE, which fires statement triggers.
func TestClosedFenceLetsReplicationThrough(t *testing.T) {
	eachMajor(t, pg.New, func(t *testing.T, s *server) {
		cluster := pgtest.Server(t, s.Major())
		from := pgtest.Database(t, cluster)
		for _, url := range []string{from, s.url} {
			pgtest.Exec(t, url, `create table public.t (id integer primary key, n integer)`,
				`create table public.c (id integer primary key)`)
		}
		s.fenced(t)
		pgtest.Exec(t, s.url, fence.ReadOnlySQL(s.Database(), true))
		if n := pgtest.Value[string](t, s.url, `select current_setting('transaction_read_only')`); n != "on" {
			t.Fatal("the read-only default does not hold")
		}
		pgtest.Exec(t, from, `insert into public.t select i, i from generate_series(1, 100) i`, `create publication p for table public.t, public.c`)
		slot := s.Move()
		pgtest.Exec(t, from, fmt.Sprintf(`select pg_create_logical_replication_slot('%s', 'pgoutput')`, slot))
		name := pgtest.Value[string](t, from, `select current_database()::text`)
		pgtest.Exec(t, s.url, `set default_transaction_read_only = off`, fmt.Sprintf(
			`create subscription %s connection 'host=127.0.0.1 port=%d dbname=%s user=postgres' publication p with (create_slot = false, slot_name = '%[1]s')`,
			slot, cluster.Port(), name))
		arrives := func(what, sql string, want int) {
			t.Helper()
			until(t, what, func() bool { return pgtest.Value[int](t, s.url, sql) == want })
		}
		arrives("the initial copy", `select count(*) from public.t`, 100)
		pgtest.Exec(t, from, `insert into public.t values (101, 0)`, `update public.t set n = -1 where id <= 10`, `delete from public.t where id = 20`)
		arrives("rows", `select count(*) + coalesce(sum(n) filter (where n < 0), 0) from public.t`, 90)
		if s.Major() >= 11 {
			pgtest.Exec(t, from, `truncate public.t`, `insert into public.t values (1, 1)`)
			arrives("the truncation", `select count(*) from public.t`, 1)
		}
		refused(t, "a client on the subscriber", exec(t, begun(t, s.url, `set transaction read write`), `insert into public.t values (999, 0)`))
	})
}
