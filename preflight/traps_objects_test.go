package preflight

import (
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// objectTraps are the traps of the checks in list_objects.go.
var objectTraps = slices.Concat(extensionTraps, fileTraps, valueTraps, functionTraps, neighbourTraps, settingTraps, meaningTraps)

// otherVersion comes with extensions, whose versions differ from major to major.
var otherVersion = map[string]string{"extensions.version": "it is of another major"}

var extensionTraps = []trap{
	{
		finds: "extensions.missing", about: `"home_made"`, on: "new",
		old:    []string{`create extension hstore`, `update pg_extension set extname = 'home_made' where extname = 'hstore'`},
		byHand: onOld(`update pg_extension set extname = 'hstore' where extname = 'home_made'`),
	},
	{
		finds: "extensions.version", about: `"hstore"`, on: "new",
		old:    []string{`create extension hstore`, `update pg_extension set extversion = '0.9' where extname = 'hstore'`},
		byHand: onOld(`drop extension hstore`),
	},
	{
		finds: "extensions.preload", about: `"pg_stat_statements"`, on: "new", also: otherVersion,
		old: []string{`create extension pg_stat_statements`}, tidyNew: []string{`alter system reset shared_preload_libraries`},
	},
	{
		finds: "extensions.own-rows", about: `"hstore"`, also: otherVersion, old: []string{
			`create extension hstore`, `insert into plain (t) values ('a')`, `analyze plain`,
			`update pg_extension set extconfig = array['plain'::regclass::oid], extcondition = array[''] where extname = 'hstore'`,
		},
		byHand: onOld(`update pg_extension set extconfig = null, extcondition = null where extname = 'hstore'`),
	},
}

var fileTraps = []trap{
	{
		finds: "objects.removed", about: `public.!+ (bigint, NONE)`, when: across(14), old: []string{
			`create function self(bigint) returns bigint language sql as 'select $1'`, `create operator !+ (leftarg = bigint, procedure = self)`,
		},
	},
	{
		finds: "objects.removed", name: "aggregate", about: `public.joined(anyarray)`, when: across(14),
		old:    []string{`create aggregate joined (anyarray) (sfunc = array_cat, stype = anyarray, initcond = '{}')`},
		byHand: onOld(`drop aggregate joined (anyarray)`),
	},
	{
		finds: "objects.removed", name: "operator", about: `public.##`, when: across(14),
		old:    []string{`create operator ## (leftarg = anyarray, rightarg = anyelement, procedure = array_append)`},
		byHand: onOld(`drop operator ## (anyarray, anyelement)`),
	},
	{
		finds: "objects.view", about: `view "public"."v"`, when: across(17),
		old:    []string{`create view v as select checkpoints_timed from pg_stat_bgwriter`, `create view fine as select buffers_clean, now() from pg_stat_bgwriter`},
		byHand: onOld(`drop view v`),
	},
	{
		finds: "objects.view", name: "function", about: `view "public"."v"`, when: across(15),
		old:    []string{`create view v as select pg_is_in_backup()`},
		byHand: onOld(`drop view v`),
	},
	{
		finds: "libraries.missing", about: `$libdir/none_such`, on: "new", old: []string{
			`create function cf() returns trigger language c as '$libdir/tcn', 'triggered_change_notification'`,
			`update pg_proc set probin = '$libdir/none_such' where proname = 'cf'`,
		},
		byHand: onOld(`drop function cf()`),
	},
	{
		finds: "text-search.file", about: `tsearch_data/none_such.syn`, on: "new", old: []string{
			`create text search dictionary d (template = synonym, synonyms = synonym_sample)`,
			`update pg_ts_dict set dictinitoption = replace(dictinitoption, 'synonym_sample', 'none_such') where dictname = 'd'`,
		},
		byHand: onOld(`drop text search dictionary d`),
	},
	{
		finds: "security-labels.provider", about: `"selinux"`, on: "new",
		old:    []string{`insert into pg_seclabel values ('plain'::regclass, 'pg_class'::regclass, 0, 'selinux', 'unconfined')`},
		byHand: onOld(`delete from pg_seclabel where provider = 'selinux'`),
	},
}

var valueTraps = []trap{
	{
		finds: "sequences.near-limit", about: `public.small`,
		old: []string{`create sequence small as smallint`, `select setval('small', 30000)`},
	},
	{
		finds: "sequences.near-limit", name: "column", about: `public."t_I d_seq"`,
		old: []string{`create table t ("I d" serial primary key)`, `select setval('"t_I d_seq"', 2147483000)`},
	},
	{
		finds: "sequences.near-limit", name: "downwards", about: `public.down`,
		old: []string{`create sequence down increment -1 minvalue -100`, `select setval('down', -90)`},
	},
	{finds: "sequences.cycle", old: []string{`create sequence round maxvalue 10 cycle`, `select setval('round', 9)`}, byHand: onOld(`alter sequence round no cycle`)},
	{finds: "not-carried.large-object", old: []string{`select lo_create(4711)`}, byHand: onOld(`select lo_unlink(4711)`)},
	{
		finds: "foreign.elsewhere", also: otherVersion,
		old:    []string{`create extension postgres_fdw`, `create server away foreign data wrapper postgres_fdw options (host 'db.example.net', dbname 'x')`},
		byHand: onOld(`drop server away`),
	},
	{
		finds: "foreign.self", about: `"loop"`, also: otherVersion, old: []string{`create extension postgres_fdw`},
		seed: func(t *testing.T, w *world) {
			_, port, database := w.Old.Endpoint()
			pgtest.Exec(t, w.oldURL, fmt.Sprintf(`create server loop foreign data wrapper postgres_fdw options (host 'localhost', port '%d', dbname %s)`, port, literal(database)))
		},
		byHand: onOld(`drop server loop`),
	},
}

var functionTraps = []trap{
	{
		finds: "functions.swallow",
		old:   []string{`create function quiet() returns void language plpgsql as $$ begin insert into public.plain (t) values ('a'); exception when others then raise notice 'well'; end $$`},
		byHand: onOld(`create or replace function quiet() returns void language plpgsql as
			$$ begin insert into public.plain (t) values ('a'); exception when others then raise notice 'well'; raise; end $$`),
	},
	{
		finds:  "functions.dblink",
		old:    []string{`create function dial() returns void language plpgsql as $$ begin perform dblink_exec('host=old.example', 'delete from x'); end $$`},
		byHand: onOld(`drop function dial()`),
	},
	{
		finds: "jobs.scheduler", old: []string{`create schema cron`, `create table cron.job (jobid bigint primary key)`},
		byHand: onOld(`drop schema cron cascade`),
	},
	sessionTrap("sessions.advisory-lock", `select pg_advisory_lock(1)`, `select pg_advisory_unlock_all()`),
	sessionTrap("sessions.listen", `listen news`, `unlisten news`),
}

// sessionTrap is a session that shares something with others through the server.
func sessionTrap(finds, begin, end string) trap {
	var c *pgx.Conn
	return trap{
		finds:  finds,
		seed:   func(t *testing.T, w *world) { c = session(t, w.oldURL); exec(t, c, begin) },
		byHand: func(t *testing.T, _ *world, _ Finding) { exec(t, c, end) },
	}
}

var preparing5 = map[string]string{"max_prepared_transactions": "5"}

var neighbourTraps = []trap{
	{
		finds: "transactions.prepared", about: "'left'", oldSettings: preparing5,
		also: map[string]string{"transactions.prepared-possible": "it is possible", "settings.prepared-transactions": "on new it is not"},
		seed: func(t *testing.T, w *world) {
			pgtest.Exec(t, w.oldURL, `begin`, `insert into plain (t) values ('a')`, `prepare transaction 'left'`)
		},
		byHand: onOld(`rollback prepared 'left'`),
	},
	{finds: "transactions.prepared-possible", oldSettings: preparing5, also: map[string]string{"settings.prepared-transactions": "on new it is not"}},
	{finds: "neighbours.publication", old: []string{`create publication theirs for table plain`}, byHand: onOld(`drop publication theirs`)},
	{
		finds: "neighbours.publication-state", about: `"everything"`, old: []string{`create publication everything for all tables`},
		also: map[string]string{"neighbours.publication": "the trap is one"}, byHand: onOld(`drop publication everything`),
	},
	{
		finds: "neighbours.subscription", about: `"theirs"`,
		old:    []string{`create subscription theirs connection 'dbname=x' publication p with (connect = false)`},
		byHand: onOld(`alter subscription theirs set (slot_name = none)`, `drop subscription theirs`),
	},
	{
		// What 19 would write for a sequence; the worker finds no publisher.
		finds: "neighbours.sequence-sync", about: `"theirs"`,
		old: []string{
			`create subscription theirs connection 'dbname=x' publication p with (connect = false)`,
			`insert into pg_subscription_rel (srsubid, srrelid, srsubstate, srsublsn)
				select oid, 'plain_id_seq'::regclass, 'r', '0/1' from pg_subscription where subname = 'theirs'`,
			`alter subscription theirs enable`,
		},
		tidyOld: []string{`alter subscription theirs disable`, `alter subscription theirs set (slot_name = none)`, `drop subscription theirs`},
		also:    map[string]string{"neighbours.subscription": "the trap is one"},
	},
	{
		finds: "neighbours.slot-inactive", about: `logical replication slot "orphan"`,
		old:     []string{`select pg_create_logical_replication_slot('orphan', 'pgoutput')`},
		tidyOld: []string{`select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'orphan'`},
	},
}

var settingTraps = []trap{
	{
		finds: "role-settings.replica", about: `role "et l"`,
		old:     []string{`create role "et l"`, `alter role "et l" set session_replication_role = replica`},
		tidyOld: []string{`drop role "et l"`},
	},
	{
		finds: "role-settings.read-only-off", about: `role "et l"`,
		old:     []string{`create role "et l"`, `alter role "et l" set default_transaction_read_only = off`},
		tidyOld: []string{`drop role "et l"`},
	},
	{
		finds: "role-settings.read-only-database", about: `database`,
		seed: func(t *testing.T, w *world) {
			pgtest.Exec(t, w.oldURL, `alter database `+quote(w.Old.Database())+` set default_transaction_read_only = on`)
		},
	},
	{
		finds: "role-settings.replica-right", on: "new", when: func(p pgtest.Pair) bool { return p.New >= 15 },
		new:     []string{`create role "et l"`, `grant set on parameter session_replication_role to "et l"`},
		tidyNew: []string{`drop role "et l"`},
	},
	{
		finds: "functions.setting", about: "public.f()", when: across(14),
		old: []string{`create function f() returns int language sql set operator_precedence_warning = on as 'select 1'`},
	},
	{
		finds: "role-settings.unknown", about: `role "et l"`, when: across(14),
		old:     []string{`create role "et l"`, `alter role "et l" set operator_precedence_warning = on`},
		tidyOld: []string{`drop role "et l"`},
	},
}
