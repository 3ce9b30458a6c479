package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/test/bench/figures"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Rounds   int
	Rows     int // of the largest table
	Small    int // tables
	Jobs     int
	Variants []string
	Pairs    []pair
	Dir      string
	Explain  bool
}

// pair is two majors.
type pair struct{ Old, New int }

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
	s.Variants = strings.Split(variants, ",")
	var errs []error
	for _, text := range strings.Split(pairs, ",") {
		var p pair
		if _, err := fmt.Sscanf(text, "%d:%d", &p.Old, &p.New); err != nil {
			errs = append(errs, fmt.Errorf("reading the pair %q: %w", text, err))
		}
		s.Pairs = append(s.Pairs, p)
	}
	return s, errors.Join(append(errs, s.check())...)
}

func (s settings) check() error {
	var errs []error
	for _, n := range []int{s.Rounds, s.Rows, s.Small, s.Jobs} {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("%d: all numbers are positive", n))
		}
	}
	for _, name := range s.Variants {
		if !slices.Contains(named(), name) {
			errs = append(errs, fmt.Errorf("there is no variant %q: they are %s", name, strings.Join(named(), ", ")))
		}
	}
	for _, p := range s.Pairs {
		// Most common values of several columns came with 12; up to 13 it does
		// not show that a table was never counted.
		if p.Old < 12 || p.New < 14 {
			errs = append(errs, fmt.Errorf("the old server is 12 or later, the new one 14 or later, not %d and %d", p.Old, p.New))
		}
	}
	return errors.Join(errs...)
}
