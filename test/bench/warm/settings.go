package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Rounds        int
	Size, Buffers int // MB
	Window, Delay time.Duration
	Rate, Clients int
	Skew          float64
	Variants      []string
	Pair          rounds.Pair
	Dir           string
	Explain       bool
}

func readSettings(args []string) (settings, error) {
	var s settings
	var pair, variants string
	f := flag.NewFlagSet("bench-warm", flag.ContinueOnError)
	f.IntVar(&s.Rounds, "rounds", figures.Number("ROUNDS", 3), "runs of every variant")
	f.IntVar(&s.Size, "size", figures.Number("SIZE", 2500), "size of the database in MB, about; there are two of it")
	f.IntVar(&s.Buffers, "buffers", figures.Number("BUFFERS", 768), "shared_buffers of both servers in MB")
	f.DurationVar(&s.Window, "window", figures.Duration("WINDOW", time.Minute), "how long queries are measured after the warm-up")
	f.DurationVar(&s.Delay, "delay", figures.Duration("DELAY", 500*time.Microsecond), "how long each read of new waits that the operating system's cache cannot answer, as with storage behind a network; 0: the disk as it is")
	f.IntVar(&s.Rate, "rate", figures.Number("RATE", 500), "queries per second")
	f.IntVar(&s.Clients, "clients", figures.Number("CLIENTS", 8), "client connections")
	f.Float64Var(&s.Skew, "skew", 0.015, "mean age of the orders that are asked for, as a part of all orders")
	f.StringVar(&variants, "variants", figures.Env("VARIANTS", strings.Join(named(), ",")), "ways to warm up, separated by commas")
	f.StringVar(&pair, "pair", figures.Env("PAIR", "15:18"), "majors, old:new")
	f.StringVar(&s.Dir, "dir", figures.Env("DIR", ""), "folder that keeps both servers for the next run; empty: a temporary one")
	f.BoolVar(&s.Explain, "explain", figures.Env("EXPLAIN", "") != "", "tell how this repository's warm read each table")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var errVariants, errPair error
	s.Variants, errVariants = rounds.ParseVariants(variants, named())
	s.Pair, errPair = rounds.ParsePair(pair)
	return s, errors.Join(errVariants, errPair, s.check())
}

func (s settings) check() error {
	errs := []error{figures.Positive(s.Rounds, s.Size, s.Buffers, s.Rate, s.Clients, int(s.Window))}
	if s.Delay < 0 {
		errs = append(errs, fmt.Errorf("%s: reads cannot wait for less than nothing", s.Delay))
	}
	if s.Skew <= 0 || s.Skew > 1 {
		errs = append(errs, fmt.Errorf("%g: the skew lies between 0 and 1", s.Skew))
	}
	// Indexes of partitioned tables came with 11; up to 14 counters arrive late.
	if s.Pair.Old < 11 || s.Pair.New < 15 {
		errs = append(errs, fmt.Errorf("the old server is 11 or later, the new one 15 or later, not %d and %d", s.Pair.Old, s.Pair.New))
	}
	return errors.Join(errs...)
}
