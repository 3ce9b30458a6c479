package schema

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// databaseState describes what CarryDatabase carries; names of databases and of
// the owner differ between servers.
const databaseState = `
select string_agg(line, E'\n' order by line collate "C")
  from (select format('limit %s comment %s', d.datconnlimit, shobj_description(d.oid, 'pg_database')) as line
          from pg_database d where d.datname = current_database()
        union all
        select format('%s may %s grantable %s', case when x.grantee = 0 then 'public' else pg_get_userbyid(x.grantee) end, x.privilege_type, x.is_grantable)
          from pg_database d cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x
         where d.datname = current_database()
        union all
        select format('setting of %s: %s', r.rolname, s.setconfig)
          from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole
         where s.setdatabase = (select oid from pg_database where datname = current_database())) x`

func (p pair) carry(t *testing.T) DatabaseReport {
	t.Helper()
	report, err := CarryDatabase(t.Context(), p.old, p.new)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// here replaces %I in a statement by the database's name.
func here(sql string) string {
	return `do $do$ begin execute format(` + quoteLiteral(sql) + `, current_database()); end $do$`
}

// What belongs to the database itself arrives, and goes again.
func TestDatabaseArrives(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_d_app", "pgct_d_admin")
		pgtest.Exec(t, p.newURL, `create role pgct_d_app`, `create role pgct_d_admin`)
		for _, sql := range []string{
			`alter database %I set search_path to app, "$user", "O ""dd"`, `alter database %I set work_mem to '6MB'`,
			`alter database %I set app.tenant to 'it''s'`, `alter database %I set app.jwt_secret to 'hunter2'`,
			`alter database %I set session_preload_libraries to 'auto_explain'`,
			`alter role pgct_d_app in database %I set statement_timeout to '3s'`,
			`alter database %I connection limit 50`, `comment on database %I is 'the ''shop'''`,
			`revoke connect, temporary on database %I from public`, `grant connect on database %I to pgct_d_app`,
			`grant create on database %I to pgct_d_admin with grant option`,
		} {
			pgtest.Exec(t, p.oldURL, here(sql))
		}
		want := pgtest.Value[string](t, p.oldURL, databaseState)
		before := pgtest.Catalog(t, p.newURL)
		pgtest.Exec(t, p.oldURL, here(`alter database %I set default_transaction_read_only to on`), `update pg_db_role_setting
			set setconfig = setconfig || '{removed_parameter=1}'
			where setrole = 0 and setdatabase = (select oid from pg_database where datname = current_database())`)

		report := p.carry(t)
		if got := pgtest.Value[string](t, p.newURL, databaseState); got != want {
			t.Errorf("on new:\n%s\non old:\n%s", got, want)
		}
		if len(report.Notices) != 2 || !strings.Contains(report.Notices[0].String()+report.Notices[1].String(), "removed_parameter") ||
			!strings.Contains(report.Notices[0].String()+report.Notices[1].String(), "the tool sets this parameter itself") {
			t.Errorf("notices: %v", report.Notices)
		}
		all := strings.Join(report.Carried, "\n")
		if strings.Contains(all, "hunter2") || !strings.Contains(all, `"app"."jwt_secret" to <what old has>`) {
			t.Errorf("a secret is shown, or its statement is not: %s", all)
		}
		if again := p.carry(t); len(again.Carried) > 0 {
			t.Errorf("again: %v", again.Carried)
		}
		for range 2 {
			if err := ReturnDatabase(t.Context(), p.new, nil); err != nil {
				t.Error(err)
			}
		}
		pgtest.Exec(t, p.newURL, `drop table pgcutover.carried`)
		wantCatalog(t, p.newURL, before)
		pgtest.Exec(t, p.oldURL, `set default_transaction_read_only to off`, here(`alter database %I reset default_transaction_read_only`))
	})
}

// What an operator has set on new stays; what cannot be, or would lock the tool
// out or break every session, is listed instead.
func TestDatabaseIsNotOverwritten(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_d_tool", "pgct_d_owner")
		pgtest.Exec(t, p.newURL, `create role pgct_d_tool login createrole`, `create role pgct_d_owner`)
		for _, sql := range []string{
			`alter database %I set work_mem to '6MB'`, `alter database %I connection limit 50`, `comment on database %I is 'old'`,
			`alter role pgct_d_owner in database %I set session_preload_libraries to 'pgct_no_such_library'`,
			`alter database %I set log_statement to 'all'`, `revoke connect on database %I from public`, `alter database %I owner to pgct_d_owner`,
		} {
			pgtest.Exec(t, p.oldURL, here(sql))
		}
		for _, sql := range []string{
			`alter database %I set work_mem to '7MB'`, `alter database %I connection limit 60`, `comment on database %I is 'new'`,
		} {
			pgtest.Exec(t, p.newURL, here(sql))
		}
		state := pgtest.Value[string](t, p.newURL, databaseState)
		pgtest.Exec(t, p.oldURL, `alter role all set app.everywhere to 'yes'`)
		defer pgtest.Exec(t, p.oldURL, `alter role all reset app.everywhere`)
		report := p.carry(t)
		var all strings.Builder
		for _, n := range report.Notices {
			all.WriteString(n.String() + "\n")
		}
		for _, text := range []string{
			"work_mem is 6MB on old, 7MB on new", "connection limit of 50 on old, of 60 on new", "another comment on new",
			`alter role all set "app"."everywhere" to 'yes'`, "pgct_no_such_library", `belongs to "pgct_d_owner" on old`,
		} {
			if !strings.Contains(all.String(), text) {
				t.Errorf("the notices do not say %q:\n%s", text, all.String())
			}
		}
		if err := ReturnDatabase(t.Context(), p.new, nil); err != nil {
			t.Error(err)
		}
		if now := pgtest.Value[string](t, p.newURL, databaseState); now != state {
			t.Errorf("is now:\n%s\nwas:\n%s", now, state)
		}

		// A role that owns nothing and connects as PUBLIC.
		tool := p
		tool.new = open(t, pg.New, pgtest.WithUser(t, p.newURL, "pgct_d_tool", ""))
		pgtest.Exec(t, p.newURL, `grant all on schema pgcutover to pgct_d_tool`, `grant all on all tables in schema pgcutover to pgct_d_tool`, `drop table pgcutover.carried`)
		report = tool.carry(t)
		if slices.ContainsFunc(report.Carried, func(sql string) bool {
			return strings.HasPrefix(sql, "revoke") || strings.HasPrefix(sql, "alter database")
		}) {
			t.Errorf("carried %v", report.Carried)
		}
		if !slices.ContainsFunc(report.Notices, func(n Notice) bool { return strings.HasPrefix(n.Fix, "revoke connect on") }) {
			t.Errorf("notices: %v", report.Notices)
		}
		// As owner it may, and must not lock itself out.
		pgtest.Exec(t, p.newURL, here(`alter database %I owner to pgct_d_tool`), here(`revoke connect on database %I from pgct_d_tool`))
		report = tool.carry(t)
		if !slices.ContainsFunc(report.Notices, func(n Notice) bool { return strings.Contains(n.Seen, `pgct_d_tool could not connect any more`) }) {
			t.Errorf("notices: %v", report.Notices)
		}
		pgtest.Exec(t, p.newURL, here(`alter database %I owner to postgres`))
		pgtest.Exec(t, p.oldURL, here(`alter database %I owner to postgres`))
	})
}
