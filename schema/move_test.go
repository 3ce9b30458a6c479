package schema

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// The whole way: every section, what is missing in between, and back again.
func TestMoveAndRemoveRichSchema(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.loadRich(t)
		oldBefore, newBefore := pgtest.Catalog(t, p.oldURL), pgtest.Catalog(t, p.newURL)
		before := throughJSON(t, snapshotOf(t, p.new))
		a := p.dump(t)
		wantPrivate(t, a)

		restore := func(section Section) {
			t.Helper()
			if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		restore(PreData)
		if missing := p.missing(t, PreData); len(missing) > 0 {
			t.Errorf("missing after pre-data: %v", describe(missing))
		}
		if missing := describe(p.missing(t, Identity)); !slices.Contains(missing, "table constraint customers_pkey on public.customers") ||
			!slices.Contains(missing, "index public.by_index_key") || slices.Contains(missing, "index public.by_index_other") {
			t.Errorf("the section identity lacks, before its restore: %v", missing)
		}
		restore(Identity)
		if missing := p.missing(t, PreData, Identity); len(missing) > 0 {
			t.Errorf("missing after identity: %v", describe(missing))
		}
		wantIdentities(t, p)
		restore(PostData)
		p.wantSame(t)
		if missing := p.missing(t); len(missing) > 0 {
			t.Errorf("missing at the end: %v", describe(missing))
		}
		wantDetails(t, p)
		wantRepeatable(t, p, a)

		if err := Remove(t.Context(), p.new, before, RemoveOptions{Ours: inventoryOf(t, p.old)}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, newBefore)
		wantCatalog(t, p.oldURL, oldBefore)
		if err := Remove(t.Context(), p.new, before, RemoveOptions{}); err != nil {
			t.Errorf("removing what is removed: %v", err)
		}
	})
}

