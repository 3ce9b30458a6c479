package preflight

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// identityCase is a table, what is found about it, and whether Postgres itself
// refuses an UPDATE of it once it is published.
type identityCase struct {
	name, sql, id, fix string
	refused            bool
}

var identityCases = []identityCase{
	{"pk", `create table %s (a int primary key)`, "", "", false},
	{"nopk", `create table %s (a int)`, "tables.replica-identity", "REPLICA IDENTITY FULL", true},
	{"nopkjson", `create table %s (a int, j json)`, "tables.replica-identity", "ADD PRIMARY KEY", true},
	{"deferrable", `create table %s (a int primary key deferrable)`, "tables.replica-identity", "REPLICA IDENTITY FULL", true},
	{"deferred", `create table %s (a int primary key deferrable initially deferred)`, "tables.replica-identity", "FULL", true},
	{"nullable", `create table %s (a int unique)`, "tables.replica-identity", "FULL", true},
	{"candidate", `create table %s (a int not null, b int not null unique, unique (a, b))`, "tables.replica-identity", `USING INDEX "candidate_b_key"`, true},
	{"partial", `create table %s (a int not null); create unique index on partial (a) where a > 0`, "tables.replica-identity", "FULL", true},
	{"expression", `create table %s (a int not null); create unique index on expression ((a + 1))`, "tables.replica-identity", "FULL", true},
	{"nothing", `create table %s (a int primary key); alter table nothing replica identity nothing`, "tables.replica-identity", "REPLICA IDENTITY DEFAULT", true},
	{"indexed", `create table %s (a int not null); create unique index ix on indexed (a); alter table indexed replica identity using index ix`, "", "", false},
	{
		"lost", `create table %s (a int not null); create unique index il on lost (a); alter table lost replica identity using index il; drop index il`,
		"tables.replica-identity", "FULL", true,
	},
	{"fullkey", `create table %s (a int primary key, j json); alter table fullkey replica identity full`, "", "", false},
	{"full", `create table %s (a int, b numeric[], c inet, d varchar(3)); alter table "full" replica identity full`, "tables.replica-identity-slow", "FULL", false},
	{"fulljson", `create table %s (a int, "j j" json); alter table fulljson replica identity full`, "tables.replica-identity-full", "ADD PRIMARY KEY", false},
	{"fullpoints", `create table %s (a point[]); alter table fullpoints replica identity full`, "tables.replica-identity-full", "ADD PRIMARY KEY", false},
	{"fulldomain", `create domain dj as xml; create table %s (a dj); alter table fulldomain replica identity full`, "tables.replica-identity-full", "ADD PRIMARY KEY", false},
	{"fullcomposite", `create type cj as (x int, y box); create table %s (a cj); alter table fullcomposite replica identity full`, "tables.replica-identity-full", "ADD", false},
	{"fullkeyed", `create table %s (a int not null unique, j json); alter table fullkeyed replica identity full`, "tables.replica-identity-full", `USING INDEX "fullkeyed_a_key"`, false},
	{
		"invalid", `create table %s (a int not null); create unique index ii on invalid (a); update pg_index set indisvalid = false where indexrelid = 'ii'::regclass`,
		"tables.replica-identity", "FULL", true,
	},
	{"root", `create table %s (a int) partition by list (a); create table leaf partition of root for values in (1)`, "", "", false},
	{"unlogged", `create unlogged table %s (a int)`, "", "", false},
}

