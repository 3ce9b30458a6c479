package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/methods"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	Case                string
	Rounds              int
	TPS                 []int
	Kinds               []methods.Kind
	Methods             []string
	Old, New            int
	Connections         int
	Accounts, Sequences int
	Warm, After         time.Duration
	Bulk                int
}

// The cases.
const (
	caseSmall = "small" // nothing but the load
	caseLarge = "large" // a large transaction commits just before the freeze
)

func readSettings(args []string) (settings, error) {
	var s settings
	var tps, kinds, names, pair string
	f := flag.NewFlagSet("bench-cutover", flag.ContinueOnError)
	f.StringVar(&s.Case, "case", figures.Env("CASE", caseSmall), "small, or large: a large transaction commits just before the freeze")
	f.IntVar(&s.Rounds, "rounds", figures.Number("ROUNDS", 0), "runs of every combination (10; 3 of the large case)")
	f.StringVar(&tps, "tps", figures.Env("TPS", ""), "transactions per second, separated by commas (500,1500; 500 of the large case)")
	f.StringVar(&kinds, "clients", figures.Env("CLIENTS", ""), "kinds of clients (pgbouncer,multihost,direct; pgbouncer of the large case)")
	f.StringVar(&names, "methods", figures.Env("METHODS", ""), "methods, separated by commas, of "+strings.Join(methods.Named(), ", "))
	f.StringVar(&pair, "pair", figures.Env("PAIR", "15:18"), "majors, old:new")
	f.IntVar(&s.Connections, "connections", figures.Number("CONNECTIONS", 32), "client connections")
	f.IntVar(&s.Accounts, "accounts", figures.Number("ACCOUNTS", 100_000), "rows of the largest table")
	f.IntVar(&s.Sequences, "sequences", figures.Number("SEQUENCES", 500), "sequences that no column owns")
	f.DurationVar(&s.Warm, "warm", 2500*time.Millisecond, "how long the load runs before")
	f.DurationVar(&s.After, "after", 2*time.Second, "how long the load runs on afterwards")
	f.IntVar(&s.Bulk, "bulk", figures.Number("BULK", 1_500_000), "rows of the large transaction")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.defaults(&tps, &kinds, &names)
	var errs []error
	for _, text := range strings.Split(tps, ",") {
		n, err := strconv.Atoi(text)
		s.TPS, errs = append(s.TPS, n), append(errs, err)
	}
	for _, kind := range strings.Split(kinds, ",") {
		s.Kinds = append(s.Kinds, methods.Kind(kind))
	}
	s.Methods = strings.Split(names, ",")
	majors, err := rounds.ParsePair(pair)
	s.Old, s.New = majors.Old, majors.New
	return s, errors.Join(append(errs, err, s.check())...)
}

func (s *settings) defaults(tps, kinds, names *string) {
	rounds, rates, all := 10, "500,1500", "pgbouncer,multihost,direct"
	of := []string{methods.Ours, methods.Floor, methods.Poll, methods.PollNoVacuum}
	if s.Case == caseLarge {
		rounds, rates, all = 3, "500", string(methods.PgBouncer)
		of = []string{methods.Ours, methods.Floor, methods.PollNoVacuum, methods.PollNoStream}
	}
	if s.Rounds == 0 {
		s.Rounds = rounds
	}
	*tps = cmp.Or(*tps, rates)
	*kinds = cmp.Or(*kinds, all)
	*names = cmp.Or(*names, strings.Join(of, ","))
}

func (s *settings) check() error {
	var errs []error
	for _, kind := range s.Kinds {
		if !slices.Contains(methods.Kinds(), kind) {
			errs = append(errs, fmt.Errorf("there are no clients %q: they are %v", kind, methods.Kinds()))
		}
	}
	for _, name := range s.Methods {
		if _, err := methods.New(name); err != nil {
			errs = append(errs, err)
		}
	}
	for _, n := range append([]int{s.Rounds, s.Connections, s.Accounts}, s.TPS...) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("%d: rounds, rates, connections and accounts are positive", n))
		}
	}
	if s.Case != caseSmall && s.Case != caseLarge {
		errs = append(errs, fmt.Errorf("there is no case %q: they are %s and %s", s.Case, caseSmall, caseLarge))
	}
	return errors.Join(errs...)
}
