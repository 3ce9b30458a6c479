package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// warming is one call of Warm.
type warming struct {
	server    *pg.Server
	options   WarmOptions
	deadline  time.Time // nothing is begun later
	blockSize int64
	prewarm   string // the function pg_prewarm, quoted with its schema; empty without it
	pace      *pace
	files     map[Table][]*file
	uses      map[Table]*HotTable // what is hot of each
	bounded   bool                // room is known
	room      atomic.Int64        // bytes that may be read yet without pushing out what is hot
	there     map[uint32]*inside  // what the cache has of each file; nil when that is not known

	mu      sync.Mutex // guards what follows, and Progress
	report  WarmReport
	lines   map[Table]int  // where each table is in the report
	grouped map[string]int // warnings that concern many tables
	done    int            // tables whose rows were read
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

// plan lists the tables to read, with their shares of the budget, hottest or
// biggest first, and notes those that are skipped.
func (w *warming) plan(ctx context.Context) ([]*reader, error) {
	conn, err := w.server.Connect(ctx, "warm", map[string]string{"lock_timeout": milliseconds(w.options.LockTimeout)})
	if err != nil {
		return nil, fmt.Errorf("opening a session to list tables: %w", err)
	}
	defer endSession(ctx, conn)
	var readers []*reader
	err = answered(ctx, w.server, w.options.Answer, func(ctx context.Context) (err error) { readers, err = w.list(ctx, conn); return err })
	return readers, err
}

// list is plan in a session.
func (w *warming) list(ctx context.Context, conn *pgx.Conn) ([]*reader, error) {
	var buffers int64
	if err := conn.QueryRow(ctx, serverFactsSQL).Scan(&buffers, &w.blockSize, &w.prewarm); err != nil {
		return nil, fmt.Errorf("asking for the size of the cache: %w", err)
	}
	if w.options.NoPrewarm {
		w.prewarm = ""
	}
	w.report.Prewarm = w.prewarm != ""
	w.report.Budget = min(cmp.Or(max(w.options.Budget, 0), buffers/4*3), buffers-buffers/8) / int64(max(w.options.Beside, 1))
	if w.prewarm == "" && !w.options.NoPrewarm {
		w.report.Advice = "create extension pg_prewarm;"
	}
	w.uses = map[Table]*HotTable{}
	if h := w.options.Hot; h != nil {
		w.report.Source = h.Source
		for i := range h.Tables {
			w.uses[h.Tables[i].Table] = &h.Tables[i]
		}
	}
	if err := w.findRoom(ctx, conn); err != nil {
		return nil, err
	}
	all, err := relations(ctx, conn)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	w.files = map[Table][]*file{}
	for _, f := range files {
		name := Table{Schema: f.Schema, Name: f.Table}
		w.files[name] = append(w.files[name], f)
	}
	for _, name := range slices.Sorted(maps.Keys(w.options.Columns)) {
		if !slices.ContainsFunc(all, func(r *relation) bool { return r.Schema+"."+r.Name == name }) {
			w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("warm.columns names a column of %s, which is no table here", name))
		}
	}
	var readers []*reader
	for _, r := range all {
		switch {
		case r.Kind == PartitionedTable || !r.Populated || r.Bytes == 0:
		case r.Locked:
			w.note(TableWarmth{Table: r.Table, Method: NotRead, Skipped: "it is locked exclusively"}, 0)
		default:
			readers = append(readers, w.reader(r))
		}
	}
	return w.share(readers), nil
}

// reader begins a table's report.
func (w *warming) reader(r *relation) *reader {
	made := &reader{
		warming: w, relation: r, hot: w.uses[r.Table], seen: map[int64]bool{},
		warmth: TableWarmth{Table: r.Table, Method: NotRead},
	}
	for _, f := range w.files[r.Table] {
		made.oids = append(made.oids, f.OID)
	}
	if w.useful() && made.hot == nil {
		made.warmth.Skipped, made.warmth.quiet = "nobody reads it on old", true
	}
	return made
}

// useful says that the hot set knows what is used.
func (w *warming) useful() bool {
	return w.options.Hot != nil && w.options.Hot.Source != FromNothing && len(w.options.Hot.Tables) > 0
}

