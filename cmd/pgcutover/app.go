package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pgcutover/pgcutover/internal/step"
)

// app is what the commands share: where to print and what the global flags
// said.
type app struct {
	out, err io.Writer
	in       *os.File
	hard     context.Context //nolint:containedctx // the second signal of this process
	flags    globalFlags
}

type globalFlags struct {
	config, old, new, name, database string
	json                             bool
	ignore                           []string // of check and start
}

// print writes v as one JSON object on stdout with --json, else calls text.
func (a *app) print(v any, text func(io.Writer) error) error {
	if a.flags.json {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return text(a.out)
}

// say writes a line for people to stderr.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// confirm asks for a yes. Without a terminal the answer is no: use --yes.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !term.IsTerminal(int(a.in.Fd())) {
		return &usageError{fmt.Errorf("%s There is no terminal to ask on: give --yes", question)}
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return &usageError{fmt.Errorf("not confirmed: nothing was done")}
	}
	return nil
}

// narrator prints what a list of steps does, a line each, on stderr.
type narrator struct {
	app    *app
	prefix string // the database, where there are several
	mu     sync.Mutex
	quiet  map[string]time.Time
}

func newNarrator(a *app) *narrator { return &narrator{app: a, quiet: map[string]time.Time{}} }

func (n *narrator) line(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.app.err, n.prefix+format+"\n", args...)
}

// StepStarted prints nothing: the line comes when the step is done, so that
// printing costs nothing while writers wait.
func (n *narrator) StepStarted(s step.Step, i, of int) {
	if s.Bound > time.Minute {
		n.line("[%d/%d] %-10s %s", i, of, s.Name, s.About)
	}
}

// stopwatch is an Observer that also keeps how long each step took.
type stopwatch struct {
	step.Observer
	ms map[string]float64
}

// StepDone notes the time.
func (s *stopwatch) StepDone(done step.Step, facts any, took time.Duration) {
	s.ms[done.Name] = float64(took.Microseconds()) / 1000
	s.Observer.StepDone(done, facts, took)
}

// StepSkipped says that a step was done before.
func (n *narrator) StepSkipped(s step.Step, i, of int) {
	n.line("[%d/%d] %-10s done before", i, of, s.Name)
}

// StepDone says how long a step took.
func (n *narrator) StepDone(s step.Step, _ any, took time.Duration) {
	n.line("  ok   %-10s %s", s.Name, round(took))
}

// StepFailed says why.
func (n *narrator) StepFailed(s step.Step, err error, took time.Duration) {
	n.line("  FAIL %-10s %s: %v", s.Name, round(took), err)
}

// UndoStarted prints nothing, see StepStarted.
func (n *narrator) UndoStarted(step.Step) {}

// UndoDone says that a step was undone.
func (n *narrator) UndoDone(s step.Step, err error, took time.Duration) {
	if err != nil {
		n.line("  undo %-10s FAILED after %s: %v", s.Name, round(took), err)
		return
	}
	n.line("  undo %-10s %s", s.Name, round(took))
}

// Progress prints a line from within a step, each step's at most twice a
// second.
func (n *narrator) Progress(name, text string) {
	n.mu.Lock()
	now := time.Now()
	if now.Sub(n.quiet[name]) < 500*time.Millisecond {
		n.mu.Unlock()
		return
	}
	n.quiet[name] = now
	n.mu.Unlock()
	n.line("       %-10s %s", name, text)
}

// Warning prints what went wrong without stopping the run.
func (n *narrator) Warning(name string, err error) { n.line("  WARN %-10s %v", name, err) }

func round(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
