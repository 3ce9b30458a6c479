package upgrade

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/schema"
)

const namesakesSQL = `
create table public.item (id integer primary key, name text);
insert into public.item select i, 'x' from generate_series(1, 50) i;
create table public.a (id integer primary key, t text);
create table public.b (id integer primary key, t text);
insert into public.a values (1, 'a');
insert into public.b values (1, 'b');
create table public.c (id integer primary key, t text, u text);
insert into public.c values (1, 't', 'u');
create table public.parted (id integer not null, at date not null) partition by range (at);
create table public.parted_1 partition of public.parted for values from ('2020-01-01') to ('2021-01-01');
alter table public.parted_1 add primary key (id, at);
insert into public.parted values (1, '2020-05-05');
create table public.kept (id integer primary key, t text);
insert into public.kept values (1, 'x');
create unlogged table public.scratch (id integer primary key);
create table public.upper (id integer primary key, t text);
insert into public.upper values (1, 'x');
create table public.vacuumed (id integer primary key)`

const namesakeRowsSQL = `
select concat_ws('|', (select string_agg(i::text, ' ' order by id) from public.item i), (select string_agg(a::text, ' ' order by a::text) from public.a),
                 (select string_agg(b::text, ' ' order by b::text) from public.b), (select string_agg(format('%s %s %s', id, t, u), ' ' order by id) from public.c),
                 (select string_agg(p::text, ' ' order by p::text) from public.parted p), (select string_agg(k::text, ' ' order by k::text) from public.called k))`

// Tables and columns of old that have only the name of those that were copied
// keep a cutover from beginning, whatever else is brought in line, until their
// rows are copied anew.
func TestReplacedTables(t *testing.T) {
	eachMove(t, "same", namesakesSQL, func(t *testing.T, m *Move, oldURL, newURL string) {
		m.startedForTest(t)
		if err := m.schemaGate(t.Context(), state.Forward); err != nil {
			t.Fatal(err)
		}
		if text, err := m.Rewritten(t.Context()); err != nil || text != "" {
			t.Errorf("rewritten right after start: %s, %v", text, err)
		}
		pgtest.Exec(t, oldURL,
			// made again
			`create table public.item_new (id integer primary key, name text)`,
			`insert into public.item_new select i, 'fresh' from generate_series(1, 50) i`,
			`drop table public.item`, `alter table public.item_new rename to item`, `alter index public.item_new_pkey rename to item_pkey`,
			// swapped
			`alter table public.a rename to x`, `alter table public.b rename to a`, `alter table public.x rename to b`,
			`alter index public.a_pkey rename to x_pkey`, `alter index public.b_pkey rename to a_pkey`, `alter index public.x_pkey rename to b_pkey`,
			// columns: one made again, and one swapped with it
			`alter table public.c rename column u to v`, `alter table public.c rename column t to u`, `alter table public.c rename column v to t`,
			// a partition
			`drop table public.parted_1`, `create table public.parted_1 partition of public.parted for values from ('2020-01-01') to ('2021-01-01')`,
			`alter table public.parted_1 add primary key (id, at)`, `insert into public.parted values (2, '2020-06-06')`,
			// neither of these is one
			`alter table public.kept rename to called`, `drop table public.scratch`, `create unlogged table public.scratch (id integer primary key)`,
			`vacuum full public.vacuumed`, `alter table public.upper alter column t type text using upper(t)`)
		alarms := []string{"column public.c.t", "column public.c.u", "table public.a", "table public.b", "table public.item", "table public.parted_1"}
		wantReplaced(t, m, alarms...)
		for range 2 { // the renamed table is brought in line; what was replaced is not
			report, err := m.SyncSchema(t.Context(), silent)
			if !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), "drop table public.item cascade") {
				t.Fatalf("sync: %v", err)
			}
			if len(report.Published) > 0 {
				t.Errorf("taken into the stream without their rows: %v", report.Published)
			}
			wantReplaced(t, m, alarms...)
		}
		if err := m.schemaGate(t.Context(), state.Forward); err == nil || !strings.Contains(err.Error(), "table public.item was dropped and made again, or renamed") {
			t.Errorf("the gate: %v", err)
		}
		if err := m.schemaGate(t.Context(), state.Back); err != nil {
			t.Errorf("the gate of the way back, which goes by new's rows: %v", err)
		}
		for _, table := range []string{"item", "a", "b", "c", "parted_1"} { // as advised
			pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `drop table public.`+table+` cascade`)
		}
		if _, err := m.SyncSchema(t.Context(), silent); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		wantReplaced(t, m)
		pgtest.Exec(t, oldURL, `insert into public.item values (51, 'late')`, `update public.a set t = 'B' where id = 1`)
		if all, err := (&schemaSync{Move: m}).seen(t.Context()); err != nil || !all {
			t.Fatal(all, err)
		}
		if old, new := pgtest.Value[string](t, oldURL, namesakeRowsSQL), pgtest.Value[string](t, newURL, namesakeRowsSQL); old != new {
			t.Errorf("rows on old:\n%s\non new:\n%s", old, new)
		}
		if err := m.schemaGate(t.Context(), state.Forward); err != nil {
			t.Errorf("the gate afterwards: %v", err)
		}
		m.forget()
		if text, err := m.Rewritten(t.Context()); err != nil || !strings.Contains(text, ": public.upper, public.vacuumed;") {
			t.Errorf("rewritten: %q, %v", text, err)
		}
		s, err := m.Status(t.Context())
		if err != nil || !strings.Contains(strings.Join(s.Warnings, "\n"), "public.upper, public.vacuumed;") {
			t.Errorf("the warnings of status: %v, %v", s.Warnings, err)
		}
	})
}

