package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// ErrNoCarrying says that the server that is to have the statistics has no
// functions to take them: it is older than 18.
var ErrNoCarrying = errors.New("statistics cannot be carried to a server before 18")

// CarryOptions say how statistics are carried over. The zero value is ready for
// use.
type CarryOptions struct {
	// Jobs is how many pairs of sessions read and write; 0 means 4.
	Jobs int
	// LockTimeout bounds the wait for one table's lock when it is tried the
	// second time; 0 means 2 seconds. The first time it is hardly waited for.
	// Below the server's deadlock_timeout (1 s) an autovacuum worker is never
	// told to give way.
	LockTimeout time.Duration
	// Stale is the part of a table's rows that may have changed on the source
	// since it was analyzed there; statistics of a table that changed more are
	// not carried. 0 means 1: as many changes as rows.
	Stale float64
	// Answer is how long a server may take for one slice of the tables, or for its
	// catalogs; 0 means 15 minutes. It is for a server that says nothing any more:
	// that much takes seconds.
	Answer time.Duration
	// Overwrite replaces statistics that the target has; without it they stay.
	Overwrite bool
}

func (o CarryOptions) withDefaults() CarryOptions {
	o.Jobs = cmp.Or(max(o.Jobs, 0), 4)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), 2*time.Second)
	o.Answer = cmp.Or(max(o.Answer, 0), 15*time.Minute)
	if o.Stale <= 0 {
		o.Stale = 1
	}
	return o
}

// CarryOutcome is what became of one table's statistics.
type CarryOutcome string

// What may become of a table's statistics.
const (
	Carried         CarryOutcome = "carried"
	PartlyCarried   CarryOutcome = "partly carried"            // see Skipped
	Kept            CarryOutcome = "kept"                      // the target has some of its own
	NoneOnSource    CarryOutcome = "none on the source"        // never analyzed there, or empty, or not to be seen by this role
	StaleOnSource   CarryOutcome = "stale on the source"       // changed too much since it was analyzed there
	NotOnTarget     CarryOutcome = "not on the target"         // or something else of that name
	CarryLocked     CarryOutcome = "locked"                    // the lock was not to be had in time
	CarryNotAllowed CarryOutcome = "not permitted"             // the role lacks MAINTAIN on the target's table
	CarryFailed     CarryOutcome = "not usable on the target"  // see Skipped
	NothingToCarry  CarryOutcome = "no columns to be analyzed" // statistics targets of 0 only
)

// SkippedColumn is a column, or an index's expression, whose statistics were
// not carried, or not all of them. It never holds a value.
type SkippedColumn struct {
	Relation string `json:"relation"` // the table, or one of its indexes
	Column   string `json:"column"`
	Reason   string `json:"reason"`
}

// TableCarry is what was done for one table.
type TableCarry struct {
	Table
	Outcome  CarryOutcome    `json:"outcome"`
	Columns  int             `json:"columns"` // rows of pg_statistic that were written
	Skipped  []SkippedColumn `json:"skipped,omitempty"`
	Extended bool            `json:"extended,omitempty"` // has statistics objects (CREATE STATISTICS), which only ANALYZE fills
	Reason   string          `json:"reason,omitempty"`   // SQLSTATE, never the server's text, which may hold values
}

// CarryReport is what CarryStatistics did, also when it returns an error.
type CarryReport struct {
	Tables []TableCarry  `json:"tables"` // ordered by name
	Took   time.Duration `json:"took_ns"`
}

// Count returns how many tables had one of the outcomes.
func (r CarryReport) Count(outcomes ...CarryOutcome) int {
	n := 0
	for _, t := range r.Tables {
		if slices.Contains(outcomes, t.Outcome) {
			n++
		}
	}
	return n
}