// Postgres itself is the judge: the table is published, and updated.
func TestReplicaIdentity(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		for _, c := range identityCases {
			pgtest.Exec(t, p.oldURL, fmt.Sprintf(c.sql, quote(c.name)))
		}
		found := check(t, "replica-identity", p.Pair)
		only(t, found, "tables.replica-identity", `"leaf"`)
		for _, c := range identityCases {
			t.Run(c.name, func(t *testing.T) {
				about := quote("public") + "." + quote(c.name)
				of := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Object != about })
				if c.id == "" {
					none(t, of)
				} else if f := only(t, of, c.id, ""); c.fix != "" && f.Severity == Blocker && !strings.Contains(f.Fix, c.fix) {
					t.Errorf("fix %q, want %q", f.Fix, c.fix)
				}
				if c.name == "root" || c.name == "unlogged" {
					return // not publishable by themselves
				}
				if got := refusesUpdate(t, p.oldURL, c.name); got != c.refused {
					t.Errorf("Postgres refuses an UPDATE: %v, want %v", got, c.refused)
				}
			})
		}
		// What is advised for the ones that Postgres refuses makes it take them.
		for _, f := range found {
			if f.ID == "tables.replica-identity" && !strings.Contains(f.Fix, "...);") {
				mend(t, p.oldURL, f)
			}
		}
		left := check(t, "replica-identity", p.Pair)
		only(t, left, "tables.replica-identity", "nopkjson")
		if n := len(slices.DeleteFunc(left, func(f Finding) bool { return f.ID != "tables.replica-identity" })); n != 1 {
			t.Errorf("%d tables without identity are left, want 1", n)
		}
		p.Scope = Scope{Include: []string{"public.pk"}}
		none(t, check(t, "replica-identity", p.Pair))
	})
}

// refusesUpdate publishes a table for a moment and updates it.
func refusesUpdate(t *testing.T, url, table string) bool {
	t.Helper()
	c := session(t, url)
	exec(t, c, `begin`)
	defer exec(t, c, `rollback`)
	exec(t, c, `create publication judge for table `+quote(table))
	_, err := c.Exec(t.Context(), `delete from `+quote(table))
	if err != nil && !pg.IsCode(err, pg.ObjectNotInPrerequisite) {
		t.Fatalf("deleting from %s: %v", table, err)
	}
	return err != nil
}

// INCLUDE columns need not be NOT NULL.
func TestReplicaIdentityWithIncludedColumns(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		if majors.Old < 11 {
			pgtest.Exec(t, p.oldURL, `create table t (a int not null, b int); create unique index i on t (a)`)
		} else {
			pgtest.Exec(t, p.oldURL, `create table t (a int not null, b int); create unique index i on t (a) include (b)`)
		}
		f := only(t, check(t, "replica-identity", p.Pair), "tables.replica-identity", "t")
		if want := `ALTER TABLE "public"."t" REPLICA IDENTITY USING INDEX "i";`; f.Fix != want {
			t.Errorf("fix %q, want %q", f.Fix, want)
		}
		mend(t, p.oldURL, f)
		none(t, check(t, "replica-identity", p.Pair))
	})
}

func TestTarget(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.newURL, `create schema "ext ns"; create extension hstore schema "ext ns"`)
		none(t, check(t, "target", p.Pair))
		pgtest.Exec(t, p.newURL, `create table here (a serial)`, `create schema "O ne"`, `create function "O ne".f() returns int language sql as 'select 1'`,
			`create type "O ne".e as enum ('a')`, `create table "ext ns".t (a int)`)
		found := check(t, "target", p.Pair)
		only(t, found, "target.not-empty", `"ext ns"`)
		var kinds []string
		for _, f := range found {
			kinds = append(kinds, f.Object+": "+f.Seen)
			if f.Severity != Blocker {
				t.Errorf("got %+v", f)
			}
		}
		all := strings.Join(kinds, "\n")
		for _, want := range []string{`schema "public": 1 table, the first is "here"`, `schema "public": 1 sequence`, `schema "O ne": 1 function`, `schema "O ne": 1 type`, `schema "O ne": the schema exists`} {
			if !strings.Contains(all, want) {
				t.Errorf("the findings lack %q:\n%s", want, all)
			}
		}
		p.Settings.DataPresent = true
		none(t, check(t, "target", p.Pair))
	})
}

