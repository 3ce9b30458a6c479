// Command cutover measures how long writers are held up while a database moves
// to a new server, and what they lose: this repository's cutover against the
// freeze-and-poll sequence of the most used open tool and against a floor
// without any safety, in the same run and interleaved, so that a busy machine
// hits all alike. See docs/measured.md for what is compared with what.
//
// A table for people goes to stderr, one JSON object to stdout. It fails when
// this repository's cutover lost or doubled a write, or did not do what it was
// asked to; what the others lose is reported.
//
//	go run ./test/bench/cutover -rounds 3 -tps 500 -clients pgbouncer
//	go run ./test/bench/cutover -case large
package main

import (
	"context"
	"errors"

	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

func main() { rounds.Main("bench-cutover", bench) }

func bench(ctx context.Context, args []string) (err error) {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	a, err := arena.Boot(ctx, arena.Options{Old: s.Old, New: s.New, Accounts: s.Accounts, Sequences: s.Sequences, Say: rounds.Say})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close(ctx)) }()
	rounds.Say("old: PostgreSQL %s, new: PostgreSQL %s, fsync and synchronous_commit on", a.Old.Version(), a.New.Version())
	outcomes, err := s.rounds(ctx, a)
	if err != nil {
		return err
	}
	summary := summarize(s, a, outcomes)
	return errors.Join(rounds.Tell(summary.print, summary), summary.verdict())
}
