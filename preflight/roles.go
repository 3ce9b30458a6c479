package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// namedRolesSQL lists the roles that the old database needs: those it names as
// owners or in access lists, policies, default privileges and settings; the
// members of these, since a login role often has its rights by membership alone
// (from 16 on a membership may be for administration only); and who has a session there now. pg_shdepend knows all that are named but the
// bootstrap superuser, whom the owners add. Members of extensions, our own
// objects, temporary tables, publications, subscriptions and large objects are
// not carried over and do not count; nor does the tool's own role, unless it is
// named. why: 1 owner, 2 named, 3 member, 4 session.
const namedRolesSQL = `
with recursive db as (
  select oid from pg_database where datname = current_database()
), named (role, why) as (
  select d.refobjid, case d.deptype when 'o' then 1 else 2 end
    from pg_shdepend d
    join db on d.dbid = db.oid or (d.dbid = 0 and d.classid = 'pg_database'::regclass and d.objid = db.oid)
   where d.refclassid = 'pg_authid'::regclass and d.deptype in ('o', 'a', 'r')
     and d.classid not in ('pg_publication'::regclass, 'pg_subscription'::regclass,
                           'pg_extension'::regclass, 'pg_largeobject'::regclass)
     and not exists (select 1 from pg_depend e
                      where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
     and not (d.classid = 'pg_namespace'::regclass
              and exists (select 1 from pg_namespace n where n.oid = d.objid and n.nspname = 'pgcutover'))
     and not (d.classid = 'pg_class'::regclass
              and exists (select 1 from pg_class c left join pg_namespace n on n.oid = c.relnamespace
                           where c.oid = d.objid and (n.nspname = 'pgcutover' or c.relpersistence = 't')))
     and not (d.classid = 'pg_proc'::regclass
              and exists (select 1 from pg_proc f join pg_namespace n on n.oid = f.pronamespace
                           where f.oid = d.objid and n.nspname = 'pgcutover'))
  union
  select c.relowner, 1
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relpersistence <> 't' and c.oid >= 16384
     and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
     and not exists (select 1 from pg_depend e
                      where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
  union
  select s.setrole, 2 from pg_db_role_setting s join db on s.setdatabase = db.oid where s.setrole <> 0
), needed (role, why) as (
  select n.role, n.why from named n join pg_roles r on r.oid = n.role where r.rolname !~ '^pg_'
  union
  select m.member, 3
    from needed
    join pg_auth_members m on m.roleid = needed.role
    join pg_roles r on r.oid = m.member
   where r.rolname <> current_user
     and (coalesce(to_jsonb(m)->>'inherit_option', 'true')::boolean or coalesce(to_jsonb(m)->>'set_option', 'true')::boolean)
), all_needed (role, why) as (
  select role, min(why) from (
    select role, why from needed
    union all
    select a.usesysid, 4
      from pg_stat_activity a
     where a.datname = current_database() and a.backend_type = 'client backend' and a.usename <> current_user
       and coalesce(a.application_name, '') not like 'pgcutover%'
  ) x
  group by role
)
select r.rolname::text as name, a.why, r.rolsuper as super, r.rolinherit as inherit,
       r.rolcreaterole as create_role, r.rolcreatedb as create_db, r.rolcanlogin as login,
       r.rolreplication as replication, r.rolbypassrls as bypass_rls, r.rolconnlimit as connections,
       coalesce((select array_agg(g.rolname::text order by g.rolname)
          from pg_auth_members m join pg_roles g on g.oid = m.roleid
         where m.member = r.oid and (g.rolname ~ '^pg_' or g.oid in (select role from all_needed))), '{}') as groups
  from all_needed a
  join pg_roles r on r.oid = a.role
 where r.rolname !~ '^pg_' and r.rolname <> $1
 order by r.rolname`

type namedRole struct {
	Name        string
	Why         int // index of roleReasons
	Super       bool
	Inherit     bool
	CreateRole  bool
	CreateDB    bool `db:"create_db"`
	Login       bool
	Replication bool
	BypassRLS   bool `db:"bypass_rls"`
	Connections int
	Groups      []string
}

// roleReasons are why a role is needed, by namedRole.Why, the strongest first.
var roleReasons = []string{
	"", "owns objects on old", "is granted rights or has settings on old",
	"is a member of such a role on old", "is connected to old",
}

// namedThere is the last of roleReasons for which pg_restore needs the role.
const namedThere = 2

// rolesSQL returns those of the names in $1 that are roles.
const rolesSQL = `select rolname::text from pg_roles where rolname = any ($1::text[])`

