package warmup

import (
	"cmp"
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
	deadline time.Time // no statement is begun later
	warmth   TableWarmth
	seen     map[int64]bool // blocks of the table that were read
}

// fetchRows is how many rows are read between two looks at budget and clock,
// and chunkBlocks how many blocks.
const (
	fetchRows   = 2000
	chunkBlocks = 256
)

// read reads the table's newest rows and its indexes, as far as its share and
// its time go.
func (r *reader) read(ctx context.Context) error {
	indexes, err := indexesOf(ctx, r.conn, r.relation)
	if err != nil {
		return err
	}
	way, err := r.newest(ctx, indexes)
	if errors.Is(err, errNotRecent) {
		r.warmth.Skipped, r.warmth.quiet = err.Error(), true
		return nil
	}
	if err != nil {
		return err
	}
	if way != nil {
		var followed bool
		if followed, err = r.readAlong(ctx, *way, indexes); err != nil {
			return err
		}
		if !followed {
			way = nil
		}
	}
	if way == nil {
		if err := r.readLastBlocks(ctx, indexes); err != nil {
			return err
		}
	}
	return r.readIndexes(ctx, way, indexes)
}

// full reports whether the share, the rows or the time are used up.
func (r *reader) full() bool {
	return r.warmth.Bytes >= r.warmth.Share || r.warmth.Rows >= r.options.Rows || time.Now().After(r.deadline)
}

// rowSQL is what is asked of each row: %[1]s is the table, %[2]s looks the row
// up through other unique indexes.
//
// t.* as a whole makes the server fetch out-of-line values, since a composite
// value may hold none; pg_column_size of a single column would not. They are
// not decompressed. The block is the first part of the row's ctid.
const rowSQL = `select pg_column_size(t.*), (t.ctid::text::point)[0]::bigint, %[2]s from only %[1]s t`

// alongSQL walks through an index: %[1]s is rowSQL, %[2]s the condition, %[3]s
// the order.
const alongSQL = `%[1]s %[2]s order by %[3]s`

// readAlong reads rows along an index until they are too old. It reports false
// when the server would not follow the index.
func (r *reader) readAlong(ctx context.Context, way order, indexes []index) (bool, error) {
	column := "t." + pgx.Identifier{way.index.Columns[0]}.Sanitize()
	where := ""
	if way.since != "" {
		where = fmt.Sprintf("where %s >= %s", column, way.since)
	}
	sql, looked, err := r.withLookups(ctx, unique(indexes, way.index.OID), func(lookups string) string {
		return fmt.Sprintf(alongSQL, fmt.Sprintf(rowSQL, r.Table, lookups), where, way.by())
	})
	if sql == "" || err != nil {
		return false, err
	}
	r.warmth.Method, r.warmth.Column = way.method, way.index.Columns[0]
	err = r.walk(ctx, sql)
	r.touched(Followed, way.index)
	for _, i := range looked {
		r.touched(LookedUp, i)
	}
	return true, err
}

// portion says how many rows, or blocks, come next after so many: few at first,
// since nobody knows how big they are with their out-of-line values, and about
// as many as the share has room for by what they took so far.
func (r *reader) portion(sofar, most int64) int64 {
	const first = 8
	if sofar == 0 {
		return max(min(first, r.warmth.Share/r.blockSize), 1)
	}
	each := max(r.warmth.Bytes/sofar, 1)
	return min(most, 2*sofar, (r.warmth.Share-r.warmth.Bytes)/each+1)
}

// walk reads the rows of a query through a cursor, so that it can stop after
// any portion.
func (r *reader) walk(ctx context.Context, sql string) error {
	tx, err := r.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("reading rows: %w", err)
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "declare pgcutover_warm no scroll cursor for "+sql); err != nil {
		return fmt.Errorf("reading rows: %w", err)
	}
	for !r.full() {
		portion := min(r.portion(r.warmth.Rows, fetchRows), r.options.Rows-r.warmth.Rows)
		rows, err := r.count(ctx, tx, fmt.Sprintf("fetch %d from pgcutover_warm", portion))
		if err != nil {
			return fmt.Errorf("reading rows: %w", err)
		}
		if rows < portion {
			break
		}
	}
	return nil
}

