// Command scale measures cutovers where there is very much of something.
//
//	check    pgcutover check of 10,000 tables takes seconds
//	many     10,000 tables and as many sequences: how long do writers wait?
//	locks    30,000 tables, more than the lock table of a server with default
//	         settings has room for: cutover, undo, rollback and abort work
//	triggers the fence's triggers of as many tables come and go beside writers
//	hostile  clients that deadlock with each other, and LOCK TABLE: the freeze
//	         gets through, and no deadlock is the tool's
//
// The table for people goes to stderr, one JSON object to stdout. The exit status
// is 1 when a write was lost or doubled, a deadlock was the tool's, or something
// was left behind; goals that are not met are only told.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

func main() { rounds.Main("scale", scale) }

// runner is a case.
type runner interface {
	run(ctx context.Context, say func(string, ...any)) (outcome, error)
}

// settings say what is measured. Each flag has an environment variable of the
// same name in capitals, for make.
type settings struct {
	cases, pair               string
	tables, scope, lockTables int
	clients, rate, turns      int
	quiet                     time.Duration
	explain                   bool
}

func readSettings(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.StringVar(&s.cases, "cases", figures.Env("CASES", "check,many,locks,triggers,hostile,hostile-lock"), "cases, separated by commas")
	f.StringVar(&s.pair, "pair", figures.Env("PAIR", "15:18"), "majors, old:new")
	f.IntVar(&s.tables, "tables", figures.Number("TABLES", 10_000), "tables of the cases check and many, each with a sequence")
	f.IntVar(&s.scope, "scope", figures.Number("SCOPE", 500), "how many of them are in scope; the fence stands on all (10000 take Postgres twenty minutes to copy)")
	f.IntVar(&s.lockTables, "lock-tables", figures.Number("LOCK_TABLES", 30_000), "tables of the cases locks and triggers; 300 of them are in scope")
	f.IntVar(&s.clients, "clients", figures.Number("CLIENTS", 16), "client connections")
	f.IntVar(&s.rate, "rate", figures.Number("RATE", 500), "transactions per second of all together")
	f.IntVar(&s.turns, "turns", figures.Number("TURNS", 6), "cutovers and rollbacks, by turns, of the hostile cases")
	f.DurationVar(&s.quiet, "quiet", 20*time.Second, "how long the hostile clients write before")
	f.BoolVar(&s.explain, "explain", figures.Env("EXPLAIN", "") != "", "tell what the longest transactions of all cases but the hostile ones waited for")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	return s, figures.Positive(s.tables, s.scope, s.lockTables, s.clients, s.rate, s.turns)
}

// defaultLocks is PostgreSQL's own max_locks_per_transaction.
const defaultLocks = 64

func (s settings) runners() ([]runner, error) {
	majors, err := rounds.ParsePair(s.pair)
	if err != nil {
		return nil, err
	}
	servers := bootOptions{Old: majors.Old, New: majors.New, Durable: true, Locks: defaultLocks, Explain: s.explain}
	fight := hostile{bootOptions: servers, Tables: 12, Rows: 30, Clients: s.clients, Rate: s.rate, Turns: s.turns, Quiet: s.quiet}
	locking := fight
	locking.Locking = true
	known := map[string]runner{
		"check":    check{bootOptions: servers, Tables: s.tables},
		"many":     many{bootOptions: servers, InScope: min(s.scope, s.tables), OutOfScope: max(s.tables-s.scope, 0), Clients: s.clients, Rate: s.rate, Back: true},
		"locks":    locks{bootOptions: servers, InScope: min(300, s.lockTables), OutOfScope: max(s.lockTables-300, 0), Clients: s.clients, Rate: s.rate},
		"triggers": triggers{bootOptions: servers, Busy: min(300, s.lockTables), Idle: max(s.lockTables-300, 0), Clients: s.clients, Rate: s.rate, Rounds: 2},
		"hostile":  fight, "hostile-lock": locking,
	}
	var all []runner
	for _, name := range strings.Split(s.cases, ",") {
		r, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("there is no case %q", name)
		}
		all = append(all, r)
	}
	return all, nil
}

func scale(ctx context.Context, args []string) error {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	runners, err := s.runners()
	if err != nil {
		return err
	}
	var sum struct {
		Cases []outcome `json:"cases"`
	}
	var errs []error
	for _, r := range runners {
		o, err := r.run(ctx, rounds.Say)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.Case, err))
		}
		errs = append(errs, o.wrong())
		o.judge()
		if err := o.print(os.Stderr); err != nil {
			return err
		}
		sum.Cases = append(sum.Cases, o)
	}
	if err := json.NewEncoder(os.Stdout).Encode(sum); err != nil {
		return err
	}
	return errors.Join(errs...)
}
