package warmup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

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
	// 0 means three quarters of the server's shared_buffers. Tables that are
	// smaller than an equal share get all of it; the others share the rest.
	Budget int64
	// Jobs is the number of tables read at the same time; 0 means 4.
	Jobs int
	// PerTable bounds the time for one table: no statement may take longer,
	// and none begins later. 0 means 2 minutes.
	PerTable time.Duration
	// Total bounds the time for all tables: none is begun later. 0 means 15
	// minutes.
	Total time.Duration
	// LockTimeout bounds the wait for a table that somebody locks exclusively;
	// 0 means 1 second.
	LockTimeout time.Duration
	// Progress, which may be nil, is called after each table, by one goroutine
	// at a time. It must return soon.
	Progress func(WarmProgress)
}

func (o WarmOptions) withDefaults() WarmOptions {
	o.Recent = cmp.Or(max(o.Recent, 0), 24*time.Hour)
	o.Rows = cmp.Or(max(o.Rows, 0), 1_000_000)
	o.Jobs = cmp.Or(max(o.Jobs, 0), 4)
	o.PerTable = cmp.Or(max(o.PerTable, 0), 2*time.Minute)
	o.Total = cmp.Or(max(o.Total, 0), 15*time.Minute)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), time.Second)
	return o
}

// Method is how a table's newest rows were found.
type Method string

// The methods, best first.
const (
	ByColumn     Method = "recent by column" // rows of the last Recent, through the column's index
	ByPrimaryKey Method = "primary key"      // highest keys first
	LastBlocks   Method = "last blocks"      // from the end of the table's file
	NotRead      Method = "not read"         // see Skipped
)

// TableWarmth is what was read of one table.
type TableWarmth struct {
	Table
	Method  Method        `json:"method"`
	Column  string        `json:"column,omitempty"` // whose order was followed
	Rows    int64         `json:"rows"`
	Bytes   int64         `json:"bytes"`             // of cache: blocks of the table, out-of-line values, indexes read whole
	Share   int64         `json:"share"`             // of the budget, in bytes
	Indexes []IndexWarmth `json:"indexes,omitempty"` // what was touched of each
	Took    time.Duration `json:"took_ns"`
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
	return fmt.Sprintf("%s: %s, %d rows, %d bytes, %s", t.Table, how, t.Rows, t.Bytes, t.Took.Round(time.Millisecond))
}

// WarmReport is what Warm did, also when it returns an error.
type WarmReport struct {
	Tables   []TableWarmth `json:"tables"` // ordered by name; empty tables are left out
	Rows     int64         `json:"rows"`
	Bytes    int64         `json:"bytes"`
	Budget   int64         `json:"budget"`
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
// shared_buffers (a ring of 256 kB). It writes nothing.
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
	w := &warming{server: s, options: o, deadline: began.Add(o.Total), grouped: map[string]int{}}
	w.report.Tables = []TableWarmth{} // a list in JSON, never null
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
	tables, err := w.plan(ctx)
	if err == nil {
		err = w.readAll(ctx, tables)
	}
	if err != nil {
		return report, fmt.Errorf("warming the %s server: %w", s.Side(), err)
	}
	return report, nil
}

// warming is one call of Warm.
type warming struct {
	server    *pg.Server
	options   WarmOptions
	deadline  time.Time // no table is begun later
	blockSize int64
	prewarm   string // the function pg_prewarm, quoted with its schema; empty without it

	mu      sync.Mutex // guards what follows, and Progress
	report  WarmReport
	grouped map[string]int // warnings that concern many tables
}

// share is a table and the part of the budget it may take.
type share struct {
	*relation
	bytes int64
}

// settings are those of a session that reads. Rows are to come through
// indexes, in their order; that their order is known only to an index is what
// keeps the planner, which may have no statistics yet, from sorting the table.
func (w *warming) settings() map[string]string {
	settings := map[string]string{
		"statement_timeout":               milliseconds(w.options.PerTable),
		"lock_timeout":                    milliseconds(w.options.LockTimeout),
		"default_transaction_read_only":   "on",
		"enable_seqscan":                  "off",
		"enable_bitmapscan":               "off",
		"enable_sort":                     "off",
		"enable_hashjoin":                 "off",
		"enable_mergejoin":                "off",
		"max_parallel_workers_per_gather": "0",
	}
	if w.server.Version() >= 110000 {
		settings["jit"] = "off"
	}
	return settings
}

// serverFactsSQL returns the size of the cache and of a block, and where
// pg_prewarm is, if it is installed and this role may call it.
// Postgres manual: F.32, pg_prewarm.
const serverFactsSQL = `
select (select setting::bigint from pg_settings where name = 'shared_buffers') * current_setting('block_size')::bigint,
       current_setting('block_size')::bigint,
       coalesce((select quote_ident(n.nspname) || '.pg_prewarm'
                   from pg_extension e
                   join pg_namespace n on n.oid = e.extnamespace
                   join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
                                   and d.classid = 'pg_proc'::regclass and d.deptype = 'e'
                   join pg_proc p on p.oid = d.objid and p.proname = 'pg_prewarm'
                  where e.extname = 'pg_prewarm'
                    and has_schema_privilege(n.oid, 'USAGE') and has_function_privilege(p.oid, 'EXECUTE')
                  limit 1), '')`

