package warmup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// extendedObject is an object of CREATE STATISTICS that ANALYZE fills, and what
// there is of it.
type extendedObject struct {
	Relation uint32
	Name     string // quoted and qualified
	Own      bool   // something was gathered from the table's own rows
	Tree     bool   // something was gathered from the rows of the tree
}

// missing tells that the table has statistics and this object has none. A table
// without any is named for that.
func (o extendedObject) missing(r *relation, version int) bool {
	switch {
	case r.Kind == PartitionedTable:
		return r.Inherited && !o.Tree
	case r.Own && !o.Own:
		return true
	}
	// Up to 14, a parent that is no partitioned table has only its own.
	return version >= 150000 && r.Inherited && !o.Tree
}

// Which objects can be judged: those that ANALYZE fills (no statistics target of
// 0 of the object or of one of its columns), on tables whose extended statistics
// this role sees in pg_stats_ext. That view shows them to the owner or, in
// releases before the August of 2024, to who may read the columns.

// extendedSQL is for 15 and later, where ANALYZE makes a row for each object,
// even when there is nothing to be said.
// Postgres manual: 52.2, pg_stats_ext.
const extendedSQL = `
with filled as (
    select v.statistics_schemaname, v.statistics_name,
           bool_or(not v.inherited) as own, bool_or(v.inherited) as tree
      from pg_stats_ext v
     group by v.statistics_schemaname, v.statistics_name
)
select s.stxrelid, format('%I.%I', n.nspname, s.stxname),
       coalesce(filled.own, false), coalesce(filled.tree, false)
  from pg_statistic_ext s
  join pg_class c on c.oid = s.stxrelid
  join pg_namespace n on n.oid = s.stxnamespace
  left join filled on filled.statistics_schemaname = n.nspname and filled.statistics_name = s.stxname
 where coalesce(s.stxstattarget, -1) <> 0
   and pg_has_role(c.relowner, 'USAGE') and has_table_privilege(c.oid, 'SELECT') and not row_security_active(c.oid)
   and not exists (select 1 from pg_attribute a
                    where a.attrelid = s.stxrelid and a.attnum = any(s.stxkeys) and coalesce(a.attstattarget, -1) = 0)
 order by s.stxrelid, n.nspname, s.stxname`

// extended12SQL is for 12 to 14. There CREATE STATISTICS itself makes the row, and
// only the counts of distinct values (kind d) are always something: an object
// without them is judged by nothing.
const extended12SQL = `
select s.stxrelid, format('%I.%I', n.nspname, s.stxname),
       v.n_distinct is not null, v.n_distinct is not null
  from pg_statistic_ext s
  join pg_class c on c.oid = s.stxrelid
  join pg_namespace n on n.oid = s.stxnamespace
  join pg_stats_ext v on v.statistics_schemaname = n.nspname and v.statistics_name = s.stxname
 where 'd' = any(s.stxkind)
   and coalesce((to_jsonb(s)->>'stxstattarget')::int, -1) <> 0
   and not exists (select 1 from pg_attribute a
                    where a.attrelid = s.stxrelid and a.attnum = any(s.stxkeys) and a.attstattarget = 0)
 order by s.stxrelid, n.nspname, s.stxname`

// extended10SQL is for 10 and 11, whose catalog holds the data itself, for
// everybody to read.
const extended10SQL = `
select s.stxrelid, format('%I.%I', n.nspname, s.stxname),
       s.stxndistinct is not null, s.stxndistinct is not null
  from pg_statistic_ext s
  join pg_namespace n on n.oid = s.stxnamespace
 where 'd' = any(s.stxkind)
   and not exists (select 1 from pg_attribute a
                    where a.attrelid = s.stxrelid and a.attnum = any(s.stxkeys) and a.attstattarget = 0)
 order by s.stxrelid, n.nspname, s.stxname`

// extendedObjects lists the objects that can be judged.
func extendedObjects(ctx context.Context, conn *pgx.Conn, version int) ([]extendedObject, error) {
	sql := extendedSQL
	switch {
	case version < 120000:
		sql = extended10SQL
	case version < 150000:
		sql = extended12SQL
	}
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing extended statistics: %w", err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowToStructByPos[extendedObject])
	if err != nil {
		return nil, fmt.Errorf("listing extended statistics: %w", err)
	}
	return objects, nil
}
