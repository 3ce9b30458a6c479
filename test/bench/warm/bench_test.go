package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// The whole bench, small: every variant is measured, and what counts of blocks
// say is what the variants are. Times are not looked at.
func TestBench(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	s := settings{
		Rounds: 1, Size: 40, Buffers: 24, Window: 500 * time.Millisecond, Rate: 1000, Clients: 4, Skew: 0.015,
		Variants: named(), Pair: rounds.Pair{Old: max(pair.Old, 13), New: max(pair.New, 15)},
	}
	if canDelay() {
		s.Delay = 100 * time.Microsecond
	}
	w, err := boot(t.Context(), s, t.Logf)
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
	of := map[string]outcome{}
	for _, o := range outcomes {
		of[o.Variant] = o
		if o.P50 <= 0 || o.P99 < o.P50 || o.P999 < o.P99 || o.Queries != 500 {
			t.Errorf("%+v", o)
		}
	}
	if len(of) != len(named()) {
		t.Fatalf("%d variants", len(of))
	}
	if of[cold].Missed < 250 || of[hot].Missed*20 > of[cold].Missed {
		t.Errorf("%d blocks were missing on a cold server, %d on a hot one", of[cold].Missed, of[hot].Missed)
	}
	for _, name := range []string{ours, oursReading, oursCounted} {
		if of[name].Missed*2 >= of[cold].Missed {
			t.Errorf("%s: %d blocks were missing, %d without it", name, of[name].Missed, of[cold].Missed)
		}
		if of[name].WarmRead <= 0 || of[name].WarmRead >= of[whole].WarmRead {
			t.Errorf("%s read %d bytes, whole tables are %d", name, of[name].WarmRead, of[whole].WarmRead)
		}
	}
	if text, err := json.Marshal(summarize(w, outcomes)); err != nil || !strings.Contains(string(text), `"bench":"warm"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestTheSameSeedAsksTheSame(t *testing.T) {
	s := newShop(100)
	a, b, c := reads(s, 500, 0.01, 7), reads(s, 500, 0.01, 7), reads(s, 500, 0.01, 8)
	if !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("reads do not follow their seed")
	}
	recent := 0
	for _, r := range a {
		if r.order < 1 || r.order > s.orders {
			t.Errorf("order %d of %d", r.order, s.orders)
		}
		if r.order > s.orders*98/100 {
			recent++
		}
	}
	if recent < 380 || recent == len(a) { // about 86 of 100
		t.Errorf("%d of %d are recent", recent, len(a))
	}
}

func TestSummaryComparesRoundByRound(t *testing.T) {
	var all []outcome
	for round, ms := range [][3]time.Duration{{10, 10, 40}, {30, 20, 50}, {12, 10, 60}} {
		for i, name := range []string{ours, hot, whole} {
			all = append(all, outcome{Variant: name, Round: round + 1, P99: ms[i] * time.Millisecond, WarmRead: int64(i+1) * 100, Queries: 10, Missed: int64(i)})
		}
	}
	var sum summary
	sum.add([]string{ours, hot, whole}, all)
	want := map[string]float64{"p99 ours hot": 1.2, "p99 whole hot": 4, "bytes read ours whole": 1.0 / 3}
	for _, r := range sum.Ratios {
		if w, ok := want[r.What+" "+r.Of+" "+r.To]; ok && r.Rounds.Median != w {
			t.Errorf("%+v", r)
		}
		delete(want, r.What+" "+r.Of+" "+r.To)
	}
	if len(want) > 0 {
		t.Errorf("not compared: %v", want)
	}
	met := map[bool]int{}
	for _, g := range sum.Goals {
		met[g.Met]++
	}
	if met[true] != 2 || met[false] != 0 {
		t.Errorf("%+v", sum.Goals)
	}
	if r, _ := sum.find(hot); r.Missed.Median != 100 {
		t.Errorf("%+v", r.Missed)
	}
	var text strings.Builder
	if err := sum.print(&text); err != nil || !strings.Contains(text.String(), figures.NewGoal("p99 after warm, of that of a hot server", 1.3, 1.2).Name) {
		t.Errorf("%s, %v", text.String(), err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	s, err := readSettings([]string{"-rounds", "2", "-variants", "cold,hot", "-pair", "13:17"})
	if err != nil || s.Rounds != 2 || len(s.Variants) != 2 || s.Pair != (rounds.Pair{Old: 13, New: 17}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"-variants", "tepid"}, {"-pair", "13:14"}, {"-pair", "10:18"}, {"-pair", "x"}, {"-skew", "2"}, {"-window", "0s"}} {
		if _, err := readSettings(bad); err == nil {
			t.Errorf("%v is fine", bad)
		}
	}
	t.Setenv("ROUNDS", "many")
	if _, err := readSettings(nil); err == nil {
		t.Error("ROUNDS=many is fine")
	}
}
