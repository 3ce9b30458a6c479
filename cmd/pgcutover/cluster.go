package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// several tells whether the command is for several databases: the config lists
// them, and none was chosen.
func (a *app) several() (*config.Config, bool, error) {
	c, err := a.config()
	if err != nil {
		return nil, false, err
	}
	return c, len(c.Databases) > 1 && a.flags.database == "", nil
}

// withMoves runs one for a move of one database, and many for one of several.
func (a *app) withMoves(ctx context.Context, one func(*upgrade.Move) error, many func(*upgrade.Cluster) error) error {
	c, several, err := a.several()
	if err != nil {
		return err
	}
	if !several {
		return a.withMove(ctx, one)
	}
	members := make([]upgrade.MemberOptions, len(c.Databases))
	for i, database := range c.Databases {
		o, err := a.optionsFor(c, database)
		if err != nil {
			return err
		}
		// A % in a name is no verb of the lines that it comes before.
		narrator := newNarrator(a)
		narrator.prefix = "[" + strings.ReplaceAll(database, "%", "%%") + "] "
		members[i] = upgrade.MemberOptions{Database: database, Options: o, Observer: narrator}
	}
	cluster, err := upgrade.OpenCluster(ctx, members)
	if err != nil {
		return err
	}
	defer cluster.Close()
	return many(cluster)
}

// part is one database's part of what a command prints about several: with
// --json its value under the name, as text under a heading.
type part struct {
	Database string `json:"database"`
	Result   any    `json:"result"`
	text     func(io.Writer) error
}

