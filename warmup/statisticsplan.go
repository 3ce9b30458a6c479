package warmup

import "fmt"

// carrySQL makes, on the source, one statement for each row of pg_stats of the
// application tables. It leaves out what a person cannot see at once to be safe:
// types that are not the server's own, and the order of what depends on a
// collation or on object identifiers. %[1]s are the range columns.
const carrySQL = `
select format('select pg_catalog.pg_restore_attribute_stats(''version'', %%s, ''schemaname'', %%L, ''relname'', %%L, ''attname'', %%L::text, '
           || '''attnum'', %%s::smallint, ''inherited'', %%L::boolean, ''null_frac'', %%L::real, ''avg_width'', %%L::int, ''n_distinct'', %%L::real, '
           || '''most_common_vals'', %%L::text, ''most_common_freqs'', %%L::real[], ''histogram_bounds'', %%L::text, ''correlation'', %%L::real, '
           || '''most_common_elems'', %%L::text, ''most_common_elem_freqs'', %%L::real[], ''elem_count_histogram'', %%L::real[], '
           || '''range_length_histogram'', %%L::text, ''range_empty_frac'', %%L::real, ''range_bounds_histogram'', %%L::text)',
              current_setting('server_version_num'), s.schemaname, s.tablename,
              case when c.relkind <> 'i' then s.attname end, coalesce(case when c.relkind = 'i' then a.attnum::text end, 'null'),
              s.inherited, s.null_frac, s.avg_width, s.n_distinct,
              case when o.same then s.most_common_vals::text end, case when o.same then s.most_common_freqs::text end,
              case when o.sorted then s.histogram_bounds::text end, case when o.sorted then s.correlation end,
              case when o.sorted then s.most_common_elems::text end, case when o.sorted then s.most_common_elem_freqs::text end,
              case when o.sorted then s.elem_count_histogram::text end,
              %[1]s)
  from pg_stats s
  join pg_namespace n on n.nspname = s.schemaname
  join pg_class c on c.relnamespace = n.oid and c.relname = s.tablename
  join pg_attribute a on a.attrelid = c.oid and a.attname = s.attname
  join pg_type t on t.oid = a.atttypid
  left join pg_index i on i.indexrelid = c.oid
 cross join lateral (select t.oid < 10000 and t.typname <> 'money' as same,
                            t.oid < 10000 and t.typname !~ '^_?(money|reg|jsonb)'
                              and (a.attcollation = 0 or t.typname = 'name') as sorted) o
 where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and n.nspname not like 'pg\_temp\_%%'
   and (i.indexrelid is null or i.indkey[a.attnum - 1] = 0)
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = coalesce(i.indrelid, c.oid) and d.deptype = 'e')
 order by s.schemaname, s.tablename, a.attnum`

// CarrySQL is for doing by hand what CarryStatistics does, in short: it answers,
// on a source of that version, a statement a row for the target.
func CarrySQL(version int) string {
	ranges := `null::text, null::real, null::text`
	if version >= 170000 {
		ranges = `case when o.same then s.range_length_histogram::text end, case when o.same then s.range_empty_frac end,
              case when o.same then s.range_bounds_histogram::text end`
	}
	return fmt.Sprintf(carrySQL, ranges)
}
