package schema

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// wantForeign checks that a removal is refused with these objects and changes
// nothing.
func wantForeign(t *testing.T, p pair, before State, o RemoveOptions, want ...string) {
	t.Helper()
	catalog := pgtest.Catalog(t, p.newURL)
	err := Remove(t.Context(), p.new, before, o)
	var foreign *ForeignError
	if !errors.As(err, &foreign) {
		t.Errorf("got %v, want a refusal for %v", err, want)
		return
	}
	if got := describe(foreign.Objects); !slices.Equal(got, want) {
		t.Errorf("refused for %q, want %q", got, want)
	}
	if hint.Of(err) == "" {
		t.Error("no hint")
	}
	wantCatalog(t, p.newURL, catalog)
}

func TestRemoveRefusesForeignObjects(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.loadRich(t)
		before, catalog := snapshotOf(t, p.new), pgtest.Catalog(t, p.newURL)
		a := p.move(t, RestoreOptions{})
		ours := RemoveOptions{Ours: a.Objects()}
		pgtest.Exec(t, p.newURL, `create table public."the
irs" (a integer)`, `create index "on ours" on public.wide (a)`,
			`create trigger their_trigger before insert on public.wide for each row execute procedure public.nothing()`,
			`create function public.clean(boolean) returns boolean language sql as 'select true'`,
			`create view "Ext".their_view as select * from public.wide`,
			`create publication theirs for table public.wide`, // the old one has its namesake, but it was not moved
			`create type public.their_type as enum ()`,
			`alter table public.animals add constraint their_check check (id > 0)`)
		wantForeign(t, p, before, ours, "function public.clean(boolean)", `index public."on ours"`, "publication theirs",
			"table constraint their_check on public.animals", "table constraint their_check on public.dogs",
			"table constraint their_check on public.puppies", "table public.\"the\nirs\"",
			"trigger their_trigger on public.wide", "type public.their_type", `view "Ext".their_view`)

		// What the old server has dropped meanwhile is still known from the dump.
		pgtest.Exec(t, p.oldURL, `drop table public.scratch`)
		pgtest.Exec(t, p.newURL, `drop table public."the
irs"`, `drop index public."on ours"`, `drop trigger their_trigger on public.wide`, `drop function public.clean(boolean)`,
			`drop view "Ext".their_view`, `drop publication theirs`, `drop type public.their_type`,
			`alter table public.animals drop constraint their_check`)
		wantForeign(t, p, before, RemoveOptions{Ours: inventoryOf(t, p.old)}, "table public.scratch")
		if err := Remove(t.Context(), p.new, before, ours); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

func TestRemoveByForce(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.newURL, `create table public.early (a integer)`, `create role pgct_granted`,
			`create schema "ear ly"`, `comment on schema "ear ly" is 'it''s \ theirs'`,
			`alter default privileges in schema "ear ly" grant select on tables to pgct_granted`)
		t.Cleanup(func() {
			pgtest.Exec(t, p.newURL, `drop owned by pgct_granted`, `drop role pgct_granted`)
		})
		pgtest.Exec(t, p.newURL, `grant select (a) on public.early to pgct_granted with grant option`)
		before, catalog := snapshotOf(t, p.new), pgtest.Catalog(t, p.newURL)
		pgtest.Exec(t, p.newURL, `create table public.late (a integer primary key, b integer references public.late)`,
			`create view public.late_view as select e.a from public.early e, public.late l`,
			`create index late_index on public.early (a)`, `alter table public.early add constraint late_check check (a > 0)`,
			`create trigger late_trigger after insert on public.early for each row execute procedure suppress_redundant_updates_trigger()`,
			`create publication late_publication for table public.early`,
			`comment on schema "ear ly" is 'changed'`, `alter schema "ear ly" owner to pgct_granted`,
			`grant all on table public.early to public`, `revoke select (a) on public.early from pgct_granted`,
			`alter default privileges in schema "ear ly" revoke select on tables from pgct_granted`,
			`alter default privileges in schema "ear ly" grant insert on tables to public`,
			`alter default privileges revoke execute on functions from public`,
			`revoke usage on language plpgsql from public`, `grant select (rolpassword) on pg_authid to pgct_granted`)
		if err := Remove(t.Context(), p.new, before, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

// CASCADE never reaches into what was there before.
func TestRemoveRefusesDependentObjects(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.newURL, `create table public.early (a integer)`, `create view public.early_view as select 1 as a`,
			`create table public.early_default (a integer)`)
		pgtest.Exec(t, p.oldURL, `create type public.mood as enum ('a')`, `create sequence public.s`, `create table public.t (a integer)`)
		before := snapshotOf(t, p.new)
		ours := RemoveOptions{Ours: p.move(t, RestoreOptions{}).Objects()}
		pgtest.Exec(t, p.newURL, `alter table public.early add column m public.mood`,
			`create or replace view public.early_view as select a from public.t`,
			`alter table public.early_default alter column a set default nextval('public.s')`)
		wantForeign(t, p, before, ours, "table public.early", "table public.early_default", "view public.early_view")
		ours.Force = true
		wantForeign(t, p, before, ours, "table public.early", "table public.early_default", "view public.early_view")
	})
}

