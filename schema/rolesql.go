package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rolesSQL lists the roles that own or are granted anything in this database or
// the database itself (pg_shdepend knows owners, rights, default rights,
// policies and user mappings), the bootstrap superuser if it owns something
// other than the schema public (pg_shdepend leaves it out), who has settings in
// this database, recursively the members of all these (from 16 on a membership
// may be for administration only, as that of whoever made a role: those do not
// count), and what they all are members of. What is never carried over does not count: extensions' own
// objects, temporary tables, publications and subscriptions, and what the tool
// makes. why: 1 owner, 2 granted, 3 settings, 4 member of such a role, 5 such a
// role is a member.
// https://www.postgresql.org/docs/current/catalog-pg-shdepend.html
const rolesSQL = `
with recursive db as (
    select oid from pg_database where datname = current_database()
), named (role, why) as (
    select d.refobjid, case d.deptype when 'o' then 1 else 2 end
      from pg_shdepend d
      join db on d.dbid = db.oid or d.dbid = 0 and d.classid = 'pg_database'::regclass and d.objid = db.oid
     where d.refclassid = 'pg_authid'::regclass and d.deptype in ('o', 'a', 'r')
       and d.classid not in ('pg_publication'::regclass, 'pg_subscription'::regclass, 'pg_extension'::regclass)
       and not exists (select from pg_depend e
                        where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e' and d.deptype = 'o')
       and not exists (select from pg_namespace n
                        where d.classid = 'pg_namespace'::regclass and n.oid = d.objid and n.nspname = 'pgcutover')
       and not exists (select from pg_class c
                         left join pg_namespace n on n.oid = c.relnamespace
                        where d.classid = 'pg_class'::regclass and c.oid = d.objid
                          and (n.nspname = 'pgcutover' or c.relpersistence = 't'))
       and not exists (select from pg_proc f
                         join pg_namespace n on n.oid = f.pronamespace
                        where d.classid = 'pg_proc'::regclass and f.oid = d.objid and n.nspname = 'pgcutover')
       and not exists (select from pg_type t
                         join pg_namespace n on n.oid = t.typnamespace
                        where d.classid = 'pg_type'::regclass and t.oid = d.objid and n.nspname = 'pgcutover')
    union
    select x.owner, 1
      from (select nspowner as owner
              from pg_namespace
             where nspname !~ '^pg_' and nspname not in ('information_schema', 'pgcutover')
               and not (nspname = 'public' and nspowner = 10)
            union
            select c.relowner
              from pg_class c
              join pg_namespace n on n.oid = c.relnamespace
             where c.oid >= 16384 and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'pgcutover'
               and not exists (select from pg_depend e
                                where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
            union
            select f.proowner
              from pg_proc f
              join pg_namespace n on n.oid = f.pronamespace
             where f.oid >= 16384 and n.nspname <> 'pgcutover'
               and not exists (select from pg_depend e
                                where e.classid = 'pg_proc'::regclass and e.objid = f.oid and e.deptype = 'e')
            union
            select t.typowner
              from pg_type t
              join pg_namespace n on n.oid = t.typnamespace
             where t.oid >= 16384 and n.nspname !~ '^pg_' and n.nspname <> 'pgcutover'
               and not exists (select from pg_depend e
                                where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype = 'e')
               and not exists (select from pg_depend e
                                where e.classid = 'pg_type'::regclass and e.objid = t.typelem and e.deptype = 'e')
               and not exists (select from pg_depend e
                                where e.classid = 'pg_class'::regclass and e.objid = t.typrelid and e.deptype = 'e')) x
    union
    select s.setrole, 3
      from pg_db_role_setting s
      join db on s.setdatabase = db.oid
     where s.setrole <> 0
), below (role, why) as (
    select n.role, n.why from named n join pg_roles r on r.oid = n.role where r.rolname !~ '^pg_'
    union
    select m.member, 4
      from below
      join pg_auth_members m on m.roleid = below.role
      join pg_roles r on r.oid = m.member
     where r.rolname <> current_user
       and (coalesce(to_jsonb(m)->>'inherit_option', 'true')::boolean or coalesce(to_jsonb(m)->>'set_option', 'true')::boolean)
), reached (role, why) as (
    select role, why from below
    union
    select m.roleid, 5
      from reached
      join pg_auth_members m on m.member = reached.role
)
select r.rolname::text, min(x.why), r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreatedb, r.rolcreaterole,
       r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil::text,
       shobj_description(r.oid, 'pg_authid')
  from reached x
  join pg_roles r on r.oid = x.role
 where r.rolname !~ '^(pg|pgcutover)_'
 group by r.oid, r.rolname, r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreatedb, r.rolcreaterole,
          r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil
 order by r.rolname`

// roleReasons say why a role is needed, by the number that rolesSQL returns.
var roleReasons = []string{
	"", "owns objects", "has been granted rights", "has settings in this database",
	"is a member of a role of this database", "has a role of this database as member",
}

// rolesOf lists the roles that the database needs, with their attributes.
func rolesOf(ctx context.Context, q querier) ([]Role, error) {
	rows, err := q.Query(ctx, rolesSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the database's roles: %w", err)
	}
	roles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Role, error) {
		var (
			r   Role
			why int
		)
		a := &r.Attributes
		err := row.Scan(&r.Name, &why, &a.Login, &a.Inherit, &a.Super, &a.CreateDB, &a.CreateRole,
			&a.Replication, &a.BypassRLS, &a.Connections, &a.Valid, &r.Comment)
		r.Why, r.Owner = roleReasons[why], why == 1
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the database's roles: %w", err)
	}
	reserved(roles)
	return roles, nil
}

