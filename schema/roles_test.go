package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// rolesFor makes roles on old and sees to it that none of them, on either
// server, outlives the test.
func (p pair) rolesFor(t *testing.T, names ...string) {
	t.Helper()
	drop := func() {
		for _, url := range []string{p.oldURL, p.newURL} {
			dropAll(t, url, names)
		}
	}
	drop()
	t.Cleanup(drop)
	for _, name := range names {
		pgtest.Exec(t, p.oldURL, "create role "+quoteName(name))
	}
	pgtest.Exec(t, p.newURL, "create schema if not exists pgcutover")
}

// dropAll drops roles with what they own and were granted. Until a round drops
// nothing, since memberships depend on who granted them.
func dropAll(t *testing.T, url string, names []string) {
	t.Helper()
	there := func() []string {
		return pgtest.Value[[]string](t, url, `select coalesce(array_agg(rolname::text order by rolname desc), '{}') from pg_roles where rolname = any($1)`, names)
	}
	for _, name := range there() {
		pgtest.Exec(t, url, "drop owned by "+quoteName(name)+" cascade")
	}
	for left := there(); len(left) > 0; {
		for _, name := range left {
			pgtest.Exec(t, url, fmt.Sprintf(`do $$ begin execute %s; exception when dependent_objects_still_exist then null; end $$`, quoteLiteral("drop role "+quoteName(name))))
		}
		now := there()
		if len(now) == len(left) {
			t.Fatalf("roles that cannot be dropped: %v", now)
		}
		left = now
	}
}

func (p pair) makeRoles(t *testing.T) RolesReport {
	t.Helper()
	report, err := MakeRoles(t.Context(), p.old, p.new, nil)
	if err != nil {
		t.Fatal(err, hint.Of(err))
	}
	return report
}

// noticed returns the notices about an object.
func noticed(notices []Notice, object string) string {
	var out []string
	for _, n := range notices {
		if n.Object == object {
			out = append(out, n.String())
		}
	}
	return strings.Join(out, "\n")
}

// rolesAsSQL describes the test's roles but for grantors.
const rolesAsSQL = `
select string_agg(line, E'\n' order by line collate "C")
  from (select format('%s %s %s %s', rolname, to_jsonb(a) - '{oid,rolname,rolpassword}'::text[], rolpassword, shobj_description(a.oid, 'pg_authid')) as line
          from pg_authid a
         where rolname ~ '^pgct_g_'
        union all
        select format('%s in %s admin %s', r.rolname, g.rolname, m.admin_option)
          from pg_auth_members m
          join pg_roles r on r.oid = m.member
          join pg_roles g on g.oid = m.roleid
         where r.rolname ~ '^pgct_g_'
        union all
        select format('%s %s', r.rolname, s.setconfig)
          from pg_db_role_setting s
          join pg_roles r on r.oid = s.setrole
         where r.rolname ~ '^pgct_g_' and s.setdatabase = 0) x`

