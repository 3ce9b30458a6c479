package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// referencesSQL lists the foreign keys between tables of the application.
const referencesSQL = `
select n.nspname::text as schema, c.relname::text as table, tn.nspname::text as to_schema, t.relname::text as to_table, k.conname::text as name
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = k.confrelid
  join pg_namespace tn on tn.oid = t.relnamespace
 where k.contype = 'f' and k.convalidated and t.relkind = 'r' and c.relpersistence = 'p'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
 order by 1, 2, 5`

type referenceRow struct {
	Schema, Table string
	ToSchema      string `db:"to_schema"`
	ToTable       string `db:"to_table"`
	Name          string
}

// checkOutside finds foreign keys of tables in scope that lead out of it.
func checkOutside(ctx context.Context, p *Pair) ([]Finding, error) {
	if len(p.Scope.Include)+len(p.Scope.Exclude) == 0 {
		return nil, nil
	}
	rows, err := read[referenceRow](ctx, p.Old, "reading foreign keys", referencesSQL)
	var names []string
	for _, r := range rows {
		if p.Scope.Match(r.Schema, r.Table) && !p.Scope.Match(r.ToSchema, r.ToTable) {
			names = append(names, fmt.Sprintf("%s of %s.%s to %s.%s", quote(r.Name), quote(r.Schema), quote(r.Table), quote(r.ToSchema), quote(r.ToTable)))
		}
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return []Finding{{
		ID: "tables.outside-reference", Severity: Blocker, Server: string(pg.Old), Object: "foreign keys",
		Seen: fmt.Sprintf("%s out of what is moved: %s", plural(len(names), "foreign key"), list(names)),
		Why:  "The tables that they lead to arrive empty, so that the foreign keys cannot be made on the new server.",
		Fix:  "move these tables too (tables.include, tables.exclude), or drop the foreign keys", FixKind: FixAction,
	}}, nil
}
