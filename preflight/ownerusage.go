package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// ownerUsageSQL lists the published tables whose owner may not use the schema
// that they are in, which happens when somebody else made the schema.
const ownerUsageSQL = `
select n.nspname::text as schema, c.relname::text as table, r.rolname::text as owner
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_roles r on r.oid = c.relowner
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not has_schema_privilege(r.oid, n.oid, 'usage')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, r.rolname, c.relname`

type ownerUsageRow struct{ Schema, Table, Owner string }

// checkOwnerUsage finds tables whose first copy fails for ever: from 16 on the
// worker becomes the table's owner, and then looks the table up by its name
// (measured 13 to 17 and 15 to 18). The stream itself is not concerned, and so
// the way back is not.
func checkOwnerUsage(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.New.Major() < 16 {
		return nil, nil
	}
	rows, err := read[ownerUsageRow](ctx, p.Old, "reading rights of the tables' owners", ownerUsageSQL)
	type key struct{ schema, owner string }
	tables := map[key][]string{}
	var order []key
	for _, r := range rows {
		if !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		k := key{r.Schema, r.Owner}
		if tables[k] == nil {
			order = append(order, k)
		}
		tables[k] = append(tables[k], quote(r.Schema)+"."+quote(r.Table))
	}
	var found []Finding
	for _, k := range order {
		schema, owner := quote(k.schema), quote(k.owner)
		f := Finding{
			ID: "tables.owner-usage", Severity: Blocker, Server: string(pg.Old), Object: "schema " + schema,
			Seen: fmt.Sprintf("no USAGE for %s, who owns %s in it: %s", owner, plural(len(tables[k]), "table"), list(tables[k])),
			Why: "From 16 on tables are copied in the name of their owner, who must reach them: each worker fails with " +
				"\"permission denied for schema\", and the copy never ends. Rights come to the new server with the schema.",
		}.mended(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", schema, owner))
		// Without the grant nothing gave the role USAGE, PUBLIC and memberships
		// included, so that this takes nothing that was there.
		f.Undo = fmt.Sprintf("REVOKE USAGE ON SCHEMA %s FROM %s;", schema, owner)
		found = append(found, f)
	}
	return found, err
}
