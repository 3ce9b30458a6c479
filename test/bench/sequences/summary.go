package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// summary is what the bench prints.
type summary struct {
	Bench   string         `json:"bench"`
	Rounds  int            `json:"rounds"`
	Margin  int64          `json:"margin"`
	Busy    int            `json:"busy_percent"`
	Results []result       `json:"results"`
	Ratios  []ratio        `json:"ratios"`
	Goals   []figures.Goal `json:"goals"`
}

// result is what one method did in all rounds.
type result struct {
	Pair     string    `json:"pair"`
	Count    int       `json:"sequences"`
	Part     string    `json:"part"`
	Method   string    `json:"method"`
	Median   float64   `json:"median_ms"`
	Min      float64   `json:"min_ms"`
	Max      float64   `json:"max_ms"`
	All      []float64 `json:"all_ms"`
	Reading  float64   `json:"reading_median_ms,omitempty"` // of it, in the pause
	Setting  float64   `json:"setting_median_ms,omitempty"`
	Again    int       `json:"set_again"`
	Sessions int       `json:"reading_sessions,omitempty"`
	Judged   bool      `json:"judged"` // whether new was looked at
	Wrong    int       `json:"wrong"`
	First    string    `json:"first_wrong,omitempty"`
}

// ratio compares our time with another method's: the median of the rounds' quotients.
type ratio struct {
	Pair   string  `json:"pair"`
	Count  int     `json:"sequences"`
	Part   string  `json:"part"`
	To     string  `json:"to"`
	Median float64 `json:"median"`
}

const oursName = "ours"

func summarize(s settings, all []outcome) *summary {
	sum := &summary{Bench: "sequences", Rounds: s.Rounds, Margin: s.Margin, Busy: s.Busy, Ratios: []ratio{}, Goals: []figures.Goal{}}
	for _, p := range s.Pairs {
		for _, count := range s.Counts {
			for _, m := range methods() {
				sum.add(p, count, m, all)
			}
		}
	}
	sum.goals()
	return sum
}

// times are those of one method, in the order of the rounds.
func times(all []outcome, p rounds.Pair, count int, part, name string) []outcome {
	var out []outcome
	for _, o := range all {
		if o.Pair == p && o.Count == count && o.Part == part && o.Method == name {
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b outcome) int { return a.Round - b.Round })
	return out
}

func (sum *summary) add(p rounds.Pair, count int, m method, all []outcome) {
	runs := times(all, p, count, m.part, m.name)
	if len(runs) == 0 {
		return
	}
	r := result{Pair: p.String(), Count: count, Part: m.part, Method: m.name, Judged: true}
	var reading, setting []float64
	for _, o := range runs {
		reading, setting = append(reading, figures.Milliseconds(o.Reading)), append(setting, figures.Milliseconds(o.Setting))
		r.All = append(r.All, figures.Milliseconds(o.Took))
		r.Wrong += o.Wrong
		r.Judged = r.Judged && o.Judged
		r.Again, r.Sessions = max(r.Again, o.Again), max(r.Sessions, o.Sessions)
		if r.First == "" {
			r.First = o.First
		}
	}
	took := figures.Of(r.All)
	r.Median, r.Min, r.Max = took.Median, took.Min, took.Max
	r.Reading, r.Setting = figures.Median(reading), figures.Median(setting)
	sum.Results = append(sum.Results, r)
	ours := times(all, p, count, m.part, oursName)
	if m.name == oursName || len(ours) == 0 {
		return
	}
	var oursTook []float64
	for _, o := range ours {
		oursTook = append(oursTook, figures.Milliseconds(o.Took))
	}
	sum.Ratios = append(sum.Ratios, ratio{Pair: r.Pair, Count: count, Part: m.part, To: m.name, Median: figures.Median(figures.Ratios(oursTook, r.All))})
}

// goals holds our part in the pause against what was promised.
func (sum *summary) goals() {
	most := map[int]float64{500: 5, 10_000: 150}
	for _, r := range sum.Results {
		if bound, promised := most[r.Count]; promised && r.Method == oursName && r.Part == inPause {
			sum.Goals = append(sum.Goals, figures.NewGoal(fmt.Sprintf("%s, %d sequences in the pause, ms", r.Pair, r.Count), bound, r.Median))
		}
	}
}

// verdict is an error when a sequence was not set exactly. Slowness is reported, not
// failed: machines differ.
func (sum *summary) verdict() error {
	var errs []error
	for _, r := range sum.Results {
		if r.Wrong > 0 {
			errs = append(errs, fmt.Errorf("%s, %d sequences, %s, %s: %d wrong; the first: %s", r.Pair, r.Count, r.Part, r.Method, r.Wrong, r.First))
		}
	}
	return errors.Join(errs...)
}

// print writes the table for people.
func (sum *summary) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\npair\tsequences\tpart\tmethod\tms: median\tmin\tmax\treading\tsetting\tset again\tsessions\twrong\t\n")
	for _, r := range sum.Results {
		wrong := "-"
		if r.Judged {
			wrong = fmt.Sprint(r.Wrong)
		}
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%s\t\n",
			r.Pair, r.Count, r.Part, r.Method, r.Median, r.Min, r.Max, r.Reading, r.Setting, r.Again, r.Sessions, wrong)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nahead: reading both servers, setting all, the journal's record; in the pause: reading old, comparing,\nsetting those that outran the margin, making the record; the others carry old's positions over without a margin\n")
	for _, r := range sum.Ratios {
		fmt.Fprintf(w, "%s, %d sequences, %s: ours / %s = %.2f\n", r.Pair, r.Count, r.Part, r.To, r.Median)
	}
	figures.PrintGoals(w, sum.Goals)
	return nil
}
