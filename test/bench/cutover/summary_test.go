package main

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/load"
	"github.com/pgcutover/pgcutover/test/bench/methods"
)

func TestSpread(t *testing.T) {
	s := newSpread([]float64{4, 1, 3, 2})
	if s.Median != 2.5 || s.Min != 1 || s.Max != 4 || s.P99 != 4 || !slices.Equal(s.All, []float64{4, 1, 3, 2}) {
		t.Errorf("%+v", s)
	}
	var many []float64
	for n := range 200 {
		many = append(many, float64(n+1))
	}
	if got := newSpread(many).P99; got != 198 {
		t.Errorf("the 99th percentile of 1 to 200 is %g", got)
	}
}

// runs of ours and the floor in three rounds, for what follows.
func runs() (settings, []outcome) {
	s := settings{Case: caseSmall, Rounds: 3, TPS: []int{500}, Kinds: []methods.Kind{methods.PgBouncer}, Methods: []string{methods.Ours, methods.Floor}}
	c := s.combinations()[0]
	var all []outcome
	for round := range 3 {
		for i, name := range s.Methods {
			gap := time.Duration(30-15*i+round) * time.Millisecond // 30, 31, 32 and 15, 16, 17
			all = append(all, outcome{
				combination: c, Method: name, Round: round + 1, Gap: gap,
				Steps: []methods.Step{{Name: "drain", MS: float64(round)}}, Counts: load.Counts{Transactions: 10, Acknowledged: 10}, Proof: load.Proof{Looked: 10},
			})
		}
	}
	return s, all
}

func TestSummary(t *testing.T) {
	s, all := runs()
	sum := summary{Losses: map[string]int{}}
	sum.add(s, all)
	if len(sum.Results) != 2 || sum.Results[0].Gap.Median != 31 || sum.Results[1].Gap.Median != 16 || sum.Results[0].Steps[0].MS != 1 {
		t.Fatalf("%+v", sum.Results)
	}
	if len(sum.Ratios) != 1 || sum.Ratios[0].Medians != 31.0/16 || sum.Ratios[0].Median != 31.0/16 {
		t.Errorf("%+v", sum.Ratios)
	}
	for _, g := range sum.Goals {
		if !g.Met {
			t.Errorf("%+v", g)
		}
	}
	if err := sum.verdict(); err != nil {
		t.Error(err)
	}
	var text strings.Builder
	if err := sum.print(&text); err != nil || !strings.Contains(text.String(), "ours / floor = 1.94") {
		t.Errorf("%v\n%s", err, text.String())
	}
}

// What must make the bench fail.
func TestVerdict(t *testing.T) {
	for name, spoil := range map[string]func(*outcome){
		"lost":       func(o *outcome) { o.Proof.Missing = 1 },
		"doubled":    func(o *outcome) { o.Proof.Doubled = 1 },
		"unbalanced": func(o *outcome) { o.Proof.Off = 1 },
		"bulk":       func(o *outcome) { o.BulkLost = 1 },
		"sequences":  func(o *outcome) { o.Behind = 1 },
		"refused":    func(o *outcome) { o.Refused = "lag" },
		"undone":     func(o *outcome) { o.Undone = "timeout" },
		"wrong":      func(o *outcome) { o.Failed = errors.New("broken") },
	} {
		for i, method := range []string{methods.Ours, methods.Floor} {
			s, all := runs()
			spoil(&all[2+i])
			sum := summary{Losses: map[string]int{}}
			sum.add(s, all)
			if err := sum.verdict(); (err != nil) != (method == methods.Ours) {
				t.Errorf("%s of %s: %v", name, method, err)
			}
			if err := sum.print(io.Discard); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestGoalNotMet(t *testing.T) {
	s, all := runs()
	for i := range all {
		if all[i].Method == methods.Ours {
			all[i].Gap *= 2
			all[i].Counts.Failed = 1
		}
	}
	sum := summary{Losses: map[string]int{}}
	sum.add(s, all)
	var missed []string
	for _, g := range sum.Goals {
		if !g.Met {
			missed = append(missed, g.Name)
		}
	}
	want := []string{"pgbouncer at 500 tps: median gap, ms", "pgbouncer at 500 tps: failed transactions", "pgbouncer at 500 tps: gap in floors"}
	if !slices.Equal(missed, want) {
		t.Errorf("missed %q, want %q", missed, want)
	}
}

func TestStepWithin(t *testing.T) {
	at := time.Now()
	ms := func(n int) time.Time { return at.Add(time.Duration(n) * time.Millisecond) }
	step := methods.Step{MS: 10, Began: ms(5)} // 5 to 15
	for _, c := range []struct{ from, to, want int }{{0, 20, 10}, {0, 10, 5}, {8, 12, 4}, {12, 30, 3}, {20, 30, 0}, {0, 5, 0}} {
		if got := step.Within(ms(c.from), ms(c.to)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("from %d to %d: %s, want %d ms", c.from, c.to, got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, name := range []string{"CASE", "ROUNDS", "TPS", "CLIENTS", "METHODS", "PAIR"} {
		t.Setenv(name, "")
	}
	s, err := readSettings(nil)
	if err != nil || s.Rounds != 10 || len(s.combinations()) != 6 || len(s.Methods) != 4 || s.Old != 15 || s.New != 18 {
		t.Errorf("%+v, %v", s, err)
	}
	t.Setenv("CASE", "large")
	t.Setenv("CLIENTS", "direct")
	s, err = readSettings([]string{"-pair", "13:17"})
	if err != nil || s.Rounds != 3 || s.Old != 13 || s.New != 17 || s.combinations()[1] != (combination{methods.Direct, 500, bulkAtTheMove}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, wrong := range [][]string{{"-methods", "magic"}, {"-clients", "none"}, {"-tps", "0"}, {"-tps", "fast"}, {"-case", "odd"}, {"-rounds", "-1"}, {"-pair", "15"}} {
		if _, err := readSettings(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}
