package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/load"
	"github.com/pgcutover/pgcutover/test/bench/methods"
)

// summary is the object on stdout. Times are in milliseconds.
type summary struct {
	Bench     string         `json:"bench"`
	Case      string         `json:"case"`
	Rounds    int            `json:"rounds"`
	Old       string         `json:"old"`
	New       string         `json:"new"`
	Sequences int            `json:"sequences"`
	Results   []result       `json:"results"`
	Ratios    []ratio        `json:"ratios"`
	Goals     []figures.Goal `json:"goals,omitempty"`
	// Losses are acknowledged writes lost or doubled, by method.
	Losses map[string]int `json:"losses"`
}

// result is a method in one combination, over all rounds.
type result struct {
	Clients methods.Kind `json:"clients"`
	TPS     int          `json:"tps"`
	Bulk    bulkAt       `json:"large_transaction,omitempty"`
	Method  string       `json:"method"`
	Runs    int          `json:"runs"`
	Gap     spread       `json:"gap_ms"`
	Quiet   spread       `json:"quiet_gap_ms"` // before the cutover: what the load alone has
	Worst   spread       `json:"worst_latency_ms"`
	P99     spread       `json:"p99_latency_ms"`
	// FailedPerRun is Counts.Failed of each run.
	FailedPerRun spread         `json:"failed_per_run"`
	Counts       load.Counts    `json:"counts"`
	Proof        load.Proof     `json:"proof"`
	BulkLost     int            `json:"large_transaction_rows_lost"`
	Behind       int            `json:"sequences_behind_per_run"` // the most
	Refused      int            `json:"runs_refused"`
	Undone       int            `json:"runs_undone"`
	Wrong        int            `json:"runs_wrong"` // the method failed
	Steps        []methods.Step `json:"steps_ms_median,omitempty"`
	// InGap is how much of each step lay in the gap.
	InGap       []methods.Step `json:"steps_in_gap_ms_median,omitempty"`
	FirstReason string         `json:"reason,omitempty"`
}

// spread describes the values of all runs.
type spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	P99    float64   `json:"p99"` // nearest rank: the maximum of fewer than 100 runs
	All    []float64 `json:"all"`
}

// ratio compares gaps: the median, over rounds, of the quotient of both
// methods' gaps in the same round.
type ratio struct {
	Clients methods.Kind `json:"clients"`
	TPS     int          `json:"tps"`
	Bulk    bulkAt       `json:"large_transaction,omitempty"`
	Of      string       `json:"of"`
	To      string       `json:"to"`
	Median  float64      `json:"median_of_round_ratios"`
	Medians float64      `json:"ratio_of_medians"`
}

func summarize(s settings, a *arena.Arena, all []outcome) summary {
	sum := summary{
		Bench: "cutover", Case: s.Case, Rounds: s.Rounds, Old: a.Old.Version(), New: a.New.Version(), Sequences: s.Sequences,
		Losses: map[string]int{}, Ratios: []ratio{},
	}
	sum.add(s, all)
	return sum
}

// add describes and compares the outcomes.
func (sum *summary) add(s settings, all []outcome) {
	for _, c := range s.combinations() {
		runs := map[string][]outcome{}
		for _, o := range all {
			if o.combination == c {
				runs[o.Method] = append(runs[o.Method], o)
			}
		}
		for _, name := range s.Methods {
			r := describe(c, name, runs[name])
			sum.Losses[name] += r.Proof.Missing + r.Proof.Doubled + r.BulkLost
			sum.Results = append(sum.Results, r)
		}
		for _, to := range []string{methods.OursForward, methods.Floor, methods.Poll, methods.PollNoVacuum} {
			if c.Bulk == noBulk && len(runs[methods.Ours]) > 0 && len(runs[to]) > 0 {
				sum.Ratios = append(sum.Ratios, compareGaps(c, methods.Ours, to, runs))
			}
		}
	}
	sum.goals()
}

func describe(c combination, name string, runs []outcome) result {
	r := result{Clients: c.Kind, TPS: c.TPS, Bulk: c.Bulk, Method: name, Runs: len(runs)}
	r.Gap = spreadOf(runs, func(o outcome) time.Duration { return o.Gap })
	r.Quiet = spreadOf(runs, func(o outcome) time.Duration { return o.Quiet })
	r.Worst = spreadOf(runs, func(o outcome) time.Duration { return o.Worst })
	r.P99 = spreadOf(runs, func(o outcome) time.Duration { return o.P99 })
	var failed []float64
	for _, o := range runs {
		failed = append(failed, float64(o.Counts.Failed))
		r.Counts, r.Proof = r.Counts.Add(o.Counts), r.Proof.Add(o.Proof)
		r.BulkLost += o.BulkLost
		r.Behind = max(r.Behind, o.Behind)
		reason := ""
		switch {
		case o.Failed != nil:
			r.Wrong++
			reason = o.Failed.Error()
		case o.Refused != "":
			r.Refused++
			reason = o.Refused
		case o.Undone != "":
			r.Undone++
			reason = o.Undone
		}
		r.FirstReason = cmp.Or(r.FirstReason, reason)
	}
	r.FailedPerRun = newSpread(failed)
	r.Steps = medianSteps(runs, func(o outcome) []methods.Step { return o.Steps })
	r.InGap = medianSteps(runs, func(o outcome) []methods.Step { return o.InGap })
	return r
}

