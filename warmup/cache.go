package warmup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// WarmOptions say how much is read. The zero value is ready for use.
type WarmOptions struct {
	// Recent is how far back rows are read of tables that have an indexed
	// column which tells their age; 0 means 24 hours.
	Recent time.Duration
	// Rows is the most rows read of one table; 0 means 1,000,000.
	Rows int64
	// Budget is the most bytes of cache that all tables together may take;
	// 0 means three quarters of the server's shared_buffers, and more than seven
	// eighths of them are never taken: the server itself needs some. Tables that
	// are smaller than an equal share get all of it; the others share the rest.
	Budget int64
	// Beside is how many databases share the budget, this one included; less than
	// two means that it has all of it.
	Beside int
	// Jobs is the number of tables read at the same time; 0 means 4.
	Jobs int
	// PerTable bounds the time for one table: no statement may take longer,
	// and none begins later. 0 means 2 minutes.
	PerTable time.Duration
	// Answer is how long a server may take for each exchange; after that the session
	// is given up, with a warning. 0 means a minute longer than PerTable, and three
	// minutes at least.
	Answer time.Duration
	// Total bounds the time for all tables: nothing is begun later. 0 means 15
	// minutes.
	Total time.Duration
	// LockTimeout bounds the wait for a table that somebody locks exclusively;
	// 0 means 1 second.
	LockTimeout time.Duration
	// Hot, which may be nil, is what production uses, by ReadHotSet: it decides
	// order and budget, and which blocks are read besides the newest rows.
	Hot *HotSet
	// Columns names, for tables as "schema.table", the column that tells how old
	// a row is, where its name does not. It needs an index.
	Columns map[string]string
	// Rate is the most bytes a second that all jobs together read from outside
	// the cache; 0 means no bound.
	Rate int64
	// NoPrewarm reads everything by queries, also where pg_prewarm is installed.
	NoPrewarm bool
	// Progress, which may be nil, is called after each table's rows, by one
	// goroutine at a time. It must return soon.
	Progress func(WarmProgress)
}

// size writes bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MB", bytes>>20)
	}
	return fmt.Sprintf("%d kB", bytes>>10)
}

func (o WarmOptions) withDefaults() WarmOptions {
	o.Recent = cmp.Or(max(o.Recent, 0), 24*time.Hour)
	o.Rows = cmp.Or(max(o.Rows, 0), 1_000_000)
	o.Jobs = cmp.Or(max(o.Jobs, 0), 4)
	o.PerTable = cmp.Or(max(o.PerTable, 0), 2*time.Minute)
	o.Total = cmp.Or(max(o.Total, 0), 15*time.Minute)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), time.Second)
	o.PerTable = min(o.PerTable, o.Total)
	o.Answer = cmp.Or(max(o.Answer, 0), max(o.PerTable+time.Minute, 3*time.Minute))
	o.Rate = max(o.Rate, 0)
	return o
}

// Method is how a table's newest rows were found.
type Method string

// The methods, best first.
const (
	ByColumn     Method = "recent by column" // rows of the last Recent, through the column's index
	ByPrimaryKey Method = "primary key"      // highest keys first
	LastBlocks   Method = "last blocks"      // from the end of the table's file
	HotBlocks    Method = "hot blocks"       // those that production keeps in its cache, and no others
	NotRead      Method = "not read"         // see Skipped
)

// TableWarmth is what was read of one table.
type TableWarmth struct {
	Table
	Method  Method        `json:"method"`
	Column  string        `json:"column,omitempty"` // whose order was followed
	Rows    int64         `json:"rows"`
	Bytes   int64         `json:"bytes"`             // of cache: blocks of the table, out-of-line values, indexes read whole
	Read    int64         `json:"read"`              // bytes of them, and on the way to them, that were not in the cache
	Share   int64         `json:"share"`             // of the budget, in bytes
	Ranges  int           `json:"ranges,omitempty"`  // of blocks that are hot on old, read besides
	Blocks  bool          `json:"blocks,omitempty"`  // the newest rows lie at the end and were read by block, uncounted
	Indexes []IndexWarmth `json:"indexes,omitempty"` // what was touched of each
	Took    time.Duration `json:"took_ns"`
	Moved   bool          `json:"moved,omitempty"`   // rows are in another order than on old: its hot blocks could not be found
	Hint    string        `json:"hint,omitempty"`    // what would help to find the newest rows
	Skipped string        `json:"skipped,omitempty"` // why nothing was read
	Warning string        `json:"warning,omitempty"` // why it was not read as far as meant

	quiet   bool // Skipped is no reason to warn
	grouped bool // Skipped is the same for many tables: one warning for all
}