// All that roles have arrives: attributes, memberships with their options,
// passwords, comments, settings; what cannot is named; and it goes again.
func TestRolesArrive(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		const odd = `pgct_g_odd "o" it's`
		p.rolesFor(t, "pgct_g_owner", "pgct_g_team", "pgct_g_app", "pgct_g_above", "pgct_g_plain", "pgct_g_lead", "pgct_g_stranger", odd, "rds_pgct_g")
		pgtest.Exec(t, p.oldURL,
			`create table public.t (a integer primary key)`, `alter table public.t owner to pgct_g_owner`,
			`grant select on public.t to pgct_g_team`, `grant insert on public.t to pgct_g_plain, `+quoteName(odd)+`, rds_pgct_g`,
			`grant pgct_g_team to pgct_g_lead with admin option`, `grant pgct_g_team to pgct_g_app`,
			`grant pgct_g_above to pgct_g_app`, `grant pg_monitor to pgct_g_app`, `grant rds_pgct_g to pgct_g_app`,
			`alter role pgct_g_app login noinherit createdb connection limit 9 valid until '2041-02-03 04:05:06+00' password 'hunter''2'`,
			`alter role pgct_g_owner replication bypassrls createrole superuser`,
			`comment on role pgct_g_app is E'the "app''s" \\ own'`,
			`alter role pgct_g_app set search_path to "$user", "O ""dd, name", public`,
			`alter role pgct_g_app set app.tenant to E'a''b\\c'`, `alter role pgct_g_app set work_mem to '5MB'`,
			`alter role pgct_g_plain set search_path to ''`)
		pgtest.Exec(t, p.oldURL, `grant create on tablespace pg_default to pgct_g_plain with grant option`)
		defer pgtest.Exec(t, p.oldURL, `revoke all on tablespace pg_default from pgct_g_plain`)
		if p.old.Major() >= 15 {
			pgtest.Exec(t, p.oldURL, `grant set on parameter session_replication_role to pgct_g_plain`)
			defer pgtest.Exec(t, p.oldURL, `revoke all on parameter session_replication_role from pgct_g_plain`)
		}
		if p.old.Major() >= 16 {
			pgtest.Exec(t, p.oldURL, `grant pgct_g_team to pgct_g_plain with inherit false, set false granted by pgct_g_lead`)
		}
		want := pgtest.Value[string](t, p.oldURL, strings.ReplaceAll(rolesAsSQL, "'^pgct_g_'", "'^pgct_g_(?!stranger)'"))
		want = strings.ReplaceAll(want, "pgct_g_app in rds_pgct_g admin f\n", "")
		oldBefore, newBefore := pgtest.Catalog(t, p.oldURL), pgtest.Catalog(t, p.newURL)
		// Removed parameters, and our own.
		pgtest.Exec(t, p.oldURL, `update pg_db_role_setting set setconfig = setconfig || '{removed_parameter=1,default_transaction_read_only=on}'
			where setrole = 'pgct_g_app'::regrole`)

		report := p.makeRoles(t)
		made := []string{"pgct_g_above", "pgct_g_app", "pgct_g_lead", "pgct_g_owner", "pgct_g_plain", "pgct_g_team", odd}
		slices.Sort(made)
		if got := slices.Sorted(slices.Values(report.Made)); !slices.Equal(got, made) {
			t.Errorf("made %q, want %q", got, made)
		}
		if !slices.Contains(report.Skipped, "rds_pgct_g") || !strings.Contains(noticed(report.Notices, `role "rds_pgct_g"`), "Amazon RDS") {
			t.Errorf("the service's own role: %+v", report)
		}
		app := noticed(report.Notices, `role "pgct_g_app"`)
		for _, text := range []string{`"removed_parameter" to '1'`, "default_transaction_read_only = on: not carried over", `member of "rds_pgct_g"`} {
			if !strings.Contains(app, text) {
				t.Errorf("the notices on the role do not say %q: %s", text, app)
			}
		}
		if len(report.Notices) != 4 {
			t.Errorf("notices: %v", report.Notices)
		}
		if got := pgtest.Value[string](t, p.newURL, rolesAsSQL); got != want {
			t.Errorf("on new:\n%s\non old:\n%s", got, want)
		}
		wantOptions(t, p)
		if !pgtest.Value[bool](t, p.newURL, `select has_tablespace_privilege('pgct_g_plain', 'pg_default', 'create with grant option')`) {
			t.Error("the right on a tablespace has not arrived")
		}
		if p.old.Major() >= 15 && !pgtest.Value[bool](t, p.newURL, `select has_parameter_privilege('pgct_g_plain', 'session_replication_role', 'set')`) {
			t.Error("the right on a parameter has not arrived")
		}
		if text := fmt.Sprintf("%+v", report); strings.Contains(text, "SCRAM") || strings.Contains(text, "md5") {
			t.Error("the report holds a password's verifier")
		}
		wantLogin(t, p.newURL, "pgct_g_app", "hunter'2")

		again := p.makeRoles(t)
		if len(again.Made) > 0 || !slices.Equal(slices.Sorted(slices.Values(again.Earlier)), made) {
			t.Errorf("again: %+v", again)
		}
		if err := ReturnDatabase(t.Context(), p.new, nil); err != nil {
			t.Error(err)
		}
		dropped, left, err := DropRoles(t.Context(), p.new, nil)
		if err != nil || len(left) > 0 || len(dropped) != len(made) {
			t.Errorf("dropped %q, left %v, %v", dropped, left, err)
		}
		pgtest.Exec(t, p.newURL, `drop table pgcutover.made_role, pgcutover.carried`)
		wantCatalog(t, p.newURL, newBefore)
		pgtest.Exec(t, p.oldURL, `update pg_db_role_setting set setconfig = array_remove(array_remove(setconfig, 'removed_parameter=1'), 'default_transaction_read_only=on')
			where setrole = 'pgct_g_app'::regrole`)
		wantCatalog(t, p.oldURL, oldBefore)
	})
}

