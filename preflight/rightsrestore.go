package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// checkRestoreRights finds what of old's schema a role that is no superuser
// cannot make on new, and the tables on old whose owner's rights it cannot have.
func checkRestoreRights(ctx context.Context, p *Pair) ([]Finding, error) {
	old, err := readRole(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	new, err := readRole(ctx, p.New)
	if err != nil || old.Super && new.Super {
		return nil, err
	}
	found, err := superuserOwners(ctx, p, old, new)
	if err != nil || new.Super {
		return found, err
	}
	creates, err := restoreCreate(ctx, p)
	return append(found, creates...), err
}

// ownedObjectsSQL lists the objects whose owners are in $1, as ALTER names
// them: relations, schemas, functions and types; the indexes, sequences and types
// that go with others go with them.
const ownedObjectsSQL = `
with objects (class, oid, owner) as (
  select 'pg_class'::regclass, c.oid, c.relowner
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and c.relpersistence <> 't' and c.oid >= 16384
     and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid
                        and (e.deptype = 'e' or c.relkind = 'S' and e.deptype in ('a', 'i') and e.refclassid = 'pg_class'::regclass))
  union all
  select 'pg_namespace'::regclass, n.oid, n.nspowner
    from pg_namespace n
   where n.oid >= 16384 and n.nspname !~ '^pg_' and n.nspname <> 'pgcutover'
     and not exists (select 1 from pg_depend e where e.classid = 'pg_namespace'::regclass and e.objid = n.oid and e.deptype = 'e')
  union all
  select 'pg_proc'::regclass, f.oid, f.proowner
    from pg_proc f
    join pg_namespace n on n.oid = f.pronamespace
   where f.oid >= 16384 and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = f.oid and e.deptype in ('e', 'i'))
  union all
  select 'pg_type'::regclass, t.oid, t.typowner
    from pg_type t
    join pg_namespace n on n.oid = t.typnamespace
   where t.oid >= 16384 and t.typrelid = 0 and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
     and not exists (select 1 from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype in ('e', 'i'))
)
select pg_get_userbyid(o.owner)::text as owner, i.type || ' ' || i.identity as object
  from objects o
 cross join lateral pg_identify_object(o.class, o.oid, 0) i
 where pg_get_userbyid(o.owner) = any ($1::text[])
 order by 1, 2`

type ownedObject struct{ Owner, Object string }

// superuserOwners finds the objects of superusers, and of a provider's own roles:
// whoever is no superuser can neither make anything in their name on new, nor put
// the fence on their tables.
func superuserOwners(ctx context.Context, p *Pair, old, new roleFacts) ([]Finding, error) {
	owners, err := read[objectOwner](ctx, p.Old, "reading who owns the objects", objectOwnersSQL)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range owners {
		if unlendable(o.Name, o.Super) && (!new.Super || o.Tables) {
			names = append(names, o.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	objects, err := read[ownedObject](ctx, p.Old, "reading what superusers own", ownedObjectsSQL, names)
	if err != nil {
		return nil, err
	}
	if new.Super {
		objects = slices.DeleteFunc(objects, func(o ownedObject) bool { return !strings.HasPrefix(o.Object, "table ") })
	}
	var found []Finding
	for _, name := range names {
		found = append(found, superuserFinding(p, name, objects, old))
	}
	return found, nil
}

func superuserFinding(p *Pair, owner string, objects []ownedObject, database roleFacts) Finding {
	to, kind := quote(database.Owner), FixSQL
	if unlendable(database.Owner, database.OwnerSuper) {
		to, kind = "<a role that is no superuser>", FixAction
	}
	var names, fixes []string
	for _, o := range objects {
		if o.Owner == owner {
			names = append(names, o.Object)
			fixes = append(fixes, fmt.Sprintf("ALTER %s OWNER TO %s;", alterable(o.Object), to))
		}
	}
	f := Finding{
		ID: "rights.superuser-owner", Severity: Blocker, Server: string(pg.Old), Object: "role " + quote(owner),
		Seen: fmt.Sprintf("owns %s (%s), and is a superuser or the provider's", plural(len(names), "object"), list(names)),
		Why: fmt.Sprintf("Who is no superuser (%s on old, %s on new) can neither put the fence on its tables nor make objects in its name on new, and its rights cannot be lent: a member could become superuser.",
			quote(p.Old.User()), quote(p.New.User())),
		Fix: strings.Join(fixes, "\n"), FixKind: kind,
	}
	if len(fixes) == 0 { // of a kind that is not listed one by one
		f.Seen = "owns objects, and is a superuser or the provider's"
		f.Fix, f.FixKind = "give them to another role: ALTER ... OWNER TO ...", FixAction
	}
	return f
}

// alterable is how ALTER names what pg_identify_object calls otherwise.
func alterable(object string) string {
	if rest, ok := strings.CutPrefix(object, "composite type "); ok {
		return "type " + rest
	}
	return object
}

// restoreCreateSQL lists the owners who may not create in the schema of their own
// objects: ALTER ... OWNER TO asks for that right, of everybody but a superuser,
// and privileges on schemas are carried over as they are.
// Postgres manual: ALTER TABLE, Notes.
const restoreCreateSQL = `
with objects (namespace, owner) as (
  select c.relnamespace, c.relowner
    from pg_class c
   where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c') and c.relpersistence <> 't' and c.oid >= 16384
     and not exists (select 1 from pg_depend e where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
  union
  select f.pronamespace, f.proowner
    from pg_proc f
   where f.oid >= 16384
     and not exists (select 1 from pg_depend e where e.classid = 'pg_proc'::regclass and e.objid = f.oid and e.deptype = 'e')
  union
  select t.typnamespace, t.typowner
    from pg_type t
   where t.oid >= 16384 and t.typrelid = 0
     and not exists (select 1 from pg_depend e where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype in ('e', 'i'))
)
select n.nspname::text as schema, r.rolname::text as owner
  from objects o
  join pg_namespace n on n.oid = o.namespace
  join pg_roles r on r.oid = o.owner
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not r.rolsuper and not has_schema_privilege(r.oid, n.oid, 'create')
 order by 1, 2`

type schemaOwner struct{ Schema, Owner string }

func restoreCreate(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[schemaOwner](ctx, p.Old, "reading rights on schemas", restoreCreateSQL)
	var found []Finding
	for _, r := range rows {
		if unlendable(r.Owner, false) {
			continue
		}
		on := fmt.Sprintf("CREATE ON SCHEMA %s", quote(r.Schema))
		found = append(found, Finding{
			ID: "rights.restore-create", Severity: Blocker, Server: string(pg.Old), Object: "role " + quote(r.Owner),
			Seen: "owns objects in schema " + quote(r.Schema) + ", and may not create there",
			Why:  "Without a superuser on new, objects can be given to a role only where it may create. Privileges on schemas are carried over as they are on old.",
			Fix:  fmt.Sprintf("GRANT %s TO %s;", on, quote(r.Owner)), FixKind: FixSQL,
		})
	}
	return found, err
}