// String says in one line how a table was read.
func (t TableWarmth) String() string {
	how := string(t.Method)
	switch t.Method {
	case ByColumn:
		how = "by column " + t.Column
	case ByPrimaryKey:
		how = "by primary key " + t.Column
	case NotRead:
		return fmt.Sprintf("%s: not read: %s", t.Table, t.Skipped)
	}
	if t.Ranges > 0 {
		how += fmt.Sprintf(" and %d hot ranges", t.Ranges)
	}
	return fmt.Sprintf("%s: %s, %s warmed, %s read for it, %s", t.Table, how, size(t.Bytes), size(t.Read), t.Took.Round(time.Millisecond))
}

// WarmReport is what Warm did, also when it returns an error.
type WarmReport struct {
	Tables   []TableWarmth `json:"tables"` // ordered by name; empty tables are left out
	Rows     int64         `json:"rows"`
	Bytes    int64         `json:"bytes"`
	Read     int64         `json:"read"` // bytes that were not in the cache
	Budget   int64         `json:"budget"`
	Prewarm  bool          `json:"prewarm"`          // by pg_prewarm
	Source   HotSource     `json:"source,omitempty"` // of what is hot
	Advice   string        `json:"advice,omitempty"` // the statement that would make it cheaper
	At       time.Time     `json:"at"`               // when it began
	Took     time.Duration `json:"took_ns"`
	Warnings []string      `json:"warnings,omitempty"` // a line for each table that was not read as meant
}

// WarmProgress is one table, read or skipped.
type WarmProgress struct {
	Table TableWarmth
	Done  int
	Total int
	Bytes int64 // of all tables so far
}

// Warm reads what clients will ask for first into the server's cache: of each
// application table the newest rows, whole, with their out-of-line values, and
// the indexes that lead to them. It reads through indexes or by block ranges,
// never by a sequential scan, which on a big table leaves nothing behind in
// shared_buffers (a ring of 256 kB), and by pg_prewarm where that is installed
// and the newest rows are found to lie at the end. Indexes come last, so that
// no rows push them out. It writes nothing, holds no lock but ACCESS SHARE, and
// that for moments.
//
// With o.Hot the tables come in the order of their use on old, each with as much
// of the budget as production keeps of it in the cache of old; after the newest
// rows those blocks are read that are hot on old, where the order of rows on new
// is found to be the same, and indexes as much as they are used. Without it
// every table gets an equal share.
//
// Where pg_buffercache may be read, no more is read than there are buffers that
// are free or were used once at most: nothing that is hot on this server has to
// go. Blocks that are in the cache already cost nothing; where it is known what is
// hot they come first, and are preferred to others that are about as hot, so that
// one call after another ends with the same blocks.
//
// The newest rows are those of the last o.Recent by an indexed timestamp or
// date column whose highest value is plausible (not in the future, not older
// than o.Recent), well-known names such as updated_at and created_at first;
// else those with the highest primary key, when that is one integer, timestamp
// or UUID version 7; else those in the last blocks of the table's file. Of a
// partition whose newest row is older than o.Recent nothing is read.
//
// A table that cannot be read is skipped with a warning. The error is nil
// unless the server could not be reached or ctx ended; the report then holds
// what was done.
// Postgres manual: 65.4 for TOAST; src/backend/storage/buffer/README, "Buffer
// Ring Replacement Strategy".
func Warm(ctx context.Context, s *pg.Server, o WarmOptions) (report WarmReport, err error) {
	began := time.Now()
	o = o.withDefaults()
	w := &warming{server: s, options: o, deadline: began.Add(o.Total), lines: map[Table]int{}, grouped: map[string]int{}, pace: &pace{rate: o.Rate}}
	w.report.Tables, w.report.At = []TableWarmth{}, began.UTC() // a list in JSON, never null
	defer func() {
		for _, text := range slices.Sorted(maps.Keys(w.grouped)) {
			w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("%d tables: %s", w.grouped[text], text))
		}
		report = w.report
		report.Took = time.Since(began)
		slices.SortFunc(report.Tables, func(a, b TableWarmth) int {
			return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
		})
	}()
	readers, err := w.plan(ctx)
	if err == nil {
		err = w.keepAll(ctx, readers)
	}
	if err == nil {
		err = w.readAll(ctx, readers)
	}
	if err != nil {
		return report, fmt.Errorf("warming the %s server: %w", s.Side(), err)
	}
	return report, nil
}
