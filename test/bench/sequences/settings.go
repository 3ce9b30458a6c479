package main

import (
	"errors"
	"flag"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Rounds int
	Pairs  []rounds.Pair
	Counts []int
	Margin int64
	Busy   int // percent of the sequences that outrun the margin
}

func readSettings(args []string) (settings, error) {
	var s settings
	var pairs, counts string
	f := flag.NewFlagSet("bench-sequences", flag.ContinueOnError)
	f.IntVar(&s.Rounds, "rounds", figures.Number("ROUNDS", 5), "runs of every method")
	f.StringVar(&pairs, "pairs", figures.Env("PAIRS", figures.Env("PAIR", "10:18,15:18")), "majors, old:new, separated by commas")
	f.StringVar(&counts, "counts", figures.Env("COUNTS", "500,10000"), "numbers of sequences, separated by commas")
	f.IntVar(&s.Busy, "busy", figures.Number("BUSY", 3), "percent of them that use up what new was given before the pause")
	f.Int64Var(&s.Margin, "margin", 1000, "steps that new is set ahead")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var err error
	s.Pairs, err = rounds.ParsePairs(pairs)
	errs := []error{err}
	for _, text := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(text)
		s.Counts, errs = append(s.Counts, n), append(errs, err)
	}
	errs = append(errs, figures.Positive(append([]int{s.Rounds, s.Busy}, s.Counts...)...))
	if s.Busy > 100 || s.Margin < 100 {
		errs = append(errs, errors.New("at most 100 percent can be busy, and the margin is at least 100"))
	}
	return s, errors.Join(errs...)
}