// Subscriptions are the caller's to drop.
func TestRemoveRefusesSubscriptions(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		before := snapshotOf(t, p.new)
		pgtest.Exec(t, p.newURL, `create subscription theirs connection 'dbname=x' publication p with (connect = false)`,
			`create subscription pgcutover_test connection 'dbname=x' publication p with (connect = false)`)
		wantForeign(t, p, before, RemoveOptions{Force: true}, "subscription theirs")
	})
}

// What cannot be put back is told.
func TestRemoveTellsWhatIsGone(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.newURL, `create table public.early (a integer)`)
		before := snapshotOf(t, p.new)
		pgtest.Exec(t, p.newURL, `drop table public.early`)
		err := Remove(t.Context(), p.new, before, RemoveOptions{})
		var leftover *LeftoverError
		if !errors.As(err, &leftover) || !slices.Equal(leftover.Differences, []string{"table public.early is gone"}) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEmpty(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		empty := func() []string {
			t.Helper()
			objects, err := Empty(t.Context(), p.new)
			if err != nil {
				t.Fatal(err)
			}
			return describe(objects)
		}
		pgtest.Exec(t, p.newURL, `create extension citext`, `create extension hstore`, `create schema pgcutover`,
			`create table pgcutover.gate (a integer primary key)`, `create temporary table t (a integer)`,
			`create publication pgcutover_x for table pgcutover.gate`)
		if found := empty(); len(found) > 0 {
			t.Errorf("found %q in an empty database", found)
		}
		pgtest.Exec(t, p.newURL, `create schema "A ""b"`, `create table "A ""b".t (a serial primary key, b integer check (b > 0))`,
			`create function public.f() returns integer language sql as 'select 1'`, `create type public.mood as enum ('x')`,
			`create publication p for table "A ""b".t`, `select lo_create(0)`, `select lo_create(0)`)
		want := []string{
			"function public.f()", "large objects 2", "publication p", `schema "A ""b"`, `sequence "A ""b".t_a_seq`,
			`table "A ""b".t`, "type public.mood",
		}
		if found := empty(); !slices.Equal(found, want) {
			t.Errorf("found %q, want %q", found, want)
		}
		pgtest.Exec(t, p.newURL, `select lo_unlink(oid) from pg_largeobject_metadata`)
	})
}

