package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// jobsSQL lists what runs jobs inside of the database, told by the tables that
// keep them: those of an extension count too.
const jobsSQL = `
select k.name
  from (values ('pg_cron', 'cron', 'job'), ('pgAgent', 'pgagent', 'pga_job'), ('pg_timetable', 'timetable', 'chain'),
               ('pg_partman', null, 'part_config'), ('pgjobs', 'jobs', 'pgjobs'), ('TimescaleDB', '_timescaledb_config', 'bgw_job'),
               ('River', null, 'river_job'), ('Graphile Worker', 'graphile_worker', 'known_crontabs'),
               ('pg-boss', 'pgboss', 'schedule')) k(name, schema, tab)
 where exists (select 1 from pg_class c
                 join pg_namespace n on n.oid = c.relnamespace
                where c.relname = k.tab and c.relkind in ('r', 'p') and (k.schema is null or n.nspname = k.schema))
 order by 1`

// checkJobs looks for schedulers: what they run writes without a client.
func checkJobs(ctx context.Context, p *Pair) ([]Finding, error) {
	names, err := readValues[string](ctx, p.Old, "looking for schedulers", jobsSQL)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return []Finding{{
		ID: "jobs.scheduler", Severity: Warning, Server: string(pg.Old), Object: "scheduled jobs",
		Seen: "tables of " + list(names),
		Why: "Its jobs write without a client: on old the fence refuses them after the cutover; on new they must not run before it, and have to run after it. " +
			"Jobs that make tables or partitions change the schema during the move.",
		Fix: "pause them for the time of the cutover; let those that make partitions work ahead, then pause them until the move is complete; " +
			"start the scheduler on new after the cutover (shared_preload_libraries, its own process, the rows of its tables)", FixKind: FixAction,
	}}, nil
}

// ownRowsSQL lists the tables of extensions whose rows pg_dump would carry
// (pg_extension_config_dump), as far as statistics know of rows in them.
const ownRowsSQL = `
select e.extname::text as name, array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname) as names
  from pg_extension e
 cross join lateral unnest(e.extconfig) k(oid)
  join pg_class c on c.oid = k.oid and c.relkind in ('r', 'p')
  join pg_namespace n on n.oid = c.relnamespace
 where greatest(pg_stat_get_live_tuples(c.oid), c.reltuples) > 0
   and not (e.extname = 'postgis' and c.relname = 'spatial_ref_sys')
 group by e.extname
 order by e.extname`

type ownRowsRow struct {
	Name  string
	Names []string
}

// checkOwnRows finds rows of the application in tables of extensions.
// Postgres manual: 36.17.3, Extension Configuration Tables.
func checkOwnRows(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[ownRowsRow](ctx, p.Old, "reading the tables of extensions", ownRowsSQL)
	var found []Finding
	for _, r := range rows {
		found = append(found, Finding{
			ID: "extensions.own-rows", Severity: Warning, Server: string(pg.Old), Object: "extension " + quote(r.Name),
			Seen: "has rows in " + list(r.Names),
			Why:  "Tables of extensions are neither copied nor replicated: on new the extension begins with none of these rows.",
			Fix:  fmt.Sprintf("carry them after start: pg_dump --data-only --extension=%s of old (14 and later), or insert them on new by the extension's own functions", quote(r.Name)), FixKind: FixAction,
		})
	}
	return found, err
}

// preloadedSQL reads the libraries that a server loads at its start; null when
// the role may not see them.
const preloadedSQL = `
select array(select lower(trim(both ' "' from l)) from unnest(string_to_array(s.setting, ',')) l where trim(both ' "' from l) <> '')
  from pg_settings s
 where s.name = 'shared_preload_libraries'`

// needsPreload are extensions that a server refuses to make, or that do nothing,
// unless it has loaded their library at its start.
var needsPreload = map[string]bool{
	"citus": true, "pg_cron": true, "pg_net": true, "pg_qualstats": true, "pg_squeeze": true, "pg_stat_kcache": true,
	"pg_stat_statements": true, "pg_tle": true, "pg_wait_sampling": true, "pgaudit": true, "pglogical": true,
	"pgsodium": true, "set_user": true, "timescaledb": true,
}

// offeredSQL returns which of the names in $1 are extensions that a server has.
const offeredSQL = `select name::text from pg_available_extensions where name = any ($1::text[])`

// checkPreload compares the libraries that the two servers load at their start,
// as far as the old database's extensions need them.
func checkPreload(ctx context.Context, p *Pair) ([]Finding, error) {
	installed, err := read[installedRow](ctx, p.Old, "reading extensions", installedSQL)
	if err != nil {
		return nil, err
	}
	there, err := readValues[[]string](ctx, p.New, "reading shared_preload_libraries", preloadedSQL)
	if err != nil || len(there) == 0 {
		return nil, err // hidden from the role: nothing can be said
	}
	loaded := map[string]bool{}
	libraries := ""
	for _, l := range there[0] {
		loaded[l] = true
		libraries += literal(l) + ", "
	}
	var found []Finding
	for _, e := range installed {
		if !needsPreload[e.Name] || loaded[e.Name] {
			continue
		}
		offered, err := readValues[string](ctx, p.New, "reading the extensions it offers", offeredSQL, []string{e.Name})
		if err != nil {
			return nil, err
		}
		if len(offered) == 0 {
			continue // told as extensions.missing; to preload it would keep the server from starting
		}
		found = append(found, Finding{
			ID: "extensions.preload", Severity: Warning, Server: string(pg.New), Object: "extension " + quote(e.Name),
			Seen: "used on old, and not in shared_preload_libraries on new",
			Why:  "Without its library, loaded when the server starts, the extension cannot be made or does nothing.",
			Fix:  fmt.Sprintf("ALTER SYSTEM SET shared_preload_libraries = %s%s; -- then restart the server", libraries, literal(e.Name)), FixKind: FixRestart,
		})
	}
	return found, nil
}
