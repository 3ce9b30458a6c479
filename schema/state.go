package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// State is what a database was like before a schema was restored into it, as
// far as a restore changes it. It can be kept as JSON.
type State struct {
	// Objects are those of the application, by kind and identity.
	Objects []Object `json:"objects"`
	// Schemas are those that Objects lists, with owner and comment.
	Schemas []Namespace `json:"schemas"`
	// Rights are those that differ from what initdb or CREATE EXTENSION gave.
	Rights []Rights `json:"rights"`
	// Defaults are the default privileges (pg_default_acl).
	Defaults []Rights `json:"defaults"`
}

// Namespace is a schema with its owner and comment.
type Namespace struct {
	Name    string  `json:"name"`
	Owner   string  `json:"owner"`
	Comment *string `json:"comment,omitempty"` // nil: none
}

// Rights are the privileges on one object, or the default privileges of one
// role for one kind of object.
type Rights struct {
	// On is what stands after ON in GRANT; for default privileges what stands
	// after ALTER DEFAULT PRIVILEGES.
	On string `json:"on"`
	// Part is the column whose privileges these are, or the kind of objects that
	// default privileges are for; otherwise empty.
	Part  string `json:"part,omitempty"`
	Owner string `json:"owner"`
	// Grants are the privileges as they are, Initial as Postgres first made them.
	Grants  []Grant `json:"grants"`
	Initial []Grant `json:"initial"`
}

func (r Rights) id() [2]string { return [2]string{r.On, r.Part} }

// Grant is one privilege that one role gave to another.
type Grant struct {
	Grantor   string `json:"grantor"`
	Grantee   string `json:"grantee"` // empty: PUBLIC
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable,omitempty"`
}

// sameGrants compares as sets: the order of an ACL means nothing.
func sameGrants(a, b []Grant) bool {
	order := func(x, y Grant) int {
		return cmp.Or(cmp.Compare(x.Grantor, y.Grantor), cmp.Compare(x.Grantee, y.Grantee),
			cmp.Compare(x.Privilege, y.Privilege))
	}
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}

// Snapshot records the state of the new database. Taken before the first
// restore and kept, it lets [Remove] bring the database back to it.
func Snapshot(ctx context.Context, new *pg.Server) (State, error) {
	tx, err := new.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return State{}, fmt.Errorf("recording the state of the %s database: %w", new.Side(), new.Redacted(err))
	}
	defer rollback(ctx, tx)
	state, err := snapshot(ctx, tx)
	if err != nil {
		return State{}, fmt.Errorf("recording the state of the %s database: %w", new.Side(), new.Redacted(err))
	}
	return state, nil
}

func snapshot(ctx context.Context, q querier) (State, error) {
	items, err := inventory(ctx, q)
	if err != nil {
		return State{}, fmt.Errorf("listing the objects: %w", err)
	}
	s := State{Objects: make([]Object, 0, len(items))}
	for _, i := range items {
		s.Objects = append(s.Objects, i.object())
	}
	if s.Schemas, err = collect[Namespace](ctx, q, schemasSQL); err != nil {
		return State{}, fmt.Errorf("reading the schemas: %w", err)
	}
	if s.Rights, err = collect[Rights](ctx, q, rightsSQL); err != nil {
		return State{}, fmt.Errorf("reading privileges: %w", err)
	}
	if s.Defaults, err = collect[Rights](ctx, q, defaultsSQL); err != nil {
		return State{}, fmt.Errorf("reading default privileges: %w", err)
	}
	return s, nil
}

