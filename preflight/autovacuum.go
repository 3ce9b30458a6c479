package preflight

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// vacuumCost is how much a vacuum by itself may spend in a second, in units of
// vacuum_cost_limit: by default 10,000 before 12, and 100,000 since. A page that
// it makes dirty costs 20, so that the former is 4 MB/s of work, the latter 40.
// Postgres manual: 19.10.2, Cost-based Vacuum Delay.
const vacuumCost = 100_000

// dirtyCost is what a page costs that vacuum makes dirty: the default of
// vacuum_cost_page_dirty. One that it reads costs 2, the default of
// vacuum_cost_page_miss since 14.
const dirtyCost = 20

// vacuumLoadSQL sums up what production on old will give autovacuum on new to do,
// by the settings $1 (scale factor), $2 (threshold) and $3 (naptime, seconds) of
// new: of each table how often it comes to a vacuum (not more often than a
// worker looks at it) times what that costs: the pages of the rows that died, and all
// pages of the indexes. slow is how many tables come to one within a day that
// takes longer than $4 units. The counters began when those of the database were
// reset, else when the server's were.
// Postgres manual: 24.1.6, The Autovacuum Daemon; 27.2.19, pg_stat_all_tables.
const vacuumLoadSQL = `
with since as (
  select greatest(extract(epoch from clock_timestamp() - coalesce(d.stats_reset, b.stats_reset, pg_postmaster_start_time())), 1)::float8 as seconds
    from pg_stat_database d, pg_stat_bgwriter b
   where d.datname = current_database()
), written as (
  select (s.n_tup_upd + s.n_tup_del) / since.seconds as dead,
         $2::float8 + $1::float8 * greatest(c.reltuples, 0) as due,
         c.relpages,
         coalesce((select sum(i.relpages) from pg_index x join pg_class i on i.oid = x.indexrelid where x.indrelid = c.oid), 0)::float8 as indexes
    from pg_stat_user_tables s
    join pg_class c on c.oid = s.relid
   cross join since
   where s.schemaname <> 'pgcutover' and s.n_tup_upd + s.n_tup_del > 0
), vacuums as (
  select least(dead / due, 1 / $3::float8) as often,
         least(relpages, greatest(due, dead * $3::float8)) * 22 + indexes * 2 as cost
    from written
)
select coalesce(sum(often * cost), 0)::float8 as cost,
       count(*) filter (where cost > $4::float8 and often * 86400 >= 1) as slow,
       (select seconds from since) as seconds
  from vacuums`

// vacuumLoad is what autovacuum will have to do on new.
type vacuumLoad struct {
	Cost    float64 // units of vacuum_cost_limit a second
	Slow    int64   // tables, each of which keeps a worker for slowVacuum or longer
	Seconds float64 // over which that was counted
}

// slowVacuum is how long one worker may be busy with one table before it counts
// as taken: the others do what is left.
const slowVacuum = 10 * time.Minute

// vacuumSettings are those of new that say what autovacuum may do.
type vacuumSettings struct {
	have map[string]settingFacts
	// undo puts a setting back as it was; empty where this role may not set it or
	// does not see where it comes from.
	undo map[string]string
}

// rate is how much all workers together may spend in a second; 0 is no bound.
func (v vacuumSettings) rate() float64 {
	limit, delay := v.have["autovacuum_vacuum_cost_limit"].number(), v.have["autovacuum_vacuum_cost_delay"].number()
	if limit < 0 {
		limit = v.have["vacuum_cost_limit"].number()
	}
	if delay < 0 {
		delay = v.have["vacuum_cost_delay"].number()
	}
	if delay <= 0 {
		return 0
	}
	return limit * 1000 / delay
}

// checkAutovacuum looks at new: what arrives while it catches up leaves dead
// rows as fast as on old, and they wait for vacuum there too.
func checkAutovacuum(ctx context.Context, p *Pair) ([]Finding, error) {
	have, err := readSettings(ctx, p.New, "autovacuum", "track_counts", "autovacuum_naptime", "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_threshold",
		"autovacuum_vacuum_cost_limit", "vacuum_cost_limit", "autovacuum_vacuum_cost_delay", "vacuum_cost_delay",
		"autovacuum_max_workers", "autovacuum_worker_slots")
	if err != nil {
		return nil, err
	}
	v := vacuumSettings{have: have}
	if v.undo, err = readUndo(ctx, p.New, "autovacuum", "track_counts", "autovacuum_naptime", "autovacuum_vacuum_scale_factor",
		"autovacuum_vacuum_cost_limit", "autovacuum_vacuum_cost_delay", "autovacuum_max_workers"); err != nil {
		return nil, err
	}
	workers := max(have["autovacuum_max_workers"].number(), 1)
	spends := v.rate()
	if spends == 0 {
		spends = math.Inf(1)
	}
	slow := min(spends/workers*slowVacuum.Seconds(), math.MaxFloat64)
	load, err := readOne[vacuumLoad](ctx, p.Old, "adding up what vacuum will have to do", vacuumLoadSQL,
		have["autovacuum_vacuum_scale_factor"].number(), have["autovacuum_vacuum_threshold"].number(), max(have["autovacuum_naptime"].number(), 1), slow)
	if err != nil {
		return nil, err
	}
	return append(v.switchedOff(), append(v.timid(load), v.rare()...)...), nil
}

