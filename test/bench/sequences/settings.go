package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Rounds int
	Pairs  []pair
	Counts []int
	Margin int64
	Busy   int // percent of the sequences that outrun the margin
}

// pair is two majors.
type pair struct{ Old, New int }

func (p pair) String() string { return fmt.Sprintf("%d:%d", p.Old, p.New) }

func readSettings(args []string) (settings, error) {
	var s settings
	var pairs, counts, rounds, busy string
	f := flag.NewFlagSet("bench-sequences", flag.ContinueOnError)
	f.StringVar(&rounds, "rounds", cmp.Or(os.Getenv("ROUNDS"), "5"), "runs of every method")
	f.StringVar(&pairs, "pairs", cmp.Or(os.Getenv("PAIRS"), os.Getenv("PAIR"), "10:18,15:18"), "majors, old:new, separated by commas")
	f.StringVar(&counts, "counts", cmp.Or(os.Getenv("COUNTS"), "500,10000"), "numbers of sequences, separated by commas")
	f.StringVar(&busy, "busy", cmp.Or(os.Getenv("BUSY"), "3"), "percent of them that use up what new was given before the pause")
	f.Int64Var(&s.Margin, "margin", 1000, "steps that new is set ahead")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	number := func(text string) (n int, err error) {
		if n, err = strconv.Atoi(text); err == nil && n <= 0 {
			err = fmt.Errorf("%d: rounds, counts and shares are positive", n)
		}
		return n, err
	}
	var errs []error
	add := func(n int, err error) int { errs = append(errs, err); return n }
	s.Rounds, s.Busy = add(number(rounds)), add(number(busy))
	for _, text := range strings.Split(counts, ",") {
		s.Counts = append(s.Counts, add(number(text)))
	}
	for _, text := range strings.Split(pairs, ",") {
		var p pair
		_, err := fmt.Sscanf(text, "%d:%d", &p.Old, &p.New)
		s.Pairs, errs = append(s.Pairs, p), append(errs, err)
	}
	if s.Busy > 100 || s.Margin < 100 {
		errs = append(errs, errors.New("at most 100 percent can be busy, and the margin is at least 100"))
	}
	return s, errors.Join(errs...)
}