func wantReplaced(t *testing.T, m *Move, want ...string) {
	t.Helper()
	differences, err := m.SchemaDiff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range differences {
		if d.What == schema.Replaced {
			got = append(got, d.Object())
		}
	}
	slices.Sort(got)
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("replaced:\n%v\nwant:\n%v", got, want)
	}
}

// What old has dropped stays on new while rows that have it are not applied.
func TestSyncSchemaTakesNothingAwayTooEarly(t *testing.T) {
	m, oldURL, newURL := opened(t, "slow")
	m.startedForTest(t)
	pastFence(t, newURL, `insert into public.item (id, name) values (51, 'in the way')`)
	pgtest.Exec(t, oldURL, `insert into public.item (id, name) values (51, 'before')`, `alter table public.item drop column name`)
	soon := func() error {
		return m.locked(t.Context(), "start", func(ctx context.Context) error {
			y, err := m.newSync(ctx)
			if err != nil {
				return err
			}
			y.ask, y.report, y.still = silent, &SyncReport{}, time.Second
			return y.run(ctx)
		})
	}
	if err := soon(); !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), "has not applied") || !strings.Contains(hint.Of(err), "--sync-schema") {
		t.Errorf("while the stream waits: %v, %s", err, hint.Of(err))
	}
	if !pgtest.Value[bool](t, newURL, `select exists (select from pg_attribute where attrelid = 'public.item'::regclass and attname = 'name')`) {
		t.Error("the column was dropped before the rows were applied that have it")
	}
	pastFence(t, newURL, `delete from public.item where id = 51`)
	if _, err := m.SyncSchema(t.Context(), silent); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if all, err := (&schemaSync{Move: m}).seen(t.Context()); err != nil || !all {
		t.Fatal(all, err)
	}
	if n := pgtest.Value[int](t, newURL, `select count(*)::int from public.item`); n != 51 {
		t.Errorf("new has %d rows, want 51", n)
	}
}

// pastFence writes to item on new as nobody should.
func pastFence(t *testing.T, newURL, sql string) {
	t.Helper()
	pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `begin`, `alter table public.item disable trigger all`, sql, `
do $$
begin
  execute (select string_agg(format('alter table public.item enable always trigger %I', tgname), '; ')
             from pg_trigger
            where tgrelid = 'public.item'::regclass and not tgisinternal);
end $$`, `commit`)
}

// After a rollback old serves again, and what brings new in line is another.
func TestDriftAfterRollback(t *testing.T) {
	m, oldURL, newURL := opened(t, "again")
	m.startedForTest(t)
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if _, err := m.SyncSchema(t.Context(), silent); err == nil || !strings.Contains(err.Error(), "the new server serves") {
		t.Errorf("after the cutover: %v", err)
	}
	if c, err = m.NewRollback(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := m.schemaGate(t.Context(), state.Forward); err != nil {
		t.Errorf("right after the rollback: %v", err)
	}
	pgtest.Exec(t, oldURL, `alter table public.item add column extra integer`)
	if err := m.schemaGate(t.Context(), state.Forward); err == nil || !strings.Contains(hint.Of(err), "on the new server by hand") {
		t.Errorf("the gate: %v, %s", err, hint.Of(err))
	}
	if _, err := m.SyncSchema(t.Context(), silent); err == nil || !strings.Contains(err.Error(), "the old server serves") || !strings.Contains(hint.Of(err), "by hand") {
		t.Errorf("sync: %v, %s", err, hint.Of(err))
	}
	m.forget()
	d, err := m.Drift(t.Context(), true)
	if err != nil || len(d.Differences) != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	pgtest.Exec(t, newURL, append([]string{`set default_transaction_read_only = off`}, d.Differences[0].Statements...)...) // as advised
	if err := m.schemaGate(t.Context(), state.Forward); err != nil {
		t.Errorf("the gate afterwards: %v", err)
	}
	pgtest.Exec(t, oldURL, `create table public.later (id integer primary key)`)
	if c, err = m.NewCutover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); err == nil || strings.Contains(strings.Join(Reasons(err), "\n"), "Run: pgcutover start --sync-schema") {
		t.Errorf("the gates advise what is refused: %s", strings.Join(Reasons(err), "\n"))
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("abort, as advised: %v", err)
	}
}
