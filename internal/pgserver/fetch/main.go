// Command fetch brings what the demo and the tests need onto this machine: the
// client programs, and the server binaries of the majors given as arguments.
// scripts/prepare runs it. Everything it says goes to standard error.
package main

import (
	"context"
	"errors"
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
	err := prepare(ctx, os.Args[1:])
	if err == nil {
		return
	}
	say(err.Error())
	if advice := hint.Of(err); advice != "" {
		say(advice)
	}
	stop()
	os.Exit(1)
}

func say(line string) { fmt.Fprintln(os.Stderr, "prepare:", line) }

// prepare installs the packages that are missing, then finds or fetches the
// servers of the majors. One failure does not keep it from the rest.
func prepare(ctx context.Context, arguments []string) error {
	var majors []int
	for _, argument := range arguments {
		major, err := strconv.Atoi(argument)
		if err != nil {
			return fmt.Errorf("%q is no major: want numbers from %d to %d", argument, pgserver.MinMajor, pgserver.MaxMajor)
		}
		majors = append(majors, major)
	}
	failures := []error{pgserver.Install(ctx, say, majors...)}
	for _, major := range majors {
		binaries, err := pgserver.Find(ctx, major, say)
		if err == nil {
			say(fmt.Sprintf("PostgreSQL %s is in %s", binaries.Version, binaries.Dir))
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}
