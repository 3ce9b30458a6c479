package schema

// The queries of the fingerprint that read what stands on tables: indexes,
// constraints, triggers. Each returns kind, identity, section, definition,
// expression, the table, and what the object inherits from.

// indexesSQL10 is for 10, which knows neither INCLUDE nor partitioned indexes.
const indexesSQL10 = `
select 'index',
       format('%I.%I', n.nspname, x.relname),
       case when i.indisprimary or i.indisreplident then 'identity' else 'post-data' end,
       concat_ws(' ',
           case when i.indisunique then 'unique' end,
           case when not i.indimmediate then 'deferrable' end,
           'on', i.indrelid::regclass, 'using', m.amname,
           (select format('(%s)', string_agg(
                       coalesce(quote_ident(a.attname), '(expression)')
                       || case when k.ord <= i.indnatts and o.option & 1 = 1 then ' desc' else '' end
                       || case when k.ord <= i.indnatts and o.option & 2 = 2 then ' nulls first' else '' end,
                       ', ' order by k.ord))
              from unnest(i.indkey::int2[]) with ordinality k (attnum, ord)
              left join unnest(i.indoption::int2[]) with ordinality o (option, ord) on o.ord = k.ord
              left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum),
           case when i.indpred is not null then 'where' end,
           case when i.indisclustered then 'clustered' end),
       pg_get_indexdef(x.oid),
       (select format('%I.%I', tn.nspname, tc.relname)
          from pg_class tc
          join pg_namespace tn on tn.oid = tc.relnamespace
         where tc.oid = i.indrelid),
       coalesce((select format('%I.%I', hn.nspname, hc.relname)
                   from pg_inherits h
                   join pg_class hc on hc.oid = h.inhparent
                   join pg_namespace hn on hn.oid = hc.relnamespace
                  where h.inhrelid = x.oid), '')
  from pg_index i
  join pg_class x on x.oid = i.indexrelid
  join pg_namespace n on n.oid = x.relnamespace
  join pg_am m on m.oid = x.relam
 where i.indisvalid
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = i.indrelid and e.deptype = 'e')`

// indexesSQL11 tells key columns from included ones. A partitioned index counts
// when invalid too: pg_dump moves it.
const indexesSQL11 = `
select 'index',
       format('%I.%I', n.nspname, x.relname),
       case when i.indisprimary or i.indisreplident then 'identity' else 'post-data' end,
       concat_ws(' ',
           case when i.indisunique then 'unique' end,
           case when not i.indimmediate then 'deferrable' end,
           'on', i.indrelid::regclass, 'using', m.amname,
           (select format('(%s)', string_agg(
                       coalesce(quote_ident(a.attname), '(expression)')
                       || case when o.option & 1 = 1 then ' desc' else '' end
                       || case when o.option & 2 = 2 then ' nulls first' else '' end,
                       ', ' order by k.ord) filter (where k.ord <= i.indnkeyatts))
                   || coalesce(' include (' || string_agg(
                       quote_ident(a.attname), ', ' order by k.ord) filter (where k.ord > i.indnkeyatts) || ')', '')
              from unnest(i.indkey::int2[]) with ordinality k (attnum, ord)
              left join unnest(i.indoption::int2[]) with ordinality o (option, ord) on o.ord = k.ord
              left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum),
           case when i.indpred is not null then 'where' end,
           case when i.indisclustered then 'clustered' end,
           case when not i.indisvalid then 'invalid' end),
       pg_get_indexdef(x.oid),
       (select format('%I.%I', tn.nspname, tc.relname)
          from pg_class tc
          join pg_namespace tn on tn.oid = tc.relnamespace
         where tc.oid = i.indrelid),
       coalesce((select format('%I.%I', hn.nspname, hc.relname)
                   from pg_inherits h
                   join pg_class hc on hc.oid = h.inhparent
                   join pg_namespace hn on hn.oid = hc.relnamespace
                  where h.inhrelid = x.oid), '')
  from pg_index i
  join pg_class x on x.oid = i.indexrelid
  join pg_namespace n on n.oid = x.relnamespace
  join pg_am m on m.oid = x.relam
 where (i.indisvalid or x.relkind = 'I')
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = i.indrelid and e.deptype = 'e')`

func indexesQuery(major int) string {
	if major < 11 {
		return indexesSQL10
	}
	return indexesSQL11
}