// wantOptions checks the options of memberships on 16 and later: derived from
// the member's INHERIT when old is older, else the same, grantor included.
func wantOptions(t *testing.T, p pair) {
	t.Helper()
	if p.new.Major() < 16 {
		return
	}
	const options = `select format('%s %s %s', inherit_option, set_option, pg_get_userbyid(grantor)) from pg_auth_members
		where roleid = 'pgct_g_team'::regrole and member = $1::regrole and inherit_option is not null`
	want := "f t postgres"
	if p.old.Major() >= 16 {
		want = "t t postgres" // granted before the role lost INHERIT
	}
	if got := pgtest.Value[string](t, p.newURL, options, "pgct_g_app"); got != want {
		t.Errorf("the options of a NOINHERIT member are %s, want %s", got, want)
	}
	if got := pgtest.Value[string](t, p.newURL, options, "pgct_g_lead"); got != "t t postgres" {
		t.Errorf("the options of a member are %s", got)
	}
	if p.old.Major() >= 16 {
		if got := pgtest.Value[string](t, p.newURL, options, "pgct_g_plain"); got != "f f pgct_g_lead" {
			t.Errorf("options and grantor are %s", got)
		}
	}
}

// No statement with a verifier reaches the server's log, whatever it logs, or the
// statement statistics.
func TestVerifiersAreNotLogged(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		me, err := readTool(t.Context(), p.new.Pool())
		if err != nil {
			t.Fatal(err)
		}
		for _, setting := range []string{"log_statement to 'all'", "log_min_duration_statement to 0"} {
			pgtest.Exec(t, p.newURL, here("alter database %I set "+setting))
		}
		conn, err := p.new.Connect(t.Context(), "roles", me.session(p.new))
		if err != nil {
			t.Fatal(err)
		}
		defer pg.Close(t.Context(), conn)
		var got string
		if err := conn.QueryRow(t.Context(), `select concat_ws(' ', current_setting('log_statement'), current_setting('log_min_duration_statement'),
			current_setting('log_min_error_statement'), current_setting('pg_stat_statements.track'))`).Scan(&got); err != nil || got != "none -1 panic none" {
			t.Errorf("the session that sends verifiers has %s, %v", got, err)
		}
	})
}

