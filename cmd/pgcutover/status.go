package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

func newStatus(a *app) *cobra.Command {
	var (
		watch, tables bool
		every         time.Duration
	)
	cmd := command("status", "Say where the move stands and whether a cutover could begin now",
		"status looks at both servers and changes nothing: phase, copy progress, lag, retained WAL,\nstatistics, sequences, and the verdict: can I cut over now, if not why, can I still go back.\nWhen only one server can be reached it says what that one knows.",
		"  pgcutover status\n  pgcutover status --watch\n  pgcutover status --tables\n  pgcutover status --json",
		func(ctx context.Context) error {
			c, several, err := a.several()
			if err != nil {
				return err
			}
			if several {
				return a.statusOfAll(ctx, watch, tables, every)
			}
			options, err := a.optionsFor(c, a.flags.database)
			if err != nil {
				return err
			}
			m, missing, err := upgrade.OpenReachable(ctx, options, newNarrator(a))
			if err != nil {
				return err
			}
			defer m.Close()
			seen := looks{}
			for {
				status, err := m.Status(ctx)
				if err != nil {
					return errors.Join(unreached(missing), err)
				}
				if status.EachTable = tables; tables {
					seen.read(ctx, a, m, &status)
				}
				if err := a.print(status, status.WriteText); err != nil {
					return err
				}
				if !watch || missing != nil {
					if status.GivenUp {
						return nil // nobody is going to reach the other one
					}
					return unreached(missing)
				}
				if !wait(ctx, every) {
					return nil
				}
			}
		})
	cmd.Flags().BoolVar(&watch, "watch", false, "print again and again until interrupted")
	cmd.Flags().BoolVar(&tables, "tables", false, "a line for each table: its statistics, its part of the cache, its sequences")
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "interval of --watch")
	return cmd
}

// lookAgain is how old a look into the servers' caches may be for --watch: each
// goes through all buffers of both.
const lookAgain = time.Minute

// looks are what was seen of the caches, by move: several have one each.
type looks map[*upgrade.Move]seenCache

type seenCache struct {
	at     time.Time
	tables map[warmup.Table]upgrade.TableCondition
	cache  *warmup.Warmth
}

// read adds the look into the caches, while old's tells what clients use.
func (l looks) read(ctx context.Context, a *app, m *upgrade.Move, s *upgrade.Status) {
	if s.Condition == nil || s.Serving != string(pg.Old) {
		return
	}
	seen, known := l[m]
	if known && time.Since(seen.at) < lookAgain {
		s.Condition.Cache = seen.cache
		for i := range s.Condition.Tables {
			t := &s.Condition.Tables[i]
			t.Hot, t.Warm = seen.tables[t.Table].Hot, seen.tables[t.Table].Warm
		}
		return
	}
	if err := m.ReadCache(ctx, s.Condition, nil); err != nil {
		a.say("warning: %v", err)
	}
	seen = seenCache{time.Now(), map[warmup.Table]upgrade.TableCondition{}, s.Condition.Cache}
	for _, t := range s.Condition.Tables {
		seen.tables[t.Table] = t
	}
	l[m] = seen
}

// statusOfAll is status for several databases.
func (a *app) statusOfAll(ctx context.Context, watch, tables bool, every time.Duration) error {
	return a.withMoves(ctx, nil, func(c *upgrade.Cluster) error {
		seen := looks{}
		for {
			status, err := c.Status(ctx)
			if err != nil {
				return err
			}
			for i := range status.Databases {
				if status.Databases[i].EachTable = tables; tables {
					seen.read(ctx, a, c.Moves[i].Move, &status.Databases[i].Status)
				}
			}
			if err := a.print(status, status.WriteText); err != nil {
				return err
			}
			if !watch || !wait(ctx, every) {
				return nil
			}
		}
	})
}

// wait reports whether the time has passed, and not ctx ended.
func wait(ctx context.Context, every time.Duration) bool {
	tick := time.NewTimer(every)
	defer tick.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-tick.C:
		return true
	}
}

// unreached is the error of a server that could not be asked, nil when both were.
func unreached(missing *upgrade.Unreachable) error {
	if missing == nil {
		return nil
	}
	return missing
}
