package upgrade

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/subscriber"
)

// eachMove runs a test for a move of each pair of majors.
func eachMove(t *testing.T, name, schema string, test func(t *testing.T, m *Move, oldURL, newURL string)) {
	t.Helper()
	for i, pair := range pgtest.Pairs(t) {
		t.Run(strings.ReplaceAll(pair.String(), ":", "to"), func(t *testing.T) {
			oldURL, newURL := pgtest.Database(t, pgtest.Server(t, pair.Old)), pgtest.Database(t, pgtest.Server(t, pair.New))
			pgtest.Exec(t, oldURL, schema)
			test(t, reopened(t, fmt.Sprintf("%s%d", name, i), oldURL, newURL), oldURL, newURL)
		})
	}
}

const shopSQL = `
create table public.item (id bigserial primary key, name text, price numeric(8, 2) default 1 check (price > 0), gone integer, note varchar(10));
insert into public.item (name, note) select 'x', 'n' from generate_series(1, 50);
create index item_name on public.item (name);
create type public.mood as enum ('sad', 'happy');
create table public.visit (id integer not null, at date not null, primary key (id, at));
create table public.dropped (id integer primary key);
create table public.parted (id integer not null, at date not null) partition by range (at);
create table public.parted_1 partition of public.parted for values from ('2020-01-01') to ('2021-01-01');
alter table public.parted_1 add primary key (id, at);
create view public.cheap as select id, name from public.item where price < 5;
create function public.twice(x integer) returns integer language plpgsql as $$ begin return x * 2; end $$;
create function public.touch() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger touched before update on public.item for each row execute procedure public.touch();
create sequence public.counter;
create type public.pair as (a integer);
create domain public.positive as integer default 3 constraint above check (value > 0);
create policy seen on public.item using (id > 0);
create rule kept as on delete to public.visit where old.id = 5 do instead nothing;
create materialized view public.sums as select count(*) as n from public.item;
create table public.renamed (id integer primary key, former integer);
insert into public.renamed select i, i from generate_series(1, 5) i`

// migration is what happens to a schema during a move.
var migration = []string{
	`create table public.customer (id serial primary key, mail text unique, mood public.mood default 'happy', item bigint references public.item)`,
	`comment on table public.customer is 'people'`, `grant select on public.customer to public`,
	`insert into public.customer (mail) select i::text from generate_series(1, 20) i`,
	`create table public.parted_2 partition of public.parted for values from ('2021-01-01') to ('2022-01-01')`,
	`alter table public.parted_2 add primary key (id, at)`,
	`insert into public.parted values (1, '2021-05-05')`,
	`alter table public.item add column extra text`,
	`update public.item set extra = 'e' || id`,
	`alter table public.item alter column extra set not null`,
	`alter table public.item add constraint extra_check check (extra <> '')`,
	`create unique index item_extra on public.item (extra)`,
	`alter table public.item drop column gone`,
	`alter table public.item alter column note type varchar(40)`,
	`alter table public.item alter column price set default 2`,
	`alter table public.item drop constraint item_price_check, add constraint item_price_check check (price > 0.5)`,
	`drop index public.item_name`,
	`drop table public.dropped`,
	`alter type public.mood add value 'calm' before 'happy'`,
	`create or replace view public.cheap as select id, name, price from public.item where price < 7`,
	`create or replace function public.twice(x integer) returns integer language plpgsql as $$ begin return x + x; end $$`,

	`alter sequence public.counter increment 5`,
	`alter table public.renamed rename column former to latter`,
	`alter table public.renamed rename to called`,
	`comment on column public.item.name is 'what it is called'`,
	`alter table public.visit owner to pg_monitor`, `grant update (note) on public.item to pg_monitor`,
	`alter table public.item alter column name set statistics 77`, `alter table public.item alter column name set storage external`,
	`alter table public.item set (fillfactor = 80)`, `alter table public.item enable row level security`,
	`alter policy seen on public.item to pg_monitor using (id > 1)`,
	`drop rule kept on public.visit`, `create rule kept as on delete to public.visit where old.id = 6 do instead nothing`,
	`alter type public.pair add attribute b text`, `alter domain public.positive set default 4`, `alter domain public.positive drop constraint above`,
	`alter table public.visit replica identity full`, `alter table public.parted add column kind text`,
	`alter default privileges in schema public grant select on tables to pg_monitor`,
	`drop materialized view public.sums`, `create materialized view public.sums as select count(*) as n, 1 as one from public.item`,
	`revoke execute on function public.twice(integer) from public`, `comment on function public.twice(integer) is 'doubles'`,
	`create statistics public.both (dependencies) on name, price from public.item`,
	`create function public.thrice(x integer) returns integer language sql as 'select x * 3'`,
	`drop trigger touched on public.item`, `create trigger touched before update on public.item for each row when (new.id > 3) execute procedure public.touch()`,
	`create schema more`, `create materialized view more.names as select name from public.item`,
	`insert into public.item (name, extra) values ('late', 'later')`,
}

