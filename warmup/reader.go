package warmup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// IndexWarmth is what was touched of an index.
type IndexWarmth struct {
	Name  string `json:"name"`
	How   Touch  `json:"how"`
	Rows  int64  `json:"rows,omitempty"`  // followed, or looked up
	Bytes int64  `json:"bytes,omitempty"` // read by pg_prewarm
}

// Touch says how an index was read.
type Touch string

// The ways an index is read.
const (
	Followed  Touch = "followed"  // the rows were found through it: their leaves and all above
	LookedUp  Touch = "looked up" // the keys of rows that were read: their leaves and all above
	Prewarmed Touch = "prewarmed" // from the end of its file, as far as the share went
)

// reader reads one table.
type reader struct {
	*warming
	*relation
	conn     *pgx.Conn
	deadline time.Time // nothing is begun later
	warmth   TableWarmth
	hot      *HotTable      // nil when nothing is known
	oids     []uint32       // of the table, its TOAST table and their indexes
	seen     map[int64]bool // blocks of the table that were read
	limit    int64          // bytes that may be taken for now, of the share
	prepared bool
	indexes  []index
	ranges   []HotRange // of the table's file that are hot, as they are to be read
	way      *order     // to the newest rows, if there is one

	wantRows, wantToast int64
	wantIndexes         map[string]int64 // bytes; an index that is not there is left out
}

// fetchRows is how many rows are read between two looks at budget and clock,
// and chunkBlocks how many blocks. longest is how long a transaction may last:
// who alters the table waits for it.
const (
	fetchRows   = 2000
	chunkBlocks = 256
	longest     = 200 * time.Millisecond
)

// readRows reads the table's newest rows, then what else is hot of it.
func (r *reader) readRows(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	ranges := r.ranges
	var err error
	r.limit = r.most()
	r.way, err = r.newest(ctx, r.indexes)
	old := errors.Is(err, errNotRecent)
	switch {
	case old && len(ranges) == 0:
		r.warmth.Skipped, r.warmth.quiet = err.Error(), true
		return nil
	case err != nil && !old:
		return err
	case r.way == nil && len(ranges) > 0:
		r.warmth.Method = HotBlocks
	default:
		if len(ranges) > 0 {
			r.limit = min(r.warmth.Bytes+r.newestLimit(), r.limit)
		}
		if err := r.readNewest(ctx); err != nil {
			return err
		}
	}
	r.limit = r.most()
	if err := r.readRanges(ctx, ranges); err != nil {
		return err
	}
	return r.readToast(ctx)
}

// prepare looks once what there is of the table to read by.
func (r *reader) prepare(ctx context.Context) error {
	if r.prepared {
		return nil
	}
	err := r.answered(ctx, func(ctx context.Context) (err error) {
		r.indexes, err = indexesOf(ctx, r.conn, r.relation)
		return err
	})
	if err != nil {
		return err
	}
	err = r.answered(ctx, func(ctx context.Context) (err error) { r.ranges, err = r.hotRanges(ctx); return err })
	if err != nil {
		return err
	}
	r.prepared = true
	return nil
}

// newestLimit is how much the newest rows may take of a table of which it is known
// what is hot.
func (r *reader) newestLimit() int64 {
	return max(r.most()/(newestPart+1), min(leastNewest, r.most()/2))
}

// readNewest reads the newest rows: by block if they lie at the end of the file,
// else along the index that leads to them.
func (r *reader) readNewest(ctx context.Context) error {
	if r.prewarm != "" {
		r.limit -= r.wantToast // its turn comes later
		done, err := r.prewarmRows(ctx, r.way)
		r.limit += r.wantToast
		if err != nil {
			return err
		}
		if done {
			r.warmth.Blocks, r.warmth.Method = true, LastBlocks
			if r.way != nil {
				r.warmth.Method, r.warmth.Column = r.way.method, r.way.index.Columns[0]
			}
			return nil
		}
	}
	if r.way != nil {
		followed, err := r.readAlong(ctx, *r.way, r.indexes)
		if err != nil || followed {
			return err
		}
		r.way = nil
	}
	return r.readLastBlocks(ctx)
}

// most is how many bytes the rows may take.
func (r *reader) most() int64 {
	if r.wantRows >= r.Bytes && r.wantToast >= r.Toast {
		return max(r.warmth.Share, 1) // all of them
	}
	if r.prewarm == "" {
		return r.warmth.Share // rows bring pages of the indexes along
	}
	return r.wantRows + r.wantToast
}