// count runs a statement that returns rows of rowSQL and adds them up: a block
// counts once, and a row's size when it is so big that values of it lie out of
// line.
func (r *reader) count(ctx context.Context, tx pgx.Tx, sql string) (int64, error) {
	const inline = 2048 // TOAST_TUPLE_TARGET, about
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return 0, err
	}
	var n, size, block, found int64
	_, err = pgx.ForEachRow(rows, []any{&size, &block, &found}, func() error {
		n++
		r.warmth.Rows++
		if !r.seen[block] {
			r.seen[block] = true
			r.warmth.Bytes += r.blockSize
		}
		if size > inline {
			r.warmth.Bytes += size
		}
		return nil
	})
	return n, err
}

// lastBlocksSQL reads a range of blocks, on 14 and later. The bounds are
// literals: as expressions they would be computed again for each row of a
// sequential scan. %[1]s is rowSQL, the others the first block and the one
// after the last.
const lastBlocksSQL = `%[1]s where t.ctid >= '(%[2]d,0)' and t.ctid < '(%[3]d,0)'`

// lastBlocks10SQL is the same up to 13, which knows no ranges of row addresses
// but lists of them; 291 is the most rows that a block of 8 kB holds.
const lastBlocks10SQL = `%[1]s
 where t.ctid = any(array(select ('(' || b || ',' || o || ')')::tid
                            from generate_series(%[2]d::bigint, %[3]d::bigint - 1) b, generate_series(1, 291) o))`

// errIndirect says that the server would read or sort the whole table.
var errIndirect = errors.New("the server would read the whole table")

// readLastBlocks reads from the end of the table's file.
func (r *reader) readLastBlocks(ctx context.Context, indexes []index) error {
	r.warmth.Method, r.warmth.Column = LastBlocks, ""
	pattern := lastBlocksSQL
	if r.server.Version() < 140000 {
		pattern = lastBlocks10SQL
	}
	blocks := r.Bytes / r.blockSize
	sql, looked, err := r.withLookups(ctx, unique(indexes, 0), func(lookups string) string {
		return fmt.Sprintf(pattern, fmt.Sprintf(rowSQL, r.Table, lookups), blocks-1, blocks)
	})
	if err != nil {
		return err
	}
	if sql == "" {
		return fmt.Errorf("reading the last blocks: %w", errIndirect)
	}
	tx, err := r.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("reading the last blocks: %w", err)
	}
	defer rollback(ctx, tx)
	for end := blocks; end > 0 && !r.full(); {
		begin := max(0, end-r.portion(blocks-end, chunkBlocks))
		sql := fmt.Sprintf(pattern, fmt.Sprintf(rowSQL, r.Table, r.lookups(looked)), begin, end)
		if _, err := r.count(ctx, tx, sql); err != nil {
			return fmt.Errorf("reading the last blocks: %w", err)
		}
		end = begin
	}
	for _, i := range looked {
		r.touched(LookedUp, i)
	}
	return nil
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

