// Command bench sums up runs of `pgcutover demo --json`. Its arguments are the
// files with their outputs. A table for people goes to stderr, one JSON object
// to stdout. It fails when a run lost or duplicated a write, or does not say.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// run is what one demo reported. Pointers tell a zero from a field that is not
// there: a demo that does not say what it lost proves nothing.
type run struct {
	WritePause *float64 `json:"write_pause_ms"` // milliseconds
	Lost       *int64   `json:"lost"`           // acknowledged writes found nowhere
	Duplicated *int64   `json:"duplicated"`     // acknowledged writes found twice
}

// summary is the object on stdout. All pauses are in milliseconds.
type summary struct {
	Bench       string    `json:"bench"`
	Rounds      int       `json:"rounds"`
	Median      float64   `json:"write_pause_ms_median"`
	Min         float64   `json:"write_pause_ms_min"`
	Max         float64   `json:"write_pause_ms_max"`
	WritePauses []float64 `json:"write_pause_ms"`
	Lost        int64     `json:"lost"`
	Duplicated  int64     `json:"duplicated"`
}

func main() {
	if err := bench(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(files []string, stdout, stderr io.Writer) error {
	if len(files) == 0 {
		return errors.New("no files given: want the outputs of `pgcutover demo --json`")
	}
	var runs []run
	for _, file := range files {
		r, err := read(file)
		if err != nil {
			return err
		}
		runs = append(runs, r)
	}
	total := summarize(runs)
	if err := printTable(stderr, runs, total); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	if err := json.NewEncoder(stdout).Encode(total); err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	if total.Lost != 0 || total.Duplicated != 0 {
		return fmt.Errorf("%d acknowledged writes lost, %d duplicated", total.Lost, total.Duplicated)
	}
	return nil
}

// read returns the report in a file, which must be one JSON object and nothing
// else: programs read the demo's stdout too.
func read(file string) (run, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return run{}, err
	}
	var r run
	if err := json.Unmarshal(text, &r); err != nil {
		return run{}, fmt.Errorf("reading %s: %w", file, err)
	}
	switch {
	case r.WritePause == nil:
		return run{}, fmt.Errorf("reading %s: no write_pause_ms", file)
	case r.Lost == nil:
		return run{}, fmt.Errorf("reading %s: no lost", file)
	case r.Duplicated == nil:
		return run{}, fmt.Errorf("reading %s: no duplicated", file)
	}
	return r, nil
}

// summarize needs at least one run.
func summarize(runs []run) summary {
	total := summary{Bench: "demo", Rounds: len(runs)}
	for _, r := range runs {
		total.WritePauses = append(total.WritePauses, *r.WritePause)
		total.Lost += *r.Lost
		total.Duplicated += *r.Duplicated
	}
	total.Median = median(total.WritePauses)
	total.Min = slices.Min(total.WritePauses)
	total.Max = slices.Max(total.WritePauses)
	return total
}

// median returns the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

func printTable(w io.Writer, runs []run, total summary) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "round\twrite pause (ms)\tlost\tduplicated\t")
	for i, r := range runs {
		fmt.Fprintf(table, "%d\t%.1f\t%d\t%d\t\n", i+1, *r.WritePause, *r.Lost, *r.Duplicated)
	}
	fmt.Fprintf(table, "median\t%.1f\t%d\t%d\t\n", total.Median, total.Lost, total.Duplicated)
	return table.Flush()
}
