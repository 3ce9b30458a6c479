package preflight

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// An application that has nothing wrong with it: keys, partitions, sequences,
// an extension, names that need quotes. The partition has the key, since 10
// knows none on partitioned tables.
var cleanSchema = []string{
	`create table plain (id bigserial primary key, t text)`,
	`create schema "We ird"`,
	`create table "We ird"."T ""q"".x" ("I d" int primary key, "select" text)`,
	`create table "We ird"."ünïcode;--" (a int not null, b int not null)`,
	`create unique index "i ""1" on "We ird"."ünïcode;--" (b)`,
	`alter table "We ird"."ünïcode;--" replica identity using index "i ""1"`,
	`create sequence "We ird"."S ""q"`,
	`create table events (id int, at date not null) partition by range (at)`,
	`create table events_1 partition of events for values from ('2024-01-01') to ('2025-01-01')`,
	`alter table events_1 add primary key (id, at)`,
	`create extension if not exists hstore schema public`,
}

func TestCleanDatabaseHasNoBlockers(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		fakeClients(t, majors.New, "pg_dump", "pg_restore") // checkClients has a test of its own
		pgtest.Exec(t, p.oldURL, cleanSchema...)
		beforeOld, beforeNew := pgtest.Catalog(t, p.oldURL), pgtest.Catalog(t, p.newURL)

		r, err := Run(t.Context(), p.Pair, All(), 4)
		if err != nil {
			t.Fatal(err)
		}
		if b := r.Blockers(); len(b) > 0 {
			t.Errorf("blockers in a clean database:\n%s", text(b))
		}
		for _, f := range r.Findings {
			known := strings.HasPrefix(f.ID, "durability.") || // the test servers run without fsync
				f.ID == "not-carried.partitioned-table" || f.ID == "not-carried.truncate" ||
				f.ID == "versions.end-of-life" || f.ID == "extensions.version" || f.ID == "transactions.prepared-possible" ||
				f.ID == "rights.shared-role" // the test's own sessions may still be ending
			if !known {
				t.Errorf("a clean database has\n%s", text([]Finding{f}))
			}
		}
		if len(r.Checks) != len(All()) {
			t.Errorf("%d checks in the report, want %d", len(r.Checks), len(All()))
		}
		if d := pgtest.Diff(beforeOld, pgtest.Catalog(t, p.oldURL)); d != "" {
			t.Errorf("the checks changed the old server:\n%s", d)
		}
		if d := pgtest.Diff(beforeNew, pgtest.Catalog(t, p.newURL)); d != "" {
			t.Errorf("the checks changed the new server:\n%s", d)
		}
	})
}

// mess is a database with something for every check that looks into it.
var mess = []string{
	`create table nopk (a int, j json)`,
	`create unlogged table fast (a int primary key)`,
	`create materialized view mv as select 1 as a`,
	`create table deferred (a int primary key deferrable)`,
	`create table nothing (a int primary key); alter table nothing replica identity nothing`,
	`create function f() returns trigger language plpgsql as 'begin return new; end'`,
	`create trigger always before insert on nopk for each row execute procedure f(); alter table nopk enable always trigger always`,
	`select lo_create(0)`,
	`create publication theirs for table deferred`,
	`create function ef() returns event_trigger language plpgsql as 'begin end'`,
	`create event trigger watch on ddl_command_end execute procedure ef()`,
}

func TestMessIsFoundAndLeftAlone(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, mess...)
		pgtest.Exec(t, p.newURL, `create table here (a int)`)
		beforeOld, beforeNew := pgtest.Catalog(t, p.oldURL), pgtest.Catalog(t, p.newURL)
		for _, checks := range [][]Check{All(), Gates()} {
			if _, err := Run(t.Context(), p.Pair, checks, 0); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Run(t.Context(), p.Pair, All(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if !c.Ran {
				t.Errorf("check %s could not run", c.ID)
			}
		}
		for _, id := range []string{
			"target.not-empty", "triggers.replica", "triggers.event", "not-carried.unlogged-table",
			"not-carried.materialized-view", "not-carried.large-object", "neighbours.publication",
		} {
			only(t, r.Findings, id, "")
		}
		for _, table := range []string{"nopk", "deferred", "nothing"} {
			only(t, r.Findings, "tables.replica-identity", quote(table))
		}
		if d := pgtest.Diff(beforeOld, pgtest.Catalog(t, p.oldURL)); d != "" {
			t.Errorf("the checks changed the old server:\n%s", d)
		}
		if d := pgtest.Diff(beforeNew, pgtest.Catalog(t, p.newURL)); d != "" {
			t.Errorf("the checks changed the new server:\n%s", d)
		}
	})
}

// Every query that looks at the application's objects runs read-only.
func TestQueriesRunReadOnly(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create sequence s`)
	_, err := readValues[int64](t.Context(), p.Old, "trying to write", `select nextval('public.s')`)
	if !pg.IsCode(err, pg.ReadOnlyTransaction) {
		t.Errorf("a writing query returned %v", err)
	}
}

// manyTables makes n tables, every fourth without a key, with a sequence each,
// in batches that the lock table has room for.
func manyTables(t *testing.T, url string, n int) {
	t.Helper()
	const batch = 50
	for first := 1; first <= n; first += batch {
		pgtest.Exec(t, url, fmt.Sprintf(`do $$
begin
  for i in %d..%d loop
    execute format('create table t%%s (id bigserial%%s, a text)', i, case when i %% 4 = 0 then '' else ' primary key' end);
  end loop;
end $$`, first, min(first+batch-1, n)))
	}
	pgtest.Exec(t, url, "analyze pg_class", "analyze pg_attribute", "analyze pg_index", "analyze pg_depend")
}

// The checks ask the catalog as a whole: their time hardly grows with tables.
func TestManyTables(t *testing.T) {
	const tables = 2000
	p := newPair(t, pgtest.Pairs(t)[0])
	manyTables(t, p.oldURL, tables)

	began := time.Now()
	r, err := Run(t.Context(), p.Pair, All(), 4)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	slowest := Result{}
	for _, c := range r.Checks {
		if c.Took > slowest.Took {
			slowest = c
		}
	}
	t.Logf("%d tables: %v in all, the slowest check is %s with %v", tables, took.Round(time.Millisecond), slowest.ID, slowest.Took.Round(time.Millisecond))
	if took > time.Minute {
		t.Errorf("checking %d tables took %v", tables, took)
	}
	found := 0
	for _, f := range r.Findings {
		if f.ID == "tables.replica-identity" {
			found++
		}
	}
	if found != tables/4 {
		t.Errorf("%d tables without identity found, want %d", found, tables/4)
	}
}