// wantLogin proves that the password lets the role in, and another does not.
func wantLogin(t *testing.T, url, role, password string) {
	t.Helper()
	const addLine = `do $$
declare
  hba text := pg_read_file(current_setting('hba_file'));
begin
  execute format('copy (select unnest(string_to_array(%%L, E''\n''))) to %%L', '%s' || E'\n' || hba, current_setting('hba_file'));
end $$`
	before := pgtest.Value[string](t, url, `select pg_read_file(current_setting('hba_file'))`)
	pgtest.Exec(t, url, fmt.Sprintf(addLine, "host all "+role+" 127.0.0.1/32 md5"), `select pg_reload_conf()`)
	defer func() {
		pgtest.Exec(t, url, `do $$ begin execute format('copy (select unnest(string_to_array(%L, E''\n''))) to %L', `+quoteLiteral(strings.TrimRight(before, "\n"))+`, current_setting('hba_file')); end $$`,
			`select pg_reload_conf()`)
	}()
	login := func(password string) error {
		conn, err := pgx.Connect(t.Context(), pgtest.WithUser(t, url, role, password))
		if err == nil {
			return conn.Close(t.Context())
		}
		return err
	}
	err := pg.Wait(t.Context(), "the server to ask for passwords", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pg.IsCode(login("wrong"), pg.InvalidPassword), "", nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := login(password); err != nil {
		t.Errorf("logging in with the password of old: %v", err)
	}
}

// Roles that exist on new stay as they are; how they differ is listed.
func TestRolesThatExistAreLeft(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_g_here", "pgct_g_same", "pgct_g_group", "pgct_g_new")
		pgtest.Exec(t, p.oldURL, `create table public.t ()`, `grant select on public.t to pgct_g_here, pgct_g_same, pgct_g_group, pgct_g_new`,
			`alter role pgct_g_here login createdb connection limit 3`, `grant pgct_g_group, pgct_g_new to pgct_g_here`,
			`alter role pgct_g_here set work_mem to '7MB'`, `alter role pgct_g_here set statement_timeout to '1min'`)
		pgtest.Exec(t, p.newURL, `create role pgct_g_here bypassrls password 'mine'`, `create role pgct_g_same`, `create role pgct_g_group`,
			`alter role pgct_g_here set work_mem to '8MB'`)
		const here = `select row_to_json(a)::text || (select s.setconfig::text from pg_db_role_setting s where s.setrole = a.oid) from pg_authid a where rolname = 'pgct_g_here'`
		before := pgtest.Value[string](t, p.newURL, here)

		report := p.makeRoles(t)
		if !slices.Equal(report.Made, []string{"pgct_g_new"}) || !slices.Contains(report.There, "pgct_g_here") {
			t.Errorf("got %+v", report)
		}
		if now := pgtest.Value[string](t, p.newURL, here); now != before {
			t.Errorf("the role is now %s, was %s", now, before)
		}
		got := noticed(report.Notices, `role "pgct_g_here"`)
		for _, text := range []string{
			`alter role "pgct_g_here" login createdb nobypassrls connection limit 3;`, `is a member of "pgct_g_group" on old`,
			`work_mem = 7MB on old, 8MB on new`, `alter role "pgct_g_here" set "statement_timeout" to '1min';`,
		} {
			if !strings.Contains(got, text) {
				t.Errorf("the notices do not say %q:\n%s", text, got)
			}
		}
		if strings.Contains(got, "pgct_g_new") || noticed(report.Notices, `role "pgct_g_same"`) != "" {
			t.Errorf("too much is noticed:\n%v", report.Notices)
		}
		if !pgtest.Value[bool](t, p.newURL, `select pg_has_role('pgct_g_here', 'pgct_g_new', 'member')`) {
			t.Error("a role that was there is not a member of one that was made")
		}
		// The notices' statements make them equal.
		for _, n := range report.Notices {
			pgtest.Exec(t, p.newURL, n.Fix)
		}
		if again := p.makeRoles(t); len(again.Notices) > 0 {
			t.Errorf("after the fixes: %v", again.Notices)
		}
	})
}