// full reports whether the share, the rows or the time are used up.
func (r *reader) full() bool {
	return max(r.warmth.Bytes, r.warmth.Read) >= r.limit || r.warmth.Rows >= r.options.Rows || r.over()
}

// rowSQL is what is asked of each row: %[1]s is the table, %[2]s looks the row
// up through other unique indexes, %[3]s is the key that is followed, as text.
//
// t.* as a whole makes the server fetch out-of-line values, since a composite
// value may hold none; pg_column_size of a single column would not. They are
// not decompressed. The block is the first part of the row's ctid.
const rowSQL = `select pg_column_size(t.*), (t.ctid::text::point)[0]::bigint, %[2]s, %[3]s from only %[1]s t`

// alongSQL walks through an index: %[1]s is rowSQL, %[2]s the condition, %[3]s
// the order, %[4]d how many rows of the first key have been read.
const alongSQL = `%[1]s %[2]s order by %[3]s offset %[4]d`

// along is where a walk through an index has come to.
type along struct {
	way    order
	looked []index // looked up on the way
	key    *string // the last row's
	same   int64   // rows that have it
}

// sql continues the walk.
func (r *reader) alongSQL(a along) string {
	column := "t." + pgx.Identifier{a.way.index.Columns[0]}.Sanitize()
	var conditions []string
	if a.way.since != "" {
		conditions = append(conditions, fmt.Sprintf("%s >= %s", column, a.way.since))
	}
	if a.key != nil {
		conditions = append(conditions, fmt.Sprintf("%s <= %s::pg_catalog.%s", column, pg.Literal(*a.key), a.way.index.Types[0]))
	}
	where := ""
	if len(conditions) > 0 {
		where = "where " + strings.Join(conditions, " and ")
	}
	row := fmt.Sprintf(rowSQL, r.Table, r.lookups(a.looked), column+"::text")
	return fmt.Sprintf(alongSQL, row, where, a.way.by(), a.same)
}

// readAlong reads rows along an index until they are too old. It reports false
// when the server would not follow the index.
func (r *reader) readAlong(ctx context.Context, way order, indexes []index) (bool, error) {
	looked, usable, err := r.usableLookups(ctx, unique(indexes, way.index.OID), func(looked []index) string {
		return r.alongSQL(along{way: way, looked: looked})
	})
	if !usable || err != nil {
		return false, err
	}
	r.warmth.Method, r.warmth.Column = way.method, way.index.Columns[0]
	err = r.walk(ctx, along{way: way, looked: looked})
	r.touched(Followed, way.index)
	for _, i := range looked {
		r.touched(LookedUp, i)
	}
	return true, err
}

// portion says how many rows, or blocks, come next after so many: few at first,
// since nobody knows how big they are with their out-of-line values, and about
// as many as the share has room for by the bytes that they took so far.
func (r *reader) portion(sofar, bytes, most int64) int64 {
	const first = 8
	if sofar == 0 {
		return max(min(first, r.limit/r.blockSize), 1)
	}
	each := max(bytes/sofar, 1)
	return max(min(most, 2*sofar, (r.limit-r.warmth.Bytes)/each+1), 1)
}

