package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// settled moves the schema and returns the baseline of the move.
func (p pair) settled(t *testing.T) *Baseline {
	t.Helper()
	a := p.dump(t)
	b := NewBaseline()
	b.Dump(a.Fingerprint())
	for _, section := range Sections() {
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if section == Identity {
			b.Restored(p.fingerprintNew(t), false)
		}
	}
	b.Restored(p.fingerprintNew(t), true)
	return b
}

func (p pair) fingerprintOld(t *testing.T) []Object {
	t.Helper()
	objects, err := Fingerprint(t.Context(), p.old)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func (p pair) fingerprintNew(t *testing.T) []Object {
	t.Helper()
	objects, err := Fingerprint(t.Context(), p.new)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// driftSQL are tables and so on that the changes below begin with, beside the
// rich schema.
const driftSQL = `
create table public.d_t (id integer primary key, a integer default 1, b varchar(20), c text not null, n numeric(10, 2),
    constraint d_check check (a > 0));
create table public.d_other (id integer primary key);
create index d_index on public.d_t (b);
create view public.d_view as select id, a from public.d_t where a > 1;
create materialized view public.d_matview as select id from public.d_t;
create function public.d_function(x integer default 1) returns integer language plpgsql as $$ begin return x; end $$;
create function public.d_trigger() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger d_trig before update on public.d_t for each row when (new.a > 1) execute procedure public.d_trigger();
create sequence public.d_seq;
create type public.d_enum as enum ('a', 'b');
create type public.d_composite as (x integer);
create domain public.d_domain as integer default 3 constraint d_positive check (value > 0);
create table public.d_part (id integer not null, at date not null) partition by range (at);
create table public.d_part_1 partition of public.d_part for values from ('2020-01-01') to ('2021-01-01');
create table public.d_part_2 partition of public.d_part for values from ('2021-01-01') to ('2022-01-01');
create policy d_policy on public.d_t using (a > 0);
create rule d_rule as on delete to public.d_t where old.a = 5 do instead nothing;
create schema d_schema;
comment on table public.d_t is 'one';
grant select on public.d_other to pgct_reader`

// driftCases are changes on old with the one difference that each makes. Those
// with a major need it.
var driftCases = []struct {
	since int
	sql   string
	want  string
}{
	{0, `create table public.d_new (id serial primary key, t text default 'x' not null unique)`, "table public.d_new is missing on the new server"},
	{0, `drop table public.d_other`, "table public.d_other is on the new server only"},
	{0, `alter table public.d_t add column z integer default 5`, "column public.d_t.z is missing"},
	{0, `alter table public.d_t add column z serial`, "column public.d_t.z is missing"},
	{0, `alter table public.d_t drop column c`, "column public.d_t.c is on the new server only"},
	{0, `alter table public.d_t alter column b type varchar(40)`, `column public.d_t.b is "character varying(40)" on the old server`},
	{0, `alter table public.d_t alter column c drop not null`, `column public.d_t.c is "text" on the old server`},
	{0, `alter table public.d_t alter column a set default 2`, `expression of column public.d_t.a: "2" on the old server, "1" on the new one`},
	{0, `alter table public.d_t alter column a set statistics 77`, `settings of column public.d_t.a: "statistics 77" on the old server, none`},
	{0, `alter table public.d_t alter column c set storage external`, `settings of column public.d_t.c: "storage external"`},
	{0, `alter table public.d_t set (fillfactor = 60)`, `table public.d_t is "replica identity default, with (fillfactor=60)"`},
	{0, `alter table public.d_t replica identity full`, "table public.d_t is"},
	{0, `alter table public.d_t owner to "pgct Odd ""role"""`, `owner of table public.d_t: "\"pgct Odd \"\"role\"\"\"" on the old server`},
	{0, `alter table public.customers owner to pgct_reader`, `owner of table public.customers`},
	{0, `grant insert on public.d_t to pgct_reader`, `privileges of table public.d_t: "grant INSERT to pgct_reader"`},
	{0, `revoke select on public.d_other from pgct_reader`, `privileges of table public.d_other: none on the old server, "grant SELECT to pgct_reader" on the new one`},
	{0, `grant update (c) on public.d_t to pgct_reader`, `privileges of column public.d_t.c: "grant UPDATE to pgct_reader"`},
	{0, `comment on table public.d_t is 'two'`, `comment of table public.d_t: "two" on the old server, "one"`},
	{0, `comment on column public.d_t.a is 'a'`, `comment of column public.d_t.a: "a" on the old server, none`},
	{0, `create index d_index_2 on public.d_t (a)`, "index public.d_index_2 is missing"},
	{0, `drop index public.d_index`, "index public.d_index is on the new server only"},
	{0, `alter index public.d_index set (fillfactor = 50)`, "expression of index public.d_index"},
	{0, `alter table public.d_t add constraint d_unique unique (b)`, "table constraint d_unique on public.d_t is missing"},
	{0, `alter table public.d_t drop constraint d_check`, "table constraint d_check on public.d_t is on the new server only"},
	{0, `alter table public.d_t drop constraint d_check, add constraint d_check check (a > 7)`, `expression of table constraint d_check on public.d_t: "CHECK ((a > 7))"`},
	{0, `alter table public.d_t add constraint d_fk foreign key (a) references public.d_other`, "table constraint d_fk on public.d_t is missing"},
	{0, `alter table public.d_part_1 add primary key (id, at)`, "table constraint d_part_1_pkey on public.d_part_1 is missing"},
	{11, `create index d_part_index on public.d_part (id)`, "index public.d_part_index is missing"},
	{0, `alter table public.d_part add column more text`, "column public.d_part.more is missing"},
	{0, `alter table public.d_part add constraint d_part_check check (id > 0)`, "table constraint d_part_check on public.d_part is missing"},
	{0, `create table public.d_part_3 partition of public.d_part for values from ('2022-01-01') to ('2023-01-01')`, "table public.d_part_3 is missing"},
	{0, `alter table public.d_part detach partition public.d_part_1; alter table public.d_part attach partition public.d_part_1 for values from ('2019-01-01') to ('2021-01-01')`, "expression of table public.d_part_1"},
	{0, `alter table public.d_part detach partition public.d_part_2`, "table public.d_part_2 is"},
	{0, `create or replace view public.d_view as select id, a from public.d_t where a > 2`, "expression of view public.d_view"},
	{0, `create or replace view public.d_view as select id, a, b from public.d_t where a > 1`, "expression of view public.d_view"},
	{0, `create view public.d_view_2 as select 1 as one`, "view public.d_view_2 is missing"},
	{0, `drop materialized view public.d_matview`, "materialized view public.d_matview is on the new server only"},
	{0, `create or replace function public.d_function(x integer default 1) returns integer language plpgsql as $$ begin return x + 1; end $$`, "function public.d_function(integer) is"},
	{0, `create or replace function public.d_function(x integer default 2) returns integer language plpgsql as $$ begin return x; end $$`, "expression of function public.d_function(integer)"},
	{0, `alter function public.d_function(integer) set work_mem = '8MB'`, "function public.d_function(integer) is"},
	{0, `revoke execute on function public.d_function(integer) from public`, `privileges of function public.d_function(integer): "revoke EXECUTE from public"`},
	{14, `create function public.d_sql() returns integer begin atomic select 1; end`, "function public.d_sql() is missing"},
	{0, `drop trigger d_trig on public.d_t; create trigger d_trig before update on public.d_t for each row when (new.a > 2) execute procedure public.d_trigger()`, "expression of trigger d_trig on public.d_t"},
	{0, `alter table public.d_t disable trigger d_trig`, "trigger d_trig on public.d_t is"},
	{0, `alter sequence public.d_seq increment 5`, "sequence public.d_seq is"},
	{0, `alter type public.d_composite add attribute y text`, "column public.d_composite.y is missing"},
	{12, `alter type public.d_enum add value 'c'`, "type public.d_enum is"},
	{0, `alter domain public.d_domain set default 4`, `expression of type public.d_domain: "4" on the old server, "3"`},
	{0, `alter domain public.d_domain drop constraint d_positive`, "domain constraint d_positive on public.d_domain is on the new server only"},
	{0, `alter policy d_policy on public.d_t using (a > 1)`, "expression of policy d_policy on public.d_t"},
	{0, `alter policy d_policy on public.d_t to pgct_reader`, "policy d_policy on public.d_t is"},
	{0, `drop rule d_rule on public.d_t; create rule d_rule as on delete to public.d_t where old.a = 6 do instead nothing`, "expression of rule d_rule on public.d_t"},
	{0, `alter table public.d_t enable row level security`, "table public.d_t is"},
	{0, `alter schema d_schema owner to pgct_reader`, "owner of schema d_schema"},
	{0, `grant usage on schema d_schema to pgct_reader`, "privileges of schema d_schema"},
	{0, `create schema d_schema_2`, "schema d_schema_2 is missing"},
	{0, `create statistics public.d_stat (dependencies) on a, n from public.d_t`, "statistics object public.d_stat is missing"},
	{0, `alter default privileges in schema d_schema grant select on tables to pgct_reader`, "default privileges for role"},
	{0, `create event trigger d_event on ddl_command_end execute procedure public.watch_ddl()`, "event trigger d_event is missing"},
}

// Right after a move nothing differs, and each kind of change on old shows as one
// difference that names it.
func TestDriftShowsEachChangeOnce(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.loadRich(t)
		execute := func(tx pgx.Tx, sql string) {
			t.Helper()
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		if _, err := p.old.Pool().Exec(t.Context(), driftSQL); err != nil {
			t.Fatal(err)
		}
		b := p.settled(t)
		new := p.fingerprintNew(t)
		before, err := Fingerprint(t.Context(), p.old)
		if err != nil {
			t.Fatal(err)
		}
		if len(NewBaseline().Compare(before, new)) == 0 {
			t.Error("both majors print everything alike: the schema proves nothing about the baseline")
		}
		for _, c := range append([]struct {
			since int
			sql   string
			want  string
		}{{0, "select 1", ""}}, driftCases...) {
			if c.since > p.old.Major() {
				continue
			}
			tx, err := p.old.Pool().Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			execute(tx, c.sql)
			old, err := fingerprint(t.Context(), tx, p.old.Major())
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantOne(t, c.sql, c.want, b.Compare(old, new))
		}
	})
}

func wantOne(t *testing.T, sql, want string, got []Difference) {
	t.Helper()
	var text []string
	for _, d := range got {
		text = append(text, fmt.Sprintf("%s (with %d)", d, len(d.Parts)))
	}
	switch {
	case want == "" && len(got) > 0:
		t.Errorf("after %s: %d differences:\n%s", sql, len(got), strings.Join(text, "\n"))
	case want == "":
	case len(got) != 1:
		t.Errorf("after %s: %d differences, want one:\n%s", sql, len(got), strings.Join(text, "\n"))
	case !strings.HasPrefix(got[0].String(), want):
		t.Errorf("after %s: got %q, want %q", sql, got[0], want)
	}
}
