package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestAbort removes a move at its various stages. Both servers must be as if it
// had never been, and the clients must have noticed nothing.
func TestAbort(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		shop string // what there is besides the shop on old
		come func(t *testing.T, m *move)
	}{
		{"before start", "", func(*testing.T, *move) {}},
		{"after publish", "", func(t *testing.T, m *move) { m.run(t, exitDone, "start", "--until", "publish") }},
		{"after start", "", func(t *testing.T, m *move) { m.start(t) }},
		{"killed in schema", "", func(t *testing.T, m *move) { m.killStart(t, "schema") }},
		{"killed in restore", manyFunctions, func(t *testing.T, m *move) { m.killRestore(t) }},
		{"killed in copy", slowTable, func(t *testing.T, m *move) {
			m.killStart(t, "copy")
			if n := pgtest.Value[int](t, m.new.url, copyingSQL); n == 0 {
				t.Fatal("nothing is being copied any more: the test missed its moment")
			}
		}},
		{"killed in index", "", func(t *testing.T, m *move) { m.killStart(t, "index") }},
		{"after an undone cutover", "", func(t *testing.T, m *move) {
			m.start(t)
			m.hook(t, "before-decide", "veto")
			r := m.run(t, exitAborted, "cutover", "--yes")
			if !strings.Contains(r.stderr, "not today") {
				t.Errorf("the hook's words are missing:\n%s", r)
			}
		}},
		{"after an interrupted cutover", "", func(t *testing.T, m *move) {
			m.start(t)
			m.hook(t, "after-drain", "kill")
			m.run(t, killed, "cutover", "--yes")
			m.run(t, exitFailed, "abort", "--yes") // resume first
			m.run(t, exitDone, "resume")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			parallel(t)
			m := newMove(t, pgtest.Pairs(t)[0])
			pgtest.Exec(t, m.old.app, test.shop)
			before := m.catalogs(t)
			c := m.write(t)
			test.come(t, m)
			m.run(t, exitDone, "abort", "--yes")
			m.unchanged(t, "before start", before)
			m.run(t, exitDone, "abort", "--yes")
			m.unchanged(t, "before start", before)
			c.prove(t, pg.Old)
		})
	}
}

// manyFunctions take pg_restore some time, much longer than the test takes to see
// it at work.
const manyFunctions = `
do $$ begin
  for i in 1..1000 loop
    execute format('create function public.f%s() returns int language sql as %L', i, 'select 1');
  end loop;
end $$`

const restoringSQL = `
select count(*)
  from pg_stat_activity
 where datname = current_database()
   and application_name like 'pgcutover/%/restore'`

// killRestore kills the tool while pg_restore, a process of its own, works on
// the new server.
func (m *move) killRestore(t *testing.T) {
	t.Helper()
	conn := connect(t, m.new.url)
	p := m.launch(t, nil, "start")
	restoring := func() bool {
		var n int
		if err := conn.QueryRow(t.Context(), restoringSQL).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	until(t, "pg_restore", time.Minute, restoring, func() string { return p.err.String() })
	p.signal(syscall.SIGKILL)
	p.must(killed)
}

// slowTable takes Postgres' own copy ten seconds: its check sleeps, but only in
// replication workers.
const slowTable = `
create function public.slow(int) returns boolean language plpgsql as $$
begin
  if current_setting('session_replication_role') = 'replica' then
    perform pg_catalog.pg_sleep(0.1);
  end if;
  return true;
end
$$;
create table public.slow (id int primary key check (public.slow(id)));
insert into public.slow select generate_series(1, 100)`

// copyingSQL counts the tables whose copy has begun and not ended.
const copyingSQL = `select count(*) from pg_subscription_rel where srsubstate in ('i', 'd')`

// killStart kills the tool at the moment when it says that it begins a phase.
func (m *move) killStart(t *testing.T, phase string) {
	t.Helper()
	see := func(p *process, line string) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0][0] == '[' && fields[1] == phase {
			p.signal(syscall.SIGKILL)
		}
	}
	m.launch(t, see, "start").must(killed)
}
