package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/load"
	"github.com/pgcutover/pgcutover/test/bench/methods"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// outcome is what one run found.
type outcome struct {
	combination
	Method string
	Round  int

	Gap, Quiet time.Duration // longest gap around the cutover; before it
	Worst, P99 time.Duration // latency of the transactions from the cutover on
	Steps      []methods.Step
	InGap      []methods.Step // the part of each step that lies in the gap
	Counts     load.Counts
	Proof      load.Proof
	BulkLost   int
	Behind     int    // sequences that are behind old's on the server that serves
	Refused    string // the gates' reason; nothing was touched
	Undone     string // why the cutover was taken back
	Failed     error  // the method itself
	Whole      time.Duration

	began time.Time // when the command was given, or the large transaction was in
}

// combination is what is compared within: methods share it.
type combination struct {
	Kind methods.Kind
	TPS  int
	Bulk bulkAt
}

// bulkAt is when the large transaction commits.
type bulkAt string

const (
	noBulk        bulkAt = ""
	bulkBefore    bulkAt = "before the command"
	bulkAtTheMove bulkAt = "just before the freeze"
)

// bulkLead is how long before the command the large transaction commits.
const bulkLead = 400 * time.Millisecond

func (s settings) combinations() []combination {
	var all []combination
	for _, kind := range s.Kinds {
		for _, tps := range s.TPS {
			if s.Case == caseLarge {
				all = append(all, combination{kind, tps, bulkBefore}, combination{kind, tps, bulkAtTheMove})
				continue
			}
			all = append(all, combination{kind, tps, noBulk})
		}
	}
	return all
}

// rounds runs every method of every combination once in each round, each round
// beginning with another method.
func (s settings) rounds(ctx context.Context, a *arena.Arena) ([]outcome, error) {
	var all []outcome
	for round := range s.Rounds {
		for _, c := range s.combinations() {
			for _, name := range rounds.Order(s.Methods, round) {
				o := outcome{combination: c, Method: name, Round: round + 1}
				began := time.Now()
				if err := s.run(ctx, a, &o); err != nil {
					return nil, fmt.Errorf("%s, %s clients, %d tps: %w", name, c.Kind, c.TPS, err)
				}
				o.Whole = time.Since(began)
				rounds.Say("%s", o)
				all = append(all, o)
			}
		}
	}
	return all, nil
}

// String is the line that tells the run when it has ended.
func (o outcome) String() string {
	text := fmt.Sprintf("round %d  %-9s %4d tps  %-14s gap %7.1f ms  failed %4d  gave up %3d  lost %d  doubled %d  (%.1f s)",
		o.Round, o.Kind, o.TPS, o.Method, figures.Milliseconds(o.Gap), o.Counts.Failed, o.Counts.GaveUp, o.Proof.Missing+o.BulkLost, o.Proof.Doubled, o.Whole.Seconds())
	switch {
	case o.Failed != nil:
		text += "\n    failed: " + o.Failed.Error()
	case o.Refused != "":
		text += "\n    refused: " + o.Refused
	case o.Undone != "":
		text += "\n    undone: " + o.Undone
	}
	return text
}

// run does one run in databases of its own. Its error is the bench's; what goes
// wrong with the method is in the outcome.
func (s settings) run(ctx context.Context, a *arena.Arena, o *outcome) (err error) {
	method, err := methods.New(o.Method)
	if err != nil {
		return err
	}
	pair, err := a.Pair(ctx, method.EmptyNew())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pair.Remove(ctx)) }()
	dir, err := os.MkdirTemp("", "bench-cutover-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	clients, err := methods.NewClients(ctx, o.Kind, pair, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	scene := &methods.Scene{Pair: pair, Clients: clients, Say: rounds.Say}
	if o.Bulk == bulkAtTheMove {
		scene.BeforeFreeze = func(ctx context.Context) error {
			defer func() { o.began = time.Now() }()
			return s.bulk(ctx, pair)
		}
	}
	defer method.Close(ctx)
	if err := method.Prepare(ctx, scene); err != nil {
		return fmt.Errorf("preparing: %w", err)
	}
	return s.measure(ctx, o, method, scene)
}

// measure lets the clients write, turns the writes, and looks at what became of
// them.
func (s settings) measure(ctx context.Context, o *outcome, method methods.Method, scene *methods.Scene) error {
	running, err := load.Start(ctx, load.Options{
		Dial: scene.Clients.Dial, Clients: s.Connections, Rate: o.TPS, RetryFor: scene.Clients.RetryFor(),
		Accounts: s.Accounts, Tellers: arena.Tellers, Branches: arena.Branches,
	})
	if err != nil {
		return err
	}
	err = s.turn(ctx, o, method, scene)
	ledger, stopErr := running.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return err
	}
	o.measured(ledger)
	serving := scene.Pair.NewURL()
	if o.Refused != "" || o.Undone != "" {
		serving = scene.Pair.OldURL()
	} else if o.Failed == nil {
		o.Failed = scene.Clients.Serving(ctx)
	}
	return s.lookUp(ctx, o, ledger, scene.Pair, serving)
}

// turn gives the command after the load has run for a while, and lets it run on.
func (s settings) turn(ctx context.Context, o *outcome, method methods.Method, scene *methods.Scene) error {
	if err := pg.Pause(ctx, s.Warm); err != nil {
		return err
	}
	if o.Bulk == bulkBefore {
		if err := s.bulk(ctx, scene.Pair); err != nil {
			return err
		}
		if err := pg.Pause(ctx, bulkLead); err != nil {
			return err
		}
	}
	o.began = time.Now()
	steps, err := method.Move(ctx, scene)
	o.Steps = steps
	switch {
	case errors.Is(err, methods.ErrRefused):
		o.Refused = err.Error()
	case errors.Is(err, methods.ErrUndone):
		o.Undone = err.Error()
	default:
		o.Failed = err
	}
	return pg.Pause(ctx, s.After)
}

// settled is how long a new load is left out of what counts as quiet: its
// sessions fill their caches.
const settled = time.Second

// measured reads the ledger.
func (o *outcome) measured(l load.Ledger) {
	o.Counts = l.Counts()
	from, to := l.Gap(o.began, l.Stopped)
	o.Gap = to.Sub(from)
	for _, step := range o.Steps {
		if !step.Began.IsZero() {
			o.InGap = append(o.InGap, methods.Step{Name: step.Name, MS: figures.Milliseconds(step.Within(from, to))})
		}
	}
	o.Worst, o.P99 = l.Latency(o.began, l.Stopped)
	if o.Bulk == noBulk {
		from, to := l.Gap(l.Began.Add(settled), o.began)
		o.Quiet = to.Sub(from)
	}
}