// complete adds to the roles what stands in other catalogs than pg_roles.
func complete(ctx context.Context, q querier, major int, roles []Role) (readable bool, err error) {
	at := make(map[string]*Role, len(roles))
	for i := range roles {
		at[roles[i].Name] = &roles[i]
	}
	names := namesOf(roles)
	if err := readMemberships(ctx, q, major, names, at); err != nil {
		return false, err
	}
	if err := readRoleSettings(ctx, q, names, at); err != nil {
		return false, err
	}
	if err := readRoleLabels(ctx, q, names, at); err != nil {
		return false, err
	}
	return readVerifiers(ctx, q, names, at)
}

// memberships10SQL lists what the given roles are members of. Before 16 the
// grantor is for the record only, and may be a role that is gone.
const memberships10SQL = `
select g.rolname::text, r.rolname::text, '', m.admin_option, null::boolean, null::boolean
  from pg_auth_members m
  join pg_roles g on g.oid = m.roleid
  join pg_roles r on r.oid = m.member
 where r.rolname = any($1)
 order by 1, 2`

// memberships16SQL is for 16 and later, where each grantor's membership stands
// by itself and has options of its own. What the bootstrap superuser (10) has
// granted needs no mention of him.
// https://www.postgresql.org/docs/current/catalog-pg-auth-members.html
const memberships16SQL = `
select g.rolname::text, r.rolname::text, case when m.grantor = 10 then '' else pg_get_userbyid(m.grantor)::text end,
       m.admin_option, m.inherit_option, m.set_option
  from pg_auth_members m
  join pg_roles g on g.oid = m.roleid
  join pg_roles r on r.oid = m.member
 where r.rolname = any($1)
 order by 1, 2, 3`

func readMemberships(ctx context.Context, q querier, major int, names []string, at map[string]*Role) error {
	sql := memberships10SQL
	if major >= 16 {
		sql = memberships16SQL
	}
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return fmt.Errorf("reading memberships: %w", err)
	}
	var m Membership
	_, err = pgx.ForEachRow(rows, []any{&m.Role, &m.Member, &m.Grantor, &m.Admin, &m.Inherit, &m.Set}, func() error {
		r := at[m.Member]
		r.Memberships = append(r.Memberships, m)
		m = Membership{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading memberships: %w", err)
	}
	return nil
}

// roleSettingsSQL lists the settings that roles have in every database.
const roleSettingsSQL = `
select r.rolname::text, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  from pg_db_role_setting s
  join pg_roles r on r.oid = s.setrole
 cross join lateral unnest(s.setconfig) with ordinality x (c, place)
 where s.setdatabase = 0 and r.rolname = any($1)
 order by 1, x.place`

func readRoleSettings(ctx context.Context, q querier, names []string, at map[string]*Role) error {
	rows, err := q.Query(ctx, roleSettingsSQL, names)
	if err != nil {
		return fmt.Errorf("reading the settings of roles: %w", err)
	}
	var (
		role string
		s    Setting
	)
	_, err = pgx.ForEachRow(rows, []any{&role, &s.Name, &s.Value}, func() error {
		at[role].Settings = append(at[role].Settings, s)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the settings of roles: %w", err)
	}
	return nil
}

const roleLabelsSQL = `
select r.rolname::text, l.provider, l.label
  from pg_shseclabel l
  join pg_roles r on r.oid = l.objoid
 where l.classoid = 'pg_authid'::regclass and r.rolname = any($1)
 order by 1, 2`

func readRoleLabels(ctx context.Context, q querier, names []string, at map[string]*Role) error {
	rows, err := q.Query(ctx, roleLabelsSQL, names)
	if err != nil {
		return fmt.Errorf("reading the security labels of roles: %w", err)
	}
	var (
		role string
		l    label
	)
	_, err = pgx.ForEachRow(rows, []any{&role, &l.provider, &l.text}, func() error {
		at[role].labels = append(at[role].labels, l)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the security labels of roles: %w", err)
	}
	return nil
}

// readableSQL tells whether this role may read password verifiers.
const readableSQL = `select has_table_privilege('pg_catalog.pg_authid', 'select')`

// verifiersSQL reads the password verifiers (SCRAM or MD5) of the given roles.
// https://www.postgresql.org/docs/current/catalog-pg-authid.html
const verifiersSQL = `
select rolname::text, rolpassword
  from pg_authid
 where rolpassword is not null and rolname = any($1)`

func readVerifiers(ctx context.Context, q querier, names []string, at map[string]*Role) (bool, error) {
	var readable bool
	if err := q.QueryRow(ctx, readableSQL).Scan(&readable); err != nil {
		return false, fmt.Errorf("asking whether passwords are readable: %w", err)
	}
	if !readable {
		return false, nil
	}
	rows, err := q.Query(ctx, verifiersSQL, names)
	if err != nil {
		return false, fmt.Errorf("reading password verifiers: %w", err)
	}
	var role, verifier string
	_, err = pgx.ForEachRow(rows, []any{&role, &verifier}, func() error {
		at[role].verifier = verifier
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("reading password verifiers: %w", err)
	}
	return true, nil
}
