package warmup

import (
	"fmt"
	"testing"
	"time"
)

// More may be read than is warmed: the pages of indexes on the way there.
func TestWarmedText(t *testing.T) {
	table := TableWarmth{Table: Table{Schema: "public", Name: "t"}, Method: LastBlocks, Bytes: 40 << 10, Read: 72 << 10, Took: time.Second}
	if got, want := table.String(), `"public"."t": last blocks, 40 kB warmed, 72 kB read for it, 1s`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	round := Round{Report: WarmReport{Bytes: 715 << 10, Read: 1344 << 10, Took: time.Second}}
	if got, want := round.Summary(), "how warm it is cannot be seen; 715 kB warmed, 1344 kB read for it by queries in 1s"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Among many tables each one's part of the budget is less than a block for its
// rows and for each index: the hottest get whole ones, and no more than there are.
func TestSmallShares(t *testing.T) {
	const block = blockBytes
	hot := &HotSet{Source: FromTotals}
	w := &warming{blockSize: block, options: WarmOptions{Hot: hot}, files: map[Table][]*file{}}
	w.report.Budget = 10 * block
	var readers []*reader
	for i := range 20 {
		name := Table{Schema: "public", Name: fmt.Sprintf("t%02d", i)}
		indexes := []HotIndex{{Name: "pkey", HotPart: HotPart{Size: 2 * block, Heat: 10}}, {Name: "created", HotPart: HotPart{Size: 2 * block, Heat: 10}}}
		hot.Tables = append(hot.Tables, HotTable{Table: name, Heap: HotPart{Size: 8 * block, Heat: 10}, Indexes: indexes, Heat: float64(100 - i)})
		for _, index := range indexes {
			w.files[name] = append(w.files[name], &file{Schema: "public", Table: name.Name, Kind: indexFile, Name: index.Name, Blocks: 2})
		}
	}
	for i := range hot.Tables {
		readers = append(readers, &reader{warming: w, relation: &relation{Table: hot.Tables[i].Table, Bytes: 8 * block}, hot: &hot.Tables[i]})
	}
	var shares int64
	for i, r := range w.share(readers) {
		shares += r.warmth.Share
		sum := r.wantRows + r.wantToast
		for _, part := range r.wantIndexes {
			sum += part
		}
		if sum > r.warmth.Share {
			t.Errorf("%s: parts of %d bytes of a share of %d", r.Table, sum, r.warmth.Share)
		}
		if i < 5 && r.wantRows < block {
			t.Errorf("%s, one of the hottest, gets %d bytes of rows of a share of %d", r.Table, r.wantRows, r.warmth.Share)
		}
	}
	if shares > w.report.Budget || shares < w.report.Budget-block {
		t.Errorf("shares of %d bytes, a budget of %d", shares, w.report.Budget)
	}
}