// A migration on old in the middle of a move: status shows it, the gate stops a
// cutover, start --sync-schema brings it to new with its rows, and abort leaves
// nothing.
func TestSyncSchema(t *testing.T) {
	eachMove(t, "sync", shopSQL, func(t *testing.T, m *Move, oldURL, newURL string) {
		before := pgtest.Catalog(t, newURL)
		if _, err := m.SyncSchema(t.Context(), silent); !errors.Is(err, state.ErrNoMove) {
			t.Errorf("before start: %v", err)
		}
		if _, err := m.Start(t.Context(), t.Context(), "schema"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.SyncSchema(t.Context(), silent); err == nil || !strings.Contains(err.Error(), "nothing is published") {
			t.Errorf("before there is a stream: %v", err)
		}
		m.startedForTest(t)
		if err := m.schemaGate(t.Context(), state.Forward); err != nil {
			t.Errorf("right after start: %v", err)
		}
		for _, sql := range migration {
			pgtest.Exec(t, oldURL, sql)
		}
		if err := m.schemaGate(t.Context(), state.Forward); err == nil || !strings.Contains(hint.Of(err), "--sync-schema") {
			t.Errorf("the gate after the migration: %v, %s", err, hint.Of(err))
		}
		refused := errors.New("no")
		if _, err := m.SyncSchema(t.Context(), func(SyncPlan) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("when the operator says no: %v", err)
		}
		var shown []string
		rounds := 0
		if _, err := m.SyncSchema(t.Context(), func(p SyncPlan) error { // as one that is killed half way
			if shown = append(shown, p.Text()); len(shown) > 1 {
				return refused
			}
			return nil
		}); !errors.Is(err, refused) {
			t.Errorf("when the operator says no in the middle: %v", err)
		}
		if err := subscriber.SetEnabled(t.Context(), m.New, m.first(), false); err != nil {
			t.Fatal(err)
		}
		_, err := m.SyncSchema(t.Context(), func(p SyncPlan) error {
			shown = append(shown, p.Text())
			rounds++
			return nil
		})
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, hint.Of(err), strings.Join(shown, "\n---\n"))
		}
		if rounds == 0 {
			t.Error("nothing was left to do after the first round")
		}
		if text := strings.Join(shown, ""); !strings.Contains(text, "CREATE TABLE public.customer") || !strings.Contains(text, "drop table public.dropped") {
			t.Errorf("shown before it was done:\n%s", text)
		}
		wantInLine(t, m, oldURL, newURL)
		if again, err := m.SyncSchema(t.Context(), silent); err != nil || len(again.Applied) > 0 {
			t.Errorf("the second time: %+v, %v", again, err)
		}
		if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
			t.Errorf("abort: %v\n%s", err, hint.Of(err))
		}
		if diff := pgtest.Diff(before, pgtest.Catalog(t, newURL)); diff != "" {
			t.Errorf("abort left on new:\n%s", diff)
		}
	})
}

func silent(SyncPlan) error { return nil }

const shopRowsSQL = `
select (select string_agg(i::text, ' ' order by id) from public.item i) || '|' ||
       (select string_agg(c::text, ' ' order by id) from public.customer c) || '|' ||
       (select string_agg(p::text, ' ' order by id) from public.parted p) || '|' ||
       (select string_agg(r::text, ' ' order by id) from public.called r)`

func wantInLine(t *testing.T, m *Move, oldURL, newURL string) {
	t.Helper()
	if err := m.schemaGate(t.Context(), state.Forward); err != nil {
		t.Errorf("the gate afterwards: %v", err)
	}
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gates := c.Gates
	c.Gates = nil // those of the servers' settings: test servers are not durable
	if err := c.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	c.Gates = gates
	pgtest.Exec(t, oldURL, `insert into public.customer (mail) values ('after')`, `update public.item set extra = 'new' where id = 3`)
	if all, err := (&schemaSync{Move: m}).seen(t.Context()); err != nil || !all {
		t.Fatal(all, err)
	}
	old, new := pgtest.Value[string](t, oldURL, shopRowsSQL), pgtest.Value[string](t, newURL, shopRowsSQL)
	if old != new {
		t.Errorf("rows on old:\n%s\non new:\n%s", old, new)
	}
}

// What the catalogs do not say for sure is left, and named with advice; the rest
// is done all the same.
func TestSyncSchemaGuessesNothing(t *testing.T) {
	m, oldURL, newURL := opened(t, "guess")
	m.startedForTest(t)
	pgtest.Exec(t, oldURL,
		`alter table public.item add column numbered serial`,
		`alter table public.item add column random double precision default random()`,
		`alter table public.item alter column name type integer using length(name)`,
		`create index item_numbered on public.item (id desc)`)
	pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `create table public.mine (id integer)`)
	wantApply := func(when, want string) {
		t.Helper()
		m.forget()
		if d, err := m.Drift(t.Context(), true); err != nil || !strings.HasPrefix(d.Apply, want) {
			t.Errorf("what brings new in line %s: %+v, %v", when, d, err)
		}
	}
	wantApply("while an index can be made", "pgcutover start --sync-schema")
	report, err := m.SyncSchema(t.Context(), silent)
	if !errors.Is(err, ErrDrift) {
		t.Errorf("got %v", err)
	}
	wantApply("when nothing can be derived", "by hand")
	left := map[string]string{}
	for _, d := range report.Left {
		if len(d.Statements) > 0 || d.Whole {
			t.Errorf("%s was left, and has statements: %v", d.Object, d.Statements)
		}
		left[d.Object] = d.Advice
	}
	for object, advice := range map[string]string{
		"column public.item.numbered": "a number of its own", "column public.item.random": "was rewritten",
		"column public.item.name": "(USING) is not known", "table public.mine": "did not come from old",
	} {
		if !strings.Contains(left[object], advice) {
			t.Errorf("the advice for %s: %q, want %q", object, left[object], advice)
		}
	}
	if len(left) != 4 || len(report.Applied) != 1 || report.Applied[0].Object != "index public.item_numbered" {
		t.Errorf("left: %v; applied: %+v", left, report.Applied)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
}
