// Command sequences measures how long the positions of sequences take on their way
// to a new server: what is done ahead of the write pause and what is left for it,
// against what one would do without this repository, in the same run and
// interleaved, so that a busy machine hits all alike. See docs/measured.md.
//
// A table for people goes to stderr, one JSON object to stdout. It fails when a
// sequence on new stands anywhere else than it has to after this repository's code
// has set it.
//
//	go run ./test/bench/sequences -rounds 3 -counts 10000 -pairs 15:18
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

func main() { rounds.Main("bench-sequences", bench) }

func bench(ctx context.Context, args []string) error {
	s, err := readSettings(args)
	if err != nil {
		return err
	}
	var all []outcome
	for _, pair := range s.Pairs {
		outcomes, err := s.pair(ctx, pair)
		if err != nil {
			return fmt.Errorf("%s: %w", pair, err)
		}
		all = append(all, outcomes...)
	}
	sum := summarize(s, all)
	return errors.Join(rounds.Tell(sum.print, sum), sum.verdict())
}
