package warmup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// lookedRows is how many of the newest rows are looked up through indexes that
// are not unique: each may drag in a block of the table that is not hot. At most
// mostLooked, where more blocks of the index are hot.
const (
	lookedRows = 500
	mostLooked = 2000
)

// readIndexes reads the indexes, last, so that the rows do not push them out:
// those that are used most first. With pg_prewarm as much as is wanted of each,
// from its end where keys that grow are; else, and where the hot part may be
// anywhere, by looking up some of the newest rows' keys.
func (r *reader) readIndexes(ctx context.Context) error {
	files := r.fileOf(indexFile)
	slices.SortStableFunc(files, func(a, b *file) int {
		return cmp.Or(cmp.Compare(r.heatOf(b), r.heatOf(a)), cmp.Compare(a.Blocks, b.Blocks))
	})
	for _, f := range files {
		want, used := r.wantIndexes[f.Name]
		if !used || time.Now().After(r.deadline) {
			continue
		}
		if err := r.readIndex(ctx, f, want); err != nil {
			return fmt.Errorf("reading index %s: %w", f.Name, err)
		}
	}
	return nil
}

func (r *reader) heatOf(f *file) float64 {
	if i := r.hot.index(f.Name); i != nil {
		return i.Heat
	}
	return 0
}

func (r *reader) readIndex(ctx context.Context, f *file, want int64) error {
	at := slices.IndexFunc(r.indexes, func(i index) bool { return i.Name == f.Name })
	room := r.warmth.Share - r.warmth.Bytes
	if r.prewarm != "" {
		blocks := min(want, room) / r.blockSize
		// What was walked along is there as far as its rows go, unless more is
		// known to be hot.
		if r.hot == nil && r.hasRead(f.Name) {
			return nil
		}
		if ranges := r.pages(f, blocks); len(ranges) > 0 {
			return r.prewarmIndex(ctx, f, ranges, blocks)
		}
	}
	if at < 0 || r.hasRead(f.Name) || r.warmth.Bytes == 0 {
		return nil
	}
	rows := int64(lookedRows)
	if r.hot.index(f.Name) != nil {
		rows = max(rows, min(want/r.blockSize, mostLooked))
	}
	return r.lookUpSome(ctx, r.way, r.indexes[at], rows)
}

// pages returns the parts of an index that are to be read, when it were so many
// blocks; none when the hot part may be anywhere.
func (r *reader) pages(f *file, blocks int64) []HotRange {
	at := slices.IndexFunc(r.indexes, func(i index) bool { return i.Name == f.Name })
	switch {
	case blocks <= 0:
	case blocks >= f.Blocks || at < 0 || !r.known(): // any part is as good as another
		return []HotRange{{From: f.Blocks - blocks, To: f.Blocks}}
	case r.grows(f, r.indexes[at]):
		return r.hotPages(f, blocks)
	}
	return nil
}

// grows reports whether the newest keys of an index are the highest ones, so
// that what is hot of it is at its end: by what the key is, or by where its hot
// blocks lie on old.
func (r *reader) grows(f *file, i index) bool {
	if r.way != nil && r.way.index.OID == i.OID {
		return true
	}
	if i.Primary && slices.Contains([]string{"int2", "int4", "int8", "timestamp", "timestamptz"}, i.Types[0]) {
		return true
	}
	h := r.hot.index(f.Name)
	if h == nil || h.Hot == 0 {
		return false
	}
	var late int64
	for _, part := range h.Ranges {
		if part.To*blockBytes > h.Size-h.Hot*3/2 {
			late += part.Hot * blockBytes
		}
	}
	return late*2 > h.Hot
}

// hotPages returns the parts of an index that grows at its end, as its table
// does, that are hot: where they are on old, by their place between its ends.
// Where that is not known, it is the end.
func (r *reader) hotPages(f *file, blocks int64) []HotRange {
	end := HotRange{From: f.Blocks - blocks, To: f.Blocks}
	if h := r.hot.index(f.Name); h != nil {
		return append(r.stretched(h.Ranges, h.Size/blockBytes, f), end)
	}
	return []HotRange{end}
}

// prewarmIndex reads ranges of blocks of an index, so many in all; inner pages of
// a B-tree lie between its leaves.
func (r *reader) prewarmIndex(ctx context.Context, f *file, ranges []HotRange, most int64) error {
	read, err := r.prewarmRanges(ctx, f, ranges, most)
	if err != nil || read == 0 {
		return err
	}
	r.warmth.Indexes = slices.DeleteFunc(r.warmth.Indexes, func(w IndexWarmth) bool { return w.Name == f.Name })
	r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: f.Name, How: Prewarmed, Bytes: read * r.blockSize})
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
func (r *reader) lookUpSome(ctx context.Context, way *order, i index, rows int64) error {
	from := fmt.Sprintf("where t.ctid >= '(%d,0)'", max(0, r.Bytes/r.blockSize-chunkBlocks))
	switch {
	case !i.Equality:
		return nil
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
	sql := fmt.Sprintf(lookUpSQL, r.Table, pgx.Identifier{i.Columns[0]}.Sanitize(), from, min(r.fewer(rows), room))
	used, direct, err := r.explained(ctx, sql)
	if err != nil || !direct || !used[i.Name] {
		return err
	}
	plan, err := r.explain(ctx, "explain (analyze, buffers, timing off, format json) "+sql)
	if err != nil {
		return err
	}
	r.warmth.Bytes += plan.Read * r.blockSize
	rows = 0
	if len(plan.Plans) > 0 {
		rows = int64(plan.Plans[0].Rows)
	}
	r.warmth.Indexes = append(r.warmth.Indexes, IndexWarmth{Name: i.Name, How: LookedUp, Rows: rows})
	return r.paid(ctx, plan.Read*r.blockSize)
}