func spreadOf(runs []outcome, of func(outcome) time.Duration) spread {
	var values []float64
	for _, o := range runs {
		values = append(values, figures.Milliseconds(of(o)))
	}
	return newSpread(values)
}

func newSpread(values []float64) spread {
	if len(values) == 0 {
		return spread{All: []float64{}}
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(0.99*float64(len(sorted)))) - 1
	return spread{Median: figures.Median(sorted), Min: sorted[0], Max: sorted[len(sorted)-1], P99: sorted[rank], All: values}
}

// medianSteps is the median time of every step, in the order of the first run
// that has it.
func medianSteps(runs []outcome, of func(outcome) []methods.Step) []methods.Step {
	var names []string
	times := map[string][]float64{}
	for _, o := range runs {
		for _, s := range of(o) {
			if times[s.Name] == nil {
				names = append(names, s.Name)
			}
			times[s.Name] = append(times[s.Name], s.MS)
		}
	}
	var out []methods.Step
	for _, name := range names {
		out = append(out, methods.Step{Name: name, MS: figures.Median(times[name])})
	}
	return out
}

func compareGaps(c combination, of, to string, runs map[string][]outcome) ratio {
	var quotients, a, b []float64
	for i := range min(len(runs[of]), len(runs[to])) {
		x, y := figures.Milliseconds(runs[of][i].Gap), figures.Milliseconds(runs[to][i].Gap)
		quotients, a, b = append(quotients, x/y), append(a, x), append(b, y)
	}
	return ratio{Clients: c.Kind, TPS: c.TPS, Bulk: c.Bulk, Of: of, To: to, Median: figures.Median(quotients), Medians: figures.Median(a) / figures.Median(b)}
}

// goals holds the results against what was promised.
func (sum *summary) goals() {
	add := func(name string, most, got float64) {
		sum.Goals = append(sum.Goals, figures.NewGoal(name, most, got))
	}
	for _, r := range sum.Results {
		if r.Method != methods.Ours || r.Bulk != noBulk {
			continue
		}
		name := fmt.Sprintf("%s at %d tps: ", r.Clients, r.TPS)
		switch r.Clients {
		case methods.PgBouncer:
			add(name+"median gap, ms", 50, r.Gap.Median)
			add(name+"99th percentile of the gap, ms", 150, r.Gap.P99)
			add(name+"failed transactions", 0, float64(r.Counts.Failed))
		case methods.Multihost, methods.Direct:
			add(name+"median gap, ms", 250, r.Gap.Median)
			add(name+"transactions that never succeeded", 0, float64(r.Counts.GaveUp-r.Counts.Unknown))
		}
	}
	for _, r := range sum.Ratios {
		if r.To == methods.Floor {
			add(fmt.Sprintf("%s at %d tps: gap in floors", r.Clients, r.TPS), 2, r.Medians)
		}
	}
}

// verdict is an error when this repository's cutover did harm, or not what it
// was asked to. Slowness is reported, not failed: machines differ.
func (sum *summary) verdict() error {
	var errs []error
	for _, r := range sum.Results {
		if r.Method != methods.Ours && r.Method != methods.OursForward {
			continue
		}
		where := fmt.Sprintf("%s, %s clients, %d tps", r.Method, r.Clients, r.TPS)
		if !r.Proof.Good() || r.BulkLost != 0 || r.Behind != 0 {
			errs = append(errs, fmt.Errorf("%s: %d writes lost, %d doubled, balances off by %d, %d rows of the large transaction lost, %d sequences behind",
				where, r.Proof.Missing, r.Proof.Doubled, r.Proof.Off, r.BulkLost, r.Behind))
		}
		if r.Wrong > 0 || (r.Bulk == noBulk && r.Refused+r.Undone > 0) {
			errs = append(errs, fmt.Errorf("%s: %d of %d runs went wrong, %d were refused, %d undone; the first: %s", where, r.Wrong, r.Runs, r.Refused, r.Undone, r.FirstReason))
		}
	}
	return errors.Join(errs...)
}