// ToAnalyze returns the tables that only ANALYZE gives the statistics that they
// ought to have: all that were not carried whole, and those with statistics
// objects. What the target had already is left out.
func (r CarryReport) ToAnalyze() []TableCarry {
	var found []TableCarry
	for _, t := range r.Tables {
		switch t.Outcome {
		case Carried, Kept:
			if t.Extended && t.Outcome == Carried {
				found = append(found, t)
			}
		case NotOnTarget, NothingToCarry:
		default:
			found = append(found, t)
		}
	}
	return found
}

// CarryStatistics gives the application tables of to, a server from 18 on, the
// planner's statistics that from, a server from 10 on, has for the tables,
// columns and index expressions of the same names. Foreign tables are included:
// nobody else ever analyzes them. It needs to read the tables on from (pg_stats
// shows no others) and the right to maintain them on to, which an owner has. It
// reads and writes catalogs only, whatever the tables' size; each table is one
// transaction, under the lock of ANALYZE, which keeps no reader or writer away.
//
// Only what surely means the same on to is carried: columns of the same type,
// down to the labels of enums, and histograms only where to sorts as from does.
// That is so for types whose order never changes and for collations that are
// the same by name, provider, definition and version; of all others to is asked
// whether it finds the values in order. relpages, relallvisible and
// relallfrozen describe files and are not carried; reltuples is, where to has
// not counted rows itself. What is left out is named in the report, with no
// value of the data: ANALYZE has to do it.
//
// Statistics that to has already stay, unless o.Overwrite. The writes are not
// waited for to be durable: a crash of to in that moment loses them.
//
// One table that fails does not stop the others. Errors mean that a server
// could not be asked, or that ctx ended, or ErrNoCarrying.
// Postgres manual 18: 9.28.10, Statistics Manipulation Functions; 52.28, pg_stats.
func CarryStatistics(ctx context.Context, from, to *pg.Server, o CarryOptions) (report CarryReport, err error) {
	began := time.Now()
	report.Tables = []TableCarry{}
	if !CanCarry(to) {
		return report, fmt.Errorf("carrying statistics to the %s server: %w (it is %d)", to.Side(), ErrNoCarrying, to.Major())
	}
	c := &carrying{from: from, to: to, options: o.withDefaults(), done: map[Table]*TableCarry{}}
	err = c.run(ctx)
	report.Tables, report.Took = c.tables(), time.Since(began)
	if err != nil {
		return report, fmt.Errorf("carrying statistics from the %s to the %s server: %w", from.Side(), to.Side(), err)
	}
	return report, nil
}

// CanCarry tells whether CarryStatistics can write to the server.
func CanCarry(to *pg.Server) bool { return to.Major() >= 18 }

// carrySettings make both servers write and read values in the same way,
// whatever the databases are set to.
func carrySettings() map[string]string {
	settings := pg.LongRunning()
	settings["statement_timeout"] = "600000"
	settings["extra_float_digits"] = "3"
	settings["IntervalStyle"] = "postgres"
	settings["TimeZone"] = "UTC"
	settings["bytea_output"] = "hex"
	settings["lc_monetary"] = "C"
	settings["quote_all_identifiers"] = "off"
	return settings
}

func readSettings() map[string]string {
	settings := carrySettings()
	settings["lock_timeout"] = "1000"
	settings["default_transaction_read_only"] = "on"
	return settings
}

// writeSettings: what is lost in a crash, ANALYZE makes.
func writeSettings() map[string]string {
	settings := carrySettings()
	settings["lock_timeout"] = milliseconds(firstLockTimeout)
	settings["synchronous_commit"] = "off"
	settings["client_min_messages"] = "error"
	return settings
}

// firstLockTimeout is how long a lock is waited for while other tables wait.
const firstLockTimeout = 50 * time.Millisecond

func (c *carrying) tables() []TableCarry {
	tables := make([]TableCarry, 0, len(c.done))
	for _, t := range c.done {
		tables = append(tables, *t)
	}
	slices.SortFunc(tables, func(x, y TableCarry) int {
		return cmp.Or(cmp.Compare(x.Schema, y.Schema), cmp.Compare(x.Name, y.Name))
	})
	return tables
}