func throughJSON(t *testing.T, s State) State {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var out State
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// wantPrivate checks that nobody else can read the archive.
func wantPrivate(t *testing.T, a *Archive) {
	t.Helper()
	err := filepath.WalkDir(a.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// wantIdentities checks what an apply worker needs: before the section PostData
// every table has the replica identity that it has on the old server, and no
// other index.
func wantIdentities(t *testing.T, p pair) {
	t.Helper()
	const identities = `
select coalesce(string_agg(format('%s %s %s', c.oid::regclass, c.relreplident,
           (select array_agg(i.indexrelid::regclass::text || case when i.indisvalid then '' else ' invalid' end order by i.indexrelid::regclass::text collate "C") from pg_index i
             where i.indrelid = c.oid and (i.indisprimary or i.indisreplident))), E'\n' order by c.oid::regclass::text collate "C"), '')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')`
	old, new := pgtest.Value[string](t, p.oldURL, identities), pgtest.Value[string](t, p.newURL, identities)
	if old != new {
		t.Errorf("replica identities on old:\n%s\non new:\n%s", old, new)
	}
	const others = `
select coalesce(string_agg(i.indexrelid::regclass::text, ', '), '')
  from pg_index i
  join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname !~ '^pg_' and not i.indisprimary and not i.indisreplident`
	if more := pgtest.Value[string](t, p.newURL, others); more != "" {
		t.Errorf("indexes restored before the subscription is enabled: %s", more)
	}
}

// wantDetails checks what the fingerprint leaves out.
func wantDetails(t *testing.T, p pair) {
	t.Helper()
	for _, check := range []struct{ what, sql string }{
		{"the tool's schema is not moved", `select to_regnamespace('pgcutover') is null`},
		{"the tool's triggers are not moved", `select not exists (select from pg_trigger where tgname ~ '^pgcutover')`},
		{"publications are not moved", `select not exists (select from pg_publication)`},
		{"grants", `select has_table_privilege('pgct_reader', 'public.customers', 'select')`},
		{"column grants", `select has_column_privilege('pgct Odd "role"', 'public.customers', 'notes', 'update with grant option')`},
		{"grants on types", `select has_type_privilege('pgct_reader', 'public.mood', 'usage')`},
		{"revoked rights", `select not has_function_privilege('pgct_reader', 'public.clean(integer)', 'execute')`},
		{"rights on system functions", `select not has_function_privilege('pgct_reader', 'pg_sleep(float8)', 'execute')`},
		{"rights on the schema public", `select not has_schema_privilege('pgct_reader', 'public', 'create')`},
		{"owners", `select pg_get_userbyid(relowner) = 'pgct Odd "role"' from pg_class where relname = E'Ta ble\n2'`},
		{"comments on schemas", `select obj_description('public'::regnamespace) = 'changed'`},
		{"comments on columns", `select col_description('public.customers'::regclass, 2) = 'their address'`},
		{"comments on triggers", `select count(*) = 1 from pg_trigger where obj_description(oid, 'pg_trigger') = 'hush'`},
		{"default privileges", `select count(*) = 3 from pg_default_acl`},
		{"the extension's schema", `select extnamespace = '"Ext"'::regnamespace from pg_extension where extname = 'hstore'`},
		{"statistics targets", `select attstattarget = 500 from pg_attribute where attrelid = 'public.customers'::regclass and attname = 'tags'`},
		{"storage parameters", `select reloptions = '{fillfactor=70}' from pg_class where oid = 'public.scratch'::regclass`},
		{"views are whole", `select count(*) = 0 from public.grouped`},
		{"materialized views have no data", `select not relispopulated from pg_class where oid = 'public."Sum mary"'::regclass`},
		{"disabled event triggers", `select evtenabled = 'D' from pg_event_trigger where evtname = 'my event'`},
	} {
		if !pgtest.Value[bool](t, p.newURL, check.sql) {
			t.Errorf("wrong on the new server: %s", check.what)
		}
	}
}

// wantRepeatable restores everything again: an error without Resume, nothing
// with it.
func wantRepeatable(t *testing.T, p pair, a *Archive) {
	t.Helper()
	catalog := pgtest.Catalog(t, p.newURL)
	for _, section := range Sections() {
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err == nil {
			t.Errorf("restoring the section %s over itself succeeded", section)
		}
		wantCatalog(t, p.newURL, catalog)
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{Resume: true}); err != nil {
			t.Errorf("resuming the finished section %s: %v", section, err)
		}
		wantCatalog(t, p.newURL, catalog)
	}
	// Statements that alter an object may be lacking when the object is there.
	pgtest.Exec(t, p.newURL, `alter sequence public.customers_id_seq owned by none`,
		`alter table public.customers alter column id drop default`, `comment on table public.customers is null`,
		`revoke select on public.customers from pgct_reader`, "alter table \"Odd \"\"name\"\" it's; --\".\"Ta ble\n2\" disable row level security")
	for _, section := range Sections() {
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{Resume: true}); err != nil {
			t.Errorf("resuming the unfinished section %s: %v", section, err)
		}
	}
	wantCatalog(t, p.newURL, catalog)
}

func TestCloseRemovesTheArchive(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		dir := t.TempDir()
		a, err := Dump(t.Context(), p.old, dir)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the folder: %v, %v", left, err)
		}
	})
}

