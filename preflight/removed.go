package preflight

import (
	"context"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// removed14SQL lists what servers from before 14 can have and 14 and later
// refuse: postfix operators, and aggregates and operators made of the functions
// whose arguments became anycompatible. drop is a statement that needs no choice.
// https://www.postgresql.org/docs/release/14.0/
const removed14SQL = `
select 'operator' as kind, format('%I.%s (%s, NONE)', n.nspname, o.oprname, o.oprleft::regtype) as name,
       'a postfix operator, which 14 no longer has' as seen,
       format('DROP OPERATOR %I.%s (%s, NONE);', n.nspname, o.oprname, o.oprleft::regtype) as drop
  from pg_operator o
  join pg_namespace n on n.oid = o.oprnamespace
 where o.oprright = 0 and o.oprleft <> 0 and o.oid >= 16384 and n.nspname <> 'pg_catalog'
   and not exists (select 1 from pg_depend d where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')
union all
select 'aggregate', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       format('made of %s, whose arguments are anycompatible from 14 on', f.name), ''
  from pg_aggregate a
  join pg_proc p on p.oid = a.aggfnoid
  join pg_namespace n on n.oid = p.pronamespace
  join lateral (
    select (u.func)::regprocedure::text as name
      from unnest(array[a.aggtransfn::oid, a.aggfinalfn::oid]) u(func)
     where (u.func)::regprocedure::text = any ($1::text[])
     limit 1
  ) f on true
 where p.oid >= 16384
   and not exists (select 1 from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select 'operator', format('%I.%s (%s, %s)', n.nspname, o.oprname, o.oprleft::regtype, o.oprright::regtype),
       format('made of %s, whose arguments are anycompatible from 14 on', o.oprcode::oid::regprocedure), ''
  from pg_operator o
  join pg_namespace n on n.oid = o.oprnamespace
 where o.oid >= 16384 and o.oprcode::oid::regprocedure::text = any ($1::text[])
   and not exists (select 1 from pg_depend d where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')
 order by 1, 2`

// anycompatible14 are the functions whose arguments 14 changed.
var anycompatible14 = []string{
	"array_append(anyarray,anyelement)", "array_cat(anyarray,anyarray)", "array_prepend(anyelement,anyarray)",
	"array_remove(anyarray,anyelement)", "array_replace(anyarray,anyelement,anyelement)",
	"array_position(anyarray,anyelement)", "array_position(anyarray,anyelement,integer)",
	"array_positions(anyarray,anyelement)", "width_bucket(anyelement,anyarray)",
}

type removedRow struct{ Kind, Name, Seen, Drop string }

// checkRemoved finds what the new major refuses to make (measured 13 to 15 and
// 13 to 17).
func checkRemoved(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() >= 14 || p.New.Major() < 14 {
		return nil, nil
	}
	rows, err := read[removedRow](ctx, p.Old, "looking for what 14 has removed", removed14SQL, anycompatible14)
	var found []Finding
	for _, r := range rows {
		f := Finding{
			ID: "objects.removed", Severity: Blocker, Server: string(pg.Old), Object: r.Kind + " " + r.Name,
			Seen: r.Seen, Why: "The new server refuses to make it, and what depends on it.", Fix: r.Drop, FixKind: FixSQL,
		}
		if r.Drop == "" {
			f.Fix = "make it anew over a function of your own with the old arguments, which both majors take: " +
				"CREATE FUNCTION ... (anyarray, anyelement) RETURNS anyarray LANGUAGE sql IMMUTABLE AS 'select array_append($1, $2)';"
			f.FixKind = FixAction
		}
		found = append(found, f)
	}
	return found, err
}
