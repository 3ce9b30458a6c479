-- Every object of the application in this database, with what Postgres itself
-- calls it (pg_identify_object), so that two servers of different majors can be
-- compared. Runs on 10 to 18 and needs no rights beyond reading the catalogs.
--
-- parent   the table that an index, constraint, trigger, rule or policy is on
-- implied  a part of another object that comes and goes with it: the index of a
--          constraint, the sequence of an identity column, the constructors of
--          a range type, what a partition has from its parent
with spaces as (
    select oid
      from pg_namespace
     where nspname !~ '^pg_' and nspname not in ('information_schema', 'pgcutover')
), relations as (
    select c.oid
      from pg_class c
      join spaces on spaces.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and not exists (select from pg_depend e
                        where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
), candidates (classid, objid, parent) as (
    select 'pg_namespace'::regclass, oid, 0::oid from spaces
    union all
    select 'pg_class'::regclass, oid, 0 from relations
    union all
    select 'pg_class'::regclass, i.indexrelid, i.indrelid
      from pg_index i
      join relations on relations.oid = i.indrelid
    union all
    select 'pg_constraint'::regclass, k.oid, k.conrelid
      from pg_constraint k
      join relations on relations.oid = k.conrelid
     where k.contype not in ('n', 't')
    union all
    select 'pg_constraint'::regclass, k.oid, 0
      from pg_constraint k
      join pg_type t on t.oid = k.contypid
      join spaces on spaces.oid = t.typnamespace
     where k.contype <> 'n'
    union all
    select 'pg_trigger'::regclass, g.oid, g.tgrelid
      from pg_trigger g
      join relations on relations.oid = g.tgrelid
      join pg_proc p on p.oid = g.tgfoid
      join pg_namespace n on n.oid = p.pronamespace
     where not g.tgisinternal and g.tgname !~ '^pgcutover_' and n.nspname <> 'pgcutover'
    union all
    select 'pg_rewrite'::regclass, w.oid, w.ev_class
      from pg_rewrite w
      join relations on relations.oid = w.ev_class
     where w.rulename <> '_RETURN'
    union all
    select 'pg_policy'::regclass, y.oid, y.polrelid
      from pg_policy y
      join relations on relations.oid = y.polrelid
    union all
    select 'pg_statistic_ext'::regclass, x.oid, x.stxrelid
      from pg_statistic_ext x
      join spaces on spaces.oid = x.stxnamespace
      join relations on relations.oid = x.stxrelid
    union all
    select 'pg_type'::regclass, t.oid, 0
      from pg_type t
      join spaces on spaces.oid = t.typnamespace
      left join pg_class c on c.oid = t.typrelid
     where (t.typrelid = 0 or c.relkind = 'c')
       and not exists (select from pg_type e where e.typarray = t.oid)
    union all
    select 'pg_proc'::regclass, p.oid, 0
      from pg_proc p
      join spaces on spaces.oid = p.pronamespace
    union all
    select 'pg_operator'::regclass, o.oid, 0
      from pg_operator o
      join spaces on spaces.oid = o.oprnamespace
     where o.oprcode <> 0
    union all
    select 'pg_opfamily'::regclass, f.oid, 0
      from pg_opfamily f
      join spaces on spaces.oid = f.opfnamespace
    union all
    select 'pg_opclass'::regclass, o.oid, 0
      from pg_opclass o
      join spaces on spaces.oid = o.opcnamespace
    union all
    select 'pg_collation'::regclass, l.oid, 0
      from pg_collation l
      join spaces on spaces.oid = l.collnamespace
    union all
    select 'pg_conversion'::regclass, v.oid, 0
      from pg_conversion v
      join spaces on spaces.oid = v.connamespace
    union all
    select 'pg_ts_config'::regclass, g.oid, 0
      from pg_ts_config g
      join spaces on spaces.oid = g.cfgnamespace
    union all
    select 'pg_ts_dict'::regclass, d.oid, 0
      from pg_ts_dict d
      join spaces on spaces.oid = d.dictnamespace
    union all
    select 'pg_ts_parser'::regclass, r.oid, 0
      from pg_ts_parser r
      join spaces on spaces.oid = r.prsnamespace
    union all
    select 'pg_ts_template'::regclass, m.oid, 0
      from pg_ts_template m
      join spaces on spaces.oid = m.tmplnamespace
    union all
    select 'pg_cast'::regclass, oid, 0 from pg_cast where oid >= 16384
    union all
    select 'pg_transform'::regclass, oid, 0 from pg_transform where oid >= 16384
    union all
    select 'pg_language'::regclass, oid, 0 from pg_language where oid >= 16384
    union all
    select 'pg_am'::regclass, oid, 0 from pg_am where oid >= 16384
    union all
    select 'pg_foreign_data_wrapper'::regclass, oid, 0 from pg_foreign_data_wrapper
    union all
    select 'pg_foreign_server'::regclass, oid, 0 from pg_foreign_server
    union all
    select 'pg_user_mapping'::regclass, umid, 0 from pg_user_mappings
    union all
    select 'pg_extension'::regclass, oid, 0 from pg_extension where extname <> 'plpgsql'
    union all
    select 'pg_event_trigger'::regclass, v.oid, 0
      from pg_event_trigger v
      join pg_proc p on p.oid = v.evtfoid
      join pg_namespace n on n.oid = p.pronamespace
     where v.evtname !~ '^pgcutover_' and n.nspname <> 'pgcutover'
    union all
    select 'pg_publication'::regclass, oid, 0 from pg_publication where pubname !~ '^pgcutover_'
)
select c.classid::oid, c.objid, c.parent, i.type, i.identity,
       exists (select from pg_depend d
                where d.classid = c.classid and d.objid = c.objid and d.objsubid = 0
                  and d.deptype in ('i', 'I', 'P', 'S')) as implied
  from candidates c
 cross join lateral pg_identify_object(c.classid, c.objid, 0) i
 where not exists (select from pg_depend e
                    where e.classid = c.classid and e.objid = c.objid and e.deptype = 'e')
   and i.identity is not null
union all
select 0, 0, 0, 'subscription', quote_ident(s.subname), false
  from pg_subscription s
 where s.subdbid = (select oid from pg_database where datname = current_database())
   and s.subname !~ '^pgcutover_'
 order by 4, 5
