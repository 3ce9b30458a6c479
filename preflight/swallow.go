package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// swallowingSQL lists functions that write, catch every error and raise none
// in its place, as far as their text tells.
const swallowingSQL = `
select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where l.lanname = 'plpgsql' and p.oid >= 16384 and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and p.prosrc ~* '\mwhen\s+others\M' and p.prosrc ~* '\m(insert|update|delete|truncate|merge|execute|perform|call)\M'
   and p.prosrc !~* '\mwhen\s+others\M.*\mraise\s*(;|exception\M|sqlstate\M|using\M)'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
 order by 1`

// dialingSQL lists functions and views that connect to databases by themselves.
const dialingSQL = `
select format('function %I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 where p.oid >= 16384 and p.prosrc ~* '\mdblink(_connect|_connect_u|_exec|_open|_send_query)?\s*\('
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
union all
select distinct format('view %I.%I', n.nspname, c.relname)
  from pg_depend d
  join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid and p.proname like 'dblink%'
  join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
  join pg_class c on c.oid = w.ev_class
  join pg_namespace n on n.oid = c.relnamespace
 order by 1`

// checkFunctions looks for functions that a cutover surprises.
func checkFunctions(ctx context.Context, p *Pair) ([]Finding, error) {
	var found []Finding
	swallowing, err := readValues[string](ctx, p.Old, "looking for functions that catch every error", swallowingSQL)
	if err != nil {
		return nil, err
	}
	if len(swallowing) > 0 && !p.Settings.ClosedDisconnects {
		found = append(found, Finding{
			ID: "functions.swallow", Severity: Note, Server: string(pg.Old), Object: "functions that catch every error",
			Seen: fmt.Sprintf("%s: %s", plural(len(swallowing), "function"), list(swallowing)),
			Why: "After the cutover the old server refuses writes with an error (25006). A function that catches it, and tells nobody, " +
				"lets its caller believe that the row was written.",
			Fix: "set cutover.on_closed: disconnect, which ends the session and which no function catches; or have them raise what they do not expect", FixKind: FixAction,
		})
	}
	dialing, err := readValues[string](ctx, p.Old, "looking for functions that connect elsewhere", dialingSQL)
	if len(dialing) > 0 {
		found = append(found, Finding{
			ID: "functions.dblink", Severity: Warning, Server: string(pg.Old), Object: "functions that connect by dblink",
			Seen: list(dialing),
			Why: "They name a server in their text or take it from a table: one that names the old server goes on reading and writing there " +
				"from the new one, and the new server must reach what they name.",
			Fix: "look at the connection strings in them, and change those that mean the old server", FixKind: FixAction,
		})
	}
	return found, err
}
