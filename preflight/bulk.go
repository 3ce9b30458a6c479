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
