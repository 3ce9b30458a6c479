package preflight

import (
	"context"
	"fmt"
	"strconv"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// number is a setting of pg_settings as a number; settings that are not there
// or no numbers are zero.
func (s settingFacts) number() float64 {
	n, err := strconv.ParseFloat(s.Setting, 64)
	if err != nil {
		return 0
	}
	return n
}

// vacuumCost is how much a vacuum by itself may spend in a second, in units of
// vacuum_cost_limit: by default 10,000 before 12, and 100,000 since. A page that
// it makes dirty costs 20, so that the former is 4 MB/s of work, the latter 40.
// Postgres manual: 19.10.2, Cost-based Vacuum Delay.
const vacuumCost = 100_000

// checkAutovacuum looks at new: what arrives while it catches up leaves dead
// rows as fast as on old, and they wait for vacuum there too.
func checkAutovacuum(ctx context.Context, p *Pair) ([]Finding, error) {
	have, err := readSettings(ctx, p.New, "autovacuum", "track_counts", "autovacuum_naptime", "autovacuum_vacuum_scale_factor",
		"autovacuum_vacuum_cost_limit", "vacuum_cost_limit", "autovacuum_vacuum_cost_delay", "vacuum_cost_delay")
	if err != nil {
		return nil, err
	}
	return autovacuumFindings(have), nil
}

func autovacuumFindings(have map[string]settingFacts) []Finding {
	var found []Finding
	for _, name := range []string{"autovacuum", "track_counts"} {
		if have[name].Setting == "off" {
			found = append(found, Finding{
				ID: "autovacuum.off", Severity: Warning, Server: string(pg.New), Object: name,
				Seen: name + " is off on new",
				Why:  "Nothing removes the dead rows that the catch-up leaves, and no statistics are gathered: tables bloat, and plans go by what start has measured.",
			}.setTo(name, "on", false))
		}
	}
	limit, delay := have["autovacuum_vacuum_cost_limit"].number(), have["autovacuum_vacuum_cost_delay"].number()
	if limit < 0 {
		limit = have["vacuum_cost_limit"].number()
	}
	if delay < 0 {
		delay = have["vacuum_cost_delay"].number()
	}
	if delay > 0 && limit*1000/delay < vacuumCost {
		found = append(found, Finding{
			ID: "autovacuum.timid", Severity: Warning, Server: string(pg.New), Object: "autovacuum_vacuum_cost_limit",
			Seen: fmt.Sprintf("cost limit %g, delay %g ms: vacuum may dirty %s a second", limit, delay, bytes(int64(limit*1000/delay/20*8192))),
			Why:  "Vacuum does not keep up with a stream that writes more than that: tables bloat while new catches up.",
		}.mended("ALTER SYSTEM SET autovacuum_vacuum_cost_limit = 1000;\nALTER SYSTEM SET autovacuum_vacuum_cost_delay = 2;\nSELECT pg_reload_conf();"))
	}
	if nap := have["autovacuum_naptime"].number(); nap > 300 {
		found = append(found, rareFinding("autovacuum_naptime", fmt.Sprintf("autovacuum_naptime is %g s", nap), "'1min'"))
	}
	if scale := have["autovacuum_vacuum_scale_factor"].number(); scale > 0.4 {
		found = append(found, rareFinding("autovacuum_vacuum_scale_factor", fmt.Sprintf("autovacuum_vacuum_scale_factor is %g", scale), "0.1"))
	}
	return found
}

func rareFinding(name, seen, value string) Finding {
	return Finding{
		ID: "autovacuum.rare", Severity: Note, Server: string(pg.New), Object: name, Seen: seen + " on new",
		Why: "Vacuum comes seldom: a large part of a table is dead rows before it does.",
	}.setTo(name, value, false)
}

const databaseSizeSQL = `select pg_database_size(current_database())`

// What a server is advised to have for loading many rows.
const (
	leastWALSize = 1 << 30  // the default of max_wal_size
	leastMemory  = 64 << 20 // the default of maintenance_work_mem
	moreMemory   = 512 << 20
	largeIndexes = 64 << 30 // a database from which the default of maintenance_work_mem is little
	checkpoints  = 64       // how many of them a copy may cause before it is worth a word
)

// checkBulk looks at what slows the copy and the building of indexes down.
// Postgres manual: 14.4, Populating a Database.
func checkBulk(ctx context.Context, p *Pair) ([]Finding, error) {
	size, err := readValues[int64](ctx, p.Old, "reading the size of the database", databaseSizeSQL)
	if err != nil {
		return nil, err
	}
	have, err := readSettings(ctx, p.New, "max_wal_size", "maintenance_work_mem")
	if err != nil {
		return nil, err
	}
	return bulkFindings(int64(have["max_wal_size"].number())<<20, int64(have["maintenance_work_mem"].number())<<10, size[0]), nil
}

// bulkFindings judges the settings by the size of the old database, all in bytes.
func bulkFindings(wal, memory, size int64) []Finding {
	var found []Finding
	if wal < leastWALSize || size/checkpoints > wal {
		want := max(4*leastWALSize, min(64<<30, size/16))
		found = append(found, Finding{
			ID: "bulk.max-wal-size", Severity: Note, Server: string(pg.New), Object: "max_wal_size",
			Seen: fmt.Sprintf("max_wal_size is %s on new, the old database has %s", bytes(wal), bytes(size)),
			Why:  "The copy makes a checkpoint each time it has written a part of that, and after each every page is logged in full: it takes longer.",
		}.setTo("max_wal_size", fmt.Sprintf("'%dGB'", want>>30), false))
	}
	if memory < leastMemory || (size > largeIndexes && memory < moreMemory/2) {
		want := leastMemory
		if size > largeIndexes {
			want = moreMemory
		}
		found = append(found, Finding{
			ID: "bulk.maintenance-work-mem", Severity: Note, Server: string(pg.New), Object: "maintenance_work_mem",
			Seen: fmt.Sprintf("maintenance_work_mem is %s on new, the old database has %s", bytes(memory), bytes(size)),
			Why:  "Indexes are built with so little memory that the sort goes to disk in many runs: it takes longer.",
		}.setTo("maintenance_work_mem", fmt.Sprintf("'%dMB'", want>>20), false))
	}
	return found
}
