// Command analyze measures how soon a freshly copied database has the planner's
// statistics, and how good they are: by vacuumdb, by this repository's staged
// ANALYZE, and by carrying them over from the old server. See docs/measured.md.
//
// A table for people goes to stderr, one JSON object to stdout. It fails when
// this repository's ways leave a table without statistics, or when what the
// planner makes of them is off.
//
//	go run ./test/bench/analyze -rows 5000000 -jobs 2 -pairs 15:18,15:17
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

func main() { rounds.Main("bench-analyze", bench) }

func bench(ctx context.Context, args []string) error {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	var all struct {
		Bench string    `json:"bench"`
		Pairs []summary `json:"pairs"`
	}
	all.Bench = "analyze"
	var errs []error
	for _, p := range s.Pairs {
		sum, err := s.pair(ctx, p, rounds.Say)
		if err != nil {
			return err
		}
		if err := sum.print(os.Stderr); err != nil {
			return err
		}
		all.Pairs, errs = append(all.Pairs, sum), append(errs, sum.verdict())
	}
	return errors.Join(append(errs, json.NewEncoder(os.Stdout).Encode(all))...)
}

// pair measures one pair of majors.
func (s settings) pair(ctx context.Context, p rounds.Pair, say func(string, ...any)) (sum summary, err error) {
	w, err := boot(ctx, s, p, say)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	outcomes, err := w.rounds(ctx)
	if err != nil {
		return sum, err
	}
	return summarize(w, outcomes), nil
}
