package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// A block that is read takes the place of the first one that the clock hand finds
// unused, and the hand lowers the usage of all that it comes by: what an earlier
// round has read goes before this round comes to it, is read again, and pushes
// out the next. So a round begins with what it wants and is there, which costs no
// reading and raises its usage; only then is it known how much may be read
// without pushing out anything of it.
// Postgres: src/backend/storage/buffer/README, "Normal Buffer Replacement Strategy".

// mostlyThere is how much of a range of blocks is to be in the cache for it to be
// kept, and preferred how many times its heat it counts then: another one, about
// as hot, is not worth taking its place.
const (
	mostlyThere = 0.75
	preferred   = 1.5
)

// keepAll uses what the round wants and is in the cache already. It does nothing
// where the cache cannot be looked at, or is not to be compared with old's, and a
// failure is a warning: the round only reads more.
func (w *warming) keepAll(ctx context.Context, readers []*reader) error {
	if !w.bounded || !w.useful() || w.options.Hot.Source != FromBufferCache {
		return nil
	}
	err := w.keepThere(ctx, readers)
	if err != nil && ctx.Err() == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.report.Warnings = append(w.report.Warnings, fmt.Sprintf("what the cache has already was not used first: %v", err))
		return nil
	}
	return err
}

func (w *warming) keepThere(ctx context.Context, readers []*reader) error {
	conn, err := w.server.Connect(ctx, "warm", lookSettings(w.server, HotSetOptions{}.withDefaults()))
	if err != nil {
		return fmt.Errorf("opening a session to look into the cache: %w", err)
	}
	defer endSession(ctx, conn)
	var files []*file
	for _, r := range readers {
		files = append(files, w.files[r.Table]...)
	}
	var found []cached
	err = answered(ctx, w.server, w.options.Answer, func(ctx context.Context) (err error) {
		found, _, err = lookIntoCache(ctx, conn, files)
		return err
	})
	if errors.Is(err, errNoCache) {
		return nil
	}
	if err != nil {
		return err
	}
	w.there = map[uint32]*inside{}
	for _, all := range insideOf(files, found) {
		for _, i := range all {
			w.there[i.OID] = i
		}
	}
	err = w.together(ctx, readers, func(ctx context.Context, r *reader) {
		if r.known() && slices.ContainsFunc(r.oids, func(oid uint32) bool { return w.there[oid] != nil && w.there[oid].blocks > 0 }) {
			w.one(ctx, r, r.keep)
		}
	})
	if err != nil {
		return err
	}
	err = answered(ctx, w.server, w.options.Answer, func(ctx context.Context) error { return w.findRoom(ctx, conn) })
	if pg.IsCode(err, pg.QueryCanceled) && ctx.Err() == nil {
		return nil // what was known before holds
	}
	return err
}

// keep uses those blocks of the table's share that are in the cache.
func (r *reader) keep(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.limit = r.most()
	// The newest rows have a part of their own, and are counted when their turn
	// comes, at the end or anywhere.
	blocks, newest := r.Bytes/r.blockSize, r.newestLimit()/r.blockSize
	end := HotRange{From: max(blocks-newest, 0), To: blocks}
	ranges := r.ranges
	if r.part(r.OID, end) >= mostlyThere {
		ranges = before(ranges, end.From)
		if _, err := r.prewarmRange(ctx, end.From, end.To); err != nil {
			return fmt.Errorf("reading the last blocks: %w", err)
		}
		clear(r.seen)
		r.warmth.Bytes, r.warmth.Rows = 0, 0
	}
	if err := r.readRanges(ctx, r.kept(r.OID, ranges, r.limit/r.blockSize-newest)); err != nil {
		return err
	}
	// What is kept takes no part of the rows that may be read.
	r.warmth.Rows = 0
	if r.prewarm != "" { // else values out of line and indexes came along
		rows := r.warmth.Bytes
		err := r.keepFiles(ctx)
		r.warmth.Bytes = rows // they are counted when their turn comes
		return err
	}
	return nil
}

// keepFiles is keep for the TOAST table and the indexes.
func (r *reader) keepFiles(ctx context.Context) error {
	for _, f := range r.files[r.Table] {
		most := r.wantIndexes[f.Name] / r.blockSize
		if f.Kind == toastFile {
			most = r.wantToast / r.blockSize
		}
		var ranges []HotRange
		switch f.Kind {
		case toastFile:
			ranges = r.toastRanges(f, most)
		case indexFile:
			ranges = r.pages(f, most)
		}
		if _, err := r.prewarmRanges(ctx, f, r.kept(f.OID, ranges, most), most); err != nil {
			return fmt.Errorf("reading hot blocks of %s: %w", f.Name, err)
		}
	}
	return nil
}

// kept returns those of the ranges that are there and would be read, were so many
// blocks to be read of them; those that touch are joined.
func (w *warming) kept(oid uint32, ranges []HotRange, most int64) []HotRange {
	var found []HotRange
	for _, hot := range ranges {
		if hot.From = max(hot.From, hot.To-most); hot.From >= hot.To {
			continue
		}
		most -= hot.To - hot.From
		if w.part(oid, hot) >= mostlyThere {
			found = append(found, hot)
		}
	}
	return joined(found)
}

// before returns ranges as far as they lie before a block.
func before(ranges []HotRange, block int64) []HotRange {
	var made []HotRange
	for _, hot := range ranges {
		if hot.To = min(hot.To, block); hot.From < hot.To {
			made = append(made, hot)
		}
	}
	return made
}

// joined sorts ranges by their place, and makes one of those that touch.
func joined(ranges []HotRange) []HotRange {
	slices.SortFunc(ranges, func(a, b HotRange) int { return cmp.Compare(a.From, b.From) })
	var made []HotRange
	for _, hot := range ranges {
		if n := len(made); n > 0 && hot.From <= made[n-1].To {
			made[n-1].To = max(made[n-1].To, hot.To)
			continue
		}
		made = append(made, hot)
	}
	return made
}

// part is how much of a range of a file's blocks is in the cache, from 0 to 1; 0
// where nobody knows.
func (w *warming) part(oid uint32, hot HotRange) float64 {
	there := w.there[oid]
	if there == nil || hot.To <= hot.From {
		return 0
	}
	return min(float64(there.between(hot.From, hot.To))/float64(hot.To-hot.From), 1)
}

// sorted sorts ranges of a file by the heat of a block, the hottest first; of two
// that are about as hot the one that is in the cache.
func (w *warming) sorted(oid uint32, ranges []HotRange) []HotRange {
	heat := func(h HotRange) float64 {
		each := h.Heat / float64(max(h.To-h.From, 1))
		if w.part(oid, h) >= mostlyThere {
			each *= preferred
		}
		return each
	}
	slices.SortStableFunc(ranges, func(a, b HotRange) int { return cmp.Compare(heat(b), heat(a)) })
	return ranges
}
