package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// outcomes of all methods in three rounds: ours takes 1, 2, 3 ms in the pause, the
// others twice as much.
func outcomes(s settings) []outcome {
	var all []outcome
	for round := range 3 {
		for _, m := range methods() {
			o := outcome{Pair: s.Pairs[0], Count: 500, Part: m.part, Method: m.name, Round: round + 1, Took: time.Duration(2*(round+1)) * time.Millisecond, Judged: m.ours}
			if m.name == oursName {
				o.Took /= 2
			}
			all = append(all, o)
		}
	}
	return all
}

func TestSummary(t *testing.T) {
	s := settings{Rounds: 3, Pairs: []rounds.Pair{{Old: 15, New: 18}}, Counts: []int{500}, Margin: 1000, Busy: 3}
	all := outcomes(s)
	sum := summarize(s, all)
	if err := sum.verdict(); err != nil {
		t.Error(err)
	}
	for _, r := range sum.Results {
		want := []float64{2, 4, 6}
		if r.Method == oursName {
			want = []float64{1, 2, 3}
		}
		if !slices.Equal(r.All, want) || r.Median != want[1] || r.Min != want[0] || r.Max != want[2] {
			t.Errorf("%+v", r)
		}
	}
	for _, r := range sum.Ratios {
		if r.Median != 0.5 || r.To == oursName {
			t.Errorf("%+v", r)
		}
	}
	if len(sum.Results) != 8 || len(sum.Ratios) != 6 || len(sum.Goals) != 1 || !sum.Goals[0].Met || sum.Goals[0].Got != 2 {
		t.Errorf("%+v", sum)
	}
	var text strings.Builder
	if err := sum.print(&text); err != nil || !strings.Contains(text.String(), "15:18, 500 sequences, in the pause: ours / one connection = 0.50") || !strings.Contains(text.String(), ": 2.000, met") {
		t.Errorf("%v\n%s", err, text.String())
	}
	for i := range all {
		all[i].Took *= 3
	}
	all[0].Wrong, all[0].First = 7, "that one"
	sum = summarize(s, all)
	if err := sum.verdict(); err == nil || !strings.Contains(err.Error(), "7 wrong; the first: that one") {
		t.Errorf("%v", err)
	}
	if sum.Goals[0].Met {
		t.Errorf("%+v", sum.Goals)
	}
}

func TestSettings(t *testing.T) {
	for _, name := range []string{"ROUNDS", "PAIRS", "PAIR", "COUNTS", "BUSY"} {
		t.Setenv(name, "")
	}
	s, err := readSettings(nil)
	if err != nil || s.Rounds != 5 || !slices.Equal(s.Counts, []int{500, 10000}) || !slices.Equal(s.Pairs, []rounds.Pair{{Old: 10, New: 18}, {Old: 15, New: 18}}) || s.Busy != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	t.Setenv("COUNTS", "7")
	s, err = readSettings([]string{"-pairs", "13:17"})
	if err != nil || !slices.Equal(s.Counts, []int{7}) || !slices.Equal(s.Pairs, []rounds.Pair{{Old: 13, New: 17}}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, wrong := range [][]string{{"-rounds", "0"}, {"-rounds", "x"}, {"-counts", "5,-1"}, {"-pairs", "15"}, {"-busy", "101"}, {"-margin", "3"}} {
		if _, err := readSettings(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
