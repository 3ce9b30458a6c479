package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/methods"
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
	f.StringVar(&s.Case, "case", env("CASE", caseSmall), "small, or large: a large transaction commits just before the freeze")
	f.IntVar(&s.Rounds, "rounds", number("ROUNDS", 0), "runs of every combination (10; 3 of the large case)")
	f.StringVar(&tps, "tps", env("TPS", ""), "transactions per second, separated by commas (500,1500; 500 of the large case)")
	f.StringVar(&kinds, "clients", env("CLIENTS", ""), "kinds of clients (pgbouncer,multihost,direct; pgbouncer of the large case)")
	f.StringVar(&names, "methods", env("METHODS", ""), "methods, separated by commas, of "+strings.Join(methods.Named(), ", "))
	f.StringVar(&pair, "pair", env("PAIR", "15:18"), "majors, old:new")
	f.IntVar(&s.Connections, "connections", number("CONNECTIONS", 32), "client connections")
	f.IntVar(&s.Accounts, "accounts", number("ACCOUNTS", 100_000), "rows of the largest table")
	f.IntVar(&s.Sequences, "sequences", number("SEQUENCES", 500), "sequences that no column owns")
	f.DurationVar(&s.Warm, "warm", 2500*time.Millisecond, "how long the load runs before")
	f.DurationVar(&s.After, "after", 2*time.Second, "how long the load runs on afterwards")
	f.IntVar(&s.Bulk, "bulk", number("BULK", 1_500_000), "rows of the large transaction")
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
	_, err := fmt.Sscanf(pair, "%d:%d", &s.Old, &s.New)
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

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// number lets a variable that is no number be found by check, as -1.
func number(name string, otherwise int) int {
	value := os.Getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return -1
	}
	return n
}
