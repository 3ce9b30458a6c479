package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// partitionIdentitySQL lists the columns of partitions that are identity columns
// of their own, or have a default of their own below an identity column. sequence
// is the one behind an identity, settings what makes it anew. inserters are the
// roles that may insert, and need no right on that sequence. (10 to 16; 10 has no
// pg_partition_ancestors.)
const partitionIdentitySQL = `
with recursive above (partition, ancestor) as (
  select i.inhrelid, i.inhparent
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid and c.relispartition
  union all
  select a.partition, i.inhparent
    from above a
    join pg_class c on c.oid = a.ancestor and c.relispartition
    join pg_inherits i on i.inhrelid = a.ancestor
)
select n.nspname::text as schema, c.relname::text as table, a.attname::text as column, a.attidentity <> '' as identity,
       inherited.is as inherited,
       coalesce((
         select array[format('%I.%I', sn.nspname, s.relname),
                      format('AS %s START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s', format_type(q.seqtypid, null),
                             q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, case when q.seqcycle then ' CYCLE' else '' end)]
           from pg_depend d
           join pg_sequence q on q.seqrelid = d.objid
           join pg_class s on s.oid = d.objid
           join pg_namespace sn on sn.oid = s.relnamespace
          where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
            and d.refobjid = c.oid and d.refobjsubid = a.attnum and d.deptype = 'i'), '{}') as sequence,
       coalesce((
         select array_agg(distinct case when g.grantee = 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(g.grantee)) end)
           from (select x.grantee, x.privilege_type from aclexplode(c.relacl) x
                 union all
                 select x.grantee, x.privilege_type from pg_attribute b, aclexplode(b.attacl) x where b.attrelid = c.oid) g
          where g.privilege_type = 'INSERT' and g.grantee <> c.relowner), '{}') as inserters,
       quote_ident(pg_get_userbyid(c.relowner)) as owner
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 cross join lateral (
   select exists (select from above u
                    join pg_attribute p on p.attrelid = u.ancestor and p.attname = a.attname and p.attidentity <> ''
                   where u.partition = c.oid) as is
 ) inherited
 where c.relispartition and c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and (a.attidentity <> ''
        or inherited.is
           and exists (select 1 from pg_attrdef f
                         join pg_depend u on u.classid = 'pg_attrdef'::regclass and u.objid = f.oid and u.refclassid = 'pg_class'::regclass
                         join pg_depend o on o.classid = 'pg_class'::regclass and o.objid = u.refobjid and o.deptype = 'a'
                                         and o.refclassid = 'pg_class'::regclass and o.refobjid = c.oid and o.refobjsubid > 0
                        where f.adrelid = c.oid and f.adnum = a.attnum))
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname, a.attnum`

type partitionIdentityRow struct {
	Schema, Table, Column string
	Identity              bool
	Inherited             bool     // a table that it is a partition of has an identity column there
	Sequence              []string // its name and settings
	Inserters             []string
	Owner                 string
}

// checkPartitionIdentity finds partitions that 17 and later do not take: there a
// partition has the identity columns of its parent, and none of its own
// (measured 13 to 17 and 15 to 18).
func checkPartitionIdentity(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() >= 17 || p.New.Major() < 17 {
		return nil, nil
	}
	rows, err := read[partitionIdentityRow](ctx, p.Old, "looking for identity columns of partitions", partitionIdentitySQL)
	var found []Finding
	for _, r := range rows {
		table, column := quote(r.Schema)+"."+quote(r.Table), quote(r.Column)
		f := Finding{
			ID: "tables.partition-identity", Severity: Blocker, Server: string(pg.Old), Object: table,
			Seen: fmt.Sprintf("a partition whose column %s is an identity column of its own", column),
			Why:  "From 17 on a partition has its parent's identity columns and none of its own: pg_restore fails with \"table being attached contains an identity column\", and the partition stays outside of its table.",
		}
		alone := fmt.Sprintf("-- from then on rows must be inserted through the table that it is a partition of, or bring a value\n"+
			"-- for %s; on the new server the column has the identity of that table:\nALTER TABLE ONLY %s ALTER COLUMN %s DROP ", column, table, column)
		switch {
		case !r.Identity:
			f.Seen = fmt.Sprintf("a partition whose column %s takes numbers from a sequence of its own, and is an identity column in the table above", column)
			f.Why = "From 17 on a partition has its parent's identity columns, and an identity column takes no default: pg_restore fails with \"is an identity column\"."
			f = f.mended(alone + "DEFAULT;")
		case r.Inherited:
			f = f.mended(alone + "IDENTITY;")
		default:
			f = f.mended(r.defaultInstead(table, column))
		}
		found = append(found, f)
	}
	return found, err
}

// defaultInstead gives the column a default in place of its identity, from a
// sequence of the same name, at the same place. A default asks for a right on the
// sequence, which an identity does not.
func (r partitionIdentityRow) defaultInstead(table, column string) string {
	if len(r.Sequence) != 2 {
		return fmt.Sprintf("ALTER TABLE ONLY %s ALTER COLUMN %s DROP IDENTITY;", table, column)
	}
	sequence, settings := r.Sequence[0], r.Sequence[1]
	lines := []string{
		"-- a default from a sequence that goes on where the identity was; locks the table for a moment:",
		"DO $fix$", "DECLARE", "  last bigint;", "  called boolean;", "BEGIN",
		"  LOCK TABLE ONLY " + table + " IN ACCESS EXCLUSIVE MODE;",
		"  SELECT last_value, is_called INTO last, called FROM " + sequence + ";",
		fmt.Sprintf("  ALTER TABLE ONLY %s ALTER COLUMN %s DROP IDENTITY;", table, column),
		fmt.Sprintf("  CREATE SEQUENCE %s %s;", sequence, settings),
		fmt.Sprintf("  ALTER SEQUENCE %s OWNER TO %s;", sequence, r.Owner),
		fmt.Sprintf("  ALTER SEQUENCE %s OWNED BY %s.%s;", sequence, table, column),
		fmt.Sprintf("  PERFORM setval(%s, last, called);", literal(sequence)),
		fmt.Sprintf("  ALTER TABLE ONLY %s ALTER COLUMN %s SET DEFAULT nextval(%s);", table, column, literal(sequence)),
	}
	if len(r.Inserters) > 0 {
		lines = append(lines, fmt.Sprintf("  GRANT USAGE ON SEQUENCE %s TO %s;", sequence, strings.Join(r.Inserters, ", ")))
	}
	return strings.Join(append(lines, "END", "$fix$;"), "\n")
}
