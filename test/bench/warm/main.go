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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgcutover/pgcutover/internal/hint"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Args[1:])
	stop()
	if err != nil {
		say("bench-warm: %v", err)
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
	w, err := boot(ctx, s, say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(ctx)) }()
	outcomes, err := w.rounds(ctx)
	if err != nil {
		return err
	}
	sum := summarize(w, outcomes)
	if err := sum.print(os.Stderr); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sum)
}
