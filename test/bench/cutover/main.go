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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/test/bench/arena"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if err != nil {
		say("bench-cutover: %v", err)
		if advice := hint.Of(err); advice != "" {
			say("%s", advice)
		}
		os.Exit(1) //nolint:forbidigo // a program
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func bench(ctx context.Context, args []string) (err error) {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	a, err := arena.Boot(ctx, arena.Options{Old: s.Old, New: s.New, Accounts: s.Accounts, Sequences: s.Sequences, Say: say})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	say("old: PostgreSQL %s, new: PostgreSQL %s, fsync and synchronous_commit on", a.Old.Version(), a.New.Version())
	outcomes, err := s.rounds(ctx, a)
	if err != nil {
		return err
	}
	summary := summarize(s, a, outcomes)
	if err := summary.print(os.Stderr); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(summary); err != nil {
		return err
	}
	return summary.verdict()
}
