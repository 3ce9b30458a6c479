package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// extensionTablesSQL lists the tables of extensions whose owner's rights the
// tool's role has not, by extension.
const extensionTablesSQL = `
select e.extname::text as extension, pg_get_userbyid(min(c.relowner::bigint)::oid)::text as owner, count(*)::int as tables,
       (array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname))[1:3] as names
  from pg_depend d
  join pg_extension e on e.oid = d.refobjid
  join pg_class c on c.oid = d.objid
  join pg_namespace n on n.oid = c.relnamespace
 where d.refclassid = 'pg_extension'::regclass and d.classid = 'pg_class'::regclass and d.deptype = 'e'
   and c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not pg_has_role(c.relowner, 'usage')
 group by e.extname
 order by e.extname`

type extensionTables struct {
	Extension string
	Owner     string
	Tables    int
	Names     []string
}

// unfencedTables names what the fence of a server cannot be put on: where a
// provider owns the extensions, nobody else can make a trigger on their tables.
func unfencedTables(ctx context.Context, s *pg.Server) ([]Finding, error) {
	rows, err := read[extensionTables](ctx, s, "reading the tables of extensions", extensionTablesSQL)
	var found []Finding
	for _, r := range rows {
		found = append(found, Finding{
			ID: "rights.extension-table", Severity: Warning, Server: string(s.Side()), Object: "extension " + quote(r.Extension),
			Seen: fmt.Sprintf("%s (%s) of role %s, whose rights %s has not", plural(r.Tables, "table"), some(r.Names, r.Tables), quote(r.Owner), quote(s.User())),
			Why: "The fence cannot be put on them: after the cutover writes to them are refused by the read-only default of the database only, which a client can override. " +
				"Nor are their rows replicated: each server's extension keeps its own.",
			Fix: fmt.Sprintf("if the application writes to them: %s -- or stop it from writing there before the cutover", grantRole(s, r.Owner)), FixKind: FixAction,
		})
	}
	return found, err
}

// largeObjectsSQL counts large objects and their size as of the last VACUUM.
const largeObjectsSQL = `
select (select count(*) from pg_largeobject_metadata) as objects,
       (select relpages::bigint * current_setting('block_size')::bigint
          from pg_class where oid = 'pg_largeobject'::regclass) as size`

type largeObjects struct{ Objects, Size int64 }

// checkLargeObjects looks for large objects, which a cutover copies while writes
// are frozen.
func checkLargeObjects(ctx context.Context, p *Pair) ([]Finding, error) {
	have, err := readOne[largeObjects](ctx, p.Old, "counting large objects", largeObjectsSQL)
	if err != nil || have.Objects == 0 {
		return nil, err
	}
	there, err := readOne[largeObjects](ctx, p.New, "counting large objects", largeObjectsSQL)
	if err != nil {
		return nil, err
	}
	moving, err := p.inFreeze(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	severity, why, fix := moving.largeObjects()
	if p.Old.Major() < 16 {
		why += " No trigger can fence them, and before PostgreSQL 16 the read-only default does not either: after the cutover nothing keeps superusers from writing them on the closed server."
	}
	return []Finding{{
		ID: "not-carried.large-object", Severity: severity, Server: string(p.Old.Side()), Object: "large objects",
		Seen: fmt.Sprintf("%s, about %s, and %d on the %s server", plural(int(have.Objects), "large object"), bytes(have.Size), there.Objects, p.New.Side()),
		Why:  why, Fix: fix, FixKind: FixAction,
	}}, nil
}