// constraintsSQL10 is for 10, where partitions have no foreign keys from their
// parents. The columns of a check are sorted: their order in the catalog is
// that of the expression. weak: pg_dump leaves a check that is only inherited to
// the parent's, but for partitions; where that is NOT VALID, so is the child's on
// the new server, even if it is validated on the old one. It counts as not valid
// on both.
const constraintsSQL10 = `
select case when k.conrelid <> 0 then 'table constraint' else 'domain constraint' end,
       case when k.conrelid <> 0 then format('%I on %s', k.conname, k.conrelid::regclass)
                                 else format('%I on %s', k.conname, k.contypid::regtype) end,
       case when k.contype = 'p' or coalesce(i.indisreplident, false) then 'identity'
            when k.contype = 'c' and k.convalidated and not w.weak then 'pre-data'
            else 'post-data' end,
       concat_ws(' ',
           case k.contype when 'p' then 'primary key' when 'u' then 'unique' when 'f' then 'foreign key'
                          when 'x' then 'exclude' else 'check' end,
           (select format('(%s)', string_agg(quote_ident(a.attname), ', '
                       order by case when k.contype <> 'c' then u.ord end, a.attname))
              from unnest(k.conkey) with ordinality u (attnum, ord)
              join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
           case when k.contype = 'f' then
               'references ' || k.confrelid::regclass
               || (select format(' (%s)', string_agg(quote_ident(a.attname), ', ' order by u.ord))
                     from unnest(k.confkey) with ordinality u (attnum, ord)
                     join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum)
               || format(' match %s on update %s on delete %s', k.confmatchtype, k.confupdtype, k.confdeltype) end,
           case when k.condeferrable then 'deferrable' end,
           case when k.condeferred then 'deferred' end,
           case when not k.convalidated or w.weak then 'not valid' end),
       case when w.weak then regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')
                        else pg_get_constraintdef(k.oid) end,
       case when k.conrelid <> 0 then (select format('%I.%I', tn.nspname, tc.relname)
                                         from pg_class tc
                                         join pg_namespace tn on tn.oid = tc.relnamespace
                                        where tc.oid = k.conrelid)
                                 else k.contypid::regtype::text end,
       ''
  from pg_constraint k
  join pg_namespace n on n.oid = k.connamespace
  left join pg_index i on i.indexrelid = k.conindid and i.indrelid = k.conrelid and k.contype in ('p', 'u', 'x')
 cross join lateral (
    select case when k.contype <> 'c' or k.conislocal or k.coninhcount = 0
                  or (select c.relispartition from pg_class c where c.oid = k.conrelid) then false else exists (
        with recursive above (oid) as (
            select h.inhparent from pg_inherits h where h.inhrelid = k.conrelid
            union
            select h.inhparent from pg_inherits h join above a on h.inhrelid = a.oid
        )
        select from above a
          join pg_constraint p on p.conrelid = a.oid and p.contype = 'c' and p.conname = k.conname
         where not p.convalidated) end as weak) w
 where k.contype in ('p', 'u', 'f', 'x', 'c')
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.deptype = 'e'
                      and (e.classid = 'pg_class'::regclass and e.objid = k.conrelid
                           or e.classid = 'pg_type'::regclass and e.objid = k.contypid))`

// constraintsSQL11 leaves out the foreign keys that partitions have from their
// parents, and those towards the partitions of a referenced table: each major
// names them differently. NOT NULL is a constraint on 18; here it is the
// column's matter on every major.
const constraintsSQL11 = `
select case when k.conrelid <> 0 then 'table constraint' else 'domain constraint' end,
       case when k.conrelid <> 0 then format('%I on %s', k.conname, k.conrelid::regclass)
                                 else format('%I on %s', k.conname, k.contypid::regtype) end,
       case when k.contype = 'p' or coalesce(i.indisreplident, false) then 'identity'
            when k.contype = 'c' and k.convalidated and not w.weak then 'pre-data'
            else 'post-data' end,
       concat_ws(' ',
           case k.contype when 'p' then 'primary key' when 'u' then 'unique' when 'f' then 'foreign key'
                          when 'x' then 'exclude' else 'check' end,
           (select format('(%s)', string_agg(quote_ident(a.attname), ', '
                       order by case when k.contype <> 'c' then u.ord end, a.attname))
              from unnest(k.conkey) with ordinality u (attnum, ord)
              join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum),
           case when k.contype = 'f' then
               'references ' || k.confrelid::regclass
               || (select format(' (%s)', string_agg(quote_ident(a.attname), ', ' order by u.ord))
                     from unnest(k.confkey) with ordinality u (attnum, ord)
                     join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum)
               || format(' match %s on update %s on delete %s', k.confmatchtype, k.confupdtype, k.confdeltype) end,
           case when k.condeferrable then 'deferrable' end,
           case when k.condeferred then 'deferred' end,
           case when not k.convalidated or w.weak then 'not valid' end),
       case when w.weak then regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '')
                        else pg_get_constraintdef(k.oid) end,
       case when k.conrelid <> 0 then (select format('%I.%I', tn.nspname, tc.relname)
                                         from pg_class tc
                                         join pg_namespace tn on tn.oid = tc.relnamespace
                                        where tc.oid = k.conrelid)
                                 else k.contypid::regtype::text end,
       ''
  from pg_constraint k
  join pg_namespace n on n.oid = k.connamespace
  left join pg_index i on i.indexrelid = k.conindid and i.indrelid = k.conrelid and k.contype in ('p', 'u', 'x')
 cross join lateral (
    select case when k.contype <> 'c' or k.conislocal or k.coninhcount = 0
                  or (select c.relispartition from pg_class c where c.oid = k.conrelid) then false else exists (
        with recursive above (oid) as (
            select h.inhparent from pg_inherits h where h.inhrelid = k.conrelid
            union
            select h.inhparent from pg_inherits h join above a on h.inhrelid = a.oid
        )
        select from above a
          join pg_constraint p on p.conrelid = a.oid and p.contype = 'c' and p.conname = k.conname
         where not p.convalidated) end as weak) w
 where k.contype in ('p', 'u', 'f', 'x', 'c')
   and not (k.contype = 'f' and k.conparentid <> 0)
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.deptype = 'e'
                      and (e.classid = 'pg_class'::regclass and e.objid = k.conrelid
                           or e.classid = 'pg_type'::regclass and e.objid = k.contypid))`

