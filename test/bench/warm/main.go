// Command warm measures how fast the first queries are that a new server
// answers after its cache was warmed in different ways: not at all, by this
// repository's warm, by pg_prewarm of all tables and indexes, and by the very
// same queries. The server is restarted and the operating system's cache of its
// files dropped before each. See docs/measured.md.
//
// A table for people goes to stderr, one JSON object to stdout.
//
//	go run ./test/bench/warm -size 2500 -buffers 512 -rounds 3
package main

import (
	"context"
	"errors"

	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

func main() { rounds.Main("bench-warm", bench) }

func bench(ctx context.Context, args []string) (err error) {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	w, err := boot(ctx, s, rounds.Say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	outcomes, err := w.rounds(ctx)
	if err != nil {
		return err
	}
	sum := summarize(w, outcomes)
	return rounds.Tell(sum.print, sum)
}