// A role with CREATEROLE alone makes what it may, lists the rest, restores the
// schema as the owners it made, and goes again.
func TestRolesWithoutSuperuser(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_g_maker", "pgct_g_owner", "pgct_g_app")
		pgtest.Exec(t, p.oldURL, `create schema s authorization pgct_g_owner`, `create table s.t (a serial primary key)`,
			`alter table s.t owner to pgct_g_owner`, `grant select on s.t to pgct_g_app`, `grant pgct_g_owner to pgct_g_app with admin option`,
			`alter role pgct_g_app login replication createdb password 'hidden'`, `comment on role pgct_g_app is 'the app'`,
			`alter role pgct_g_app set log_statement to 'all'`, `alter role pgct_g_maker login`, `grant pgct_g_owner to pgct_g_maker`,
			`grant usage on schema public to pgct_g_maker`)
		pgtest.Exec(t, p.newURL, `create role pgct_g_maker login`, `drop schema pgcutover`,
			`do $$ begin execute format('alter database %I owner to pgct_g_maker', current_database()); end $$`)
		t.Cleanup(func() {
			pgtest.Exec(t, p.newURL, `do $$ begin execute format('alter database %I owner to postgres', current_database()); end $$`)
		})
		maker := p
		maker.old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "pgct_g_maker", ""))
		maker.new = open(t, pg.New, pgtest.WithUser(t, p.newURL, "pgct_g_maker", ""))
		if _, err := maker.new.Pool().Exec(t.Context(), `create schema pgcutover`); err != nil {
			t.Fatal(err)
		}
		if may, err := MayMakeRoles(t.Context(), maker.new); err != nil || may {
			t.Errorf("may make roles: %v, %v", may, err)
		}
		_, err := MakeRoles(t.Context(), maker.old, maker.new, nil)
		if !pg.IsCode(err, pg.InsufficientPrivilege) || !strings.Contains(hint.Of(err), `create role "pgct_g_owner" nologin;`) ||
			!strings.Contains(hint.Of(err), `ALTER ROLE "pgct_g_maker" CREATEROLE;`) {
			t.Errorf("got %v with the hint %q", err, hint.Of(err))
		}
		pgtest.Exec(t, p.newURL, `alter role pgct_g_maker createrole`)
		if may, err := MayMakeRoles(t.Context(), maker.new); err != nil || !may {
			t.Errorf("may make roles: %v, %v", may, err)
		}
		before := pgtest.Catalog(t, p.newURL)

		report := maker.makeRoles(t)
		app := noticed(report.Notices, `role "pgct_g_app"`)
		for _, text := range []string{`alter role "pgct_g_app" replication;`, `"log_statement" to 'all'`, "made without a password"} {
			if !strings.Contains(app, text) {
				t.Errorf("the notices do not say %q:\n%s", text, app)
			}
		}
		// From 16 on only who has CREATEDB may give it.
		if strings.Contains(app, "createdb") != (p.new.Major() >= 16) {
			t.Errorf("createdb: %s", app)
		}
		if !pgtest.Value[bool](t, p.newURL, `select pg_has_role('pgct_g_app', 'pgct_g_owner', 'member') and shobj_description('pgct_g_app'::regrole, 'pg_authid') = 'the app'`) {
			t.Error("membership or comment is missing")
		}
		if err := leaveRolesAndBack(t, maker); err != nil {
			t.Error(err)
		}
		state := snapshotOf(t, maker.new)
		a := maker.move(t, RestoreOptions{})
		maker.wantSame(t)
		if err := Remove(t.Context(), maker.new, state, RemoveOptions{Ours: a.Objects()}); err != nil {
			t.Fatal(err)
		}
		if dropped, left, err := DropRoles(t.Context(), maker.new, nil); err != nil || len(left) > 0 || len(dropped) != 2 {
			t.Errorf("dropped %q, left %v, %v", dropped, left, err)
		}
		pgtest.Exec(t, p.newURL, `drop table pgcutover.made_role, pgcutover.carried`)
		wantCatalog(t, p.newURL, before)
	})
}