func TestRolesMissing(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		roles := []string{
			"pgct_m_owner", "pgct_m_granted", "pgct_m_column", "pgct_m_policy", "pgct_m_default", "pgct_m_member",
			"pgct_m_indirect", "pgct_m_database", `"pgct_m Odd ""one"" it's"`, "pgct_m_stranger", "pgct_m_other_database",
		}
		for _, r := range roles {
			pgtest.Exec(t, p.oldURL, `create role `+r)
		}
		t.Cleanup(func() {
			for _, r := range roles {
				pgtest.Exec(t, p.oldURL, `drop owned by `+r, `do $$ begin execute format('revoke all on database %I from `+
					strings.ReplaceAll(r, "'", "''")+`', current_database()); end $$`, `drop role `+r)
			}
		})
		pgtest.Exec(t, p.oldURL, `create table public.t (a integer)`, `create function public.f() returns integer language sql as 'select 1'`,
			`alter function public.f() owner to pgct_m_owner`, `grant select on public.t to pgct_m_granted`,
			`grant update (a) on public.t to pgct_m_column`, `create policy p on public.t to pgct_m_policy using (true)`,
			`alter default privileges grant select on tables to pgct_m_default`,
			`alter role pgct_m_member login createrole noinherit connection limit 7 valid until '2040-01-01 00:00:00+00'`,
			`grant pgct_m_granted to pgct_m_member with admin option`, `grant pgct_m_member to pgct_m_indirect`,
			`do $$ begin execute format('grant temporary on database %I to pgct_m_database', current_database()); end $$`,
			`grant usage on schema public to "pgct_m Odd ""one"" it's"`)
		elsewhere := pgtest.Database(t, p.oldCluster)
		pgtest.Exec(t, elsewhere, `create table public.t ()`, `grant select on public.t to pgct_m_other_database`)
		defer pgtest.Exec(t, elsewhere, `drop table public.t`)

		missing, err := RolesMissing(t.Context(), p.old, p.new)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]Role{}
		for _, r := range missing {
			if strings.HasPrefix(r.Name, "pgct_m") {
				got[r.Name] = r
			}
		}
		for _, name := range []string{
			"pgct_m_owner", "pgct_m_granted", "pgct_m_column", "pgct_m_policy", "pgct_m_default", "pgct_m_member",
			"pgct_m_indirect", "pgct_m_database", `pgct_m Odd "one" it's`,
		} {
			if _, found := got[name]; !found {
				t.Errorf("%s is not reported", name)
			}
		}
		if len(got) != 9 {
			t.Errorf("%d roles are reported, want 9: %v", len(got), got)
		}
		member := got["pgct_m_member"]
		// The time is printed in the session's zone.
		if want := `create role "pgct_m_member" login noinherit connection limit 7 valid until '2040-01-01 00:00:00+00' createrole;`; member.Create() != want {
			t.Errorf("got %s, want %s", member.Create(), want)
		}
		wantGrant := `grant "pgct_m_granted" to "pgct_m_member" with admin option;`
		if p.old.Major() >= 16 {
			wantGrant = `grant "pgct_m_granted" to "pgct_m_member" with admin true, inherit false, set true;`
		}
		if !slices.Equal(member.Grants(), []string{wantGrant}) {
			t.Errorf("got %q, want %q", member.Grants(), wantGrant)
		}
		if owner := got["pgct_m_owner"]; owner.Why != "owns objects" {
			t.Errorf("got %+v", owner)
		}

		// The statements make exactly what is missing.
		for _, r := range missing {
			pgtest.Exec(t, p.newURL, r.Create())
		}
		for _, r := range missing {
			for _, grant := range r.Grants() {
				if p.old.Major() < 16 || p.new.Major() >= 16 {
					pgtest.Exec(t, p.newURL, grant)
				}
			}
		}
		still, err := RolesMissing(t.Context(), p.old, p.new)
		if err != nil || len(still) > 0 {
			t.Errorf("still missing: %v, %v", still, err)
		}
		p.move(t, RestoreOptions{})
		p.wantSame(t)
		t.Cleanup(func() {
			for _, r := range missing {
				quoted := `"` + strings.ReplaceAll(r.Name, `"`, `""`) + `"`
				pgtest.Exec(t, p.newURL, `drop owned by `+quoted+` cascade`, `drop role `+quoted)
			}
		})
	})
}
