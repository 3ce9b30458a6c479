package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Aspect is a part of what describes an object that is compared by itself.
type Aspect string

// The aspects of an object. The definition is told in words of our own, that
// mean the same on every major; the others may differ from major to major
// without meaning anything, see [Baseline].
const (
	Definition Aspect = ""
	Expression Aspect = "expression" // what the server prints of expressions, views and so on
	Owner      Aspect = "owner"
	Privileges Aspect = "privileges" // what was granted or revoked, compared with a new object
	Comment    Aspect = "comment"
	Settings   Aspect = "settings" // a column's storage, compression, statistics target, options
)

// aspects lists those that are not the definition.
var aspects = []Aspect{Expression, Owner, Privileges, Comment, Settings}

// described is one aspect of the object at an address; sub is a column's number.
type described struct {
	address
	sub    int32
	column string // quoted, when sub is not 0
	aspect Aspect
	value  string
}

// ownersSQL reads who owns what. The owner of a sequence that a column owns is
// its table's.
const ownersSQL = `
select a.classid::oid, a.objid, 0, '', 'owner', quote_ident(pg_get_userbyid(a.owner))
  from (
    select 'pg_namespace'::regclass as classid, oid as objid, nspowner as owner from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' and not (nspname = 'public' and nspowner = 10)
    union all
    select 'pg_class'::regclass, c.oid, c.relowner
      from pg_class c
     where c.oid >= 16384 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and not (c.relkind = 'S' and exists (select from pg_depend d
                                             where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.objsubid = 0
                                               and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                                               and d.deptype in ('a', 'i')))
    union all
    select 'pg_type'::regclass, t.oid, t.typowner from pg_type t where t.oid >= 16384 and t.typelem = 0
    union all
    select 'pg_proc'::regclass, p.oid, p.proowner from pg_proc p where p.oid >= 16384
    union all
    select 'pg_operator'::regclass, o.oid, o.oprowner from pg_operator o where o.oid >= 16384
    union all
    select 'pg_opclass'::regclass, o.oid, o.opcowner from pg_opclass o where o.oid >= 16384
    union all
    select 'pg_opfamily'::regclass, o.oid, o.opfowner from pg_opfamily o where o.oid >= 16384
    union all
    select 'pg_collation'::regclass, o.oid, o.collowner from pg_collation o where o.oid >= 16384
    union all
    select 'pg_conversion'::regclass, o.oid, o.conowner from pg_conversion o where o.oid >= 16384
    union all
    select 'pg_ts_config'::regclass, o.oid, o.cfgowner from pg_ts_config o where o.oid >= 16384
    union all
    select 'pg_ts_dict'::regclass, o.oid, o.dictowner from pg_ts_dict o where o.oid >= 16384
    union all
    select 'pg_statistic_ext'::regclass, o.oid, o.stxowner from pg_statistic_ext o
    union all
    select 'pg_foreign_data_wrapper'::regclass, o.oid, o.fdwowner from pg_foreign_data_wrapper o
    union all
    select 'pg_foreign_server'::regclass, o.oid, o.srvowner from pg_foreign_server o
    union all
    select 'pg_event_trigger'::regclass, o.oid, o.evtowner from pg_event_trigger o
  ) a`

// privilegesSQL reads how the privileges on an object differ from those that it
// had when it was made. "*" is the right to grant it on. $1 are privileges that
// are left out because one of the servers does not know them.
// https://www.postgresql.org/docs/current/ddl-priv.html
const privilegesSQL = `
with held (classid, objid, sub, col, kind, owner, acl) as (
    select 'pg_namespace'::regclass, oid, 0, '', 'n'::"char", nspowner, nspacl
      from pg_namespace
     where nspname !~ '^pg_' and nspname not in ('information_schema', 'pgcutover')
    union all
    select 'pg_class'::regclass, oid, 0, '', case relkind when 'S' then 's'::"char" else 'r'::"char" end, relowner, relacl
      from pg_class
     where oid >= 16384 and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select 'pg_class'::regclass, a.attrelid, a.attnum, quote_ident(a.attname), 'c'::"char", c.relowner, a.attacl
      from pg_attribute a
      join pg_class c on c.oid = a.attrelid
     where a.attrelid >= 16384 and a.attacl is not null and not a.attisdropped
    union all
    select 'pg_proc'::regclass, oid, 0, '', 'f'::"char", proowner, proacl
      from pg_proc
     where oid >= 16384
    union all
    select 'pg_type'::regclass, oid, 0, '', 'T'::"char", typowner, typacl
      from pg_type
     where oid >= 16384
    union all
    select 'pg_foreign_data_wrapper'::regclass, oid, 0, '', 'F'::"char", fdwowner, fdwacl
      from pg_foreign_data_wrapper
    union all
    select 'pg_foreign_server'::regclass, oid, 0, '', 'S'::"char", srvowner, srvacl
      from pg_foreign_server
), compared as (
    select h.classid, h.objid, h.sub, h.col, h.owner, h.acl,
           coalesce((select i.initprivs
                       from pg_init_privs i
                      where i.classoid = h.classid and i.objoid = h.objid and i.objsubid = h.sub), acldefault(h.kind, h.owner)) as initial
      from held h
     where h.acl is not null
)
select c.classid::oid, c.objid, c.sub, c.col, 'privileges',
       string_agg(format('%s %s%s %s %s%s', x.what, x.privilege_type, case when x.is_grantable then '*' end,
                         case x.what when 'grant' then 'to' else 'from' end,
                         case x.grantee when 0 then 'public' when c.owner then 'owner' else quote_ident(pg_get_userbyid(x.grantee)) end,
                         case when x.grantor <> c.owner and x.what = 'grant' then ' by ' || quote_ident(pg_get_userbyid(x.grantor)) end), '; '
                  order by x.what, pg_get_userbyid(x.grantee), x.privilege_type)
  from compared c
 cross join lateral (
    (select 'grant' as what, a.grantor, a.grantee, a.privilege_type, a.is_grantable from aclexplode(c.acl) a
     except all
     select 'grant', a.grantor, a.grantee, a.privilege_type, a.is_grantable from aclexplode(c.initial) a)
    union all
    (select 'revoke', a.grantor, a.grantee, a.privilege_type, a.is_grantable from aclexplode(c.initial) a
     except all
     select 'revoke', a.grantor, a.grantee, a.privilege_type, a.is_grantable from aclexplode(c.acl) a)
 ) x
 where x.privilege_type <> all ($1::text[])
   and (x.grantee = 0 or pg_get_userbyid(x.grantee) !~ '^pgcutover_')
 group by c.classid, c.objid, c.sub, c.col`

