package figures

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedianAndPercentile(t *testing.T) {
	if got := Median([]float64{9, 1, 4}); got != 4 {
		t.Errorf("%v", got)
	}
	if got := Median([]float64{9, 1, 4, 2}); got != 3 {
		t.Errorf("%v", got)
	}
	if got := Of([]float64{3, 1, 2}); got.Median != 2 || got.Min != 1 || got.Max != 3 || !slices.Equal(got.All, []float64{3, 1, 2}) {
		t.Errorf("%+v", got)
	}
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for part, want := range map[float64]time.Duration{0.5: 50, 0.99: 99, 0.999: 100, 1: 100} {
		if got := Percentile(hundred, part); got != want {
			t.Errorf("%g: %d, not %d", part, got, want)
		}
	}
	if Percentile(nil, 0.5) != 0 || Median(nil) != 0 {
		t.Error("of nothing")
	}
}

func TestRatiosAreByRound(t *testing.T) {
	if got := Ratios([]float64{2, 30, 5, 1}, []float64{1, 10, 0}); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("%v", got)
	}
}

func TestOnlyWhatWasMeasuredIsCompared(t *testing.T) {
	measured := map[string][]float64{"ours": {2, 9}, "hot": {1, 3}}
	values := func(variant string) []float64 { return measured[variant] }
	if got := Compare("p99", "ours", "hot", values); len(got) != 1 || got[0].Of != "ours" || got[0].To != "hot" || !slices.Equal(got[0].Rounds.All, []float64{2, 3}) {
		t.Errorf("%+v", got)
	}
	if got := append(Compare("p99", "ours", "cold", values), Compare("p99", "cold", "hot", values)...); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestSettingsFromTheEnvironment(t *testing.T) {
	t.Setenv("FIGURES_TEST", "12x")
	if Number("FIGURES_TEST", 5) != -1 || Duration("FIGURES_TEST", time.Second) != -1 {
		t.Error("what cannot be read is not found")
	}
	if Positive(1, Number("FIGURES_TEST", 5)) == nil || Positive(0) == nil || Positive(1, 2) != nil {
		t.Error("what is not positive is not found, or what is")
	}
	t.Setenv("FIGURES_TEST", "")
	if Number("FIGURES_TEST", 5) != 5 || Duration("FIGURES_TEST", time.Second) != time.Second || Env("FIGURES_TEST", "x") != "x" {
		t.Error("defaults")
	}
}

func TestGoalsAreTold(t *testing.T) {
	var text strings.Builder
	Print(&text, []Ratio{{What: "p99", Of: "ours", To: "hot", Rounds: Of([]float64{1, 2})}}, []Goal{NewGoal("a", 1.3, 1.3), NewGoal("b", 1.3, 1.4)})
	want := "p99: ours / hot = 1.50 (rounds 1.00 to 2.00)\ngoal: a at most 1.3: 1.300, met\ngoal: b at most 1.3: 1.400, NOT MET\n"
	if text.String() != want {
		t.Errorf("%s", text.String())
	}
}