// collect returns a query's rows as structs, by the order of their fields.
func collect[T any](ctx context.Context, q querier, sql string) ([]T, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

const schemasSQL = `
select n.nspname::text, pg_get_userbyid(n.nspowner)::text, obj_description(n.oid, 'pg_namespace')
  from pg_namespace n
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_namespace'::regclass and e.objid = n.oid and e.deptype = 'e')
 order by 1`

// rightsSQL lists objects whose privileges are not those that pg_init_privs
// recorded, or else the built-in ones. System objects are included: an archive
// carries changes of their privileges too. Runs on 11 and later (ROUTINE).
// https://www.postgresql.org/docs/current/catalog-pg-init-privs.html
const rightsSQL = `
with held (classid, objid, objsubid, kind, owner, acl) as (
    select 'pg_namespace'::regclass, oid, 0, 'n'::"char", nspowner, nspacl
      from pg_namespace
     where nspname !~ '^pg_(temp|toast)' and nspname <> 'pgcutover'
    union all
    select 'pg_class'::regclass, oid, 0, case relkind when 'S' then 's' else 'r' end::"char", relowner, relacl
      from pg_class
     where relkind in ('r', 'p', 'v', 'm', 'f', 'S')
       and relnamespace is distinct from to_regnamespace('pgcutover')::oid
    union all
    select 'pg_class'::regclass, a.attrelid, a.attnum, 'c'::"char", c.relowner, a.attacl
      from pg_attribute a
      join pg_class c on c.oid = a.attrelid
     where not a.attisdropped
       and c.relnamespace is distinct from to_regnamespace('pgcutover')::oid
       and (a.attacl is not null
            or exists (select from pg_init_privs p
                        where p.classoid = 'pg_class'::regclass and p.objoid = a.attrelid and p.objsubid = a.attnum))
    union all
    select 'pg_proc'::regclass, oid, 0, 'f'::"char", proowner, proacl
      from pg_proc
     where pronamespace is distinct from to_regnamespace('pgcutover')::oid
    union all
    select 'pg_type'::regclass, oid, 0, 'T'::"char", typowner, typacl
      from pg_type
    union all
    select 'pg_language'::regclass, oid, 0, 'l'::"char", lanowner, lanacl
      from pg_language
    union all
    select 'pg_foreign_data_wrapper'::regclass, oid, 0, 'F'::"char", fdwowner, fdwacl
      from pg_foreign_data_wrapper
    union all
    select 'pg_foreign_server'::regclass, oid, 0, 'S'::"char", srvowner, srvacl
      from pg_foreign_server
), changed as (
    select h.*, coalesce(h.acl, acldefault(h.kind, h.owner)) as now,
           coalesce(p.initprivs, acldefault(h.kind, h.owner)) as initial
      from held h
      left join pg_init_privs p on p.classoid = h.classid and p.objoid = h.objid and p.objsubid = h.objsubid
     where h.acl is distinct from p.initprivs
)
select case when c.classid = 'pg_namespace'::regclass then 'SCHEMA '
            when c.kind = 's' then 'SEQUENCE '
            when c.classid = 'pg_class'::regclass then 'TABLE '
            when c.classid = 'pg_proc'::regclass then 'ROUTINE '
            when c.classid = 'pg_type'::regclass then 'TYPE '
            when c.classid = 'pg_language'::regclass then 'LANGUAGE '
            when c.kind = 'F' then 'FOREIGN DATA WRAPPER '
            else 'FOREIGN SERVER ' end || i.identity,
       case when c.objsubid <> 0 then (select format('%I', a.attname)
                                         from pg_attribute a
                                        where a.attrelid = c.objid and a.attnum = c.objsubid)
            else '' end,
       pg_get_userbyid(c.owner)::text,
       coalesce((select json_agg(json_build_object(
                            'grantor', pg_get_userbyid(x.grantor),
                            'grantee', case when x.grantee = 0 then '' else pg_get_userbyid(x.grantee) end,
                            'privilege', x.privilege_type, 'grantable', x.is_grantable))
                   from aclexplode(c.now) x), '[]'),
       coalesce((select json_agg(json_build_object(
                            'grantor', pg_get_userbyid(x.grantor),
                            'grantee', case when x.grantee = 0 then '' else pg_get_userbyid(x.grantee) end,
                            'privilege', x.privilege_type, 'grantable', x.is_grantable))
                   from aclexplode(c.initial) x), '[]')
  from changed c
 cross join lateral pg_identify_object(c.classid, c.objid, 0) i
 where i.identity is not null
   and (select array_agg(a::text order by a::text) from unnest(c.now) a)
       is distinct from (select array_agg(a::text order by a::text) from unnest(c.initial) a)
 order by 1, 2`

// defaultsSQL lists the default privileges. What a role's own objects get
// without any is the initial state; a schema's default privileges add to that,
// so that theirs is nothing.
// https://www.postgresql.org/docs/current/catalog-pg-default-acl.html
const defaultsSQL = `
select format('FOR ROLE %I', r.rolname) || case when n.oid is not null then format(' IN SCHEMA %I', n.nspname) else '' end,
       case d.defaclobjtype when 'r' then 'TABLES' when 'S' then 'SEQUENCES' when 'f' then 'FUNCTIONS'
                            when 'T' then 'TYPES' when 'n' then 'SCHEMAS' else 'LARGE OBJECTS' end,
       r.rolname::text,
       coalesce((select json_agg(json_build_object(
                            'grantor', pg_get_userbyid(x.grantor),
                            'grantee', case when x.grantee = 0 then '' else pg_get_userbyid(x.grantee) end,
                            'privilege', x.privilege_type, 'grantable', x.is_grantable))
                   from aclexplode(d.defaclacl) x), '[]'),
       case when n.oid is not null then '[]'
            else coalesce((select json_agg(json_build_object(
                                      'grantor', pg_get_userbyid(x.grantor),
                                      'grantee', case when x.grantee = 0 then '' else pg_get_userbyid(x.grantee) end,
                                      'privilege', x.privilege_type, 'grantable', x.is_grantable))
                             from aclexplode(acldefault(case d.defaclobjtype when 'S' then 's' else d.defaclobjtype end,
                                                        d.defaclrole)) x), '[]') end
  from pg_default_acl d
  join pg_roles r on r.oid = d.defaclrole
  left join pg_namespace n on n.oid = d.defaclnamespace
 where n.nspname is distinct from 'pgcutover'
 order by 1, 2`

// Differences lists in words how the database differs between two states.
func (s State) Differences(now State) []string {
	var out []string
	before, after := keysOf(s.Objects), keysOf(now.Objects)
	for _, o := range now.Objects {
		if !before[o.key()] {
			out = append(out, o.String()+" is left")
		}
	}
	for _, o := range s.Objects {
		if !after[o.key()] {
			out = append(out, o.String()+" is gone")
		}
	}
	schemas := map[string]Namespace{}
	for _, n := range now.Schemas {
		schemas[n.Name] = n
	}
	for _, b := range s.Schemas {
		n, found := schemas[b.Name]
		if found && n.Owner != b.Owner {
			out = append(out, fmt.Sprintf("schema %s belongs to %s instead of %s", b.Name, n.Owner, b.Owner))
		}
		if found && text(n.Comment) != text(b.Comment) {
			out = append(out, fmt.Sprintf("the comment on schema %s is %q instead of %q", b.Name, text(n.Comment), text(b.Comment)))
		}
	}
	for _, c := range compareRights(s.Rights, now.Rights) {
		out = append(out, fmt.Sprintf("the privileges on %s %s differ", c.On, c.Part))
	}
	for _, c := range compareRights(s.Defaults, now.Defaults) {
		out = append(out, fmt.Sprintf("the default privileges %s on %s differ", c.On, c.Part))
	}
	return out
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// rightsChange is what has to become of the privileges on one object.
type rightsChange struct {
	Rights         // whose privileges, with its owner
	want   []Grant // instead of Grants
}

// compareRights lists what has to change so that the privileges are as before.
// An object that only one of the lists has is in its initial state in the other.
func compareRights(before, now []Rights) []rightsChange {
	was := map[[2]string]Rights{}
	for _, r := range before {
		was[r.id()] = r
	}
	var out []rightsChange
	for _, n := range now {
		want := n.Initial
		if b, found := was[n.id()]; found {
			want = b.Grants
			delete(was, n.id())
		}
		if !sameGrants(want, n.Grants) {
			out = append(out, rightsChange{Rights: n, want: want})
		}
	}
	for _, b := range before {
		if _, left := was[b.id()]; left && !sameGrants(b.Grants, b.Initial) {
			changed := b
			changed.Grants = b.Initial
			out = append(out, rightsChange{Rights: changed, want: b.Grants})
		}
	}
	return out
}
