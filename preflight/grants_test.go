package preflight

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// scripts asks for what the roles of a pair need.
func scripts(t *testing.T, p *Pair, o GrantOptions) (older, newer GrantScript) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	older, newer, err := Grants(ctx, p, o)
	if err != nil {
		t.Fatal(err)
	}
	return older, newer
}

// lacking is what checks say about rights, with the password in the log, which a
// right keeps out of it.
func (w leastRights) lacking(t *testing.T) []Finding {
	t.Helper()
	found := w.checkAll(t)
	for _, f := range check(t, "peer", w.Pair) {
		if f.ID == "peer.statement-log" {
			found = append(found, f)
		}
	}
	return found
}

// taken is the statement that takes back what one of a script gives.
func taken(t *testing.T, sql string) string {
	t.Helper()
	if role, ok := strings.CutPrefix(sql, "GRANT "); ok {
		what, _, _ := strings.Cut(role, " WITH ")
		i := strings.LastIndex(what, " TO ")
		return "REVOKE " + what[:i] + " FROM " + strings.TrimSuffix(what[i+len(" TO "):], ";")
	}
	for _, attribute := range []string{"REPLICATION;", "SUPERUSER;", "BYPASSRLS;"} {
		if rest, ok := strings.CutSuffix(sql, " "+attribute); ok {
			return rest + " NO" + attribute
		}
	}
	t.Fatalf("nothing is known that takes this back: %s", sql)
	return ""
}

// With all statements the checks are content; without any one of them they are
// not.
func TestGrantsAreEnoughAndNoneTooMany(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		w := newLeastRights(t, majors)
		pgtest.Exec(t, w.oldURL, `set role "ow ner"`, `alter table app.t enable row level security`, `alter table app.t force row level security`,
			`reset role`)
		pgtest.Exec(t, w.newURL, `alter role "ow ner" bypassrls`) // for the apply worker; finding row-security.apply
		older, newer := scripts(t, w.Pair, GrantOptions{})
		for url, s := range map[string]GrantScript{w.oldURL: older, w.newURL: newer} {
			if s.Role != "to ol" || s.Provider != provider.Community || !s.Detected || len(s.Statements) < 2 {
				t.Errorf("got %+v", s)
			}
			psql(t, url, s.SQL)
		}
		none(t, w.lacking(t))
		for url, s := range map[string]GrantScript{w.oldURL: older, w.newURL: newer} {
			for _, st := range s.Statements[1:] { // the first makes the role
				psql(t, url, taken(t, st.SQL))
				if found := w.lacking(t); len(found) == 0 {
					t.Errorf("%s, %s: not needed: %s", majors, s.Server, st.SQL)
				}
				psql(t, url, st.SQL)
			}
		}
		none(t, w.lacking(t))
	})
}

// The tool's role need not be there, nor the application's on new.
func TestGrantsMakeTheRoles(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	role(t, p.oldURL, "grants_owner", "nologin")
	role(t, p.oldURL, "grants_app", "login noinherit connection limit 7")
	pgtest.Exec(t, p.oldURL, `grant grants_owner to grants_app`, `create table t (a int primary key)`, `alter table t owner to grants_owner`)
	older, newer := scripts(t, p.Pair, GrantOptions{OldRole: "grants_tool", NewRole: "grants_tool"})
	t.Cleanup(func() {
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, `reassign owned by grants_tool to postgres`, `drop owned by grants_tool`, `drop role grants_tool`)
		}
		pgtest.Exec(t, p.newURL, `drop role grants_app, grants_owner`)
	})
	psql(t, p.oldURL, older.SQL)
	psql(t, p.newURL, newer.SQL)
	if got := pgtest.Value[string](t, p.newURL, `
select string_agg(format('%s %s %s %s', rolname, rolcanlogin, rolinherit, rolconnlimit), ', ' order by rolname)
  from pg_roles where rolname like 'grants_%'`); got != "grants_app t f 7, grants_owner f t -1, grants_tool t t -1" {
		t.Errorf("new has the roles %s", got)
	}
	if !pgtest.Value[bool](t, p.newURL, `select pg_has_role('grants_app', 'grants_owner', 'member')`) {
		t.Error("grants_app is no member of grants_owner on new")
	}
	for url, s := range map[string]GrantScript{p.oldURL: older, p.newURL: newer} {
		if strings.Contains(s.SQL, `GRANT "postgres"`) || pgtest.Value[bool](t, url, `select pg_has_role('grants_tool', 'postgres', 'member')`) {
			t.Errorf("the script lends the rights of a superuser:\n%s", s.SQL)
		}
		if owner := pgtest.Value[string](t, url, `select pg_get_userbyid(datdba)::text from pg_database where datname = current_database()`); s.Server == "old" && owner != "grants_tool" {
			t.Errorf("the %s database, a superuser's, now belongs to %s", s.Server, owner)
		}
	}
}