// share divides the budget and sorts. With a hot set by what is hot of each
// table, and what that leaves over by what is in old's cache besides; else
// evenly. When then there is not a block for everybody, the tables that were read
// and written most get one.
func (w *warming) share(readers []*reader) []*reader {
	by := func(a, b *reader) int { return cmp.Compare(b.Activity, a.Activity) }
	if w.useful() {
		by = func(a, b *reader) int { return cmp.Compare(b.heat(), a.heat()) }
	}
	slices.SortStableFunc(readers, by)
	some := readers[:min(int64(len(readers)), w.report.Budget/w.blockSize)]
	left := w.report.Budget
	for _, generous := range []bool{false, true} {
		wants, weights := make([]int64, len(some)), make([]float64, len(some))
		for i, r := range some {
			wants[i], weights[i] = max(r.sum(generous)-r.warmth.Share, 0), 1
			if w.useful() {
				weights[i] = r.heat()
			}
		}
		for i, bytes := range divide(left, wants, weights) {
			some[i].warmth.Share += bytes
			left -= bytes
		}
	}
	left = w.report.Budget
	for _, r := range some {
		r.warmth.Share = whole(r.warmth.Share, w.blockSize, left)
		left -= r.warmth.Share
		r.shrink()
	}
	if !w.useful() {
		slices.SortStableFunc(readers, func(a, b *reader) int { return cmp.Compare(b.warmth.Share, a.warmth.Share) })
	}
	return readers
}

// divide gives everybody a part of the budget by weight, but nobody more than it
// wants; what some leave over goes to the others. The parts add up to no more
// than the budget.
func divide(budget int64, wants []int64, weights []float64) []int64 {
	order := make([]int, len(wants))
	var total float64
	for i := range order {
		order[i] = i
		total += weights[i]
	}
	each := func(i int) float64 { return float64(max(wants[i], 0)) / weights[i] }
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(each(a), each(b)), cmp.Compare(wants[a], wants[b]))
	})
	parts := make([]int64, len(wants))
	for n, i := range order {
		fair := budget
		if n < len(order)-1 && total > 0 {
			fair = min(budget, int64(float64(budget)*(weights[i]/total)))
		}
		parts[i] = min(max(wants[i], 0), fair)
		budget -= parts[i]
		total -= weights[i]
	}
	return parts
}

// whole makes a block of a part that is smaller, as long as there is one left:
// many such parts would come to nothing otherwise, and be left unread.
func whole(part, block, left int64) int64 {
	if part > 0 && part < block && left >= block {
		return block
	}
	return min(part, left)
}

// leastNewest is what the newest rows of a table get that is used on old, and
// newestPart the part of what is hot of it that they get beside it.
const (
	leastNewest = 256 << 10
	newestPart  = 4
)

// newestRows is how much the newest rows may take before what is hot.
func newestRows(hot int64) int64 { return max(hot/newestPart, leastNewest) }

// known says that it is known which blocks are hot.
func (r *reader) known() bool {
	return r.hot != nil && r.options.Hot.Source == FromBufferCache
}

// want is how much of one of a table's files is to be in the cache, and how much
// that is used.
type want struct {
	index string // empty for the table's rows and its TOAST table
	bytes int64
	heat  float64
}

// wants are those of the table's rows, of its TOAST table and of its indexes, in
// this order: what is hot on old, or, generously, all that is in the cache there.
// Files of another size than on old have as much of it.
func (r *reader) wants(generous bool) []want {
	rows, toast := want{bytes: r.Bytes, heat: rowsHeat}, want{bytes: r.Toast, heat: 1}
	if r.hot != nil {
		rows.heat, toast.heat = r.hot.Heap.Heat+1, r.hot.Toast.Heat+1
	}
	if r.known() {
		hot := costOf(r.hot.Heap, r.Bytes, generous)
		rows.bytes = min(r.Bytes, hot+newestRows(hot))
		toast.bytes = costOf(r.hot.Toast, r.Toast, generous)
	}
	all := []want{rows, toast}
	for _, f := range r.fileOf(indexFile) {
		i := r.hot.index(f.Name)
		one := want{index: f.Name, bytes: f.Blocks * r.blockSize, heat: 1}
		switch {
		case i != nil && i.Heat == 0 && i.Scans == 0:
			continue // nobody asks through it
		case r.known() && i == nil:
			one.bytes = 0 // a new one: its newest rows' keys are looked up
		case r.known():
			one.heat += i.Heat
			if used := scaled(i.Used, i.Size, one.bytes); float64(used) < least(generous)*float64(one.bytes) {
				one.bytes = used
			}
		case i != nil:
			one.heat += i.Heat
		}
		all = append(all, one)
	}
	return all
}

// rowsHeat is how much more rows are used than an index, where nobody knows.
const rowsHeat = 4