func (v vacuumSettings) switchedOff() []Finding {
	var found []Finding
	for _, name := range []string{"autovacuum", "track_counts"} {
		if v.have[name].Setting == "off" {
			found = append(found, v.meanwhile(Finding{
				ID: "autovacuum.off", Severity: Warning, Server: string(pg.New), Object: name,
				Seen: name + " is off on new",
				Why:  "Nothing removes the dead rows that the catch-up leaves, and no statistics are gathered: tables bloat, and plans go by what start has measured.",
			}.setTo(name, "on", false), name))
		}
	}
	return found
}

// timid compares what vacuum on new may do with what it has to.
func (v vacuumSettings) timid(load vacuumLoad) []Finding {
	var found []Finding
	spends, workers := v.rate(), max(v.have["autovacuum_max_workers"].number(), 1)
	if spends > 0 && (spends < vacuumCost || spends < enough*load.Cost) {
		limit := costLimit(load.Cost)
		seen := fmt.Sprintf("cost limit %g, delay %g ms: vacuum may dirty %s a second", spends*v.delay()/1000, v.delay(), pages(spends))
		if spends < enough*load.Cost {
			seen += fmt.Sprintf("; what was written on old in the last %s makes work for %s a second", span(load.Seconds), pages(load.Cost))
		}
		found = append(found, v.meanwhile(Finding{
			ID: "autovacuum.timid", Severity: Warning, Server: string(pg.New), Object: "autovacuum_vacuum_cost_limit", Seen: seen,
			Why: "Vacuum does not keep up with a stream that writes more than that: tables bloat while new catches up.",
		}.mended(fmt.Sprintf("ALTER SYSTEM SET autovacuum_vacuum_cost_limit = %d; ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 2; SELECT pg_reload_conf();", limit)),
			"autovacuum_vacuum_cost_limit", "autovacuum_vacuum_cost_delay"))
	}
	if float64(load.Slow) < workers {
		return found
	}
	want := min(load.Slow+2, mostWorkers)
	restart := true
	if slots, ok := v.have["autovacuum_worker_slots"]; ok && slots.number() > workers {
		want, restart = min(want, int64(slots.number())), false
	}
	if float64(want) <= workers {
		return found
	}
	f := Finding{
		ID: "autovacuum.workers", Severity: Note, Server: string(pg.New), Object: "autovacuum_max_workers",
		Seen: fmt.Sprintf("%g workers, and %d tables whose vacuum takes longer than %s each, at least once a day", workers, load.Slow, slowVacuum),
		Why:  "While all workers are busy with large tables the small ones that are written most wait for vacuum and statistics. The workers share one cost limit: raise it with them.",
	}.setTo("autovacuum_max_workers", want, restart)
	if !restart {
		f = v.meanwhile(f, "autovacuum_max_workers")
	}
	return append(found, f)
}

const (
	// leastLimit is the cost limit that is advised at a delay of 2 ms: five times
	// the default.
	leastLimit = 1000
	// mostLimit is the highest that Postgres takes.
	mostLimit = 10_000
	// enough is how much more vacuum must be able to do than production needs: a
	// catch-up writes faster.
	enough = 1.5
	// mostWorkers bounds the advice: each may take autovacuum_work_mem.
	mostWorkers = 16
)

// costLimit is the limit at a delay of 2 ms that lets vacuum do twice the work.
func costLimit(cost float64) int {
	return int(min(max(math.Ceil(2*cost*2/1000/100)*100, leastLimit), mostLimit))
}

// delay is autovacuum_vacuum_cost_delay in milliseconds.
func (v vacuumSettings) delay() float64 {
	if d := v.have["autovacuum_vacuum_cost_delay"].number(); d >= 0 {
		return d
	}
	return v.have["vacuum_cost_delay"].number()
}