// What a provider calls otherwise can be asked for from anywhere.
func TestGrantsForProviders(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	p.Settings.Rollback = false
	for flavor, want := range map[provider.Flavor]string{
		provider.Community: `ALTER ROLE "mover" REPLICATION;`, provider.RDS: `GRANT "rds_replication" TO "mover";`,
		provider.Aurora: `GRANT "rds_replication" TO "mover";`, provider.CloudSQL: `ALTER ROLE "mover" REPLICATION;`,
		provider.Azure: `ALTER ROLE "mover" REPLICATION;`, provider.Supabase: `ALTER ROLE "mover" REPLICATION;`,
		provider.Neon: `GRANT "neon_superuser" TO "mover";`,
	} {
		older, newer := scripts(t, p.Pair, GrantOptions{OldRole: "mover", NewRole: "mover", OldFlavor: flavor, NewFlavor: flavor})
		if !slices.ContainsFunc(older.Statements, func(s GrantStatement) bool { return s.SQL == want }) {
			t.Errorf("%s: no %s in\n%s", flavor, want, older.SQL)
		}
		if older.Detected || older.Provider != flavor || !strings.Contains(older.SQL, flavor.Traits().Pages[0]) {
			t.Errorf("%s: got %+v", flavor, older)
		}
		subscribes := strings.Contains(newer.SQL, "GRANT pg_create_subscription") || strings.Contains(newer.SQL, "SUPERUSER")
		if subscribes == flavor.Traits().NoSubscriptions {
			t.Errorf("%s: %s", flavor, newer.SQL)
		}
	}
	// Before 16 a provider's admin role stands in for the superuser.
	older, _ := scripts(t, &Pair{Old: p.Old, New: p.New, Settings: Settings{Rollback: true}}, GrantOptions{OldRole: "mover", OldFlavor: provider.RDS})
	if want := `GRANT "rds_superuser" TO "mover";`; p.Old.Major() < 16 && !strings.Contains(older.SQL, want) {
		t.Errorf("no %s in\n%s", want, older.SQL)
	}
}

// What cannot be given to its owner on new is found, with what mends it.
func TestRestoreRights(t *testing.T) {
	w := newLeastRights(t, pgtest.Pairs(t)[0])
	if w.New.Major() < 16 {
		t.Fatalf("the first pair under test must have a new server of 16 or later, not %d", w.New.Major())
	}
	older, newer := scripts(t, w.Pair, GrantOptions{})
	psql(t, w.oldURL, older.SQL)
	psql(t, w.newURL, newer.SQL)
	look := func() []Finding {
		return append(check(t, "restore-rights", w.Pair), check(t, "rights", w.Pair)...)
	}
	none(t, look())
	t.Run("superuser", func(t *testing.T) {
		pgtest.Exec(t, w.oldURL, `create schema boss`, `create table boss.t (id serial primary key)`, `create view boss.v as select 1 as a`,
			`create function boss.f(int, text) returns int language sql as 'select 1'`, `create type boss.pair as (a int, b int)`,
			`create type boss.mood as enum ('good')`, `create domain boss.d as int`, `create sequence boss.s`)
		f := only(t, look(), "rights.superuser-owner", `"postgres"`)
		if f.FixKind != FixSQL || !strings.Contains(f.Seen, "8 objects") {
			t.Errorf("got %+v", f)
		}
		psql(t, w.oldURL, f.Fix)
		none(t, look())
	})
	t.Run("create", func(t *testing.T) {
		pgtest.Exec(t, w.oldURL, `create role helper`, `create table app.helped (id int primary key)`, `alter table app.helped owner to helper`)
		f := only(t, look(), "rights.restore-create", `"helper"`)
		if f.Server != "old" {
			t.Errorf("got %+v", f)
		}
		psql(t, w.oldURL, f.Fix)
		none(t, look())
	})
	t.Run("public", func(t *testing.T) {
		pgtest.Exec(t, w.newURL, `alter schema public owner to postgres`)
		none(t, look()) // nothing is in it
		pgtest.Exec(t, w.oldURL, `create function public.f() returns int language sql as 'select 1'`, `alter function public.f() owner to "ow ner"`,
			`grant create on schema public to "ow ner"`)
		_, newer := scripts(t, w.Pair, GrantOptions{})
		if want := `GRANT USAGE, CREATE ON SCHEMA public TO "ow ner";`; !strings.Contains(newer.SQL, want) {
			t.Errorf("no %s in\n%s", want, newer.SQL)
		}
		found := look()
		only(t, found, "rights.public-schema", `"to ol"`)
		psql(t, w.newURL, only(t, found, "rights.public-schema", `"ow ner"`).Fix)
		none(t, look())
	})
}

