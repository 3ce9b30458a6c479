package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Role is a role that a database needs.
type Role struct {
	Name string `json:"name"`
	// Why says what needs it: it owns objects, rights were granted to it, or it
	// is a member of such a role.
	Why string `json:"why"`
	// Create is the statement that makes it, with the attributes that it has on
	// the old server but without a password.
	Create string `json:"create"`
	// Grants are the statements that make it a member of other roles of the
	// database.
	Grants []string `json:"grants,omitempty"`
}

// rolesSQL lists the roles that own or are granted anything in this database or
// the database itself (pg_shdepend knows owners, rights, default rights,
// policies and user mappings), the bootstrap superuser if it owns something
// other than the schema public (pg_shdepend leaves it out), and, recursively, the members of all these: a
// login role often has its rights by membership alone. Predefined roles (pg_*)
// are every server's own.
// https://www.postgresql.org/docs/current/catalog-pg-shdepend.html
const rolesSQL = `
with recursive named (oid, why) as (
    select d.refobjid, case when d.deptype = 'o' then 'owns objects' else 'has been granted rights' end
      from pg_shdepend d
      join pg_database b on b.datname = current_database()
     where d.refclassid = 'pg_authid'::regclass
       and (d.dbid = b.oid or d.dbid = 0 and d.classid = 'pg_database'::regclass and d.objid = b.oid)
    union
    select x.owner, 'owns objects'
      from (select nspowner as owner
              from pg_namespace
             where nspname !~ '^pg_' and nspname <> 'information_schema' and not (nspname = 'public' and nspowner = 10)
            union
            select relowner from pg_class where oid >= 16384
            union
            select proowner from pg_proc where oid >= 16384
            union
            select typowner from pg_type where oid >= 16384) x
), needed (oid, why) as (
    select oid, max(why) from named group by oid
), reached (oid) as (
    select oid from needed
    union
    select m.member
      from reached r
      join pg_auth_members m on m.roleid = r.oid
)
select r.rolname,
       coalesce(min(n.why), 'is a member of a role of this database'),
       format('CREATE ROLE %I %s;', r.rolname, concat_ws(' ',
           case when r.rolcanlogin then 'LOGIN' else 'NOLOGIN' end,
           case when r.rolsuper then 'SUPERUSER' end,
           case when not r.rolinherit then 'NOINHERIT' end,
           case when r.rolcreaterole then 'CREATEROLE' end,
           case when r.rolcreatedb then 'CREATEDB' end,
           case when r.rolreplication then 'REPLICATION' end,
           case when r.rolbypassrls then 'BYPASSRLS' end,
           case when r.rolconnlimit >= 0 then 'CONNECTION LIMIT ' || r.rolconnlimit end,
           case when r.rolvaliduntil is not null then format('VALID UNTIL %L', r.rolvaliduntil) end)),
       coalesce(array_agg(distinct format('GRANT %I TO %I%s;', g.rolname, r.rolname,
                                          case when m.admin_option then ' WITH ADMIN OPTION' else '' end))
                filter (where g.rolname is not null), '{}')
  from reached
  join pg_roles r on r.oid = reached.oid
  left join needed n on n.oid = r.oid
  left join (pg_auth_members m
             join reached above on above.oid = m.roleid
             join pg_roles g on g.oid = m.roleid) on m.member = r.oid
 where r.rolname !~ '^pg_'
 group by r.oid, r.rolname, r.rolcanlogin, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb,
          r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil
 order by r.rolname`

// rolesOf lists the roles that the database needs.
func rolesOf(ctx context.Context, q querier) ([]Role, error) {
	rows, err := q.Query(ctx, rolesSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the database's roles: %w", err)
	}
	roles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Role, error) {
		var r Role
		err := row.Scan(&r.Name, &r.Why, &r.Create, &r.Grants)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the database's roles: %w", err)
	}
	return roles, nil
}

// roleNamesSQL lists which of the given roles exist.
const roleNamesSQL = `select rolname::text from pg_roles where rolname = any($1)`

// RolesMissing lists the roles that own or are granted anything in the old
// database, or are members of such roles, and that do not exist on the new
// server, ordered by name. Restoring the schema fails for those that own or are
// granted something; without the members the application cannot log in.
func RolesMissing(ctx context.Context, old, new *pg.Server) ([]Role, error) {
	roles, err := rolesOf(ctx, old.Pool())
	if err != nil {
		return nil, fmt.Errorf("comparing roles: %w", old.Redacted(err))
	}
	missing, err := missingOn(ctx, new, roles)
	if err != nil {
		return nil, fmt.Errorf("comparing roles: %w", new.Redacted(err))
	}
	return missing, nil
}

func missingOn(ctx context.Context, new *pg.Server, roles []Role) ([]Role, error) {
	names := make([]string, 0, len(roles))
	for _, r := range roles {
		names = append(names, r.Name)
	}
	rows, err := new.Pool().Query(ctx, roleNamesSQL, names)
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	exists := make(map[string]bool, len(there))
	for _, name := range there {
		exists[name] = true
	}
	var missing []Role
	for _, r := range roles {
		if !exists[r.Name] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}
