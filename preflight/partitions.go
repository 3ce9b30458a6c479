package preflight

import (
	"context"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// hashEnumSQL lists the tables partitioned by the hash of an enum (11 and later),
// or of a domain over one, an array or a composite of them.
const hashEnumSQL = `
select n.nspname::text as schema, c.relname::text as table,
       array_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) order by a.attnum) as columns
  from pg_partitioned_table p
  join pg_class c on c.oid = p.partrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum = any (p.partattrs::int2[])
  join pg_type t on t.oid = a.atttypid
 where p.partstrat = 'h' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and (t.typtype = 'e'
        or exists (select 1 from pg_type b where b.oid in (t.typbasetype, t.typelem) and b.typtype = 'e')
        or exists (select 1 from pg_attribute m
                     join pg_type b on b.oid = m.atttypid
                    where t.typtype = 'c' and m.attrelid = t.typrelid and m.attnum > 0 and b.typtype = 'e'))
 group by n.nspname, c.relname
 order by 1, 2`

type hashEnumRow struct {
	Schema, Table string
	Columns       []string
}

// checkHashPartitions finds tables whose rows belong into other partitions on
// the new server: an enum is hashed by the OIDs of its labels, which differ
// (measured 13 to 17 and 15 to 18).
func checkHashPartitions(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() < 11 {
		return nil, nil
	}
	rows, err := read[hashEnumRow](ctx, p.Old, "reading partition keys", hashEnumSQL)
	var found []Finding
	for _, r := range rows {
		if !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		found = append(found, Finding{
			ID: "tables.hash-enum", Severity: Blocker, Server: string(pg.Old), Object: quote(r.Schema) + "." + quote(r.Table),
			Seen: "partitioned by the hash of " + list(r.Columns),
			Why: "The hash of an enum is that of internal numbers, which the new server gives out anew: rows belong into other partitions there, " +
				"and the stream and the copy, which go partition by partition, are refused.",
			Fix:     "partition it BY LIST of that column or by the hash of another one, or exclude it from the move and carry it with pg_dump --load-via-partition-root",
			FixKind: FixAction,
		})
	}
	return found, err
}

// exclusionSQL lists the exclusion constraints of partitioned tables (17 and
// later) with the statements that give the partitions constraints of their own.
const exclusionSQL = `
select n.nspname::text as schema, c.relname::text as table, k.conname::text as name,
       coalesce((
         select array_agg(format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s;', ln.nspname, l.relname, lk.conname, pg_get_constraintdef(lk.oid))
                          order by ln.nspname, l.relname)
           from pg_partition_tree(c.oid) t
           join pg_class l on l.oid = t.relid
           join pg_namespace ln on ln.oid = l.relnamespace
           join pg_constraint lk on lk.conrelid = l.oid and lk.contype = 'x' and lk.conparentid <> 0
          where t.isleaf and pg_get_constraintdef(lk.oid) = pg_get_constraintdef(k.oid)), '{}') as leaves
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where k.contype = 'x' and k.conparentid = 0 and c.relkind = 'p'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
 order by 1, 2, 3`

type exclusionRow struct {
	Schema, Table, Name string
	Leaves              []string
}

// checkExclusions finds constraints that pg_restore cannot make: it makes those
// of the partitions as constraints of their own and then fails to attach their
// indexes (measured with 18's pg_dump and pg_restore from 17 to 18).
func checkExclusions(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() < 17 {
		return nil, nil
	}
	rows, err := read[exclusionRow](ctx, p.Old, "reading exclusion constraints", exclusionSQL)
	var found []Finding
	for _, r := range rows {
		table := quote(r.Schema) + "." + quote(r.Table)
		fix := append([]string{
			"-- the same promise, kept by each partition for itself; locks the table while it builds the indexes:",
			"BEGIN;", "ALTER TABLE " + table + " DROP CONSTRAINT " + quote(r.Name) + ";",
		}, r.Leaves...)
		found = append(found, Finding{
			ID: "tables.partitioned-exclusion", Severity: Blocker, Server: string(pg.Old), Object: "constraint " + quote(r.Name) + " on " + table,
			Seen: "an exclusion constraint on a partitioned table",
			Why:  "pg_restore cannot make it on the new server (cannot attach index ... as a partition of index ...), and the schema stays incomplete.",
			Fix:  strings.Join(append(fix, "COMMIT;"), "\n"), FixKind: FixSQL,
		})
	}
	return found, err
}
