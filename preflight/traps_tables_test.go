package preflight

import (
	"slices"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// tableTraps are the traps of the checks in list_tables.go.
var tableTraps = slices.Concat(identityTraps, shapeTraps, codeTraps, notCarriedTraps, arrivalTraps)

// onOld mends by statements on old, what a person does whom the finding told in
// words.
func onOld(sql ...string) func(*testing.T, *world, Finding) {
	return func(t *testing.T, w *world, _ Finding) {
		t.Helper()
		pgtest.Exec(t, w.oldURL, sql...)
	}
}

func oldFrom(major int) func(pgtest.Pair) bool {
	return func(p pgtest.Pair) bool { return p.Old >= major }
}

func oldBefore(major int) func(pgtest.Pair) bool {
	return func(p pgtest.Pair) bool { return p.Old < major }
}

// across says that a major lies between the two.
func across(major int) func(pgtest.Pair) bool {
	return func(p pgtest.Pair) bool { return p.Old < major && p.New >= major }
}

// restoredRoot is what comes with every partitioned table.
var restoredRoot = map[string]string{"not-carried.partitioned-table": "the trap is a partitioned table"}

var identityTraps = []trap{
	{finds: "tables.replica-identity", about: `"public"."no key"`, old: []string{`create table "no key" (a int)`}},
	{
		finds: "tables.replica-identity", name: "nothing", about: `"plain"`,
		old: []string{`alter table plain replica identity nothing`},
	},
	{
		finds: "tables.replica-identity-full", about: `"t"`, byHand: onOld(`alter table t add primary key (a)`),
		old: []string{`create table t (a int, j json)`, `alter table t replica identity full`},
	},
	{
		finds: "tables.replica-identity-slow", about: `"t"`, byHand: onOld(`alter table t add primary key (a)`),
		old: []string{`create table t (a int)`, `alter table t replica identity full`},
	},
	{
		finds: "tables.replica-identity-slow", name: "index", about: `"t"`,
		old: []string{`create table t (a int not null unique)`, `alter table t replica identity full`},
	},
	{
		finds: "tables.replica-identity-wide", about: `"t"`, old: []string{
			`create table t (a int primary key, b bytea)`, `alter table t replica identity full`,
			`update pg_class set relpages = 20000 where oid = (select reltoastrelid from pg_class where oid = 't'::regclass)`,
		},
	},
	{
		finds: "tables.generated-identity", about: `"t"`, when: oldFrom(12),
		old: []string{`create table t (a int not null unique, b int generated always as (a * 2) stored primary key)`},
	},
	{
		finds: "tables.generated-identity", name: "alone", about: `"t"`, when: oldFrom(12),
		old:    []string{`create table t (a int not null, b int generated always as (a * 2) stored primary key)`},
		byHand: onOld(`alter table t drop constraint t_pkey`, `alter table t add primary key (a)`),
	},
	{
		finds: "tables.generated-identity", name: "named", about: `"t"`, when: oldFrom(12), old: []string{
			`create table t (a int primary key, b int generated always as (a * 2) stored not null unique)`,
			`alter table t replica identity using index t_b_key`,
		},
	},
	{
		finds: "tables.generated-identity", name: "way back", about: `"t"`, when: func(p pgtest.Pair) bool { return p.Old >= 12 && p.New >= 18 },
		old: []string{`create table t (a int primary key, b int generated always as (a * 2) stored)`, `alter table t replica identity full`},
	},
}

var shapeTraps = []trap{
	{
		finds: "tables.hash-enum", about: `"h"`, when: oldFrom(11), also: restoredRoot, byHand: onOld(`drop table h`),
		old: []string{
			`create type mood as enum ('a', 'b')`, `create table h (k mood primary key) partition by hash (k)`,
			`create table h0 partition of h for values with (modulus 1, remainder 0)`,
		},
	},
	{
		finds: "tables.inherited-not-null", when: oldBefore(18),
		old: []string{
			`create table parent (id int primary key, a int not null)`, `create table child (primary key (id)) inherits (parent)`,
			`alter table child alter column a drop not null`,
		},
		also: map[string]string{"not-carried.inheritance-parent": "the trap is one"},
	},
	{
		finds: "tables.outside-reference", old: []string{`create table t (id bigint primary key references plain)`},
		seed:   func(_ *testing.T, w *world) { w.Scope = Scope{Exclude: []string{"public.plain"}} },
		byHand: func(_ *testing.T, w *world, _ Finding) { w.Scope = Scope{} },
	},
	{finds: "tables.not-valid", old: []string{`alter table plain add constraint k check (id > 0) not valid`}},
	{
		finds: "tables.invalid-index",
		old:   []string{`create index broken on plain (t)`, `update pg_index set indisvalid = false where indexrelid = 'broken'::regclass`},
	},
	{
		finds: "row-security.apply", about: `"t"`, on: "new", when: func(p pgtest.Pair) bool { return p.New >= 16 },
		old: []string{
			`create role "own er"`, `create table t (id int primary key)`, `alter table t owner to "own er"`,
			`alter table t enable row level security`, `alter table t force row level security`,
		},
		new:     []string{`create role "own er"`},
		tidyOld: []string{`reassign owned by "own er" to postgres`, `drop role "own er"`}, tidyNew: []string{`drop role "own er"`},
	},
	{finds: "types.removed", about: "public.t", when: across(12), old: []string{`create table t (id int primary key, a abstime[])`}},
	{finds: "types.with-oids", about: "public.t", when: across(12), old: []string{`create table t (id int primary key) with oids`}},
	{
		finds: "types.reg", old: []string{`create table t (id int primary key, r regclass[])`},
		byHand: onOld(`alter table t alter column r type text[]`),
	},
	{
		finds: "collations.missing", about: `public.away`, on: "new",
		old: []string{
			`create collation away (locale = 'C')`, `create table t (id int primary key, a text collate away)`,
			`update pg_collation set collcollate = 'xx_XX.utf8', collctype = 'xx_XX.utf8' where collname = 'away'`,
		},
		byHand: onOld(`drop table t`, `drop collation away`),
	},
}

var codeTraps = []trap{
	{
		finds: "triggers.replica", about: "always on public.plain", old: []string{
			`create function f() returns trigger language plpgsql as 'begin return new; end'`,
			`create trigger always before insert on plain for each row execute procedure f()`, `alter table plain enable always trigger always`,
		},
	},
	{
		finds: "triggers.event", old: []string{
			`create function f() returns event_trigger language plpgsql as 'begin end'`,
			`create event trigger watch on ddl_command_end execute procedure f()`,
		},
	},
	{
		finds: "functions.unqualified", about: "public.outer_one(x integer)", old: []string{
			`create function inner_one(x int) returns int language sql immutable as 'select x'`,
			`create function outer_one(x int) returns int language plpgsql immutable as 'begin return inner_one(x); end'`,
			`create index i on plain (outer_one(id::int))`,
		},
	},
	{
		finds: "functions.unqualified", name: "called by another", about: "public.middle(x integer)", old: []string{
			`create function bottom(x int) returns int language sql immutable as 'select x'`,
			`create function middle(x int) returns boolean language plpgsql immutable as 'begin return bottom(x) > 0; end'`,
			`create function top(x int) returns boolean language plpgsql immutable as 'begin return public.middle(x); end'`,
			`create domain positive as int check (top(value))`,
		},
	},
	{
		finds: "functions.unqualified", name: "trigger", about: "public.f()", old: []string{
			`create table log (id serial primary key)`,
			`create function f() returns trigger language plpgsql as 'begin insert into log default values; return new; end'`,
			`create trigger always before insert on plain for each row execute procedure f()`, `alter table plain enable replica trigger always`,
		},
		also: map[string]string{"triggers.replica": "the trap is such a trigger"},
	},
	{
		finds: "functions.check-reads", about: "public.known(bigint)", old: []string{
			`create table lookup (a bigint primary key)`,
			`create function known(bigint) returns boolean language sql stable as 'select exists (select 1 from public.lookup where a = $1)'`,
			`alter table plain add constraint "is known" check (known(id))`,
		},
	},
	{
		finds: "functions.check-reads", name: "domain", about: "public.known(bigint)", old: []string{
			`create table lookup (a bigint primary key)`,
			`create function known(bigint) returns boolean language sql stable as 'select exists (select 1 from public.lookup where a = $1)'`,
			`create domain key as bigint check (known(value))`,
		},
		byHand: onOld(`alter domain key drop constraint key_check`),
	},
}

var notCarriedTraps = []trap{
	{finds: "not-carried.unlogged-table", old: []string{`create unlogged table fast (a int primary key)`}, byHand: onOld(`alter table fast set logged`)},
	{finds: "not-carried.materialized-view", old: []string{`create materialized view mv as select 1 as a`}, byHand: onOld(`drop materialized view mv`)},
	{
		finds: "not-carried.foreign-table", old: []string{
			`create extension file_fdw`, `create server s foreign data wrapper file_fdw`,
			`create foreign table ft (a text) server s options (filename '/dev/null')`,
		},
		also:   map[string]string{"foreign.elsewhere": "a foreign table has a server", "extensions.version": "it is of another major"},
		byHand: onOld(`drop foreign table ft`),
	},
	{
		finds: "not-carried.partitioned-table", old: []string{`create table root (a int) partition by list (a)`},
		byHand: onOld(`drop table root`),
	},
	{
		finds:  "not-carried.inheritance-parent",
		old:    []string{`create table parent (id int primary key)`, `create table child (primary key (id)) inherits (parent)`},
		byHand: onOld(`drop table child`, `drop table parent`),
	},
	{finds: "not-carried.truncate", when: oldBefore(11), byHand: onOld()},
}
