package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

const warmLong = `warm reads on new what production uses: the newest rows of each table, and what old keeps in
its cache (by pg_buffercache there, else by how often blocks are read), as much of each as new has
room for; indexes last. It writes nothing and installs nothing, and may be repeated at any time
before the cutover. With --keep it repeats itself every warm.every until the cutover is decided or
it is interrupted.`

func newWarm(a *app) *cobra.Command {
	var keep bool
	cmd := command("warm", "Read on new what production uses, so that it is in its cache", warmLong,
		"  pgcutover warm\n  pgcutover warm --keep",
		func(ctx context.Context) error {
			if keep {
				return a.keepWarm(ctx)
			}
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				round, err := m.Warm(ctx)
				a.sayRound("", round)
				return round, func(w io.Writer) error { return writeRound(w, round) }, err
			})
		})
	cmd.Flags().BoolVar(&keep, "keep", false, "repeat it every warm.every until the cutover is decided, or ^C")
	return cmd
}

// warmRounds is what warm --keep prints with --json when it ends.
type warmRounds struct {
	Rounds []warmRound `json:"rounds"`
}

type warmRound struct {
	Database string `json:"database,omitempty"`
	warmup.Round
}

// keepWarm prints a line for each round, on stderr.
func (a *app) keepWarm(ctx context.Context) error {
	var mu sync.Mutex
	all := warmRounds{Rounds: []warmRound{}}
	done := func(database string, r warmup.Round) {
		mu.Lock()
		defer mu.Unlock()
		prefix := ""
		if database != "" {
			prefix = database + ": "
		}
		a.say("%s%s  %s", prefix, r.Report.At.Local().Format("15:04:05"), r.Line())
		if r.N == 1 {
			a.sayRound(prefix, r)
		}
		if a.flags.json {
			for i := range all.Rounds { // the newest of each database has the tables
				if one := &all.Rounds[i]; one.Database == database {
					one.Hot.Tables, one.Report.Tables, one.Warmth.Tables = nil, nil, nil
				}
			}
			all.Rounds = append(all.Rounds, warmRound{database, r})
		}
	}
	err := a.withMoves(ctx, func(m *upgrade.Move) error {
		return m.KeepWarm(ctx, func(r warmup.Round) { done("", r) })
	}, func(c *upgrade.Cluster) error { return c.KeepWarm(ctx, done) })
	if err != nil && (ctx.Err() == nil || !a.flags.json) {
		return err
	}
	return errors.Join(err, a.print(all, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, "The cutover is decided: nothing is kept warm any more.")
		return err
	}))
}

// sayRound prints what is to be known of a round, on stderr.
func (a *app) sayRound(prefix string, r warmup.Round) {
	for _, text := range r.Problems {
		a.say("%swarning: %s", prefix, text)
	}
	for _, text := range r.Report.Warnings {
		a.say("%swarning: %s", prefix, text)
	}
	for _, advice := range r.Advice() {
		a.say("%sadvice: %s", prefix, advice)
	}
}

// writeRound writes a line for each table, and what sums them up.
func writeRound(w io.Writer, r warmup.Round) error {
	for _, t := range r.Report.Tables {
		line := t.String()
		if inside, known := r.Warmth.Of(t.Table); known && inside.Hot > 0 && t.Method != warmup.NotRead {
			line += fmt.Sprintf("; %.0f %% of what is hot is in the cache", 100*inside.Fraction())
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

// warmOnce warms new when all is ready for a cutover, and returns what was hot on
// old; nil when that is not known. Whatever goes wrong is a warning.
func (a *app) warmOnce(ctx context.Context, m *upgrade.Move) *warmup.HotSet {
	if m.Options.WarmBeforeCutover <= 0 {
		return nil
	}
	a.say("warming new, for %s at the most (warm.before_cutover)", m.Options.WarmBeforeCutover)
	r, err := m.WarmBeforeCutover(ctx)
	a.sayWarmed(ctx, "", r, err)
	return hotSet(r)
}

// warmAll is warmOnce for several databases, by their names.
func (a *app) warmAll(ctx context.Context, c *upgrade.Cluster) map[string]*warmup.HotSet {
	bound := c.Moves[0].Options.WarmBeforeCutover
	if bound <= 0 {
		return nil
	}
	a.say("warming new, for %s at the most (warm.before_cutover)", bound)
	rounds, err := c.WarmBeforeCutover(ctx)
	hot := make(map[string]*warmup.HotSet, len(rounds))
	for _, m := range c.Moves {
		a.sayWarmed(ctx, m.Database+": ", rounds[m.Database], nil)
		hot[m.Database] = hotSet(rounds[m.Database])
	}
	if err != nil && ctx.Err() == nil {
		a.say("warning: %v", err)
	}
	return hot
}

// hotSet is what a round knew of old.
func hotSet(r warmup.Round) *warmup.HotSet {
	if r.Hot.Source == "" {
		return nil
	}
	return &r.Hot
}

func (a *app) sayWarmed(ctx context.Context, prefix string, r warmup.Round, err error) {
	switch {
	case ctx.Err() != nil: // the caller says so
	case err != nil:
		a.say("%swarning: %v", prefix, err)
	default:
		for _, text := range r.Problems {
			a.say("%swarning: %s", prefix, text)
		}
		if r.Report.At.IsZero() { // it did not come to that
			return
		}
		text := r.Summary()
		if n := len(r.Report.Warnings); n > 0 {
			text += fmt.Sprintf("; %d warnings, which pgcutover warm names", n)
		}
		a.say("%s%s", prefix, text)
	}
}
