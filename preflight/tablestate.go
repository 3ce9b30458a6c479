package preflight

import (
	"context"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// statement is something that was seen, with the SQL that mends it.
type statement struct {
	Schema, Table string
	Name          string
	SQL           string `db:"sql"`
}

// collectStatements makes one finding of what is in scope: what was seen as a
// list, and the statements one below the other.
func collectStatements(p *Pair, rows []statement, what string, f Finding) []Finding {
	var names, fixes []string
	for _, r := range rows {
		if p.Scope.Match(r.Schema, r.Table) {
			names, fixes = append(names, r.Name), append(fixes, r.SQL)
		}
	}
	if len(names) == 0 {
		return nil
	}
	f.Server, f.Seen = string(pg.Old), strings.Replace(plural(len(names), what), "indexs", "indexes", 1)+": "+list(names)
	f.Fix, f.FixKind = f.Fix+strings.Join(fixes, "\n"), FixSQL
	return []Finding{f}
}

// heldBackSQL lists the constraints that existing rows were not held to.
const heldBackSQL = `
select n.nspname::text as schema, c.relname::text as table, format('%I on %I.%I', k.conname, n.nspname, c.relname) as name,
       format('ALTER TABLE %I.%I VALIDATE CONSTRAINT %I;', n.nspname, c.relname, k.conname) as sql
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where not k.convalidated and coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname, k.conname`

// validateAll is a fix that stays short however many constraints there are.
const validateAll = `-- if they are meant to hold (stops at the first that a row breaks):
SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname)
  FROM pg_constraint WHERE NOT convalidated AND conrelid <> 0 \gexec`

// checkNotValid lists constraints NOT VALID. Postgres manual: ALTER TABLE.
func checkNotValid(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[statement](ctx, p.Old, "looking for constraints NOT VALID", heldBackSQL)
	found := collectStatements(p, rows, "constraint", Finding{
		ID: "tables.not-valid", Severity: Note, Object: "constraints NOT VALID",
		Why: "They are made NOT VALID on the new server too, after the copy: rows that break them arrive as they are.",
		Fix: "-- if they are meant to hold (refused when a row breaks one):\n",
	})
	if len(found) > 0 && len(rows) > listed {
		found[0].Fix = validateAll
	}
	return found, err
}

// invalidIndexSQL lists indexes that a failed CREATE INDEX CONCURRENTLY left.
// Those of partitioned tables wait for their parts, which is something else.
const invalidIndexSQL = `
select n.nspname::text as schema, c.relname::text as table, format('%I.%I on %I', n.nspname, x.relname, c.relname) as name,
       format('DROP INDEX CONCURRENTLY %I.%I;', n.nspname, x.relname) as sql
  from pg_index i
  join pg_class x on x.oid = i.indexrelid
  join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = x.relnamespace
 where not i.indisvalid and x.relkind = 'i' and i.indexrelid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_constraint k where k.conindid = x.oid)
   and not exists (select 1 from pg_inherits h where h.inhrelid = x.oid)
   and not exists (select 1 from pg_stat_activity a where a.query ~* '^\s*(create|reindex).*concurrently')
 order by n.nspname, x.relname`

// checkInvalidIndexes lists indexes that are not usable: pg_dump leaves them out.
func checkInvalidIndexes(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[statement](ctx, p.Old, "looking for invalid indexes", invalidIndexSQL)
	return collectStatements(p, rows, "index", Finding{
		ID: "tables.invalid-index", Severity: Note, Object: "invalid indexes",
		Why: "A CREATE INDEX CONCURRENTLY that failed has left them: no query uses them, and pg_dump does not carry them.",
		Fix: "-- or, to have them: REINDEX INDEX ...;\n",
	}), err
}

// inheritedNotNullSQL lists columns of inherited tables that accept nulls though
// their parent's do not. An inherited NOT NULL can be dropped before 18 only.
const inheritedNotNullSQL = `
select n.nspname::text as schema, c.relname::text as table, format('%I of %I.%I', a.attname, n.nspname, c.relname) as name,
       format('ALTER TABLE ONLY %I.%I ALTER COLUMN %I SET NOT NULL;', n.nspname, c.relname, a.attname) as sql
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute pa on pa.attrelid = i.inhparent and pa.attnum > 0 and not pa.attisdropped and pa.attnotnull
  join pg_attribute a on a.attrelid = c.oid and a.attname = pa.attname and not a.attisdropped and not a.attnotnull
 where c.relkind = 'r' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_constraint k
                    where k.conrelid = i.inhparent and k.contype = 'n' and k.connoinherit and k.conkey = array[pa.attnum])
 order by n.nspname, c.relname, a.attnum`

// checkInheritedNotNull finds columns that are NOT NULL on the new server only:
// CREATE TABLE ... INHERITS gives them what somebody took away (measured 13 to 17
// and 15 to 18).
func checkInheritedNotNull(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[statement](ctx, p.Old, "comparing inherited columns", inheritedNotNullSQL)
	return collectStatements(p, rows, "column", Finding{
		ID: "tables.inherited-not-null", Severity: Blocker, Object: "inherited columns",
		Why: "The parent's column is NOT NULL, theirs is not. The restored tables inherit NOT NULL: the schemas differ, and a row with a null stops the copy or the stream.",
		Fix: "-- refused when a row has a null there: then fill it, or ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL on the parent\n",
	}), err
}

// nameTypesSQL lists columns of the types whose values are names of objects.
// Postgres manual: 8.19, Object Identifier Types.
const nameTypesSQL = `
select n.nspname::text as schema, c.relname::text as table, format('%I %s of %I.%I', a.attname, format_type(a.atttypid, null), n.nspname, c.relname) as name,
       '' as sql
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_type t on a.atttypid in (t.oid, t.typarray)
 where t.typnamespace = 'pg_catalog'::regnamespace and t.typname ~ '^reg[a-z]+$' and c.relkind = 'r' and c.oid >= 16384
   and a.attnum > 0 and not a.attisdropped
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname, a.attnum`

// checkNameTypes finds columns whose values name objects. They travel as names,
// and the stream stops at one of an object that new has not (measured 15 to 18).
func checkNameTypes(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[statement](ctx, p.Old, "looking for columns that name objects", nameTypesSQL)
	found := collectStatements(p, rows, "column", Finding{
		ID: "types.reg", Severity: Note, Object: "columns of regclass and its kin",
		Why: "Their values travel as names: one that names an object which the new server has not, made during the move or a role, stops the copy or the stream.",
	})
	for i := range found {
		found[i].Fix, found[i].FixKind = "make what they name on both servers, or keep the names in a text column", FixAction
	}
	return found, err
}