// withLookups returns the query that build makes, with lookups through as many
// of the indexes as the server would use, and these indexes. The query is empty
// when it would not be answered through indexes or row addresses even without
// lookups.
func (r *reader) withLookups(ctx context.Context, indexes []index, build func(lookups string) string) (string, []index, error) {
	for {
		sql := build(r.lookups(indexes))
		used, direct, err := r.explained(ctx, sql)
		if err != nil {
			return "", nil, err
		}
		kept := slices.DeleteFunc(slices.Clone(indexes), func(i index) bool { return !used[i.Name] })
		switch {
		case direct && len(kept) == len(indexes):
			return sql, kept, nil
		case len(indexes) == 0:
			return "", nil, nil
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
	if err := r.conn.QueryRow(ctx, sql).Scan(&text); err != nil {
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
	r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: i.Name, How: how, Rows: r.warmth.Rows})
}

// lookedRows is how many of the newest rows are looked up through indexes that
// are not unique: each may drag in a block of the table that is not hot.
const lookedRows = 500

// readIndexes reads the indexes that the rows did not lead through, last, so
// that the rows do not push them out: with pg_prewarm from their ends as far as
// the share goes, else some of the newest rows' keys.
func (r *reader) readIndexes(ctx context.Context, way *order, indexes []index) error {
	rest := slices.DeleteFunc(slices.Clone(indexes), func(i index) bool {
		return slices.ContainsFunc(r.warmth.Indexes, func(w IndexWarmth) bool { return w.Name == i.Name })
	})
	slices.SortStableFunc(rest, func(a, b index) int { return cmp.Compare(a.Bytes, b.Bytes) })
	for _, i := range rest {
		if time.Now().After(r.deadline) || r.warmth.Rows == 0 {
			return nil
		}
		var err error
		if r.prewarm != "" {
			err = r.prewarmIndex(ctx, i)
		} else if i.Equality {
			err = r.lookUpSome(ctx, way, i)
		}
		if err != nil {
			return fmt.Errorf("reading index %s: %w", i.Name, err)
		}
	}
	return nil
}

// prewarmSQL reads the last blocks of index $1, at most $2 of them. The
// function's name is %s, with its schema.
const prewarmSQL = `
select coalesce(sum(%s($1::oid::regclass, 'buffer', 'main', greatest(blocks - $2::bigint, 0), blocks - 1)), 0)::bigint
  from (select pg_relation_size($1::oid::regclass) / current_setting('block_size')::bigint as blocks) size
 where blocks > 0`

// prewarmIndex reads an index from its end, where keys that grow are; inner
// pages of a B-tree lie between its leaves.
func (r *reader) prewarmIndex(ctx context.Context, i index) error {
	most := (r.warmth.Share - r.warmth.Bytes) / r.blockSize
	if most <= 0 {
		return nil
	}
	var blocks int64
	err := r.conn.QueryRow(ctx, fmt.Sprintf(prewarmSQL, r.prewarm), i.OID, most).Scan(&blocks)
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return nil // a bonus; a role that may not read the table never came so far
	}
	if err != nil {
		return err
	}
	r.warmth.Bytes += blocks * r.blockSize
	r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: i.Name, How: Prewarmed, Bytes: blocks * r.blockSize})
	return nil
}

// lookUpSQL looks up the keys of some rows: %[1]s is the table, %[2]s the
// index's first column, %[3]s where the rows come from, %[4]d how many.
const lookUpSQL = `
select count(*)
  from (select t.%[2]s as key from only %[1]s t %[3]s limit %[4]d) newest
 cross join lateral (select 1 from only %[1]s x where x.%[2]s = newest.key limit 1) found`

// lookUpSome looks up some of the newest rows through an index, if the server
// would use it: all its upper pages on the way get read.
func (r *reader) lookUpSome(ctx context.Context, way *order, i index) error {
	from := fmt.Sprintf("where t.ctid >= '(%d,0)'", max(0, r.Bytes/r.blockSize-chunkBlocks))
	switch {
	case way != nil:
		from = "order by " + way.by()
	case r.server.Version() < 140000:
		return nil
	}
	// A row may take a block of the index and one of the table.
	room := (r.warmth.Share - r.warmth.Bytes) / r.blockSize / 2
	if room <= 0 {
		return nil
	}
	sql := fmt.Sprintf(lookUpSQL, r.Table, pgx.Identifier{i.Columns[0]}.Sanitize(), from, min(lookedRows, room))
	used, direct, err := r.explained(ctx, sql)
	if err != nil || !direct || !used[i.Name] {
		return err
	}
	plan, err := r.explain(ctx, "explain (analyze, buffers, timing off, format json) "+sql)
	if err != nil {
		return err
	}
	r.warmth.Bytes += plan.Read * r.blockSize
	rows := int64(0)
	if len(plan.Plans) > 0 {
		rows = int64(plan.Plans[0].Rows)
	}
	r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: i.Name, How: LookedUp, Rows: rows})
	return nil
}
