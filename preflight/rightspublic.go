package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// publicOwnersSQL lists who owns what the application has in schema public.
const publicOwnersSQL = `
with objects (owner) as (
  select c.relowner
    from pg_class c
   where c.relnamespace = to_regnamespace('public') and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and c.oid >= 16384
     and not exists (select 1 from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
  union
  select f.proowner
    from pg_proc f
   where f.pronamespace = to_regnamespace('public') and f.oid >= 16384
     and not exists (select 1 from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = f.oid and e.deptype = 'e')
  union
  select t.typowner
    from pg_type t
   where t.typnamespace = to_regnamespace('public') and t.oid >= 16384 and t.typrelid = 0
     and not exists (select 1 from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype in ('e', 'i'))
)
select r.rolname::text
  from objects o
  join pg_roles r on r.oid = o.owner
 order by 1`

// publicClosedSQL returns those of the roles in $1 that may not create in schema
// public, where it belongs to nobody whose rights a role of $2 has: then the
// privileges that old has on it cannot be carried over. A role that is not there
// yet has what everybody has.
const publicClosedSQL = `
select w.name
  from unnest($1::text[]) w (name)
 cross join pg_namespace n
  left join pg_roles r on r.rolname = w.name
 where n.nspname = 'public'
   and not exists (select 1 from pg_roles g where g.rolname = any ($2::text[]) and pg_has_role(g.oid, n.nspowner, 'usage'))
   and not case when r.oid is null then has_schema_privilege('public', n.oid, 'create')
                else has_schema_privilege(r.oid, n.oid, 'create') end
 order by 1`

// publicSchema finds who may make nothing in schema public of new, and has
// objects there on old: the tool, which makes them, and their owners, to whom it
// gives them. On 15 and later the schema is the database owner's, who passes
// privileges on, where no template says otherwise (Azure's gives it to
// azure_pg_admin).
func publicSchema(ctx context.Context, p *Pair, s *pg.Server, have roleFacts) ([]Finding, error) {
	if s.Side() != pg.New || have.Public == nil {
		return nil, nil
	}
	owners, err := readValues[string](ctx, p.Old, "looking into schema public", publicOwnersSQL)
	if err != nil || len(owners) == 0 {
		return nil, err
	}
	closed, err := readValues[string](ctx, s, "reading rights on schema public", publicClosedSQL, owners, []string{s.User()})
	if err != nil {
		return nil, err
	}
	if !*have.Public {
		closed = append([]string{s.User()}, closed...)
	}
	var found []Finding
	for _, role := range closed {
		f := Finding{
			ID: "rights.public-schema", Severity: Blocker, Server: string(s.Side()), Object: "schema public, role " + quote(role),
			Seen: "no CREATE for " + quote(role),
			Why:  "It owns objects there on old, which are given to it on new; that takes its right to create.",
			Fix:  fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA public TO %s;", quote(role)), FixKind: FixSQL,
		}
		if role == s.User() {
			f.Why = "The database has objects in it, which are made there on new."
		}
		found = append(found, f)
	}
	return found, nil
}