// leaveRolesAndBack checks that LeaveRoles takes the rights of owners from the
// tool's role, then gives them back.
func leaveRolesAndBack(t *testing.T, maker pair) error {
	t.Helper()
	const acts = `select pg_has_role('pgct_g_maker', 'pgct_g_owner', 'usage')`
	if !pgtest.Value[bool](t, maker.newURL, acts) {
		t.Error("the tool's role cannot act as the owner that it made")
	}
	if err := LeaveRoles(t.Context(), maker.new, nil); err != nil {
		return err
	}
	if pgtest.Value[bool](t, maker.newURL, acts) {
		t.Error("the tool's role still acts as the owner that it made")
	}
	_, err := maker.new.Pool().Exec(t.Context(), ActAsSQL(maker.new.Major(), "pgct_g_owner", "pgct_g_maker"))
	return err
}

// A role that is used elsewhere stays, and is named; so does one that was
// dropped and made again by somebody.
func TestRolesInUseStay(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_g_used", "pgct_g_remade")
		pgtest.Exec(t, p.oldURL, `create table public.t ()`, `grant select on public.t to pgct_g_used, pgct_g_remade`)
		p.makeRoles(t)
		elsewhere := pgtest.Database(t, p.newCluster)
		pgtest.Exec(t, elsewhere, `create table public.t ()`, `grant select on public.t to pgct_g_used`)
		defer pgtest.Exec(t, elsewhere, `drop table public.t`)
		pgtest.Exec(t, p.newURL, `drop role pgct_g_remade`, `create role pgct_g_remade`)
		dropped, left, err := DropRoles(t.Context(), p.new, nil)
		if err != nil || len(dropped) > 0 || !strings.Contains(noticed(left, `role "pgct_g_used"`), "in use") || len(left) != 1 {
			t.Errorf("dropped %q, left %v, %v", dropped, left, err)
		}
		if !pgtest.Value[bool](t, p.newURL, `select to_regrole('pgct_g_remade') is not null`) {
			t.Error("a role that somebody else made was dropped")
		}
	})
}

// The moves of several databases that need the same roles make each of them
// once, and only one of them answers for it.
func TestRolesOfSeveralDatabases(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		names := []string{"pgct_g_a", "pgct_g_b", "pgct_g_c", "pgct_g_d"}
		p.rolesFor(t, names...)
		pgtest.Exec(t, p.oldURL, `grant pgct_g_a to pgct_g_c`, `grant pgct_g_d to pgct_g_b`)
		const databases = 4
		pairs := make([]pair, databases)
		for i := range pairs {
			pairs[i] = p
			pairs[i].oldURL, pairs[i].newURL = pgtest.Database(t, p.oldCluster), pgtest.Database(t, p.newCluster)
			pairs[i].old, pairs[i].new = open(t, pg.Old, pairs[i].oldURL), open(t, pg.New, pairs[i].newURL)
			pgtest.Exec(t, pairs[i].newURL, `create schema pgcutover`)
			pgtest.Exec(t, pairs[i].oldURL, `create table public.t ()`, `grant select on public.t to pgct_g_a, pgct_g_b, pgct_g_c, pgct_g_d`)
			url := pairs[i].oldURL
			t.Cleanup(func() { pgtest.Exec(t, url, `drop table public.t`) })
		}
		var group errgroup.Group
		made := make([][]string, databases)
		for i := range pairs {
			group.Go(func() error {
				report, err := MakeRoles(t.Context(), pairs[i].old, pairs[i].new, nil)
				made[i] = report.Made
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if all := slices.Sorted(slices.Values(slices.Concat(made...))); !slices.Equal(all, names) {
			t.Errorf("made %q, want each once: %q", made, names)
		}
		if !pgtest.Value[bool](t, p.newURL, `select pg_has_role('pgct_g_c', 'pgct_g_a', 'member') and pg_has_role('pgct_g_b', 'pgct_g_d', 'member')`) {
			t.Error("a membership is missing")
		}
		for _, one := range pairs {
			if _, left, err := DropRoles(t.Context(), one.new, nil); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		}
		if pgtest.Value[int](t, p.newURL, `select count(*)::int from pg_roles where rolname ~ '^pgct_g_'`) > 0 {
			t.Error("roles are left")
		}
	})
}