// This move's own state makes the full database its own; another move's makes
// it a blocker on either side.
func TestOwnAndOtherMoves(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		none(t, check(t, "leftovers", p.Pair))
		create := func(name string, s *pg.Server) {
			t.Helper()
			if err := state.Create(t.Context(), s, state.Move{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.Exec(t, p.newURL, `create table here (a int)`)
		create(move, p.New)
		none(t, check(t, "target", p.Pair))
		none(t, check(t, "leftovers", p.Pair))

		create("shop_eu", p.Old)
		f := only(t, check(t, "leftovers", p.Pair), "leftovers.move", "pgcutover")
		if f.Severity != Blocker || f.Server != "old" || !strings.Contains(f.Seen, `"shop_eu"`) {
			t.Errorf("got %+v", f)
		}
		pgtest.Exec(t, p.newURL, `update pgcutover.move set name = 'other'`)
		only(t, check(t, "target", p.Pair), "target.not-empty", "public")
		pgtest.Exec(t, p.newURL, `update pgcutover.move set name = 'shop', side = 'old'`)
		only(t, check(t, "leftovers", p.Pair), "leftovers.swapped", "pgcutover")
	})
}

func TestLeftoverObjects(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `create publication pgcutover_shop; create publication pgcutover_shop_reverse; create publication pgcutover_other; create publication pgcutover_shopping`)
		pgtest.Exec(t, p.oldURL, `select pg_create_logical_replication_slot('pgcutover_other', 'pgoutput')`)
		pgtest.Exec(t, p.newURL, `create subscription pgcutover_other connection 'dbname=x' publication p with (connect = false)`,
			`create subscription pgcutover_shop connection 'dbname=x' publication p with (connect = false)`)
		found := check(t, "leftovers", p.Pair)
		for _, object := range []string{`publication "pgcutover_other"`, `publication "pgcutover_shopping"`, `replication slot "pgcutover_other"`, `subscription "pgcutover_other"`} {
			only(t, found, "leftovers.object", object)
		}
		if len(found) != 4 {
			t.Errorf("got\n%s", text(found))
		}
	})
}

// Extensions that only a superuser may make are named to a role that is not.
func TestExtensionNeedsSuperuser(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `create extension file_fdw`, `create extension hstore`)
		role(t, p.newURL, "humble", "login")
		p.New = open(t, pg.New, pgtest.WithUser(t, p.newURL, "humble", ""), "")
		t.Cleanup(p.New.Close)
		found := check(t, "extensions", p.Pair)
		mend(t, p.newURL, only(t, found, "extensions.superuser", "file_fdw"))
		if majors.New >= 13 { // hstore is trusted from there on
			none(t, found[1:], "extensions.superuser")
		}
		none(t, onlyAbout(check(t, "extensions", p.Pair), "file_fdw"), "extensions.superuser")
	})
}

func onlyAbout(found []Finding, object string) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return !strings.Contains(f.Object, object) })
}

