package preflight

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// What a safe fix does, its Undo takes back to the letter, but for an index
// that is gone.
func TestUndoOfIdentityFixes(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	for _, c := range identityCases {
		pgtest.Exec(t, p.oldURL, fmt.Sprintf(c.sql, quote(c.name)))
	}
	identities := func() string {
		return pgtest.Value[string](t, p.oldURL, `select string_agg(relname || ' ' || replace(relreplident::text, 'i', 'n'), ', ' order by relname)
			from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> 'indexed'`)
	}
	before := identities()
	found, undone := check(t, "replica-identity", p.Pair), 0
	for _, f := range found {
		if (f.Undo != "") != (f.FixKind == FixSQL) {
			t.Errorf("fix %q, undo %q", f.Fix, f.Undo)
		}
		if f.Undo != "" {
			pgtest.Exec(t, p.oldURL, f.Fix)
			undone++
		}
	}
	if undone == 0 || identities() == before {
		t.Fatalf("%d fixes changed nothing", undone)
	}
	for _, f := range found {
		if f.Undo != "" {
			pgtest.Exec(t, p.oldURL, f.Undo)
		}
	}
	if after := identities(); after != before {
		t.Errorf("after the undo:\n%s\nbefore:\n%s", after, before)
	}
}

// The fix for many constraints is one statement.
func TestManyNotValid(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create schema "a b"; create table "a b"."T" (a int primary key)`,
		`do $$ begin for i in 1..12 loop execute format('alter table "a b"."T" add constraint "c %s" check (a > 0) not valid', i); end loop; end $$`)
	f := only(t, check(t, "not-valid", p.Pair), "tables.not-valid", "")
	if strings.Count(f.Fix, "ALTER") != 1 {
		t.Errorf("fix %s", f.Fix)
	}
	psql(t, p.oldURL, f.Fix)
	none(t, check(t, "not-valid", p.Pair))
}

// Only servers of 17 and later have exclusion constraints of partitioned tables.
func TestExclusionOfPartitions(t *testing.T) {
	older, newer := pgtest.Server(t, 17), pgtest.Server(t, 18)
	url := pgtest.Database(t, older)
	p := pairOf(t, url, pgtest.Database(t, newer))
	pgtest.Exec(t, url, `create extension btree_gist`,
		`create table "b k" (id int not null, r int4range, constraint "no overlap" exclude using gist (id with =, r with &&)) partition by range (id)`,
		`create table b1 partition of "b k" for values from (0) to (10)`,
		`create table b2 partition of "b k" for values from (10) to (20) partition by list (id)`,
		`create table b21 partition of b2 for values in (10)`)
	f := only(t, check(t, "exclusions", p), "tables.partitioned-exclusion", `constraint "no overlap" on "public"."b k"`)
	if f.Severity != Blocker || f.FixKind != FixSQL {
		t.Errorf("got %+v", f)
	}
	psql(t, url, f.Fix)
	none(t, check(t, "exclusions", p))
	left := pgtest.Value[string](t, url, `select string_agg(conrelid::regclass::text, ',' order by 1) from pg_constraint where contype = 'x'`)
	if left != "b1,b21" {
		t.Errorf("constraints are left on %s, want one on each leaf", left)
	}
}

// Whether a server was built with LZ4 is up to the machine.
func TestCompression(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `create table plain (id int primary key, "T t" text)`)
		none(t, check(t, "compression", p.Pair))
		if majors.Old < 14 {
			return
		}
		pgtest.Exec(t, p.oldURL, `update pg_attribute set attcompression = 'l' where attrelid = 'plain'::regclass and attname = 'T t'`)
		found := check(t, "compression", p.Pair)
		if pgtest.Value[bool](t, p.newURL, compressionsSQL) {
			none(t, found)
			return
		}
		f := only(t, found, "tables.compression", "")
		psql(t, p.oldURL, f.Fix)
		none(t, check(t, "compression", p.Pair))
	})
}

// The passwords of user mappings are hidden from roles that own neither the
// server nor the mapping.
func TestForeignMapping(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create extension postgres_fdw`,
		`create server away foreign data wrapper postgres_fdw options (host 'db.example.net')`,
		`create user mapping for postgres server away options (user 'u', password 'secret')`)
	none(t, check(t, "foreign", p.Pair), "foreign.mapping")
	role(t, p.oldURL, "humble", "login")
	p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "humble", ""), "")
	f := only(t, check(t, "foreign", p.Pair), "foreign.mapping", `"away"`)
	if !strings.Contains(f.Seen, "postgres") || strings.Contains(f.Seen, "secret") {
		t.Errorf("got %+v", f)
	}
	pgtest.Exec(t, p.oldURL, `drop user mapping for postgres server away`)
	none(t, check(t, "foreign", p.Pair), "foreign.mapping")
}

func TestSlotThatLags(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	slot := slotRow{Name: "cdc", Type: "logical", Plugin: "wal2json", Active: true, Here: true, Retained: laggingBytes - 1}
	f := only(t, slotFindings(p.Old, slot), "neighbours.slot-consumer", "cdc")
	if !strings.Contains(f.Fix, "wal2json") {
		t.Errorf("got %+v", f)
	}
	slot.Retained = laggingBytes
	if f := only(t, slotFindings(p.Old, slot), "neighbours.slot-lagging", "cdc"); f.Severity != Warning || !strings.Contains(f.Seen, "1.0 GiB") {
		t.Errorf("got %+v", f)
	}
}

// An extension that would become older is more than a note.
func TestOlderExtension(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create extension hstore`)
	for version, want := range map[string]Severity{"0.10": Note, "1.99": Warning, "1.x": Note} {
		pgtest.Exec(t, p.oldURL, `update pg_extension set extversion = `+literal(version)+` where extname = 'hstore'`)
		if f := only(t, check(t, "extensions", p.Pair), "extensions.version", "hstore"); f.Severity != want {
			t.Errorf("%s: got %+v", version, f)
		}
	}
}

// A table in which whole rows are looked up matters when it is large.
func TestSlowIdentityBySize(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create table t (a int)`, `alter table t replica identity full`)
	if f := only(t, check(t, "replica-identity", p.Pair), "tables.replica-identity-slow", ""); f.Severity != Note {
		t.Errorf("got %+v", f)
	}
	pgtest.Exec(t, p.oldURL, `update pg_class set reltuples = 20000 where relname = 't'`)
	if f := only(t, check(t, "replica-identity", p.Pair), "tables.replica-identity-slow", ""); f.Severity != Warning {
		t.Errorf("got %+v", f)
	}
}

// The words of a function's text, told from what only looks like them.
func TestReferences(t *testing.T) {
	for source, want := range map[string]string{
		`select f(x)`:                "f()",
		`select s.f(x), "S"."F" (x)`: "s.f() S.F()",
		`-- f(x)` + "\n" + `/* g(x) */ select 'h(x)', $a$ i(x) $a$, $1`: "",
		`select 'it''s' || j(x)`:                                        "j()",
		`insert into t (a) select b from u join s.v using (a)`:          "t u s.v",
		`update t set a = 1 where t.a = 2`:                              "t",
		`declare r t%rowtype; begin for r in select * from only u loop`: "t u",
		`select a.b.c(1) from x.y.z`:                                    "",
		`PERFORM Norm(1)`:                                               "norm()",
		`select * from f(1)`:                                            "f()",
	} {
		var got []string
		for _, r := range references(source) {
			name := r.name
			if r.schema != "" {
				name = r.schema + "." + name
			}
			if r.call {
				name += "()"
			}
			got = append(got, name)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s\n  has %q, want %q", source, g, want)
		}
	}
}