// pages writes units of cost as bytes of pages made dirty.
func pages(cost float64) string { return bytes(int64(cost / dirtyCost * 8192)) }

// span writes seconds for people.
func span(seconds float64) string {
	d := time.Duration(min(seconds, float64(math.MaxInt64/time.Second)) * float64(time.Second))
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return d.Round(time.Second).String()
}

func (v vacuumSettings) rare() []Finding {
	var found []Finding
	if nap := v.have["autovacuum_naptime"].number(); nap > 300 {
		found = append(found, v.rareFinding("autovacuum_naptime", fmt.Sprintf("autovacuum_naptime is %g s", nap), "'1min'"))
	}
	if scale := v.have["autovacuum_vacuum_scale_factor"].number(); scale > 0.4 {
		found = append(found, v.rareFinding("autovacuum_vacuum_scale_factor", fmt.Sprintf("autovacuum_vacuum_scale_factor is %g", scale), "0.1"))
	}
	return found
}

func (v vacuumSettings) rareFinding(name, seen, value string) Finding {
	return v.meanwhile(Finding{
		ID: "autovacuum.rare", Severity: Note, Server: string(pg.New), Object: name, Seen: seen + " on new",
		Why: "Vacuum comes seldom: a large part of a table is dead rows before it does.",
	}.setTo(name, value, false), name)
}

// meanwhile lets `check --fix` set these settings for the time of the move, when
// it is known how to put all of them back.
func (v vacuumSettings) meanwhile(f Finding, names ...string) Finding {
	var back []string
	for _, name := range names {
		undo := v.undo[name]
		if undo == "" {
			return f
		}
		back = append(back, undo)
	}
	f.Undo = strings.Join(back, " ") + " SELECT pg_reload_conf();"
	return f
}

// undo10SQL reads of the settings named in $1 how ALTER SYSTEM would put them back,
// for a superuser of 10 to 14: the value that ALTER SYSTEM gave them, in the unit
// of the catalog, or none. Postgres manual: ALTER SYSTEM.
const undo10SQL = `
select s.name::text as name, coalesce(f.setting, '') as value
  from pg_settings s
  left join lateral (
       select f.setting
         from pg_file_settings f
        where f.name = s.name and f.sourcefile like '%postgresql.auto.conf'
        order by f.seqno desc
        limit 1) f on true
 where s.name = any ($1::text[])
   and current_setting('is_superuser')::bool`

// undo15SQL is the same for 15 and later, where the right to ALTER SYSTEM can be
// granted for a setting. Whether it is set already can only be told by who may read
// the server's files.
const undo15SQL = `
select s.name::text as name, coalesce(f.setting, '') as value
  from pg_settings s
  left join lateral (
       select f.setting
         from pg_file_settings f
        where f.name = s.name and f.sourcefile like '%postgresql.auto.conf'
        order by f.seqno desc
        limit 1) f on true
 where s.name = any ($1::text[])
   and has_parameter_privilege(s.name, 'ALTER SYSTEM')
   and has_function_privilege('pg_reload_conf()', 'EXECUTE')`

// mayReadFilesSQL tells whether pg_file_settings can be read.
const mayReadFilesSQL = `
select has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')
       and has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')`

// settingUndo is a setting with the value that ALTER SYSTEM has given it.
type settingUndo struct{ Name, Value string }

// readUndo returns statements that put settings back, of those that this role may
// set.
func readUndo(ctx context.Context, s *pg.Server, names ...string) (map[string]string, error) {
	may, err := readValues[bool](ctx, s, "asking whether the configuration files can be read", mayReadFilesSQL)
	if err != nil || !may[0] {
		return nil, err
	}
	sql := undo10SQL
	if s.Major() >= 15 {
		sql = undo15SQL
	}
	rows, err := read[settingUndo](ctx, s, "reading how settings are put back", sql, names)
	if err != nil {
		return nil, err
	}
	undo := map[string]string{}
	for _, r := range rows {
		undo[r.Name] = fmt.Sprintf("ALTER SYSTEM RESET %s;", r.Name)
		if _, err := strconv.ParseFloat(r.Value, 64); r.Value != "" && err != nil {
			undo[r.Name] = fmt.Sprintf("ALTER SYSTEM SET %s = %s;", r.Name, literal(r.Value))
		} else if r.Value != "" {
			undo[r.Name] = fmt.Sprintf("ALTER SYSTEM SET %s = %s;", r.Name, r.Value)
		}
	}
	return undo, nil
}
