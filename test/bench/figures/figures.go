// Package figures holds what benches have in common: settings that come from
// the environment, medians of rounds, and goals.
package figures

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"
)

// Env returns the environment variable, or otherwise when it is empty.
func Env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }

// Number is Env for whole numbers; a variable that is no number becomes -1, for
// the bench's own check to find.
func Number(name string, otherwise int) int {
	n, err := strconv.Atoi(Env(name, strconv.Itoa(otherwise)))
	if err != nil {
		return -1
	}
	return n
}

// Positive is an error for each number that is not.
func Positive(numbers ...int) error {
	var errs []error
	for _, n := range numbers {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("%d: all numbers are positive", n))
		}
	}
	return errors.Join(errs...)
}

// Duration is Env for times such as 60s; one that cannot be read becomes -1.
func Duration(name string, otherwise time.Duration) time.Duration {
	d, err := time.ParseDuration(Env(name, otherwise.String()))
	if err != nil {
		return -1
	}
	return d
}

// Milliseconds is how times are written in JSON.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Spread describes the values of all rounds.
type Spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	All    []float64 `json:"all"`
}

// Of makes a Spread; of no values it is empty.
func Of(values []float64) Spread {
	if len(values) == 0 {
		return Spread{All: []float64{}}
	}
	return Spread{Median: Median(values), Min: slices.Min(values), Max: slices.Max(values), All: values}
}

// Median is 0 of no values.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Percentile is the nearest rank of sorted values: 0.99 for the 99th
// percentile. Of none it is 0.
func Percentile(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(part*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// Ratios divides round by round, so that a machine that is busy for a while
// hits both sides alike. A round that has nothing to divide by is left out.
func Ratios(a, b []float64) []float64 {
	quotients := []float64{}
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			quotients = append(quotients, a[i]/b[i])
		}
	}
	return quotients
}

// Compare is the ratio of two variants in one respect, or nothing unless both
// were measured; values are those of a variant, in the order of the rounds.
func Compare(what, of, to string, values func(variant string) []float64) []Ratio {
	a, b := values(of), values(to)
	if len(a) == 0 || len(b) == 0 {
		return nil
	}
	return []Ratio{{What: what, Of: of, To: to, Rounds: Of(Ratios(a, b))}}
}

// Ratio compares two variants in one respect.
type Ratio struct {
	What string `json:"what"`
	Of   string `json:"of"`
	To   string `json:"to"`
	// Rounds are the quotients of both in the same round.
	Rounds Spread `json:"round_ratios"`
}

// Goal is a promise and what came of it.
type Goal struct {
	Name string  `json:"name"`
	Most float64 `json:"at_most"`
	Got  float64 `json:"got"`
	Met  bool    `json:"met"`
}

// NewGoal holds a result against a promise.
func NewGoal(name string, most, got float64) Goal {
	return Goal{Name: name, Most: most, Got: got, Met: got <= most}
}

// Print writes ratios and goals for people.
func Print(w io.Writer, ratios []Ratio, goals []Goal) {
	for _, r := range ratios {
		fmt.Fprintf(w, "%s: %s / %s = %.2f (rounds %.2f to %.2f)\n", r.What, r.Of, r.To, r.Rounds.Median, r.Rounds.Min, r.Rounds.Max)
	}
	PrintGoals(w, goals)
}

// PrintGoals writes goals for people.
func PrintGoals(w io.Writer, goals []Goal) {
	for _, g := range goals {
		met := "met"
		if !g.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(w, "goal: %s at most %.4g: %.3f, %s\n", g.Name, g.Most, g.Got, met)
	}
}