// Every change of a schema that matters for a cutover shows.
func TestDiffSeesChanges(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.loadRich(t)
		p.move(t, RestoreOptions{})
		p.wantSame(t)
		changes := []struct{ sql, want string }{
			{`alter table public.wide add column more integer`, "column public.wide.more is on the new server only"},
			{`alter table public.wide alter column b type varchar(10)`, `column public.wide.b is "text" on the old server, "character varying(10)" on the new one`},
			{`alter table public.by_constraint alter column a set default 3`, `column public.by_constraint.a is "integer not null" on the old server, "integer not null default" on the new one`},
			{`alter table public.by_index alter column c set not null`, `column public.by_index.c is "text" on the old server, "text collate`},
			{`alter table public.by_index alter column c set default 'x'`, `not null default" on the new one`},
			{`alter table public.by_index alter column c type text collate "POSIX"`, "column public.by_index.c is"},
			{`drop table public.puppies`, "table public.puppies is missing"},
			{`create table public."no ""body" (a integer)`, `table public."no ""body" is on the new server only`},
			{`alter table public.scratch set logged`, `table public.scratch is "unlogged, replica identity default, with (fillfactor=70)"`},
			{`alter table public.in_full replica identity default`, "table public.in_full is"},
			{`alter table public.by_constraint replica identity using index by_constraint_pkey`, "table public.by_constraint is"},
			{`alter table public.wide enable row level security`, "table public.wide is"},
			{`alter table public.events detach partition public.events_2020`, "table public.events_2020 is"},
			{`drop index public.by_index_other; create index by_index_other on public.by_index (a)`, `index public.by_index_other is "unique on`},
			{`drop index public.trgm`, "index public.trgm is missing"},
			{`alter table public.animals drop constraint animals_name_check`, "table constraint animals_name_check on public.animals is missing"},
			{`alter table public.customers validate constraint later`, "table constraint later on public.customers is"},
			{`alter table public.typed drop constraint typed_pkey`, "table constraint typed_pkey on public.typed is missing"},
			{`alter domain public.email drop constraint has_at`, "domain constraint has_at on public.email is missing"},
			{`alter table public.customers disable trigger touch`, "trigger touch on public.customers is"},
			{`drop trigger always_on on public.customers`, "trigger always_on on public.customers is missing"},
			{`alter sequence public.customers_id_seq owned by none`, "sequence public.customers_id_seq is"},
			{`alter sequence public."S ""q" increment 2`, `sequence public."S ""q" is`},
			{`drop function public.clean(integer)`, "function public.clean(integer) is missing"},
			{`alter function public.next_number() stable`, "function public.next_number() is"},
			{`alter type public.mood add value 'new'`, "type public.mood is"},
			{`alter domain "Odd ""name"" it's; --"."do main" set not null`, `type "Odd ""name"" it's; --"."do main" is`},
			{`drop policy "own rows" on "Odd ""name"" it's; --"."Ta ble` + "\n" + `2"`, `policy "own rows" on`},
			{`drop rule "no delete" on "Odd ""name"" it's; --"."Ta ble` + "\n" + `2"`, `rule "no delete" on`},
			{`drop view public.names cascade`, "view public.names is missing"},
			{`drop event trigger "my event"`, `event trigger "my event" is missing`},
			{`drop statistics public.my_statistics`, "statistics object public.my_statistics is missing"},
			{`drop extension btree_gist cascade`, "extension btree_gist is missing"},
			{`alter extension hstore set schema public`, "extension hstore is"},
			{`drop cast (public.pair as text)`, "cast (public.pair AS pg_catalog.text) is missing"},
			{`drop conversion public.my_conversion`, "conversion public.my_conversion is missing"},
			{`create schema extra`, "schema extra is on the new server only"},
		}
		for _, c := range changes {
			pgtest.Exec(t, p.newURL, c.sql)
		}
		var found []string
		for _, d := range p.diff(t) {
			found = append(found, d.String())
		}
		text := strings.Join(found, "\n")
		for _, c := range changes {
			if !strings.Contains(text, c.want) {
				t.Errorf("after %s the difference lacks %q", c.sql, c.want)
			}
		}
		if t.Failed() {
			t.Log(text)
		}
	})
}

// What the tool itself makes and what a provider installs is no difference.
func TestDiffIgnores(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		const table = `create table public.t (a integer primary key)`
		pgtest.Exec(t, p.oldURL, table, `create index broken on public.t (a)`, `update pg_index set indisvalid = false where indexrelid = 'public.broken'::regclass`)
		pgtest.Exec(t, p.newURL, table, `create extension citext`,
			`create schema pgcutover`, `create table pgcutover.gate (a integer primary key)`,
			`create function pgcutover.pass() returns trigger language plpgsql as $$ begin return null; end $$`,
			`create trigger pgcutover_x_fence before insert on public.t for each statement execute procedure pgcutover.pass()`,
			`create trigger other before insert on public.t for each statement execute procedure pgcutover.pass()`,
			`create publication pgcutover_x for table public.t`, `create publication p for table public.t`,
			`comment on table public.t is 'x'`, `create temporary table s (a integer)`)
		p.wantSame(t)
	})
}