// checkRoles finds the roles that the old database names and the new server
// does not have.
func checkRoles(ctx context.Context, p *Pair) ([]Finding, error) {
	missing, err := missingRoles(ctx, p)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	may, err := readOne[makerRow](ctx, p.New, "asking whether the tool may make roles", mayMakeRolesSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range missing {
		f := Finding{
			ID: "roles.missing", Severity: Blocker, Server: string(pg.New), Object: "role " + quote(r.Name),
			Seen: roleReasons[r.Why] + ", does not exist on new",
			Why:  "The tool's role may not make it on new: what names it cannot be carried over, and its clients cannot log in.",
			Fix:  r.create(), FixKind: FixSQL,
		}
		if roleReasons[r.Why] == "is connected to old" {
			f.ID, f.Severity = "roles.connected", Warning
			f.Why = "The role's clients could not log in on the new server."
		} else if owner, reserved := provider.ReservedRole(r.Name); reserved {
			f.Why = "The name belongs to " + owner + ", so start does not make the role; but the schema cannot be restored without it. Make a stand-in, or take what it owns and its rights away on old."
		} else if may.Makes {
			f.Severity = Note
			f.Why = "start makes it there, or, once it is done, start --sync-schema, with its attributes, memberships and settings; with its password, if the tool's role may read that on old. Made by hand beforehand, it is left as it is."
		}
		found = append(found, f)
	}
	return found, nil
}

// mayMakeRolesSQL tells whether the tool's role may make roles: then start does.
const mayMakeRolesSQL = `select rolsuper or rolcreaterole as makes from pg_roles where rolname = current_user`

type makerRow struct{ Makes bool }

// missingRoles returns the roles that checkRoles finds, groups before their
// members. Roles that a provider keeps for itself are its own to make; they count
// only where the schema itself names them.
func missingRoles(ctx context.Context, p *Pair) ([]namedRole, error) {
	named, err := read[namedRole](ctx, p.Old, "reading the roles that the database names", namedRolesSQL, streamName(p.Old.Move()))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(named))
	for i, r := range named {
		names[i] = r.Name
	}
	have, err := readValues[string](ctx, p.New, "reading roles", rolesSQL, names)
	if err != nil {
		return nil, err
	}
	exists := make(map[string]bool, len(have))
	for _, name := range have {
		exists[name] = true
	}
	named = slices.DeleteFunc(named, func(r namedRole) bool {
		_, reserved := provider.ReservedRole(r.Name)
		return exists[r.Name] || reserved && r.Why > namedThere
	})
	return groupsFirst(named), nil
}

// groupsFirst orders roles so that each comes after those that it is to be a
// member of, and the advice can be followed from top to bottom. Memberships have
// no circles (Postgres refuses them).
func groupsFirst(roles []namedRole) []namedRole {
	byName := make(map[string]namedRole, len(roles))
	for _, r := range roles {
		byName[r.Name] = r
	}
	var ordered []namedRole
	var place func(namedRole)
	place = func(r namedRole) {
		if _, waiting := byName[r.Name]; !waiting {
			return
		}
		delete(byName, r.Name)
		for _, g := range r.Groups {
			if group, ok := byName[g]; ok {
				place(group)
			}
		}
		ordered = append(ordered, r)
	}
	for _, r := range roles {
		place(r)
	}
	return ordered
}

// create is the statement that makes the role. Passwords cannot be read here.
func (r namedRole) create() string {
	sql := strings.TrimSpace("CREATE ROLE "+quote(r.Name)+" "+strings.Join(r.attributes(), " ")) + ";"
	for _, g := range r.Groups {
		sql += fmt.Sprintf(" GRANT %s TO %s;", quote(g), quote(r.Name))
	}
	if r.Login {
		sql += " -- then set its password, or carry all roles over: pg_dumpall --roles-only"
	}
	return sql
}

// attributes are those that differ from what CREATE ROLE gives by itself.
func (r namedRole) attributes() []string {
	var words []string
	for _, a := range []struct {
		on   bool
		word string
	}{
		{r.Super, "SUPERUSER"},
		{!r.Inherit, "NOINHERIT"},
		{r.CreateRole, "CREATEROLE"},
		{r.CreateDB, "CREATEDB"},
		{r.Login, "LOGIN"},
		{r.Replication, "REPLICATION"},
		{r.BypassRLS, "BYPASSRLS"},
		{r.Connections >= 0, fmt.Sprintf("CONNECTION LIMIT %d", r.Connections)},
	} {
		if a.on {
			words = append(words, a.word)
		}
	}
	return words
}
