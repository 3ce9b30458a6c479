// Package rounds is the frame of the benches: the program around them, the
// majors they go through, whose turn it is, and their two servers.
package rounds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// Main runs the bench of the name with the program's arguments, until it ends or
// the program is told to stop. An error goes to stderr, with what to do about it.
func Main(name string, bench func(ctx context.Context, args []string) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if err != nil {
		Say("%s: %v", name, err)
		if advice := hint.Of(err); advice != "" {
			Say("%s", advice)
		}
		os.Exit(1) //nolint:forbidigo // a program
	}
}

// Say writes a line to stderr, for people.
func Say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Tell writes the table to stderr, for people, and the object as JSON to stdout.
func Tell(table func(io.Writer) error, object any) error {
	if err := table(os.Stderr); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(object)
}

// Order is whose turn it is in a round, which are counted from 0: all of them,
// each round beginning with another one, so that none is always the first.
func Order[T any](ways []T, round int) []T {
	if len(ways) == 0 {
		return nil
	}
	first := round % len(ways)
	return slices.Concat(ways[first:], ways[:first])
}

// Pair is two majors.
type Pair struct{ Old, New int }

// String is how a pair is written: 15:18.
func (p Pair) String() string { return fmt.Sprintf("%d:%d", p.Old, p.New) }

// ParsePair reads what String writes.
func ParsePair(text string) (Pair, error) {
	var p Pair
	if _, err := fmt.Sscanf(text, "%d:%d", &p.Old, &p.New); err != nil {
		return Pair{}, fmt.Errorf("reading the pair %q: %w", text, err)
	}
	return p, nil
}

// ParsePairs reads pairs that are separated by commas.
func ParsePairs(text string) ([]Pair, error) {
	var all []Pair
	var errs []error
	for _, one := range strings.Split(text, ",") {
		p, err := ParsePair(one)
		all, errs = append(all, p), append(errs, err)
	}
	return all, errors.Join(errs...)
}

// ParseVariants reads names that are separated by commas; all have to be known.
func ParseVariants(text string, known []string) ([]string, error) {
	names := strings.Split(text, ",")
	var errs []error
	for _, name := range names {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("there is no variant %q: they are %s", name, strings.Join(known, ", ")))
		}
	}
	return names, errors.Join(errs...)
}
