package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// GrantOptions say for which roles, and on what kind of servers, the scripts of
// Grants are made.
type GrantOptions struct {
	// OldRole and NewRole are what the tool connects as, and need not exist yet;
	// empty means the roles of the pair's own connections.
	OldRole, NewRole string
	// OldFlavor and NewFlavor say who runs the servers; empty means what the
	// catalogs show.
	OldFlavor, NewFlavor provider.Flavor
}

// GrantScript is what the role of one server needs, and no more.
type GrantScript struct {
	Server   string          `json:"server"`
	Database string          `json:"database"`
	Role     string          `json:"role"`
	Major    int             `json:"major"`
	Provider provider.Flavor `json:"provider"`
	Detected bool            `json:"detected"` // from the catalogs, not given
	// Statements are run in order by whoever administers the server. Running them
	// again changes nothing.
	Statements []GrantStatement `json:"statements"`
	// Remarks are what no statement does: parameters, networks, what stays
	// impossible.
	Remarks []string `json:"remarks"`
	// SQL is all of it as a script for psql.
	SQL string `json:"sql"`
}

// GrantStatement is one statement of the script.
type GrantStatement struct {
	SQL string `json:"sql"`
	Why string `json:"why"`
}

// Grants reads what is there and returns what the tool's roles need on old and on
// new. It changes nothing, and any role that may connect can ask.
func Grants(ctx context.Context, p *Pair, o GrantOptions) (old, new GrantScript, err error) {
	older := grantSide{server: p.Old, role: cmp.Or(o.OldRole, p.Old.User()), flavor: o.OldFlavor, subscribes: p.Settings.Rollback, publishes: true}
	newer := grantSide{server: p.New, role: cmp.Or(o.NewRole, p.New.User()), flavor: o.NewFlavor, subscribes: true, publishes: p.Settings.Rollback}
	owners, err := read[objectOwner](ctx, p.Old, "reading who owns the objects", objectOwnersSQL)
	if err != nil {
		return old, new, err
	}
	objects, err := readOne[largeObjects](ctx, p.Old, "counting large objects", largeObjectsSQL)
	if err != nil {
		return old, new, err
	}
	for _, s := range []*grantSide{&older, &newer} {
		s.owners, s.objects = slices.Clone(owners), objects.Objects > 0
		if err := s.look(ctx); err != nil {
			return old, new, err
		}
	}
	if newer.closed, err = newer.lookPublic(ctx, p.Old); err != nil {
		return old, new, err
	}
	if err := newer.lookExtensions(ctx, p.Old); err != nil {
		return old, new, err
	}
	missing, err := missingRoles(ctx, p)
	if err != nil {
		return old, new, err
	}
	newer.missing = slices.DeleteFunc(missing, func(r namedRole) bool { return r.Name == older.role || r.Name == newer.role })
	return older.script(), newer.script(), nil
}

// objectOwnersSQL lists the roles that own something which is restored on new,
// and whether it is tables: relations, schemas, functions and types of any owner,
// and whatever else has an owner who is not the bootstrap superuser (pg_shdepend
// leaves that one out). Members of extensions, publications and subscriptions
// are not carried over.
const objectOwnersSQL = `
with owned (role, tables) as (
  select c.relowner, c.relkind in ('r', 'p')
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and c.relpersistence <> 't' and c.oid >= 16384
     and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
  union
  select n.nspowner, false
    from pg_namespace n
   where n.oid >= 16384 and n.nspname !~ '^pg_' and n.nspname <> 'pgcutover'
     and not exists (select 1 from pg_depend e where e.classid = 'pg_namespace'::regclass and e.objid = n.oid and e.deptype = 'e')
  union
  select f.proowner, false
    from pg_proc f
    join pg_namespace n on n.oid = f.pronamespace
   where f.oid >= 16384 and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = f.oid and e.deptype = 'e')
  union
  select t.typowner, false
    from pg_type t
    join pg_namespace n on n.oid = t.typnamespace
   where t.oid >= 16384 and t.typrelid = 0 and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype in ('e', 'i'))
  union
  select d.refobjid, false
    from pg_shdepend d
    join pg_database b on b.oid = d.dbid and b.datname = current_database()
   where d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'
     and d.classid in ('pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_opfamily'::regclass, 'pg_collation'::regclass,
                       'pg_conversion'::regclass, 'pg_language'::regclass, 'pg_foreign_data_wrapper'::regclass,
                       'pg_foreign_server'::regclass, 'pg_ts_config'::regclass, 'pg_ts_dict'::regclass,
                       'pg_statistic_ext'::regclass, 'pg_event_trigger'::regclass, 'pg_largeobject'::regclass)
     and not exists (select 1 from pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
)
select r.rolname::text as name, r.rolsuper as super, bool_or(o.tables) as tables
  from owned o
  join pg_roles r on r.oid = o.role
 where r.rolname !~ '^pg_'
 group by r.rolname, r.rolsuper
 order by r.rolname`

