package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/upgrade"
)

// outcome is what a case found.
type outcome struct {
	Case      string   `json:"case"`
	Pair      string   `json:"pair"`
	Tables    int      `json:"tables"`
	InScope   int      `json:"tables_in_scope"`
	Sequences int      `json:"sequences"`
	Locks     int      `json:"max_locks_per_transaction"`
	CheckMS   float64  `json:"check_ms,omitempty"`
	StartMS   float64  `json:"start_ms"`
	Start     []timed  `json:"start"`
	Turns     []turned `json:"turns"`
	// Quiet is what the clients saw before the first turn, in QuietMS.
	Quiet     counts   `json:"without_cutover"`
	QuietMS   float64  `json:"without_cutover_ms"`
	Proof     proof    `json:"proof"`
	Deadlocks *blamed  `json:"deadlocks,omitempty"`
	Problems  []string `json:"problems,omitempty"`
	Goals     []goal   `json:"goals,omitempty"`
}

// goal is what a number should be at most.
type goal struct {
	Name string  `json:"name"`
	Most float64 `json:"most"`
	Got  float64 `json:"got"`
	Met  bool    `json:"met"`
}

func (o *outcome) goal(name string, most, got float64) {
	o.Goals = append(o.Goals, goal{name, most, got, got <= most})
}

func (o *outcome) problem(format string, args ...any) {
	o.Problems = append(o.Problems, fmt.Sprintf(format, args...))
}

// started times pgcutover start.
func (o *outcome) started(t *times, f func() error) error {
	began := time.Now()
	err := f()
	o.StartMS, o.Start = milliseconds(time.Since(began)), t.take()
	return err
}

func (o *outcome) turn(r turned, err error) error {
	o.Turns = append(o.Turns, r)
	return err
}

// there turns the writes to new, or back to old.
func (o *outcome) there(ctx context.Context, t *times, move *upgrade.Move, forward bool) error {
	what, make := "cutover", move.NewCutover
	if !forward {
		what, make = "rollback", func(ctx context.Context) (*cutover.Cutover, error) { return move.NewRollback(ctx, false) }
	}
	c, err := make(ctx)
	if err != nil {
		return err
	}
	return o.turn(turn(ctx, what, t, c))
}

// measure reads the ledger for every turn, and for the time before them.
func (o *outcome) measure(l ledger, from, until time.Time) {
	for i := range o.Turns {
		o.Turns[i].measure(l)
	}
	from = from.Add(settle / 2) // new sessions fill their caches
	o.Quiet, o.QuietMS = l.counts(from, until), milliseconds(until.Sub(from))
}

// wrong is an error for what may never be.
func (o *outcome) wrong() error {
	var errs []error
	for _, p := range o.Problems {
		errs = append(errs, fmt.Errorf("%s: %s", o.Case, p))
	}
	if o.Proof.Lost+o.Proof.Doubled > 0 {
		errs = append(errs, fmt.Errorf("%s: %d writes lost, %d doubled", o.Case, o.Proof.Lost, o.Proof.Doubled))
	}
	if o.Deadlocks != nil && len(o.Deadlocks.Ours) > 0 {
		errs = append(errs, fmt.Errorf("%s: %d deadlocks with the tool, the first: %s", o.Case, len(o.Deadlocks.Ours), o.Deadlocks.Ours[0]))
	}
	return errors.Join(errs...)
}

// The goals: what a pause may be where there is much of everything, how long
// clients may be held up besides, and how often the gate may be asked for.
const (
	mostBeside   = 300 * time.Millisecond
	mostPause    = 500 * time.Millisecond
	mostAttempts = 2
)

// judge compares with the goals.
func (o *outcome) judge() {
	for _, r := range o.Turns {
		if o.Deadlocks == nil && r.Clients.Transactions > 0 {
			o.goal(r.What+": longest time without an acknowledged write beside the pause, ms", milliseconds(mostBeside), r.GapBesideMS)
			o.goal(r.What+": longest transaction beside the pause, ms", milliseconds(mostBeside), r.LongestBesideMS)
		}
		if r.PauseMS == 0 {
			continue
		}
		if o.Deadlocks == nil {
			o.goal(r.What+": write pause, ms", milliseconds(mostPause), r.PauseMS)
			o.goal(r.What+": longest time without an acknowledged write, ms", milliseconds(mostPause), r.GapMS)
			continue
		}
		o.goal(r.What+": attempts to freeze", mostAttempts, r.fact("freeze", "attempts"))
		o.goal(r.What+": longest transaction, beyond the longest without a cutover, ms", milliseconds(lockTimeout), max(r.Clients.LongestMS-o.Quiet.LongestMS, 0))
	}
}

// print writes the tables for people.
func (o *outcome) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s, %s: %d tables (%d in scope), %d sequences, max_locks_per_transaction = %d\n", o.Case, o.Pair, o.Tables, o.InScope, o.Sequences, o.Locks)
	if o.CheckMS > 0 {
		_, err := fmt.Fprintf(w, "check took %.1f s\n", o.CheckMS/1000)
		return err
	}
	fmt.Fprintf(w, "start took %.1f s: %s\n", o.StartMS/1000, listed(o.Start))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\ttook s\tpause ms\tgap ms\tfreeze attempts\ttransactions\tlongest ms\tp99 ms\tbeside the pause: gap ms\tlongest ms\tfailures\t\n")
	fmt.Fprintf(table, "no cutover\t%.1f\t\t\t\t%d\t%.0f\t%.0f\t\t\t%v\t\n", o.QuietMS/1000, o.Quiet.Transactions, o.Quiet.LongestMS, o.Quiet.P99MS, o.Quiet.Codes)
	for _, r := range o.Turns {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.0f\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%v\t\n", r.What, r.TookMS/1000, r.PauseMS, r.GapMS, r.fact("freeze", "attempts"),
			r.Clients.Transactions, r.Clients.LongestMS, r.Clients.P99MS, r.GapBesideMS, r.LongestBesideMS, r.Clients.Codes)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, r := range o.Turns {
		fmt.Fprintf(w, "%s, ms: %s; the longest transaction ran during: %s\n", r.What, listed(r.Steps), r.SlowestIn)
	}
	fmt.Fprintf(w, "looked up %d rows: %d lost, %d doubled\n", o.Proof.Looked, o.Proof.Lost, o.Proof.Doubled)
	if o.Deadlocks != nil {
		fmt.Fprintf(w, "deadlocks in the servers' logs: %d, with the tool: %d; %.1f a minute before the first cutover\n",
			o.Deadlocks.All, len(o.Deadlocks.Ours), float64(o.Quiet.Codes["40P01"])*60_000/max(o.QuietMS, 1))
	}
	for _, p := range o.Problems {
		fmt.Fprintf(w, "PROBLEM: %s\n", p)
	}
	for _, g := range o.Goals {
		met := "met"
		if !g.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(w, "goal: %s at most %g: %.1f, %s\n", g.Name, g.Most, g.Got, met)
	}
	return nil
}

func listed(steps []timed) string {
	parts := make([]string, len(steps))
	for i, s := range steps {
		parts[i] = fmt.Sprintf("%s %.1f", s.Name, s.MS)
	}
	return strings.Join(parts, ", ")
}
