package schema

// The queries of the fingerprint that read functions, types and extensions.
// Each returns kind, identity, section, definition, expression, and twice what
// these objects have not: a table and parents. The body of a function is the same
// text on every major, unless the server parsed it (SQL-standard bodies).

// functionsSQL10 is for 10, which tells aggregates and window functions by
// flags. The constructors of a range type depend on it internally: 14 adds
// those of its multirange.
const functionsSQL10 = `
select case when p.proisagg then 'aggregate' else 'function' end,
       (pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
       'pre-data',
       concat_ws(' ',
           case when p.proiswindow then 'window' end,
           'returns', case when p.proretset then 'setof' end, format_type(p.prorettype, null),
           case when not p.proisagg then concat_ws(' ',
               'language', l.lanname,
               case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
               case when p.proisstrict then 'strict' end,
               case when p.prosecdef then 'security definer' end,
               case when p.proleakproof then 'leakproof' end,
               case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
               'cost', p.procost,
               case when p.prorows > 0 then 'rows ' || p.prorows end,
               'set ' || array_to_string(p.proconfig, ', '),
               'in ' || p.probin,
               'body ' || md5(p.prosrc)) end),
       concat_ws(' ',
           pg_get_function_arguments(p.oid),
           pg_get_function_result(p.oid),
           (select concat_ws(' ', a.aggtransfn, a.aggfinalfn, format_type(a.aggtranstype, null), a.aggcombinefn, a.agginitval)
              from pg_aggregate a
             where a.aggfnoid = p.oid)),
       '',
       ''
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype in ('e', 'i'))`

// functionsSQL11 reads prokind and knows procedures.
const functionsSQL11 = `
select case p.prokind when 'a' then 'aggregate' when 'p' then 'procedure' else 'function' end,
       (pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
       'pre-data',
       concat_ws(' ',
           case when p.prokind = 'w' then 'window' end,
           case when p.prokind <> 'p' then concat_ws(' ',
               'returns', case when p.proretset then 'setof' end, format_type(p.prorettype, null)) end,
           case when p.prokind <> 'a' then concat_ws(' ',
               'language', l.lanname,
               case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
               case when p.proisstrict then 'strict' end,
               case when p.prosecdef then 'security definer' end,
               case when p.proleakproof then 'leakproof' end,
               case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
               'cost', p.procost,
               case when p.prorows > 0 then 'rows ' || p.prorows end,
               'set ' || array_to_string(p.proconfig, ', '),
               'in ' || p.probin,
               'body ' || md5(p.prosrc)) end),
       concat_ws(' ',
           pg_get_function_arguments(p.oid),
           pg_get_function_result(p.oid),
           (select concat_ws(' ', a.aggtransfn, a.aggfinalfn, format_type(a.aggtranstype, null), a.aggcombinefn, a.agginitval)
              from pg_aggregate a
             where a.aggfnoid = p.oid)),
       '',
       ''
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype in ('e', 'i'))`

// functionsSQL14 reads SQL-standard bodies too.
const functionsSQL14 = `
select case p.prokind when 'a' then 'aggregate' when 'p' then 'procedure' else 'function' end,
       (pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity,
       'pre-data',
       concat_ws(' ',
           case when p.prokind = 'w' then 'window' end,
           case when p.prokind <> 'p' then concat_ws(' ',
               'returns', case when p.proretset then 'setof' end, format_type(p.prorettype, null)) end,
           case when p.prokind <> 'a' then concat_ws(' ',
               'language', l.lanname,
               case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
               case when p.proisstrict then 'strict' end,
               case when p.prosecdef then 'security definer' end,
               case when p.proleakproof then 'leakproof' end,
               case p.proparallel when 's' then 'parallel safe' when 'r' then 'parallel restricted' end,
               'cost', p.procost,
               case when p.prorows > 0 then 'rows ' || p.prorows end,
               'set ' || array_to_string(p.proconfig, ', '),
               'in ' || p.probin,
               'body ' || md5(p.prosrc)) end),
       concat_ws(' ',
           pg_get_function_arguments(p.oid),
           pg_get_function_result(p.oid),
           pg_get_function_sqlbody(p.oid),
           (select concat_ws(' ', a.aggtransfn, a.aggfinalfn, format_type(a.aggtranstype, null), a.aggcombinefn, a.agginitval)
              from pg_aggregate a
             where a.aggfnoid = p.oid)),
       '',
       ''
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype in ('e', 'i'))`

func functionsQuery(major int) string {
	switch {
	case major < 11:
		return functionsSQL10
	case major < 14:
		return functionsSQL11
	}
	return functionsSQL14
}

// typesSQL reads the types that are not made by another object: no row types of
// tables, no arrays, no multiranges. A composite type's columns are among the
// columns.
const typesSQL = `
select 'type',
       t.oid::regtype::text,
       'pre-data',
       case t.typtype
            when 'e' then format('enum (%s)', (select string_agg(quote_literal(v.enumlabel), ', ' order by v.enumsortorder)
                                                 from pg_enum v
                                                where v.enumtypid = t.oid))
            when 'd' then concat_ws(' ', 'domain', format_type(t.typbasetype, t.typtypmod),
                                    case when t.typnotnull then 'not null' end,
                                    case when t.typdefault is not null then 'default' end)
            when 'r' then (select format('range (%s)', format_type(r.rngsubtype, null))
                             from pg_range r
                            where r.rngtypid = t.oid)
            when 'c' then 'composite'
            else 'base' end,
       coalesce(t.typdefault, ''),
       '',
       ''
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  left join pg_class c on c.oid = t.typrelid
 where (t.typrelid = 0 or c.relkind = 'c')
   and t.typtype in ('b', 'c', 'd', 'e', 'r') and t.typisdefined
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_type e where e.typarray = t.oid)
   and not exists (select from pg_depend e
                    where e.classid = 'pg_type'::regclass and e.objid = t.oid and e.deptype = 'e')`

// extensionsSQL reads extensions. Versions differ between majors on purpose:
// CREATE EXTENSION takes the server's default.
const extensionsSQL = `
select 'extension',
       quote_ident(x.extname),
       'pre-data',
       format('schema %I', n.nspname),
       '',
       '',
       ''
  from pg_extension x
  join pg_namespace n on n.oid = x.extnamespace
 where x.extname <> 'plpgsql'`