// walk reads rows along an index, by cursors that live for a moment each.
func (r *reader) walk(ctx context.Context, a along) error {
	rows, bytes := r.warmth.Rows, r.warmth.Bytes
	for end := false; !end && !r.full(); {
		err := r.counted(ctx, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "declare pgcutover_warm no scroll cursor for "+r.alongSQL(a)); err != nil {
				return err
			}
			for began := time.Now(); !end && !r.full() && time.Since(began) < longest; {
				portion := min(r.portion(r.warmth.Rows-rows, r.warmth.Bytes-bytes, r.fewer(fetchRows)), r.options.Rows-r.warmth.Rows)
				n, err := r.count(ctx, tx, fmt.Sprintf("fetch %d from pgcutover_warm", portion), &a)
				if err != nil {
					return err
				}
				if end = n < portion; r.pace.rate > 0 {
					return nil // what it read is to be paid for
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading rows: %w", err)
		}
	}
	return nil
}

// fewer is how many of most rows are read between two looks at the pace: each
// may drag in a block.
func (r *reader) fewer(most int64) int64 { return most * r.pace.most() / chunkBlocks }

// count runs a statement that returns rows of rowSQL and adds them up: a block
// counts once, and a row's size when it is so big that values of it lie out of
// line.
func (r *reader) count(ctx context.Context, tx pgx.Tx, sql string, a *along) (int64, error) {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	var n, size, block, found int64
	var key *string
	_, err = pgx.ForEachRow(rows, []any{&size, &block, &found, &key}, func() error {
		n++
		r.warmth.Rows++
		if !r.seen[block] {
			r.seen[block] = true
			r.warmth.Bytes += r.blockSize
		}
		if size > inline {
			r.warmth.Bytes += size
		}
		a.passed(key)
		return nil
	})
	return n, err
}

// passed notes a row's key.
func (a *along) passed(key *string) {
	if key == nil || a.key == nil || *key != *a.key {
		a.same = 0
	}
	a.key, a.same = key, a.same+1
}

// inline is the size of a row above which values of it lie out of line, about.
// Postgres manual: 65.2, TOAST_TUPLE_TARGET.
const inline = 2048

// blockRowsSQL adds up the rows of a range of blocks as rowSQL tells of each, in the
// server: rows need not come here one by one. %[1]s is the table, %[2]s looks a row
// up through unique indexes, %[3]s is the range, %[4]d inline.
const blockRowsSQL = `
select count(*), coalesce(sum(s.size) filter (where s.size > %[4]d), 0)::bigint, coalesce(sum(s.found), 0)::bigint
  from (select pg_column_size(t.*) as size, %[2]s as found from only %[1]s t where %[3]s) s`

// lastBlocksSQL is a range of blocks, on 14 and later: a scan of it, unlike a
// sequential one, goes through no ring of buffers. The bounds are literals: as
// expressions they would be computed again for each row of a sequential scan.
// %[1]d is the first block, %[2]d the one after the last.
const lastBlocksSQL = `t.ctid >= '(%[1]d,0)' and t.ctid < '(%[2]d,0)'`

// lastBlocks10SQL is the same up to 13, which knows no ranges of row addresses
// but lists of them; 291 is the most rows that a block of 8 kB holds.
const lastBlocks10SQL = `
       t.ctid = any(array(select ('(' || b || ',' || o || ')')::tid
                            from generate_series(%[1]d::bigint, %[2]d::bigint - 1) b, generate_series(1, 291) o))`

// errIndirect says that the server would read or sort the whole table.
var errIndirect = errors.New("the server would read the whole table")

// rangeSQL reads a range of blocks.
func (r *reader) rangeSQL(looked []index, from, to int64) string {
	pattern := lastBlocksSQL
	if r.server.Version() < 140000 {
		pattern = lastBlocks10SQL
	}
	return fmt.Sprintf(blockRowsSQL, r.Table, r.lookups(looked), fmt.Sprintf(pattern, from, to), inline)
}

// readLastBlocks reads from the end of the table's file.
func (r *reader) readLastBlocks(ctx context.Context) error {
	r.warmth.Method, r.warmth.Column = LastBlocks, ""
	blocks := r.Bytes / r.blockSize
	_, err := r.queryBlocks(ctx, 0, blocks)
	if err != nil {
		return fmt.Errorf("reading the last blocks: %w", err)
	}
	return nil
}

// queryBlocks reads a range of blocks by a query, from its end, as far as the
// share goes, and returns how many it were.
func (r *reader) queryBlocks(ctx context.Context, from, to int64) (int64, error) {
	looked, usable, err := r.usableLookups(ctx, unique(r.indexes, 0), func(looked []index) string {
		return r.rangeSQL(looked, max(to-1, 0), to)
	})
	if err != nil {
		return 0, err
	}
	if !usable {
		return 0, errIndirect
	}
	// A block of rows with long values out of line may bring hundreds along.
	each := (r.Bytes + r.Toast) / max(r.Bytes/r.blockSize, 1)
	end, bytes := to, r.warmth.Bytes
	for end > from && !r.full() {
		fit := (r.limit - max(r.warmth.Bytes, r.warmth.Read)) / each
		if fit == 0 && r.warmth.Bytes > 0 {
			break
		}
		begin := max(from, end-min(r.portion(to-end, r.warmth.Bytes-bytes, r.pace.most()), max(fit, 1)))
		var rows, apart, found int64
		err := r.counted(ctx, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, r.rangeSQL(looked, begin, end)).Scan(&rows, &apart, &found)
		})
		if err != nil {
			return to - end, err
		}
		r.warmth.Rows += rows
		r.warmth.Bytes += apart
		for b := begin; b < end; b++ {
			if !r.seen[b] {
				r.seen[b] = true
				r.warmth.Bytes += r.blockSize
			}
		}
		end = begin
	}
	for _, i := range looked {
		r.touched(LookedUp, i)
	}
	return to - end, nil
}

