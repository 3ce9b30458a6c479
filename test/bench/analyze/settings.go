package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Rounds   int
	Rows     int // of the largest table
	Small    int // tables
	Jobs     int
	Variants []string
	Pairs    []rounds.Pair
	Dir      string
	Explain  bool
}

func readSettings(args []string) (settings, error) {
	var s settings
	var pairs, variants string
	f := flag.NewFlagSet("bench-analyze", flag.ContinueOnError)
	f.IntVar(&s.Rounds, "rounds", figures.Number("ROUNDS", 5), "runs of every variant")
	f.IntVar(&s.Rows, "rows", figures.Number("ROWS", 5_000_000), "rows of the largest table; another has two fifths of it")
	f.IntVar(&s.Small, "small", figures.Number("SMALL", 200), "small tables")
	f.IntVar(&s.Jobs, "jobs", figures.Number("JOBS", 2), "sessions that analyze at the same time, of every variant")
	f.StringVar(&variants, "variants", figures.Env("VARIANTS", strings.Join(named(), ",")), "ways to get statistics, separated by commas")
	f.StringVar(&pairs, "pairs", figures.Env("PAIRS", "15:18,15:17"), "majors, old:new, separated by commas; carrying needs a new server from 18 on")
	f.StringVar(&s.Dir, "dir", figures.Env("DIR", ""), "folder that keeps the servers for the next run; empty: a temporary one")
	f.BoolVar(&s.Explain, "explain", figures.Env("EXPLAIN", "") != "", "tell where the time of this repository's ANALYZE went")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var errVariants, errPairs error
	s.Variants, errVariants = rounds.ParseVariants(variants, named())
	s.Pairs, errPairs = rounds.ParsePairs(pairs)
	return s, errors.Join(errVariants, errPairs, s.check())
}

func (s settings) check() error {
	errs := []error{figures.Positive(s.Rounds, s.Rows, s.Small, s.Jobs)}
	for _, p := range s.Pairs {
		// Most common values of several columns came with 12; up to 13 it does
		// not show that a table was never counted.
		if p.Old < 12 || p.New < 14 {
			errs = append(errs, fmt.Errorf("the old server is 12 or later, the new one 14 or later, not %d and %d", p.Old, p.New))
		}
	}
	return errors.Join(errs...)
}
