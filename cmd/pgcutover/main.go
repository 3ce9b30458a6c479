// Command pgcutover moves a live PostgreSQL database to a new major version or
// another provider over logical replication. Its commands stand one to a file;
// they read flags and print, and leave every decision to the packages below.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/step"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	os.Exit(run(&app{out: os.Stdout, err: os.Stderr, in: os.Stdin}, os.Args[1:]))
}

// run runs one command and returns its exit status.
func run(a *app, args []string) int {
	soft, hard, stop := signals(a)
	defer stop()
	a.hard = hard
	root := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(soft)
	if err == nil {
		return exitDone
	}
	code := exitCode(err, soft)
	fmt.Fprintf(a.err, "pgcutover: %v\n", err)
	var aborted *step.Aborted
	if errors.As(err, &aborted) && (!aborted.Undone || aborted.UndoErr != nil) {
		err = hint.With(err, "run: pgcutover resume (it undoes the rest; what stands does not refuse writes)")
	}
	if h := next(err, code); h != "" {
		fmt.Fprintf(a.err, "next: %s\n", h)
	}
	return code
}

// next is the advice that comes with an error. One that leaves a cutover past
// its point of no return always ends with the command that finishes it.
func next(err error, code int) string {
	advice := hint.Of(err)
	const finish = "run: pgcutover resume"
	switch {
	case code != exitUnfinished || strings.Contains(advice, "pgcutover resume"):
		return advice
	case advice == "":
		return finish
	}
	return advice + "\nthen " + finish
}

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// signals returns a context that the first SIGINT or SIGTERM ends, and one
// that the second ends.
func signals(a *app) (soft, hard context.Context, stop func()) {
	soft, cancelSoft := context.WithCancelCause(context.Background())
	hard, cancelHard := context.WithCancelCause(context.Background())
	incoming := make(chan os.Signal, 2)
	// A terminal that goes away asks for the same as Ctrl-C. Text that nobody reads
	// any more must not end a cutover.
	signal.Notify(incoming, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case <-done:
				return
			case s := <-incoming:
				if first {
					fmt.Fprintf(a.err, "pgcutover: %s: ending; a cutover or rollback is undone before its point of no return and finished after it; once more stops waiting\n", s)
					cancelSoft(errInterrupted)
					continue
				}
				fmt.Fprintf(a.err, "pgcutover: %s again: stopping. To see where things stand: pgcutover status; to finish: pgcutover resume\n", s)
				cancelHard(errInterrupted)
				// What was under way is neither finished nor undone: not the status
				// that says so.
				time.AfterFunc(10*time.Second, func() { os.Exit(exitUnfinished) })
			}
		}
	}()
	return soft, hard, func() {
		signal.Stop(incoming)
		close(done)
		cancelSoft(nil)
		cancelHard(nil)
	}
}