// unique returns the unique indexes but one whose rows = can look up.
func unique(indexes []index, but uint32) []index {
	return slices.DeleteFunc(slices.Clone(indexes), func(i index) bool {
		return i.OID == but || !i.Unique || !i.Equality
	})
}

// lookups is the column of rowSQL that finds the row again through unique
// indexes, so that the leaves with its keys are read. The row itself is in the
// cache already.
func (r *reader) lookups(indexes []index) string {
	terms := []string{"0"}
	for _, i := range indexes {
		var conditions []string
		for _, c := range i.Columns {
			column := pgx.Identifier{c}.Sanitize()
			conditions = append(conditions, fmt.Sprintf("x.%[1]s = t.%[1]s", column))
		}
		terms = append(terms, fmt.Sprintf("coalesce((select 1 from only %s x where %s limit 1), 0)", r.Table, strings.Join(conditions, " and ")))
	}
	return strings.Join(terms, " + ")
}

// usableLookups returns as many of the indexes as the server would look rows up
// through in the query that build makes with them; false when it would not
// answer it through indexes or row addresses even without lookups.
func (r *reader) usableLookups(ctx context.Context, indexes []index, build func([]index) string) ([]index, bool, error) {
	for {
		used, direct, err := r.explained(ctx, build(indexes))
		if err != nil {
			return nil, false, err
		}
		kept := slices.DeleteFunc(slices.Clone(indexes), func(i index) bool { return !used[i.Name] })
		switch {
		case direct && len(kept) == len(indexes):
			return kept, true, nil
		case len(indexes) == 0:
			return nil, false, nil
		case len(kept) == len(indexes):
			kept = nil
		}
		indexes = kept
	}
}

// planNode is a node of EXPLAIN's JSON.
type planNode struct {
	Type  string     `json:"Node Type"`
	Index string     `json:"Index Name"`
	Rows  float64    `json:"Actual Rows"`
	Read  int64      `json:"Shared Read Blocks"` // that were not in shared buffers; with all nodes below
	Plans []planNode `json:"Plans"`
}

// explain runs an EXPLAIN in JSON and returns the topmost node.
// Postgres manual: EXPLAIN.
func (r *reader) explain(ctx context.Context, sql string) (planNode, error) {
	var text []byte
	if err := r.row(ctx, sql, nil, &text); err != nil {
		return planNode{}, err
	}
	var plans []struct{ Plan planNode }
	if err := json.Unmarshal(text, &plans); err != nil {
		return planNode{}, fmt.Errorf("reading the plan: %w", err)
	}
	if len(plans) == 0 {
		return planNode{}, errors.New("reading the plan: it is empty")
	}
	return plans[0].Plan, nil
}

// explained asks how the server would answer: through which indexes, and
// whether without reading or sorting a whole table.
func (r *reader) explained(ctx context.Context, sql string) (used map[string]bool, direct bool, err error) {
	plan, err := r.explain(ctx, "explain (format json, costs off) "+sql)
	if err != nil {
		return nil, false, fmt.Errorf("asking how rows would be read: %w", err)
	}
	used, direct = map[string]bool{}, true
	var visit func(planNode)
	visit = func(n planNode) {
		if n.Type == "Seq Scan" || strings.HasSuffix(n.Type, "Sort") {
			direct = false
		}
		if n.Index != "" {
			used[n.Index] = true
		}
		for _, p := range n.Plans {
			visit(p)
		}
	}
	visit(plan)
	return used, direct, nil
}

// touched notes that an index was read with the rows.
func (r *reader) touched(how Touch, i index) {
	if !r.hasRead(i.Name) {
		r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: i.Name, How: how, Rows: r.warmth.Rows})
	}
}

func (r *reader) hasRead(index string) bool {
	return slices.ContainsFunc(r.warmth.Indexes, func(w IndexWarmth) bool { return w.Name == index })
}