func TestRoles(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		none(t, check(t, "roles", p.Pair))
		for name, attributes := range map[string]string{
			"O wner": "nologin", "reader": "login connection limit 3", "policed": "nologin noinherit", "def": "nologin",
			"stranger": "login", "dbgrantee": "nologin", "settings": "login", "grp": "nologin", "app login": "login", "visitor": "login",
			"rds_named": "nologin", "rds_member": "nologin",
		} {
			role(t, p.oldURL, name, attributes)
		}
		database := quote(p.Old.Database())
		pgtest.Exec(t, p.oldURL,
			`create table t (a int primary key); alter table t owner to "O wner"`,
			`grant select on t to rds_named; grant reader to rds_member`,
			`grant grp, def, pg_monitor to reader; grant select on t to reader; grant reader to "app login"`,
			`create policy p on t to policed`,
			`alter default privileges in schema public grant select on tables to def`,
			`grant connect on database `+database+` to dbgrantee`,
			`alter role settings in database `+database+` set work_mem = '5MB'`)
		temporary := session(t, p.oldURL)
		exec(t, temporary, `create temporary table tt (a int)`)
		exec(t, temporary, `grant select on tt to stranger`)
		if err := state.Create(t.Context(), p.Old, state.Move{Name: move}); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, p.oldURL, `alter table pgcutover.gate owner to stranger; grant usage on schema pgcutover to stranger`)

		visitor := session(t, pgtest.WithUser(t, p.oldURL, "visitor", ""))
		exec(t, visitor, `select 1`)

		found := check(t, "roles", p.Pair)
		for _, name := range []string{`"O wner"`, `"reader"`, `"policed"`, `"def"`, `"dbgrantee"`, `"settings"`, `"app login"`} {
			only(t, found, "roles.missing", name)
		}
		if f := only(t, found, "roles.connected", `"visitor"`); f.Severity != Warning {
			t.Errorf("got %+v", f)
		}
		if len(found) != 9 {
			t.Errorf("got\n%s", text(found))
		}
		// start makes them; but never what belongs to a hosting service.
		if f := only(t, found, "roles.missing", "reader"); f.Severity != Note {
			t.Errorf("got %+v", f)
		}
		if f := only(t, found, "roles.missing", "rds_named"); f.Severity != Blocker || !strings.Contains(f.Why, "Amazon RDS") {
			t.Errorf("got %+v", f)
		}
		humble := *p.Pair
		role(t, p.newURL, "humble", "login")
		humble.New = open(t, pg.New, pgtest.WithUser(t, p.newURL, "humble", ""), "")
		t.Cleanup(humble.New.Close)
		if f := only(t, check(t, "roles", &humble), "roles.missing", "reader"); f.Severity != Blocker {
			t.Errorf("to a role that may not make roles it is %+v", f)
		}
		if f := only(t, found, "roles.missing", `"O wner"`); !strings.Contains(f.Seen, "owns objects") || f.Fix != `CREATE ROLE "O wner";` {
			t.Errorf("got %+v", f)
		}
		f := only(t, found, "roles.missing", "reader")
		if want := `CREATE ROLE "reader" LOGIN CONNECTION LIMIT 3; GRANT "def" TO "reader"; GRANT "pg_monitor" TO "reader"; -- then`; !strings.HasPrefix(f.Fix, want) {
			t.Errorf("fix %q, want %q", f.Fix, want)
		}
		for _, f := range found {
			name := strings.TrimPrefix(f.Object, "role ")
			mend(t, p.newURL, f)
			t.Cleanup(func() { pgtest.Exec(t, p.newURL, "drop role "+name) })
		}
		none(t, check(t, "roles", p.Pair))
	})
}