// commentsSQL reads comments.
const commentsSQL = `
select d.classoid, d.objoid, d.objsubid, coalesce(quote_ident(a.attname), ''), 'comment', d.description
  from pg_description d
  left join pg_attribute a on d.classoid = 'pg_class'::regclass and d.objsubid > 0
                          and a.attrelid = d.objoid and a.attnum = d.objsubid
 where d.objoid >= 16384 or d.classoid = 'pg_namespace'::regclass`

// settingsSQL10 reads what was set for columns, on 10 to 13. Some packages keep
// a mark of their own, pg_attver, among a column's options.
const settingsSQL10 = `
select 'pg_class'::regclass::oid, a.attrelid, a.attnum::int, quote_ident(a.attname), 'settings', x.value
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_type t on t.oid = a.atttypid
 cross join lateral (select concat_ws(', ',
           case when a.attstorage <> t.typstorage then
               'storage ' || case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end,
           case when coalesce(a.attstattarget, -1) >= 0 then 'statistics ' || a.attstattarget end,
           (select 'options (' || string_agg(o, ', ' order by o) || ')' from unnest(a.attoptions) o where o !~ '^pg_attver=')) as value) x
 where a.attrelid >= 16384 and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'm', 'f')
   and x.value <> ''`

// settingsSQL14 reads compression methods too.
const settingsSQL14 = `
select 'pg_class'::regclass::oid, a.attrelid, a.attnum::int, quote_ident(a.attname), 'settings', x.value
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_type t on t.oid = a.atttypid
 cross join lateral (select concat_ws(', ',
           case when a.attstorage <> t.typstorage then
               'storage ' || case a.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end end,
           case a.attcompression when 'p' then 'compression pglz' when 'l' then 'compression lz4' end,
           case when coalesce(a.attstattarget, -1) >= 0 then 'statistics ' || a.attstattarget end,
           (select 'options (' || string_agg(o, ', ' order by o) || ')' from unnest(a.attoptions) o where o !~ '^pg_attver=')) as value) x
 where a.attrelid >= 16384 and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'm', 'f')
   and x.value <> ''`

// since17 are privileges that servers before 17 do not know.
var since17 = []string{"MAINTAIN"}

// readAspects reads the aspects of objects that are not their definition.
func readAspects(ctx context.Context, q querier, major int) ([]described, error) {
	settings := settingsSQL14
	if major < 14 {
		settings = settingsSQL10
	}
	var all []described
	for _, part := range []struct {
		what, sql string
		args      []any
	}{
		{"owners", ownersSQL, nil},
		{"privileges", privilegesSQL, []any{since17}},
		{"comments", commentsSQL, nil},
		{"settings of columns", settings, nil},
	} {
		rows, err := q.Query(ctx, part.sql, part.args...)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (described, error) {
			var d described
			err := row.Scan(&d.class, &d.oid, &d.sub, &d.column, &d.aspect, &d.value)
			return d, err
		})
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// withAspects adds the aspects to the objects that they describe.
func withAspects(objects []Object, items []item, aspects []described) {
	at := make(map[key]int, len(objects))
	for i, o := range objects {
		at[o.key()] = i
	}
	names := make(map[address]key, len(items))
	for _, i := range items {
		names[i.address] = i.key()
	}
	for _, d := range aspects {
		k, known := names[d.address]
		if !known || k.kind == kindExtension {
			continue // of an extension, or of the tool
		}
		if d.sub != 0 {
			k = key{kindColumn, k.identity + "." + d.column}
		}
		if i, found := at[k]; found {
			objects[i].describe(d.aspect, d.value)
		}
	}
}

func (o *Object) describe(a Aspect, value string) {
	if value == "" {
		return
	}
	if o.Aspects == nil {
		o.Aspects = make(map[Aspect]string, 2)
	}
	o.Aspects[a] = value
}
