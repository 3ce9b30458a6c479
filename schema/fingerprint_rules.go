package schema

// The queries of the fingerprint that read rules, policies, statistics objects,
// event triggers, casts, operators and default privileges. Each returns kind,
// identity, section, definition, expression, the table, and an empty text.

// rulesSQL reads rules other than those that make views.
const rulesSQL = `
select 'rule',
       format('%I on %s', w.rulename, w.ev_class::regclass),
       'post-data',
       case w.ev_enabled when 'O' then '' when 'D' then 'disabled' when 'A' then 'always' else 'replica' end,
       pg_get_ruledef(w.oid),
       format('%I.%I', n.nspname, c.relname),
       ''
  from pg_rewrite w
  join pg_class c on c.oid = w.ev_class
  join pg_namespace n on n.oid = c.relnamespace
 where w.rulename <> '_RETURN'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')`

// policiesSQL reads policies with the roles that they are for.
const policiesSQL = `
select 'policy',
       format('%I on %s', y.polname, y.polrelid::regclass),
       'post-data',
       concat_ws(' ',
           case when y.polpermissive then 'permissive' else 'restrictive' end,
           case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
           'to', (select string_agg(coalesce(quote_ident(r.rolname), 'public'), ', ' order by r.rolname)
                    from unnest(y.polroles) u (oid)
                    left join pg_roles r on r.oid = u.oid)),
       concat_ws(' ', 'using ' || pg_get_expr(y.polqual, y.polrelid), 'check ' || pg_get_expr(y.polwithcheck, y.polrelid)),
       format('%I.%I', n.nspname, c.relname),
       ''
  from pg_policy y
  join pg_class c on c.oid = y.polrelid
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')`

// statisticsSQL reads extended statistics.
const statisticsSQL = `
select 'statistics object',
       format('%I.%I', n.nspname, x.stxname),
       'post-data',
       '',
       pg_get_statisticsobjdef(x.oid),
       format('%I.%I', tn.nspname, tc.relname),
       ''
  from pg_statistic_ext x
  join pg_namespace n on n.oid = x.stxnamespace
  join pg_class tc on tc.oid = x.stxrelid
  join pg_namespace tn on tn.oid = tc.relnamespace
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = tc.oid and e.deptype = 'e')`

// eventTriggersSQL reads event triggers.
const eventTriggersSQL = `
select 'event trigger',
       quote_ident(v.evtname),
       'post-data',
       concat_ws(' ',
           'on', v.evtevent,
           (select 'when tag in (' || string_agg(t, ', ' order by t) || ')' from unnest(v.evttags) t),
           'execute', v.evtfoid::regprocedure,
           case v.evtenabled when 'O' then '' when 'D' then 'disabled' when 'A' then 'always' else 'replica' end),
       '',
       '',
       ''
  from pg_event_trigger v
  join pg_proc p on p.oid = v.evtfoid
  join pg_namespace n on n.oid = p.pronamespace
 where n.nspname <> 'pgcutover'
   and not exists (select from pg_depend e
                    where e.classid = 'pg_event_trigger'::regclass and e.objid = v.oid and e.deptype = 'e')`

// defaultPrivilegesSQL reads what ALTER DEFAULT PRIVILEGES has set; $1 are
// privileges that are left out because one of the servers does not know them.
const defaultPrivilegesSQL = `
select 'default privileges',
       format('for role %I%s on %s', o.rolname, ' in schema ' || quote_ident(n.nspname),
              case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
                                   when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end),
       'post-data',
       coalesce((select string_agg(format('%s%s to %s', x.privilege_type, case when x.is_grantable then '*' end,
                                          coalesce(quote_ident(g.rolname), 'public')), ', '
                                   order by g.rolname nulls first, x.privilege_type)
                   from aclexplode(d.defaclacl) x
                   left join pg_roles g on g.oid = x.grantee
                  where x.privilege_type <> all ($1::text[])), 'none'),
       '',
       '',
       ''
  from pg_default_acl d
  join pg_roles o on o.oid = d.defaclrole
  left join pg_namespace n on n.oid = d.defaclnamespace
 where coalesce(n.nspname, '') <> 'pgcutover'`
