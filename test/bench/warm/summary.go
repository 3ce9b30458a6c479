package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/pgcutover/pgcutover/test/bench/figures"
)

// summary is the object on stdout. Times are in milliseconds.
type summary struct {
	Bench    string          `json:"bench"`
	Rounds   int             `json:"rounds"`
	Old      string          `json:"old"`
	New      string          `json:"new"`
	Database int64           `json:"database_bytes"`
	Buffers  int64           `json:"shared_buffers_bytes"`
	Delay    float64         `json:"read_delay_ms"`
	OSCache  string          `json:"os_cache"`
	Results  []result        `json:"results"`
	Ratios   []figures.Ratio `json:"ratios"`
	Goals    []figures.Goal  `json:"goals"`
}

// result is a variant over all rounds.
type result struct {
	Variant  string         `json:"variant"`
	Warm     figures.Spread `json:"warm_up_ms"`
	WarmRead figures.Spread `json:"warm_up_read_bytes"`
	Inside   figures.Spread `json:"part_of_hot_set_inside"`
	P50      figures.Spread `json:"p50_ms"`
	P99      figures.Spread `json:"p99_ms"`
	P999     figures.Spread `json:"p999_ms"`
	FirstP99 figures.Spread `json:"first_tenth_p99_ms"`
	Missed   figures.Spread `json:"blocks_missed_per_1000_queries"`
}

func summarize(w *world, all []outcome) summary {
	sum := summary{
		Bench: "warm", Rounds: w.Rounds, Old: w.Old.Version(), New: w.New.Version(),
		Database: w.bytes, Buffers: int64(w.Buffers) << 20, Delay: figures.Milliseconds(w.Delay),
	}
	sum.add(w.Variants, all)
	return sum
}

// add describes and compares the outcomes.
func (sum *summary) add(variants []string, all []outcome) {
	sum.Ratios, sum.Goals = []figures.Ratio{}, []figures.Goal{}
	for _, name := range variants {
		of := func(value func(outcome) float64) figures.Spread {
			var values []float64
			for _, o := range all {
				if o.Variant == name {
					values = append(values, value(o))
				}
			}
			return figures.Of(values)
		}
		sum.Results = append(sum.Results, result{
			Variant:  name,
			Warm:     of(func(o outcome) float64 { return figures.Milliseconds(o.Warm) }),
			WarmRead: of(func(o outcome) float64 { return float64(o.WarmRead) }),
			Inside:   of(func(o outcome) float64 { return o.Inside }),
			P50:      of(func(o outcome) float64 { return figures.Milliseconds(o.P50) }),
			P99:      of(func(o outcome) float64 { return figures.Milliseconds(o.P99) }),
			P999:     of(func(o outcome) float64 { return figures.Milliseconds(o.P999) }),
			FirstP99: of(func(o outcome) float64 { return figures.Milliseconds(o.FirstP99) }),
			Missed:   of(func(o outcome) float64 { return float64(o.Missed) * 1000 / float64(max(o.Queries, 1)) }),
		})
	}
	for _, o := range all {
		sum.OSCache = o.OSCache
	}
	for _, name := range variants {
		if name != hot {
			sum.compare("p99", name, hot, func(r result) figures.Spread { return r.P99 })
		}
	}
	for _, name := range []string{ours, oursReading, oursCounted} {
		sum.compare("p99", name, cold, func(r result) figures.Spread { return r.P99 })
		sum.compare("bytes read", name, whole, func(r result) figures.Spread { return r.WarmRead })
		sum.compare("time of the warm-up", name, whole, func(r result) figures.Spread { return r.Warm })
	}
	for _, r := range sum.Ratios {
		switch {
		case r.Of != ours:
		case r.What == "p99" && r.To == hot:
			sum.Goals = append(sum.Goals, figures.NewGoal("p99 after warm, of that of a hot server", 1.3, r.Rounds.Median))
		case r.What == "bytes read":
			sum.Goals = append(sum.Goals, figures.NewGoal("bytes that warm reads, of those of whole tables", 1.0/3, r.Rounds.Median))
		}
	}
}

// find returns a variant's result.
func (sum *summary) find(variant string) (result, bool) {
	for _, r := range sum.Results {
		if r.Variant == variant {
			return r, true
		}
	}
	return result{}, false
}

// compare adds a ratio, if both were measured.
func (sum *summary) compare(what, of, to string, value func(result) figures.Spread) {
	sum.Ratios = append(sum.Ratios, figures.Compare(what, of, to, func(variant string) []float64 {
		r, _ := sum.find(variant)
		return value(r).All
	})...)
}

// print writes the table for people.
func (sum *summary) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\nvariant\twarm-up s\tMB read\thot set inside %%\tp50 ms\tp99 ms\tp99.9 ms\tfirst tenth's p99\tblocks missed per 1,000 queries\t\n")
	for _, r := range sum.Results {
		fmt.Fprintf(table, "%s\t%.1f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t\n", r.Variant, r.Warm.Median/1000, r.WarmRead.Median/(1<<20), 100*r.Inside.Median,
			r.P50.Median, r.P99.Median, r.P999.Median, r.FirstP99.Median, r.Missed.Median)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nmedians of %d rounds, %s to %s, database %d MB, shared_buffers %d MB; the operating system's cache was %s before each warm-up; a read that it cannot answer waits %.1f ms\n",
		sum.Rounds, sum.Old, sum.New, sum.Database>>20, sum.Buffers>>20, sum.OSCache, sum.Delay)
	figures.Print(w, sum.Ratios, sum.Goals)
	return nil
}
