package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// carriedSettingsSQL lists what ALTER DATABASE and ALTER ROLE have set that
// bears on this database.
const carriedSettingsSQL = `
select coalesce(r.rolname::text, '') as role, coalesce(d.datname::text, '') as database,
       split_part(c.pair, '=', 1) as name, substr(c.pair, strpos(c.pair, '=') + 1) as value
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
 cross join lateral unnest(s.setconfig) as c(pair)
 where (s.setdatabase = 0 or d.datname = current_database()) and strpos(split_part(c.pair, '=', 1), '.') = 0
 order by 3, 1, 2`

// unknownSettingsSQL returns those of the names in $1 that a server has not.
// Some names are still understood though no view shows them; others are shown to
// superusers only.
const unknownSettingsSQL = `
select u.name
  from unnest($1::text[]) u(name)
 where not exists (select 1 from pg_settings s where lower(s.name) = lower(u.name))
   and u.name not in ('sort_mem', 'vacuum_mem', 'force_parallel_mode', 'ssl_ecdh_curve', 'role', 'session_authorization',
                      'session_preload_libraries', 'local_preload_libraries', 'dynamic_library_path', 'krb_server_keyfile')`

// functionSettingsSQL lists what functions set while they run.
const functionSettingsSQL = `
select format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature,
       split_part(c.pair, '=', 1) as name
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 cross join lateral unnest(p.proconfig) as c(pair)
 where p.oid >= 16384 and strpos(split_part(c.pair, '=', 1), '.') = 0
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
 order by 1, 2`

type functionSetting struct{ Signature, Name string }

// checkSettings finds settings of the database, of roles and of functions that
// the new major no longer has.
func checkSettings(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[roleSetting](ctx, p.Old, "reading settings of roles and databases", carriedSettingsSQL)
	if err != nil {
		return nil, err
	}
	functions, err := read[functionSetting](ctx, p.Old, "reading settings of functions", functionSettingsSQL)
	if err != nil || len(rows)+len(functions) == 0 {
		return nil, err
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	for _, f := range functions {
		names = append(names, f.Name)
	}
	unknown, err := readValues[string](ctx, p.New, "reading the settings it knows", unknownSettingsSQL, names)
	var found []Finding
	for _, r := range rows {
		if slices.Contains(unknown, r.Name) {
			found = append(found, Finding{
				ID: "role-settings.unknown", Severity: Warning, Server: string(pg.Old), Object: r.object(),
				Seen: fmt.Sprintf("%s = %s", r.Name, r.Value),
				Why:  fmt.Sprintf("PostgreSQL %d has no setting of this name: it cannot be carried over.", p.New.Major()),
				Fix:  r.reset(), FixKind: FixSQL,
			})
		}
	}
	for _, f := range functions {
		if slices.Contains(unknown, f.Name) {
			found = append(found, Finding{
				ID: "functions.setting", Severity: Blocker, Server: string(pg.Old), Object: "function " + f.Signature,
				Seen: "it has SET " + f.Name,
				Why:  fmt.Sprintf("PostgreSQL %d has no setting of this name, and does not make the function.", p.New.Major()),
				Fix:  fmt.Sprintf("ALTER FUNCTION %s RESET %s;", f.Signature, f.Name), FixKind: FixSQL,
			})
		}
	}
	return found, err
}
