package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/methods"
)

// print writes the table for people.
func (sum *summary) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\nclients\ttps\tmethod\tgap ms: median\tmin\tmax\tp99\tquiet\tworst latency\tfailed/run\tattempts\tgave up\tunknown\tlost\tdoubled\tseq. behind\t\n")
	for _, r := range sum.Results {
		fmt.Fprintf(table, "%s\t%d\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%d\t%d\t%d\t%d\t%d\t\n",
			r.who(), r.TPS, r.Method, r.Gap.Median, r.Gap.Min, r.Gap.Max, r.Gap.P99, r.Quiet.Median, r.Worst.Median, r.FailedPerRun.Median,
			r.Counts.Attempts, r.Counts.GaveUp, r.Counts.Unknown, r.Proof.Missing+r.BulkLost, r.Proof.Doubled, r.Behind)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\ngap: longest time between two acknowledged commits from the command to the end; quiet: the same before;\nfailed/run: transactions of which a client saw a failure; attempts, gave up, unknown: sums of all runs\n")
	sum.printReasons(w)
	if err := sum.printSteps(w); err != nil {
		return err
	}
	for _, r := range sum.Ratios {
		fmt.Fprintf(w, "%s at %d tps: %s / %s = %.2f (median of the rounds' ratios %.2f)\n", r.Clients, r.TPS, r.Of, r.To, r.Medians, r.Median)
	}
	figures.PrintGoals(w, sum.Goals)
	return nil
}

// who names the clients, and when the large transaction was committed.
func (r result) who() string {
	if r.Bulk == noBulk {
		return string(r.Clients)
	}
	return fmt.Sprintf("%s, large %s", r.Clients, r.Bulk)
}

// printReasons tells what did not end as asked.
func (sum *summary) printReasons(w io.Writer) {
	for _, r := range sum.Results {
		if r.Bulk != noBulk {
			fmt.Fprintf(w, "%s, large transaction committed %s: %d of %d runs turned, %d refused, %d undone, %d wrong; rows lost: %d\n",
				r.Method, r.Bulk, r.Runs-r.Refused-r.Undone-r.Wrong, r.Runs, r.Refused, r.Undone, r.Wrong, r.BulkLost)
		}
		if r.FirstReason != "" {
			fmt.Fprintf(w, "%s, %s, %d tps: %s\n", r.Method, r.Clients, r.TPS, r.FirstReason)
		}
	}
}

// printSteps says where the time went.
func (sum *summary) printSteps(w io.Writer) error {
	fmt.Fprintf(w, "\nsteps, median ms:\n")
	for _, r := range sum.Results {
		fmt.Fprintf(w, "%s %d %s: %s\n", r.who(), r.TPS, r.Method, listed(r.Steps, 0))
	}
	fmt.Fprintf(w, "\nof these in the gap, median ms:\n")
	for _, r := range sum.Results {
		sum := 0.0
		for _, step := range r.InGap {
			sum += step.MS
		}
		fmt.Fprintf(w, "%s %d %s: %s; between steps and clients coming back %.1f\n", r.who(), r.TPS, r.Method, listed(r.InGap, 0.05), r.Gap.Median-sum)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// listed leaves out steps below least milliseconds.
func listed(steps []methods.Step, least float64) string {
	var parts []string
	for _, step := range steps {
		if step.MS >= least {
			parts = append(parts, fmt.Sprintf("%s %.1f", step.Name, step.MS))
		}
	}
	return strings.Join(parts, ", ")
}
