package warmup

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// hotRanges returns the ranges of the table's file that are hot, the hottest
// first, as blocks of this server. None when nobody knows, or when the rows are
// in another order than on old.
func (r *reader) hotRanges(ctx context.Context) ([]HotRange, error) {
	if r.hot == nil || len(r.hot.Heap.Ranges) == 0 {
		return nil, nil
	}
	l, err := layoutOf(ctx, r.conn, r.hot, r.Bytes/r.blockSize)
	if err != nil {
		return nil, err
	}
	if l == nil {
		r.warmth.Moved = true
		return nil, nil
	}
	var ranges []HotRange
	for _, hot := range r.hot.Heap.Ranges {
		if !hot.worth(true) {
			continue
		}
		hot.From, hot.To = l.place(hot.From), min(l.place(hot.To), r.Bytes/r.blockSize)
		if hot.To > hot.From {
			ranges = append(ranges, hot)
		}
	}
	return r.sorted(r.OID, ranges), nil
}

// readRanges reads ranges of the table's blocks, as far as they were not read
// before and the share goes.
func (r *reader) readRanges(ctx context.Context, ranges []HotRange) error {
	for _, hot := range ranges {
		if r.full() {
			return nil
		}
		n, err := r.prewarmRange(ctx, hot.From, hot.To)
		if err != nil {
			return fmt.Errorf("reading hot blocks: %w", err)
		}
		if n > 0 {
			r.warmth.Ranges++
		}
	}
	return nil
}

// readBlocks reads a range of the table's blocks by pg_prewarm, or by a query.
func (r *reader) readBlocks(ctx context.Context, from, to int64) (int64, error) {
	if r.prewarm == "" {
		return r.queryBlocks(ctx, from, to)
	}
	return r.prewarmBlocks(ctx, r.OID, from, to)
}

// readToast reads the TOAST table and its index for rows that were read by
// block, which fetched no values of theirs: what is hot on old, if the order is
// the same, then the end.
func (r *reader) readToast(ctx context.Context) error {
	if r.prewarm == "" || !r.warmth.Blocks && r.warmth.Ranges == 0 {
		return nil
	}
	left := r.wantToast / r.blockSize
	for _, kind := range []string{toastIndexFile, toastFile} { // the index is small
		for _, f := range r.fileOf(kind) {
			n, err := r.prewarmRanges(ctx, f, r.toastRanges(f, left), left)
			if err != nil {
				return fmt.Errorf("reading out-of-line values: %w", err)
			}
			left -= n
		}
	}
	return nil
}

// toastRanges returns the ranges of a TOAST table, or its index, that are to be
// read, so many blocks in all.
func (r *reader) toastRanges(f *file, blocks int64) []HotRange {
	end := HotRange{From: f.Blocks - blocks, To: f.Blocks}
	if f.Kind == toastFile && r.known() && !r.warmth.Moved {
		return append(r.stretched(r.hot.Toast.Ranges, r.hot.toastBlocks, f), end)
	}
	return []HotRange{end}
}

// stretched returns the ranges of a file of so many blocks that are to be read, the
// hottest first, in one of another size, by their place between its ends.
func (w *warming) stretched(ranges []HotRange, from int64, f *file) []HotRange {
	to := f.Blocks
	var found []HotRange
	for _, hot := range ranges {
		if from > 0 && hot.worth(true) {
			hot.From, hot.To = hot.From*to/from, min((hot.To*to+from-1)/from, to)
			found = append(found, hot)
		}
	}
	return w.sorted(f.OID, found)
}

// prewarmRanges reads ranges of blocks of a file that is not the table's own, so
// many in all, each from its end, and returns how many it were. A role that may
// read a table and not what belongs to it gets none: servers ask for rights of
// the index itself.
func (r *reader) prewarmRanges(ctx context.Context, f *file, ranges []HotRange, most int64) (int64, error) {
	var read int64
	for _, part := range ranges {
		from := max(part.From, part.To-(most-read), 0)
		if from >= part.To {
			continue
		}
		n, err := r.prewarmBlocks(ctx, f.OID, from, part.To)
		read += n
		if pg.IsCode(err, pg.InsufficientPrivilege) {
			return read, nil
		}
		if err != nil {
			return read, err
		}
	}
	return read, nil
}