type objectOwner struct {
	Name   string
	Super  bool
	Tables bool
}

// grantFactsSQL reads what a script depends on: $1 is the tool's role, $2 are the
// roles that tell who runs the server.
const grantFactsSQL = `
select pg_get_userbyid(d.datdba)::text as owner,
       coalesce((select o.rolsuper from pg_roles o where o.oid = d.datdba), false) as owner_super,
       exists (select 1 from pg_roles r where r.rolname = $1) as exists,
       coalesce((select r.rolsuper from pg_roles r where r.rolname = $1), false) as super,
       current_setting('wal_level') as wal_level,
       array(select r.rolname::text from pg_roles r where r.rolname = any ($2::text[])) as signs,
       to_regproc('pg_catalog.aurora_version') is not null as aurora,
       array(select distinct split_part(s.name, '.', 1) from pg_settings s
              where s.name ~ '^(rds|cloudsql|azure|neon|supautils)[.]') as settings
  from pg_database d
 where d.datname = current_database()`

type grantFacts struct {
	Owner      string
	OwnerSuper bool
	Exists     bool
	Super      bool
	WalLevel   string
	Signs      []string
	Aurora     bool
	Settings   []string
}

// unadministeredSQL returns those of the roles in $1 that nobody can grant but a
// superuser: from 16 on that takes ADMIN OPTION, which CREATEROLE no longer
// stands in for. Postgres manual: GRANT on Roles.
const unadministeredSQL = `
select r.rolname::text
  from pg_roles r
 where r.rolname = any ($1::text[])
   and not exists (select 1
                     from pg_auth_members m
                     join pg_roles a on a.oid = m.member
                    where m.roleid = r.oid and m.admin_option and a.rolname <> $2)
 order by 1`

func (f grantFacts) flavor() provider.Flavor {
	return provider.Detect(provider.Signs{Roles: f.Signs, Aurora: f.Aurora, Settings: f.Settings})
}

// schemaRightsSQL tells of each schema whether one of the roles in $1 may use it,
// and create there; a right of PUBLIC is everybody's.
const schemaRightsSQL = `
select n.nspname::text as name, n.oid < 16384 as public,
       coalesce(bool_or(has_schema_privilege(r.oid, n.oid, 'usage')), false) as uses,
       coalesce(bool_or(has_schema_privilege(r.oid, n.oid, 'create')), false) as creates
  from pg_namespace n
  left join pg_roles r on r.rolname = any ($1::text[])
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and exists (select 1 from pg_class c
                where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'S')
               union all
               select 1 where n.nspname = 'public')
 group by n.oid, n.nspname
 order by n.nspname`

type schemaRights struct {
	Name          string
	Public        bool
	Uses, Creates bool
}

// forcedTablesSQL tells whether row-level security is forced upon owners of
// tables, and whose they are.
const forcedTablesSQL = `
select distinct pg_get_userbyid(c.relowner)::text
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relrowsecurity and c.relforcerowsecurity and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
 order by 1`