// Only the bootstrap superuser has no entry in pg_shdepend: it is found by what
// it owns.
func TestBootstrapSuperuserOfAnotherName(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create table t (a int primary key)`)
	rows, err := read[namedRole](t.Context(), p.Old, "reading", namedRolesSQL, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].Name != "postgres" || rows[0].Why != 1 {
		t.Errorf("got %+v", rows)
	}
}

func TestTriggers(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL,
			`create function f() returns trigger language plpgsql as 'begin return new; end'`,
			`create table t (a int primary key); create table other (a int primary key references t deferrable)`,
			`create trigger ordinary before insert on t for each row execute procedure f()`,
			`create trigger "al ways" before insert on t for each row execute procedure f(); alter table t enable always trigger "al ways"`,
			`create trigger replica before insert on t for each row execute procedure f(); alter table t enable replica trigger replica`)
		if err := state.Create(t.Context(), p.Old, state.Move{Name: move}); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, p.oldURL, // our own fence is not the user's trigger
			`create function pgcutover.fence() returns trigger language plpgsql as 'begin return null; end'`,
			`create trigger pgcutover_shop_fence before insert on t for each statement execute procedure pgcutover.fence()`,
			`alter table t enable always trigger pgcutover_shop_fence`)
		found := check(t, "triggers", p.Pair)
		only(t, found, "triggers.replica", `"al ways" on public.t`)
		only(t, found, "triggers.replica", `replica on public.t`)
		if len(found) != 2 {
			t.Errorf("got\n%s", text(found))
		}
		pgtest.Exec(t, p.oldURL, `create function ef() returns event_trigger language plpgsql as 'begin end'`,
			`create event trigger "wa tch" on ddl_command_end execute procedure ef()`, `create event trigger off on ddl_command_end execute procedure ef()`, `alter event trigger off disable`)
		f := only(t, check(t, "triggers", p.Pair), "triggers.event", "")
		if f.Seen != `"wa tch" (ddl_command_end, public.ef())` || f.Severity != Note {
			t.Errorf("got %+v", f)
		}
		for _, body := range []string{`begin insert into log values (tg_tag); end`, `begin raise exception 'no'; end`} {
			pgtest.Exec(t, p.oldURL, `alter event trigger "wa tch" disable`,
				`create or replace function ef() returns event_trigger language plpgsql as $$ `+body+` $$`, `alter event trigger "wa tch" enable always`)
			if strings.Contains(body, "insert") && majors.Old < 17 { // replica keeps those that fire always from nothing
				f := only(t, check(t, "triggers", p.Pair), "triggers.event-writes", "wa tch")
				if f.Severity != Blocker || f.Undo != `ALTER EVENT TRIGGER "wa tch" ENABLE ALWAYS;` {
					t.Errorf("got %+v", f)
				}
				pgtest.Exec(t, p.oldURL, `alter event trigger "wa tch" enable`) // that it keeps away
				none(t, check(t, "triggers", p.Pair), "triggers.event-writes")
			}
			f := only(t, check(t, "triggers", p.Pair), "triggers.event", "")
			if f.Severity != Warning || !strings.HasSuffix(f.Seen, "public.ef()) writes or refuses") || f.Fix == "" {
				t.Errorf("%s: got %+v", body, f)
			}
		}
		// Who is not superuser keeps none away.
		role(t, p.oldURL, "mover", "login")
		pgtest.Exec(t, p.oldURL, `alter event trigger "wa tch" disable`,
			`create or replace function ef() returns event_trigger language plpgsql as $$ begin insert into log values (tg_tag); end $$`, `alter event trigger "wa tch" enable`)
		none(t, check(t, "triggers", p.Pair), "triggers.event-writes")
		p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "mover", ""), "")
		t.Cleanup(p.Old.Close)
		if f := only(t, check(t, "triggers", p.Pair), "triggers.event-writes", "wa tch"); f.Undo != "" {
			t.Errorf("a role that is not the owner is to take it back: %+v", f)
		}
		pgtest.Exec(t, p.oldURL, `alter event trigger "wa tch" disable`) // for the end of the test
	})
}

func TestForcedRowSecurity(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		role(t, p.oldURL, "app_owner", "nologin")
		pgtest.Exec(t, p.oldURL, `create table t (a int primary key); alter table t enable row level security; alter table t force row level security`)
		none(t, check(t, "row-security", p.Pair)) // its owner is superuser
		pgtest.Exec(t, p.oldURL, `alter table t owner to app_owner`)
		found := check(t, "row-security", p.Pair)
		if majors.New < 16 {
			none(t, found)
			return
		}
		f := only(t, found, "row-security.apply", `"t"`)
		if f.Severity != Blocker || f.Server != "new" || f.FixKind != FixAction {
			t.Errorf("got %+v", f)
		}
		role(t, p.newURL, "app_owner", "nologin")
		f = only(t, check(t, "row-security", p.Pair), "row-security.apply", "")
		mend(t, p.newURL, f)
		none(t, check(t, "row-security", p.Pair))
	})
}