func constraintsQuery(major int) string {
	if major < 11 {
		return constraintsSQL10
	}
	return constraintsSQL11
}

// triggersSQL10 is for 10 to 12, where the triggers that partitions have from
// their parents count as internal.
const triggersSQL10 = `
select 'trigger',
       format('%I on %s', g.tgname, g.tgrelid::regclass),
       'post-data',
       concat_ws(' ',
           case when g.tgtype & 64 = 64 then 'instead of' when g.tgtype & 2 = 2 then 'before' else 'after' end,
           case when g.tgtype & 4 = 4 then 'insert' end,
           case when g.tgtype & 8 = 8 then 'delete' end,
           case when g.tgtype & 16 = 16 then 'update' end,
           case when g.tgtype & 32 = 32 then 'truncate' end,
           case when g.tgtype & 1 = 1 then 'for each row' else 'for each statement' end,
           case when g.tgqual is not null then 'when' end,
           case when g.tgdeferrable then 'deferrable' end,
           case when g.tginitdeferred then 'deferred' end,
           (select 'of ' || string_agg(quote_ident(a.attname), ', ' order by a.attname)
              from unnest(g.tgattr::int2[]) u (attnum)
              join pg_attribute a on a.attrelid = g.tgrelid and a.attnum = u.attnum),
           'old table ' || g.tgoldtable, 'new table ' || g.tgnewtable,
           'execute', g.tgfoid::regprocedure,
           case when g.tgnargs > 0 then '(' || encode(g.tgargs, 'escape') || ')' end,
           case g.tgenabled when 'O' then '' when 'D' then 'disabled' when 'A' then 'always' else 'replica' end),
       case when g.tgqual is not null then substring(pg_get_triggerdef(g.oid) from ' WHEN (.*) EXECUTE (?:PROCEDURE|FUNCTION) ') else '' end,
       format('%I.%I', n.nspname, c.relname),
       ''
  from pg_trigger g
  join pg_class c on c.oid = g.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = g.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where not g.tgisinternal
   and pn.nspname <> 'pgcutover'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = g.tgrelid and e.deptype = 'e')`

// triggersSQL13 leaves those out by tgparentid.
const triggersSQL13 = `
select 'trigger',
       format('%I on %s', g.tgname, g.tgrelid::regclass),
       'post-data',
       concat_ws(' ',
           case when g.tgtype & 64 = 64 then 'instead of' when g.tgtype & 2 = 2 then 'before' else 'after' end,
           case when g.tgtype & 4 = 4 then 'insert' end,
           case when g.tgtype & 8 = 8 then 'delete' end,
           case when g.tgtype & 16 = 16 then 'update' end,
           case when g.tgtype & 32 = 32 then 'truncate' end,
           case when g.tgtype & 1 = 1 then 'for each row' else 'for each statement' end,
           case when g.tgqual is not null then 'when' end,
           case when g.tgdeferrable then 'deferrable' end,
           case when g.tginitdeferred then 'deferred' end,
           (select 'of ' || string_agg(quote_ident(a.attname), ', ' order by a.attname)
              from unnest(g.tgattr::int2[]) u (attnum)
              join pg_attribute a on a.attrelid = g.tgrelid and a.attnum = u.attnum),
           'old table ' || g.tgoldtable, 'new table ' || g.tgnewtable,
           'execute', g.tgfoid::regprocedure,
           case when g.tgnargs > 0 then '(' || encode(g.tgargs, 'escape') || ')' end,
           case g.tgenabled when 'O' then '' when 'D' then 'disabled' when 'A' then 'always' else 'replica' end),
       case when g.tgqual is not null then substring(pg_get_triggerdef(g.oid) from ' WHEN (.*) EXECUTE (?:PROCEDURE|FUNCTION) ') else '' end,
       format('%I.%I', n.nspname, c.relname),
       ''
  from pg_trigger g
  join pg_class c on c.oid = g.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = g.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where not g.tgisinternal and g.tgparentid = 0
   and pn.nspname <> 'pgcutover'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = g.tgrelid and e.deptype = 'e')`

func triggersQuery(major int) string {
	if major < 13 {
		return triggersSQL10
	}
	return triggersSQL13
}