// Before 16 PostgreSQL wants a superuser for the way back, and some providers take
// their admin role in its place.
func TestWayBackBefore16(t *testing.T) {
	w := newLeastRights(t, pgtest.Pair{Old: 15, New: 16})
	older, newer := scripts(t, w.Pair, GrantOptions{})
	psql(t, w.oldURL, older.SQL)
	psql(t, w.newURL, newer.SQL)
	w.Settings.Rollback = true
	for _, c := range []struct{ role, fix string }{
		{"", `ALTER ROLE "to ol" SUPERUSER;`},
		{"supabase_admin", `set rollback.keep: false`},
		{"cloudsqlsuperuser", `GRANT "cloudsqlsuperuser" TO "to ol";`},
		{"rds_superuser", `GRANT "rds_superuser" TO "to ol";`},
	} {
		if c.role != "" {
			pgtest.Exec(t, w.oldURL, `create role `+c.role)
		}
		found := append(check(t, "rights", w.Pair), check(t, "peer", w.Pair)...)
		for _, id := range []string{"rights.subscription", "peer.rights"} {
			f := only(t, onSide(found, "old"), id, "")
			if !strings.HasPrefix(f.Fix, c.fix) || (f.FixKind == FixSQL) == strings.HasPrefix(c.fix, "set ") {
				t.Errorf("with role %q: %s advises %q", c.role, id, f.Fix)
			}
			if c.role == "rds_superuser" && id == "peer.rights" {
				psql(t, w.oldURL, f.Fix)
				none(t, check(t, "rights", w.Pair), "rights.subscription")
				return
			}
		}
		if c.role != "" {
			pgtest.Exec(t, w.oldURL, `drop role `+c.role)
		}
	}
}

// Memberships for administration only are no reason to make a role on new.
func TestAdministratorsAreNoMembers(t *testing.T) {
	w := newLeastRights(t, pgtest.Pair{Old: 16, New: 17})
	granted := func() bool {
		older, _ := scripts(t, w.Pair, GrantOptions{OldFlavor: provider.RDS})
		said := slices.ContainsFunc(older.Remarks, func(r string) bool { return strings.HasPrefix(r, `role "ow ner" is needed`) })
		grants := strings.Contains(older.SQL, `GRANT "ow ner"`)
		if said == grants {
			t.Errorf("the script of old: %s", older.SQL)
		}
		return grants
	}
	if granted() {
		t.Error("the script grants a role that nobody there can grant")
	}
	pgtest.Exec(t, w.oldURL, `create role keeper`, `grant "ow ner" to keeper with admin true, inherit false, set false`)
	if !granted() {
		t.Error("the script does not grant a role that somebody there can grant")
	}
	none(t, check(t, "roles", w.Pair), "roles.missing")
	pgtest.Exec(t, w.oldURL, `grant "ow ner" to keeper with inherit true`)
	mend(t, w.newURL, only(t, check(t, "roles", w.Pair), "roles.missing", `"keeper"`))
	none(t, check(t, "roles", w.Pair))
	// A provider's own are not ours to make.
	pgtest.Exec(t, w.oldURL, `create role rds_superuser`, `grant "ow ner" to rds_superuser`)
	none(t, check(t, "roles", w.Pair))
}

// Large objects take rights of their own, as far as there are any.
func TestGrantsForLargeObjects(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		before, _ := scripts(t, p.Pair, GrantOptions{OldRole: "mover", NewRole: "mover"})
		pgtest.Exec(t, p.oldURL, `select lo_create(0)`)
		after, _ := scripts(t, p.Pair, GrantOptions{OldRole: "mover", NewRole: "mover"})
		for right, since := range map[string]int{`GRANT pg_read_all_data TO "mover";`: 14, `GRANT pg_maintain TO "mover";`: 17} {
			if strings.Contains(before.SQL, right) || strings.Contains(after.SQL, right) != (majors.Old >= since) {
				t.Errorf("%s: %s\n%s", majors, right, after.SQL)
			}
		}
		if said := strings.Contains(after.SQL, "large_objects: idle"); said != (majors.Old < 17) {
			t.Errorf("%s: %s", majors, after.SQL)
		}
	})
}