// each runs f for one database after the other, and prints their parts together.
func (a *app) each(ctx context.Context, f func(*upgrade.Move) (any, func(io.Writer) error, error)) error {
	return a.withMoves(ctx, func(m *upgrade.Move) error {
		result, text, err := f(m)
		if err != nil {
			return err
		}
		return a.print(result, text)
	}, func(c *upgrade.Cluster) error {
		parts := make([]part, 0, len(c.Moves))
		for _, m := range c.Moves {
			result, text, err := f(m.Move)
			if err != nil {
				return fmt.Errorf("database %s: %w", m.Database, err)
			}
			parts = append(parts, part{m.Database, result, text})
		}
		return a.print(struct {
			Databases []part `json:"databases"`
		}{parts}, func(w io.Writer) error {
			for _, p := range parts {
				if _, err := fmt.Fprintf(w, "database %s\n", p.Database); err != nil {
					return err
				}
				if err := p.text(w); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// turnedDatabase is one database in the result of a turning.
type turnedDatabase struct {
	Database string  `json:"database"`
	Attempt  int64   `json:"attempt"`
	PauseMS  float64 `json:"write_pause_ms"`
	// Condition is what the first queries find on the server that serves now.
	Condition *upgrade.Condition `json:"condition,omitempty"`
}

// turningResult is what cutover, rollback and resume print with --json for
// several databases.
type turningResult struct {
	Serving   string            `json:"serving"`
	PauseMS   float64           `json:"write_pause_ms,omitempty"` // the longest
	Databases []turnedDatabase  `json:"databases,omitempty"`
	Resumed   []upgrade.Resumed `json:"resumed,omitempty"`
}

// turnAll is turn for several databases.
func (a *app) turnAll(ctx context.Context, c *upgrade.Cluster, t *upgrade.Turning, asked turning) error {
	if asked.terminate > 0 {
		for _, turn := range t.Cutovers {
			turn.Settings.TerminateAfter = asked.terminate
		}
	}
	if asked.dryRun {
		return a.printPlans(ctx, t)
	}
	if asked.before != nil {
		if err := asked.before(); err != nil {
			return err
		}
	}
	if err := t.Ready(ctx); err != nil {
		return err
	}
	for i, s := range t.Cutovers[0].Steps() {
		a.say("%2d. %-10s %s", i+1, s.Name, s.About)
	}
	from, to := c.Moves[0].Old, c.Moves[0].New
	if t.Direction == state.Back {
		from, to = to, from
	}
	question := fmt.Sprintf("Turn the writes of %d databases from %s to %s?", len(t.Cutovers), from.Address(), to.Address())
	if err := a.confirm(asked.yes, question); err != nil {
		return err
	}
	var hot map[string]*warmup.HotSet
	if asked.warm {
		if hot = a.warmAll(ctx, c); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return a.runAll(ctx, c, t, asked.next, nil, hot)
}

// runAll turns the databases and prints the result.
func (a *app) runAll(ctx context.Context, c *upgrade.Cluster, t *upgrade.Turning, next string, resumed []upgrade.Resumed, hot map[string]*warmup.HotSet) error {
	if err := t.Run(ctx, a.hard); err != nil {
		return err
	}
	result := turningResult{Serving: string(t.Direction.Target()), PauseMS: milliseconds(t.Pause()), Resumed: resumed}
	for _, turn := range t.Cutovers {
		one := turnedDatabase{Database: turn.Database, Attempt: turn.Attempt(), PauseMS: milliseconds(turn.Pause())}
		for _, m := range c.Moves {
			if m.Database == turn.Database {
				one.Condition = a.condition(ctx, m.Move, t.Direction.Target(), hot[turn.Database])
			}
		}
		result.Databases = append(result.Databases, one)
	}
	return a.print(result, func(w io.Writer) error {
		for _, d := range result.Databases {
			if _, err := fmt.Fprintf(w, "%s: writes were held up for %.1f ms\n", d.Database, d.PauseMS); err != nil {
				return err
			}
			if d.Condition == nil {
				continue
			}
			for _, line := range d.Condition.Summary() {
				if _, err := fmt.Fprintln(w, "  "+line); err != nil {
					return err
				}
			}
		}
		_, err := fmt.Fprintf(w, "Done: the %s server takes the writes of all %d databases.\n%s\n", t.Direction.Target(), len(result.Databases), next)
		return err
	})
}

// resumeAll finishes what was interrupted in any database, and moves the rest.
func (a *app) resumeAll(ctx context.Context, c *upgrade.Cluster) error {
	done, rest, err := c.Resume(ctx, a.hard)
	for _, d := range done {
		switch d.Outcome {
		case cutover.Finished:
			a.say("%s: finished, the %s server takes the writes", d.Database, d.Serving)
		case cutover.Undone:
			a.say("%s: undone, the %s server takes the writes, as before", d.Database, d.Serving)
		}
	}
	if err != nil {
		return err
	}
	if rest != nil {
		names := make([]string, len(rest.Cutovers))
		for i, turn := range rest.Cutovers {
			names[i] = turn.Database
		}
		a.say("The others are on the %s server; turning %s too.", rest.Direction.Target(), strings.Join(names, ", "))
		return a.runAll(ctx, c, rest, "To see what is next: pgcutover status", done, nil)
	}
	return a.print(turningResult{Serving: done[0].Serving, Resumed: done}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "The %s server takes the writes of all databases. To see what is next: pgcutover status\n", done[0].Serving)
		return err
	})
}

// removeAll is removed for several databases.
func (a *app) removeAll(c *upgrade.Cluster, err error) error {
	if err != nil {
		return err
	}
	parts := make([]removed, 0, len(c.Moves))
	for _, m := range c.Moves {
		parts = append(parts, removed{Move: m.Options.Name, Leftovers: []string{}})
	}
	return a.print(struct {
		Databases []removed `json:"databases"`
	}{parts}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "Done: nothing of the move is left in %d databases.\n", len(parts))
		return err
	})
}

// onlyOne refuses an option that is for one database at a time.
func onlyOne(option string) error {
	return &usageError{errors.New(option + " is for one database at a time: name it with --database")}
}

// printPlans is the dry run of a turning.
func (a *app) printPlans(ctx context.Context, t *upgrade.Turning) error {
	type plan struct {
		Database string       `json:"database"`
		Steps    []step.Entry `json:"steps"`
	}
	plans := make([]plan, 0, len(t.Cutovers))
	for _, turn := range t.Cutovers {
		entries, err := step.Plan(ctx, turn.Steps())
		if err != nil {
			return fmt.Errorf("database %s: %w", turn.Database, err)
		}
		plans = append(plans, plan{turn.Database, entries})
	}
	return a.print(struct {
		Databases []plan `json:"databases"`
	}{plans}, func(w io.Writer) error {
		for _, p := range plans {
			if _, err := fmt.Fprintf(w, "database %s\n", p.Database); err != nil {
				return err
			}
			if err := step.WriteText(w, p.Steps); err != nil {
				return err
			}
		}
		return nil
	})
}
