package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
	"github.com/pgcutover/pgcutover/warmup"
)

// The whole bench, small: every variant leaves what it should, and the
// estimates are those of an ANALYZE. Times are not looked at.
func TestBench(t *testing.T) {
	p := pgtest.Pairs(t)[0]
	s := settings{Rounds: 1, Rows: 20_000, Small: 6, Jobs: 2, Variants: named(), Pairs: []rounds.Pair{{Old: max(p.Old, 13), New: max(p.New, 14)}}}
	w, err := boot(t.Context(), s, s.Pairs[0], t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	outcomes, err := w.rounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sum := summarize(w, outcomes)
	if err := sum.verdict(); err != nil {
		t.Error(err)
	}
	want := 3
	if warmup.CanCarry(w.to) {
		want = len(named())
	}
	if len(sum.Results) != want {
		t.Fatalf("%d variants, not %d", len(sum.Results), want)
	}
	for _, r := range sum.Results {
		if r.Some.Median <= 0 || r.Full.Median < r.Some.Median || r.OffMedian < 1 || len(r.Off.All) != 1 || r.Left.Tables != 0 {
			t.Errorf("%+v", r)
		}
	}
	if text, err := json.Marshal(sum); err != nil || !strings.Contains(string(text), `"every_table_has_some_ms"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestSummaryJudges(t *testing.T) {
	outcomes := []outcome{
		{Variant: stages, Some: time.Second, Full: 3 * time.Second, Left: missing{Parents: 1}, Factors: []float64{1, 90}, Worst: "x"},
		{Variant: ours, Some: time.Second, Full: 2 * time.Second, Factors: []float64{1, 1.1}, Worst: "y"},
		{Variant: carry, Some: time.Second, Full: 300 * time.Millisecond, Left: missing{Objects: 2}, Factors: []float64{1, 9}, Worst: "z"},
	}
	var sum summary
	sum.add([]string{stages, ours, carry}, outcomes)
	if err := sum.verdict(); err != nil {
		t.Errorf("what vacuumdb leaves out counts: %v", err)
	}
	if len(sum.Goals) != 2 || sum.Goals[0].Met || !sum.Goals[1].Met {
		t.Errorf("%+v", sum.Goals)
	}
	for _, bad := range []outcome{
		{Variant: ours, Left: missing{Parents: 1}, Factors: []float64{1}},
		{Variant: ours, Left: missing{Objects: 1}, Factors: []float64{1}},
		{Variant: ours, Factors: []float64{1, 7}},
		{Variant: carry, Left: missing{Tables: 1}, Factors: []float64{1}},
		{Variant: carryRest, Factors: []float64{1, 7}},
	} {
		var sum summary
		sum.add([]string{bad.Variant}, []outcome{bad})
		if sum.verdict() == nil {
			t.Errorf("%+v is fine", bad)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	s, err := readSettings([]string{"-rounds", "2", "-variants", "analyze,carry", "-pairs", "13:17,15:18"})
	if err != nil || s.Rounds != 2 || len(s.Variants) != 2 || len(s.Pairs) != 2 || s.Pairs[1] != (rounds.Pair{Old: 15, New: 18}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"-variants", "guess"}, {"-pairs", "12:13"}, {"-pairs", "15:18,10:18"}, {"-pairs", "15:18,x"}} {
		if _, err := readSettings(bad); err == nil {
			t.Errorf("%v is fine", bad)
		}
	}
}
