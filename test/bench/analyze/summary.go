package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/pgcutover/pgcutover/test/bench/figures"
)

// summary is what was found of one pair of majors. Times are in milliseconds.
type summary struct {
	Old      string          `json:"old"`
	New      string          `json:"new"`
	Rounds   int             `json:"rounds"`
	Jobs     int             `json:"jobs"`
	Tables   int             `json:"tables"`
	Database int64           `json:"database_bytes"`
	Results  []result        `json:"results"`
	Ratios   []figures.Ratio `json:"ratios"`
	Goals    []figures.Goal  `json:"goals"`
}

// result is a variant over all rounds.
type result struct {
	Variant string         `json:"variant"`
	Some    figures.Spread `json:"every_table_has_some_ms"`
	Carried figures.Spread `json:"carried_ms"`
	Full    figures.Spread `json:"full_ms"`
	Left    missing        `json:"left_without"` // the most of any round
	// Off are the factors by which estimates differ from those after ANALYZE:
	// the worst of each round, and the median query's.
	Off       figures.Spread `json:"worst_estimate_off_by"`
	OffMedian float64        `json:"median_estimate_off_by"`
	Worst     string         `json:"worst_estimate"`
}

func summarize(w *world, all []outcome) summary {
	sum := summary{
		Old: w.Old.Version(), New: w.New.Version(), Rounds: w.Rounds, Jobs: w.Jobs,
		Tables: len(w.tables()), Database: w.bytes,
	}
	sum.add(w.variants(), all)
	return sum
}

// add describes and compares the outcomes.
func (sum *summary) add(variants []string, all []outcome) {
	sum.Ratios, sum.Goals = []figures.Ratio{}, []figures.Goal{}
	for _, name := range variants {
		sum.Results = append(sum.Results, describe(name, all))
	}
	some := func(r result) figures.Spread { return r.Some }
	full := func(r result) figures.Spread { return r.Full }
	for _, name := range []string{plain, ours, carry, carryRest, carryAnalyze} {
		sum.compare("until every table has some statistics", name, stages, some)
		sum.compare("until every table has full statistics", name, stages, full)
	}
	for _, r := range sum.Ratios {
		if r.What != "until every table has full statistics" {
			continue
		}
		switch r.Of {
		case ours:
			sum.Goals = append(sum.Goals, figures.NewGoal("time until all have full statistics by analyze, of that of vacuumdb's stages", 0.5, r.Rounds.Median))
		case carry:
			sum.Goals = append(sum.Goals, figures.NewGoal("time until all have full statistics by carrying, of that of vacuumdb's stages", 0.12, r.Rounds.Median))
		}
	}
}

func describe(name string, all []outcome) result {
	r := result{Variant: name}
	var some, carried, full, off, factors []float64
	worst := 0.0
	for _, o := range all {
		if o.Variant != name {
			continue
		}
		some, full = append(some, figures.Milliseconds(o.Some)), append(full, figures.Milliseconds(o.Full))
		carried = append(carried, figures.Milliseconds(o.Carried))
		off, factors = append(off, o.worst()), append(factors, o.Factors...)
		r.Left.Tables, r.Left.Parents = max(r.Left.Tables, o.Left.Tables), max(r.Left.Parents, o.Left.Parents)
		r.Left.Objects = max(r.Left.Objects, o.Left.Objects)
		if o.worst() > worst {
			worst, r.Worst = o.worst(), o.Worst
		}
	}
	r.Some, r.Carried, r.Full, r.Off = figures.Of(some), figures.Of(carried), figures.Of(full), figures.Of(off)
	r.OffMedian = figures.Median(factors)
	return r
}

// compare adds a ratio, if both were measured.
func (sum *summary) compare(what, of, to string, value func(result) figures.Spread) {
	sum.Ratios = append(sum.Ratios, figures.Compare(what, of, to, func(variant string) []float64 {
		i := slices.IndexFunc(sum.Results, func(r result) bool { return r.Variant == variant })
		if i < 0 {
			return nil
		}
		return value(sum.Results[i]).All
	})...)
}

// print writes the table for people.
func (sum *summary) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\n%s to %s\tsome ms\tfull ms\twithout: tables\tparents\tobjects\testimates off by: median\tworst\t\n", sum.Old, sum.New)
	for _, r := range sum.Results {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%d\t%d\t%d\t%.2f\t%.2f\t\n", r.Variant, r.Some.Median, r.Full.Median,
			r.Left.Tables, r.Left.Parents, r.Left.Objects, r.OffMedian, r.Off.Max)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nmedians of %d rounds, %d tables, %d MB, %d jobs; some: until every table with rows of its own has any statistics, full: until the end\n",
		sum.Rounds, sum.Tables, sum.Database>>20, sum.Jobs)
	for _, r := range sum.Results {
		fmt.Fprintf(w, "furthest off by %s: %s\n", r.Variant, r.Worst)
	}
	figures.Print(w, sum.Ratios, sum.Goals)
	return nil
}

// mostOff is how far an estimate may be off from that after ANALYZE, which
// itself differs from sample to sample.
const mostOff = 3

// verdict is an error when this repository's ways leave something without
// statistics, or make estimates that ANALYZE would not. What only ANALYZE can
// fill counts where it was run. Slowness is reported, not failed: machines
// differ.
func (sum *summary) verdict() error {
	var errs []error
	for _, r := range sum.Results {
		switch r.Variant {
		case stages, plain:
			continue
		case carry:
			if r.Left.Tables+r.Left.Parents > 0 {
				errs = append(errs, fmt.Errorf("%s: left without statistics: %+v", r.Variant, r.Left))
			}
			continue
		}
		if r.Left != (missing{}) {
			errs = append(errs, fmt.Errorf("%s: left without statistics: %+v", r.Variant, r.Left))
		}
		if r.Off.Max > mostOff {
			errs = append(errs, fmt.Errorf("%s: an estimate is off by a factor of %.1f: %s", r.Variant, r.Off.Max, r.Worst))
		}
	}
	return errors.Join(errs...)
}
