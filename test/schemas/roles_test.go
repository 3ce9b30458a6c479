package schemas

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// rolesSQL describes the roles that the database needs: who owns something in it
// or is granted something, and of what they are members.
const rolesSQL = `
with recursive needed as (
    select d.refobjid as oid
      from pg_shdepend d
     where d.refclassid = 'pg_authid'::regclass and d.dbid = (select oid from pg_database where datname = current_database())
    union
    select m.roleid from pg_auth_members m join needed n on n.oid = m.member
)
select format('%s login %s inherit %s createdb %s createrole %s limit %s of %s', quote_ident(r.rolname), r.rolcanlogin, r.rolinherit, r.rolcreatedb, r.rolcreaterole, r.rolconnlimit,
           (select array_agg(quote_ident(g.rolname) || case when m.admin_option then ' admin' else '' end order by g.rolname collate "C")
              from pg_auth_members m join pg_roles g on g.oid = m.roleid
             where m.member = r.oid))
  from pg_roles r
 where r.oid in (select oid from needed) and r.rolname !~ '^(pg_|postgres$|pgcutover_)'
 order by 1`

func rolesOf(t *testing.T, url string) []string {
	t.Helper()
	rows, err := connect(t, url).Query(t.Context(), rolesSQL)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// compareRoles compares the roles of a database on both servers.
func compareRoles(t *testing.T, old []string, newURL string) {
	t.Helper()
	if new := rolesOf(t, newURL); len(old) == 0 || !slices.Equal(old, new) {
		t.Errorf("roles on old:\n%q\non new:\n%q", old, new)
	}
}