// sum is what a table wants in all.
func (r *reader) sum(generous bool) int64 {
	if r.warmth.quiet {
		return 0
	}
	var sum int64
	for _, w := range r.wants(generous) {
		sum += w.bytes
	}
	return sum
}

// dense is the part of a range of blocks, or of an index, that has to be hot on
// old for it to be read as a whole, and sparse the part that has to be in the
// cache at all when there is room: nobody knows exactly where it is on new, and
// reading costs as much as all of it.
const (
	dense  = 0.5
	sparse = 0.1
)

func least(generous bool) float64 {
	if generous {
		return sparse
	}
	return dense
}

// worth says that a range is to be read.
func (h HotRange) worth(generous bool) bool {
	size := float64(max(h.To-h.From, 1))
	return float64(h.Hot) >= dense*size || generous && float64(h.Used) >= sparse*size
}

// costOf is how much of a file of some size is to be read.
func costOf(p HotPart, bytes int64, generous bool) int64 {
	var blocks int64
	for _, hot := range p.Ranges {
		if hot.worth(generous) {
			blocks += hot.To - hot.From
		}
	}
	return max(scaled(blocks*blockBytes, p.Size, bytes), scaled(p.Hot, p.Size, bytes))
}

// scaled is how much of a file of some size is as much as part of size.
func scaled(part, size, bytes int64) int64 {
	if size == 0 {
		return 0
	}
	return min(bytes, (int64(float64(part)/float64(size)*float64(bytes))+blockBytes-1)/blockBytes*blockBytes)
}

// shrink divides the table's share between its files: by how much they are used
// when it is less than they want, and what is left over between those that want
// more generously.
func (r *reader) shrink() {
	first, more := r.wants(false), r.wants(true)
	parts := make([]int64, len(first))
	left := r.warmth.Share
	for _, all := range [][]want{first, more} {
		bytes, heats := make([]int64, len(all)), make([]float64, len(all))
		for i, w := range all {
			bytes[i], heats[i] = max(w.bytes-parts[i], 0), w.heat
		}
		for i, part := range divide(left, bytes, heats) {
			parts[i] += part
			left -= part
		}
	}
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(first[b].heat, first[a].heat) })
	left = r.warmth.Share
	for _, i := range order {
		parts[i] = whole(parts[i], r.blockSize, left)
		left -= parts[i]
	}
	r.wantRows, r.wantToast, r.wantIndexes = parts[0], parts[1], map[string]int64{}
	for i, w := range first[2:] {
		r.wantIndexes[w.index] = parts[i+2]
	}
}

func (r *reader) heat() float64 {
	if r.hot == nil {
		return 0
	}
	return r.hot.Heat
}

// column is the configured column of a table's age, empty without one.
func (w *warming) column(t Table) string {
	for name, column := range w.options.Columns {
		if name == t.Schema+"."+t.Name {
			return column
		}
	}
	return ""
}

// countsBuffersSQL tells whether the extension, whose schema is %s, has the
// function of freeSQL: one that came along from an older major has not, and
// to try it would leave an error in the server's log each time.
const countsBuffersSQL = `select to_regprocedure('%s.pg_buffercache_usage_counts()') is not null`

// freeSQL returns how many buffers are free or were used once at most since the
// clock hand came by, on 16 and later. %s is the extension's schema.
const freeSQL = `
select coalesce(sum(u.buffers) filter (where u.usage_count <= 1), 0)::bigint
  from %s.pg_buffercache_usage_counts() u`

// free15SQL is the same up to 15.
const free15SQL = `
select count(*)
  from %s.pg_buffercache b
 where b.usagecount is null or b.usagecount <= 1`

// findRoom asks how much can be read without pushing out what is hot.
func (w *warming) findRoom(ctx context.Context, conn *pgx.Conn) error {
	view, _, err := cacheOf(ctx, conn)
	if errors.Is(err, errNoCache) {
		return nil
	}
	if err != nil {
		return err
	}
	schema := strings.TrimSuffix(view, ".pg_buffercache")
	var blocks int64
	var counts bool
	err = conn.QueryRow(ctx, fmt.Sprintf(countsBuffersSQL, strings.ReplaceAll(schema, "'", "''"))).Scan(&counts)
	if pg.IsCode(err, pg.InsufficientPrivilege) { // not even the schema
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for pg_buffercache_usage_counts: %w", err)
	}
	sql := free15SQL
	if counts {
		sql = freeSQL
	}
	err = conn.QueryRow(ctx, fmt.Sprintf(sql, schema)).Scan(&blocks)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking for free buffers: %w", err)
	}
	w.bounded = true
	w.room.Store(blocks * w.blockSize)
	return nil
}