// plan lists the tables to read, with their shares of the budget, biggest
// first, and notes those that are skipped.
func (w *warming) plan(ctx context.Context) ([]share, error) {
	conn, err := w.server.Connect(ctx, "warm", map[string]string{"lock_timeout": milliseconds(w.options.LockTimeout)})
	if err != nil {
		return nil, fmt.Errorf("opening a session to list tables: %w", err)
	}
	defer endSession(ctx, conn)
	var buffers int64
	if err := conn.QueryRow(ctx, serverFactsSQL).Scan(&buffers, &w.blockSize, &w.prewarm); err != nil {
		return nil, fmt.Errorf("asking for the size of the cache: %w", err)
	}
	w.report.Budget = cmp.Or(max(w.options.Budget, 0), buffers/4*3)
	all, err := relations(ctx, conn)
	if err != nil {
		return nil, err
	}
	var tables []share
	for _, r := range all {
		switch {
		case r.Kind == PartitionedTable || !r.Populated || r.Bytes == 0:
		case r.Locked:
			w.note(TableWarmth{Table: r.Table, Method: NotRead, Skipped: "it is locked exclusively"}, 0, 0)
		default:
			tables = append(tables, share{relation: r})
		}
	}
	w.share(tables)
	slices.SortStableFunc(tables, func(a, b share) int { return cmp.Compare(b.bytes, a.bytes) })
	return tables, nil
}

// share divides the budget. When there is not a block for everybody, the
// tables that were read and written most get one.
func (w *warming) share(tables []share) {
	slices.SortStableFunc(tables, func(a, b share) int { return cmp.Compare(b.Activity, a.Activity) })
	tables = tables[:min(int64(len(tables)), w.report.Budget/w.blockSize)]
	wants := make([]int64, len(tables))
	for i, t := range tables {
		wants[i] = t.Bytes + t.Toast + t.Indexes
	}
	for i, bytes := range divide(w.report.Budget, wants) {
		tables[i].bytes = bytes
	}
}

// divide gives everybody an equal part of the budget, but nobody more than it
// wants; what some leave over goes to the others. The parts add up to no more
// than the budget.
func divide(budget int64, wants []int64) []int64 {
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(wants[a], wants[b]) })
	parts := make([]int64, len(wants))
	for done, i := range order {
		parts[i] = min(max(wants[i], 0), budget/int64(len(order)-done))
		budget -= parts[i]
	}
	return parts
}

// readAll reads the tables in o.Jobs sessions.
func (w *warming) readAll(ctx context.Context, tables []share) error {
	g, ctx := errgroup.WithContext(ctx)
	var next, done atomic.Int64
	for range min(w.options.Jobs, len(tables)) {
		g.Go(func() error {
			var conn *pgx.Conn
			defer func() { endSession(ctx, conn) }()
			for {
				at := int(next.Add(1)) - 1
				if at >= len(tables) {
					return nil
				}
				if conn == nil || conn.IsClosed() {
					endSession(ctx, conn)
					var err error
					if conn, err = w.server.Connect(ctx, "warm", w.settings()); err != nil {
						return fmt.Errorf("opening a session to read tables: %w", err)
					}
				}
				warmth := w.one(ctx, conn, tables[at])
				if ctx.Err() != nil {
					return fmt.Errorf("reading %s: %w", tables[at].Table, cancelled(ctx))
				}
				w.note(warmth, int(done.Add(1)), len(tables))
			}
		})
	}
	return g.Wait()
}

// one reads a table and turns any error into a warning.
func (w *warming) one(ctx context.Context, conn *pgx.Conn, t share) TableWarmth {
	began := time.Now()
	r := &reader{
		warming: w, conn: conn, relation: t.relation,
		deadline: began.Add(w.options.PerTable),
		warmth:   TableWarmth{Table: t.Table, Method: NotRead, Share: t.bytes},
		seen:     map[int64]bool{},
	}
	var err error
	switch {
	case began.After(w.deadline):
		r.warmth.Skipped, r.warmth.grouped = fmt.Sprintf("the time for all tables (%s) was over", w.options.Total), true
	case t.bytes < w.blockSize:
		r.warmth.Skipped, r.warmth.grouped = fmt.Sprintf("the budget of %d bytes is too small for so many tables", w.report.Budget), true
	default:
		err = r.read(ctx)
	}
	if err != nil {
		w.explain(ctx, conn, r, err)
	}
	r.warmth.Took = time.Since(began)
	return r.warmth
}

// explain puts an error into the table's line.
func (w *warming) explain(ctx context.Context, conn *pgx.Conn, r *reader, err error) {
	text := err.Error()
	switch {
	case pg.IsCode(err, pg.LockNotAvailable):
		text = "it is locked"
		if blockers, errAsk := blockersOf(ctx, conn, r.Table, 0, []uint32{r.OID}); errAsk == nil && len(blockers) > 0 {
			text += ": " + blockers[0].String()
		}
	case pg.IsCode(err, pg.QueryCanceled):
		text = fmt.Sprintf("a statement took longer than %s", w.options.PerTable)
	}
	if r.warmth.Method == NotRead || r.warmth.Rows == 0 {
		r.warmth.Method, r.warmth.Skipped = NotRead, text
		return
	}
	r.warmth.Warning = text
}

// note writes into the report and tells the caller.
func (w *warming) note(t TableWarmth, done, total int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Tables = append(w.report.Tables, t)
	w.report.Rows += t.Rows
	w.report.Bytes += t.Bytes
	if text := cmp.Or(t.Warning, t.Skipped); text != "" && t.grouped {
		w.grouped[text]++
	} else if text != "" && !t.quiet {
		w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("%s: %s", t.Table, text))
	}
	if w.options.Progress != nil && total > 0 {
		w.options.Progress(WarmProgress{Table: t, Done: done, Total: total, Bytes: w.report.Bytes})
	}
}
