package warmup

import (
	"slices"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// overfull is what is hot of a table of so many blocks: all of it, here and there
// more in one round than in the next.
func overfull(blocks int64, round int) HotSet {
	t := HotTable{Table: Table{Schema: "public", Name: "sales"}, Heap: HotPart{Size: blocks * blockBytes, Hot: blocks * blockBytes}}
	wide := width(blocks)
	for at := range (blocks + wide - 1) / wide {
		hot := HotRange{From: at * wide, To: min((at+1)*wide, blocks), Heat: float64(2*wide + (at*7919+int64(round)*104729)%wide)}
		hot.Hot, hot.Used = hot.To-hot.From, hot.To-hot.From
		t.Heap.Ranges = append(t.Heap.Ranges, hot)
		t.Heap.Heat += hot.Heat
	}
	t.Heat = t.Heap.Heat
	return HotSet{Source: FromBufferCache, Tables: []HotTable{t}, Bytes: t.Bytes()}
}

// More is hot than the cache has room for: what a round has read the next one
// leaves there.
func testOverfull(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, salesBy("g"), "create extension pg_buffercache", "create extension pg_prewarm",
		"alter system set shared_buffers = '12MB'")
	blocks := pgtest.Value[int64](t, url, "select pg_relation_size('sales') / 8192")
	restart(t, c)
	s := open(t, url)
	var before map[int64]bool
	for round := 1; round <= 4; round++ {
		hot := overfull(blocks, round)
		report, err := Warm(t.Context(), s, WarmOptions{Hot: &hot})
		if err != nil {
			t.Fatal(err)
		}
		if round == 1 && report.Read < report.Budget*9/10 || round > 2 && report.Read > report.Budget/20 {
			t.Errorf("%d bytes were read in round %d, the budget is %d", report.Read, round, report.Budget)
		}
		there, gone := bufferedBlocks(t, url, "sales"), 0
		for block := range before {
			if !there[block] {
				gone++
			}
		}
		if gone > len(before)/20 {
			t.Errorf("%d of %d blocks are gone after round %d", gone, len(before), round)
		}
		before = there
	}
}

// What is in the cache already counts as warmed, though it is not read: TOAST and
// the report go by that.
func testKept(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, salesBy("g"), "create extension pg_buffercache", "create extension pg_prewarm")
	hot := overfull(pgtest.Value[int64](t, url, "select pg_relation_size('sales') / 8192"), 1)
	ranges := hot.Tables[0].Heap.Ranges
	hot.Tables[0].Heap.Ranges = ranges[:len(ranges)/8]
	for round := 1; round <= 2; round++ {
		report, err := Warm(t.Context(), open(t, url), WarmOptions{Hot: &hot})
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(report.Tables, func(w TableWarmth) bool { return w.Name == "sales" })
		if at < 0 || report.Tables[at].Ranges == 0 || len(report.Warnings) > 0 {
			t.Errorf("round %d: %+v, %q", round, report.Tables, report.Warnings)
		}
	}
}

func TestJoined(t *testing.T) {
	got := joined([]HotRange{{From: 8, To: 12}, {From: 0, To: 4}, {From: 20, To: 21}, {From: 4, To: 8}, {From: 10, To: 11}})
	if want := []HotRange{{From: 0, To: 12}, {From: 20, To: 21}}; !slices.EqualFunc(got, want, func(a, b HotRange) bool { return a.From == b.From && a.To == b.To }) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
