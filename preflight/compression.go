package preflight

import (
	"context"
)

// compressedSQL lists columns whose long values are to be compressed by LZ4 (14
// and later).
const compressedSQL = `
select n.nspname::text as schema, c.relname::text as table, format('%I of %I.%I', a.attname, n.nspname, c.relname) as name,
       format('ALTER TABLE %I.%I ALTER COLUMN %I SET COMPRESSION pglz;', n.nspname, c.relname, a.attname) as sql
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
 where a.attcompression = 'l' and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'm') and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname, a.attnum`

// compressionsSQL tells whether a server was built with LZ4; before 14 it has no
// such setting.
const compressionsSQL = `
select coalesce(bool_or('lz4' = any (enumvals)), false) from pg_settings where name = 'default_toast_compression'`

// checkCompression finds columns that a server built without LZ4 cannot make
// (measured 15 to 18). Postgres manual: CREATE TABLE, COMPRESSION.
func checkCompression(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() < 14 {
		return nil, nil
	}
	has, err := readValues[bool](ctx, p.New, "reading how it can compress", compressionsSQL)
	if err != nil || has[0] {
		return nil, err
	}
	rows, err := read[statement](ctx, p.Old, "looking for compressed columns", compressedSQL)
	return collectStatements(p, rows, "column", Finding{
		ID: "tables.compression", Severity: Blocker, Object: "columns with COMPRESSION lz4",
		Why: "The new server was built without LZ4 and does not make such columns.",
		Fix: "-- or build the new server with LZ4; rewrites nothing, only new values are compressed otherwise:\n",
	}), err
}
