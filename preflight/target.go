package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// occupiedSQL counts what stands in the application's schemas. Members of
// extensions do not count, and schemas themselves only when they are not
// public: an extension may have been made beforehand.
const occupiedSQL = `
select n.nspname::text as schema, o.kind, count(*)::int as objects, min(o.name)::text as first
  from (
    select c.relnamespace as nsp, c.relname as name, 'pg_class'::regclass as class, c.oid,
           case c.relkind when 'r' then 'table' when 'p' then 'table' when 'v' then 'view'
                          when 'm' then 'materialized view' when 'S' then 'sequence' else 'foreign table' end as kind
      from pg_class c
     where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relpersistence <> 't' and c.oid >= 16384
    union all
    select p.pronamespace, p.proname, 'pg_proc'::regclass, p.oid, 'function' from pg_proc p where p.oid >= 16384
    union all
    select t.typnamespace, t.typname, 'pg_type'::regclass, t.oid, 'type'
      from pg_type t
      left join pg_class c on c.oid = t.typrelid
     where t.oid >= 16384 and (t.typtype in ('d', 'e', 'r') or c.relkind = 'c')
    union all
    select s.oid, s.nspname, 'pg_namespace'::regclass, s.oid, 'schema' from pg_namespace s where s.oid >= 16384
  ) o
  join pg_namespace n on n.oid = o.nsp
 where n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = o.class and d.objid = o.oid and d.deptype = 'e')
   and not (o.kind = 'schema' and exists (select 1 from pg_extension e where e.extnamespace = n.oid))
 group by n.nspname, o.kind
 order by n.nspname, o.kind`

type occupiedRow struct {
	Schema  string
	Kind    string
	Objects int
	First   string
}

// checkTarget makes sure that the new database is empty, unless this very move
// has begun to fill it or the rows are meant to be there.
func checkTarget(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Settings.DataPresent {
		return nil, nil
	}
	move, err := state.Load(ctx, p.New)
	if err != nil || (move != nil && move.Name == p.New.Move()) {
		return nil, err
	}
	rows, err := read[occupiedRow](ctx, p.New, "looking for objects", occupiedSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range rows {
		seen := fmt.Sprintf("%s, the first is %s", plural(r.Objects, r.Kind), quote(r.First))
		if r.Kind == "schema" {
			seen = "the schema exists"
		}
		found = append(found, Finding{
			ID: "target.not-empty", Severity: Blocker, Server: string(pg.New), Object: "schema " + quote(r.Schema), Seen: seen,
			Why: "The move makes the application's objects itself: what stands there would collide or be taken for its own.",
		}.told("name an empty database in new.url: CREATE DATABASE ... TEMPLATE template0;"))
	}
	return found, nil
}

// checkLeftovers looks for other moves' schemas, publications, subscriptions
// and slots.
func checkLeftovers(ctx context.Context, p *Pair) ([]Finding, error) {
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		found, err := otherMove(ctx, s)
		if err != nil {
			return nil, err
		}
		objects, err := read[leftoverRow](ctx, s, "looking for other moves", leftoversSQL, streamName(s.Move()))
		for _, o := range objects {
			found = append(found, Finding{
				ID: "leftovers.object", Severity: Blocker, Server: string(s.Side()), Object: o.Kind + " " + quote(o.Name),
				Seen: "made by pgcutover for another move than " + s.Move(),
				Why:  "Another move uses this database, or was left unfinished: two moves at a time are not safe.",
			}.told("pgcutover abort or complete with that move's name, or pgcutover doctor"))
		}
		return found, err
	})
}

// otherMove reads whose the schema pgcutover of a server is.
func otherMove(ctx context.Context, s *pg.Server) ([]Finding, error) {
	move, err := state.Load(ctx, s)
	if err != nil || move == nil {
		return nil, err
	}
	f := Finding{Severity: Blocker, Server: string(s.Side()), Object: "schema pgcutover"}
	switch {
	case move.Name != s.Move():
		f.ID = "leftovers.move"
		f.Seen = fmt.Sprintf("belongs to the move %q since %s", move.Name, move.Created.UTC().Format("2006-01-02 15:04"))
		f.Why = "A database takes part in one move at a time."
		f = f.told(fmt.Sprintf("finish that move first (pgcutover complete or abort with name: %s), or use its name", move.Name))
	case move.Side != s.Side():
		f.ID = "leftovers.swapped"
		f.Seen = fmt.Sprintf("says that this is the %s server of the move", move.Side)
		f.Why = "With old and new swapped the tool would copy in the wrong direction."
		f = f.told("exchange old.url and new.url")
	default:
		return nil, nil
	}
	return []Finding{f}, nil
}

// leftoversSQL lists what carries our prefix in this database but is not this
// move's ($1 is the common beginning of its names).
const leftoversSQL = `
select o.kind, o.name
  from (
    select 'publication' as kind, pubname::text as name from pg_publication
    union all
    select 'subscription', subname::text from pg_subscription s
     where s.subdbid = (select oid from pg_database where datname = current_database())
    union all
    select 'replication slot', slot_name::text from pg_replication_slots where database = current_database()
  ) o
 where left(o.name, 10) = 'pgcutover_' and o.name <> $1 and left(o.name, length($1) + 1) <> $1 || '_'
   and left(o.name, 16) <> 'pgcutover_check_'
 order by 1, 2`

type leftoverRow struct{ Kind, Name string }