// grantSide is one server and what its role has to do there.
type grantSide struct {
	server                *pg.Server
	role                  string
	flavor                provider.Flavor
	detected              bool
	subscribes, publishes bool
	owners                []objectOwner // of the objects on old
	facts                 grantFacts
	schemas               []schemaRights
	missing               []namedRole
	closed                []string // owners who may not create in schema public
	unadministered        []string // roles that nobody can grant
	objects               bool     // large objects are on old
	forced                []string // owners of tables with forced row-level security
	extensions            []string // that only a superuser may make
	elsewhere             []string // those of them that belong into a schema of their own
	out                   []GrantStatement
	remarks               []string
}

func (g *grantSide) look(ctx context.Context) error {
	var err error
	if g.facts, err = readOne[grantFacts](ctx, g.server, "reading what the rights depend on", grantFactsSQL, g.role, provider.SignRoles()); err != nil {
		return err
	}
	if g.flavor == "" {
		g.flavor, g.detected = g.facts.flavor(), true
	}
	granted := []string{g.facts.Owner}
	for _, o := range g.grantable() {
		granted = append(granted, o.Name)
	}
	if g.flavor != provider.Community && g.server.Major() >= 16 {
		if g.unadministered, err = readValues[string](ctx, g.server, "reading who can grant roles", unadministeredSQL, granted, g.role); err != nil {
			return err
		}
	}
	if g.schemas, err = read[schemaRights](ctx, g.server, "reading rights on schemas", schemaRightsSQL, granted); err != nil {
		return err
	}
	if g.server.Side() == pg.Old {
		g.forced, err = readValues[string](ctx, g.server, "reading row-level security", forcedTablesSQL)
	}
	return err
}

// lookPublic finds the owners of objects in schema public of old who may not
// create there on new; see publicSchema.
func (g *grantSide) lookPublic(ctx context.Context, old *pg.Server) ([]string, error) {
	owners, err := readValues[string](ctx, old, "looking into schema public", publicOwnersSQL)
	if err != nil || len(owners) == 0 {
		return nil, err
	}
	granted := []string{g.facts.Owner}
	for _, o := range g.grantable() {
		granted = append(granted, o.Name)
	}
	return readValues[string](ctx, g.server, "reading rights on schema public", publicClosedSQL, owners, granted)
}

// lookExtensions finds the extensions of old that have to be made on new, and that
// the tool's role cannot make.
func (g *grantSide) lookExtensions(ctx context.Context, old *pg.Server) error {
	installed, err := read[placedExtension](ctx, old, "reading extensions", placedExtensionsSQL)
	if err != nil || len(installed) == 0 {
		return err
	}
	names := make([]string, len(installed))
	for i, e := range installed {
		names[i] = e.Name
	}
	sql := availableSQL
	if g.server.Major() < 13 {
		sql = available10SQL
	}
	available, err := read[availableRow](ctx, g.server, "reading the extensions it offers", sql, names)
	if err != nil {
		return err
	}
	for _, a := range available {
		if !a.Superuser || a.Installed != "" {
			continue
		}
		at := slices.IndexFunc(installed, func(e placedExtension) bool { return e.Name == a.Name })
		if s := installed[at].Schema; s == "public" || s == "pg_catalog" {
			g.extensions = append(g.extensions, a.Name)
		} else {
			g.elsewhere = append(g.elsewhere, fmt.Sprintf("%s in schema %s", quote(a.Name), quote(s)))
		}
	}
	return nil
}

// placedExtensionsSQL lists the extensions of old with their schemas.
const placedExtensionsSQL = `
select e.extname::text as name, n.nspname::text as schema
  from pg_extension e
  join pg_namespace n on n.oid = e.extnamespace
 where e.extname <> 'plpgsql'
 order by e.extname`

type placedExtension struct{ Name, Schema string }

// grantable are the owners whose rights the role is given: not its own, not a
// superuser's (who has them could become superuser), and not those of a provider.
func (g *grantSide) grantable() []objectOwner {
	return slices.DeleteFunc(slices.Clone(g.owners), func(o objectOwner) bool {
		return o.Name == g.role || unlendable(o.Name, o.Super)
	})
}
