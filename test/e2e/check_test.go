package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// keyless are tables whose UPDATE and DELETE could not be replicated.
const keyless = `
create schema only_keyless;
create table only_keyless.t (a integer);
create table keyless (a integer, b text);
create table unique_only (a integer not null, b text);
create unique index unique_only_a on unique_only (a);
insert into keyless values (1, 'x');
insert into unique_only values (1, 'x')`

const identitySQL = `select string_agg(relreplident::text, '' order by relname) from pg_class where relname in ('keyless', 'unique_only')`

type reportAnswer struct {
	Findings []struct {
		ID, Severity, Docs string
	}
	Ignored []struct{ ID string }
}

func (r reportAnswer) has(id string) bool {
	return slices.ContainsFunc(r.Findings, func(f struct{ ID, Severity, Docs string }) bool { return f.ID == id })
}

// What check --fix changes is taken back at the end of the move, on the new
// server too; what is ignored does not keep the move from starting.
func TestCheckFix(t *testing.T) {
	t.Parallel()
	const id = "tables.replica-identity"
	for _, end := range []string{"abort", "complete"} {
		t.Run(end, func(t *testing.T) {
			parallel(t)
			m := newMove(t, pgtest.Pairs(t)[0])
			pgtest.Exec(t, m.old.app, keyless)
			before := m.catalogs(t)
			found := answer[reportAnswer](t, m.run(t, exitBlocked, "check", "--json"))
			if !found.has(id) || !strings.HasPrefix(found.Findings[0].Docs, "https://") {
				t.Fatalf("check found %+v", found)
			}
			m.run(t, exitUsage, "check", "--fix") // nobody to ask
			m.run(t, exitUsage, "check", "--ignore", "tables.replica-identitty")
			if r := answer[reportAnswer](t, m.run(t, exitDone, "check", "--json", "--ignore", id)); r.has(id) || len(r.Ignored) != 3 {
				t.Errorf("with --ignore check found %+v", r)
			}
			m.unchanged(t, "before check", before)
			r := m.run(t, exitDone, "check", "--fix", "--yes", "--json")
			if answer[reportAnswer](t, r).has(id) || !strings.Contains(r.stderr, "3 of 3 fixes made") {
				t.Errorf("after the fix:\n%s", r)
			}
			identities := func(url string) string { return pgtest.Value[string](t, url, identitySQL) }
			if got := identities(m.old.url); got != "fi" {
				t.Fatalf("the replica identities are %q, want fi", got)
			}
			c := m.write(t)
			m.start(t)
			pgtest.Exec(t, m.old.app, "update keyless set b = 'y'", "delete from unique_only")
			if end == "abort" {
				m.run(t, exitDone, "abort", "--yes")
				m.unchanged(t, "before check --fix", before)
				c.stop(t)
				return
			}
			m.run(t, exitDone, "cutover", "--yes")
			c.expect(pg.Old, pg.New)
			c.prove(t, pg.New)
			if got := pgtest.Value[string](t, m.new.url, "select b || (select count(*) from unique_only) from keyless"); got != "y0" {
				t.Errorf("the update and the delete came as %q", got)
			}
			m.run(t, exitDone, "complete", "--yes")
			for side, s := range map[string]server{"old": m.old, "new": m.new} {
				if got := identities(s.url); got != "dd" {
					t.Errorf("at the end the replica identities on %s are %q, want dd", side, got)
				}
			}
		})
	}
}

// A new database that is made anew after check --fix is not the move's any more:
// what refuses says the way out, and that is one.
func TestCheckFixThenAnotherNewDatabase(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, m.old.app, keyless)
	m.run(t, exitDone, "check", "--fix", "--yes")
	name := pgtest.Value[string](t, m.new.url, "select current_database()")
	pgtest.Exec(t, m.new.cluster.URL("postgres"), "drop database "+name, "create database "+name+" owner "+appRole+" template template0")
	const wayOut = "pgcutover abort --old-only"
	m.says(t, exitFailed, wayOut, "start")
	m.says(t, exitFailed, wayOut, "abort", "--yes")
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	if got := pgtest.Value[string](t, m.old.url, identitySQL); got != "dd" {
		t.Errorf("the replica identities on old are %q, want dd", got)
	}
	m.says(t, exitBlocked, "tables.replica-identity", "start") // as before the fix
}

// A move of several databases is checked as one: each finding names its
// database, and what they need of the servers is counted together.
func TestCheckOfSeveralDatabases(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 2, 0)
	pgtest.Exec(t, d[1].old.app, keyless)
	pgtest.Exec(t, d[0].new.url, fmt.Sprintf("create table %s (a int)", "stranger"))
	r := d.run(t, exitBlocked, "check")
	for _, want := range []string{
		fmt.Sprintf("tables.replica-identity  (old, database %q)", d[1].name),
		fmt.Sprintf("target.not-empty  (new, database %q)", d[0].name),
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("check does not say %q:\n%s", want, r)
		}
	}
	d.run(t, exitUsage, "check", "--fix", "--yes")
	d.run(t, exitUsage, "check", "--database", "nowhere")
	d.run(t, exitUsage, "warm", "--database", "nowhere")
	d.run(t, exitUsage, "plan", "--format", "sql")
	type parts struct {
		Databases []struct {
			Database string
			Result   planAnswer
		}
	}
	for _, p := range answer[parts](t, d.run(t, exitDone, "plan", "--json")).Databases {
		if len(p.Result.Cutover) == 0 || (p.Database != d[0].name && p.Database != d[1].name) {
			t.Errorf("the plan of database %q has %d steps", p.Database, len(p.Result.Cutover))
		}
	}
}
