package cutover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/warmup"
)

// Bounds of what is done for the statistics while clients are on the target
// again. The operator looks on: what a minute is not enough for is left to
// autovacuum or to a later command.
const (
	statisticsWithin = time.Minute
	statisticsJobs   = 2
	usageBound       = 10 * time.Second
	// statisticsLock is below deadlock_timeout, so that no autovacuum worker that
	// is at the table is told to give way.
	statisticsLock = 500 * time.Millisecond
	// statisticsAnswer is how long more a server may take that says nothing.
	statisticsAnswer = 30 * time.Second
)

// fillWithin is how long the gates make statistics themselves.
const fillWithin = 20 * time.Second

// What the gates surely come to the end of in that time.
const (
	fillTables = 100
	fillBytes  = 1 << 30
)

// mayFill tells a look that changes nothing whether a cutover will make the missing
// statistics by itself.
func mayFill(holes []warmup.Hole) bool {
	var sum int64
	for _, h := range holes {
		sum += h.Bytes
	}
	return len(holes) <= fillTables && sum <= fillBytes
}

// fillHoles analyzes the tables that lack statistics, those too that get their
// first rows meanwhile, and returns what they lack then.
func (c *Cutover) fillHoles(ctx context.Context, holes []warmup.Hole) ([]warmup.Hole, error) {
	until := time.Now().Add(fillWithin)
	tried := map[warmup.Table]bool{}
	untried := func(h warmup.Hole) bool { return !tried[h.Table] }
	for slices.ContainsFunc(holes, untried) && time.Now().Before(until) {
		tables := make([]warmup.Table, len(holes))
		for i, h := range holes {
			tables[i], tried[h.Table] = h.Table, true
		}
		var err error
		if holes, err = c.fill(ctx, tables, time.Until(until)); err != nil {
			return nil, err
		}
	}
	return holes, nil
}

// fill analyzes tables of a target that nobody uses yet, and looks again.
func (c *Cutover) fill(ctx context.Context, tables []warmup.Table, within time.Duration) ([]warmup.Hole, error) {
	o := c.gentleStatistics()
	o.Within, o.Gently = max(within, time.Millisecond), false // 0 would be for ever
	o.Progress = func(p warmup.AnalyzeProgress) {
		step.Progress(ctx, "statistics were missing: %d of %d tables, %s %s", p.Done, p.Total, p.Table, p.Outcome)
	}
	if _, err := warmup.AnalyzeTables(ctx, c.target(), tables, o); err != nil && !errors.Is(err, warmup.ErrMissingStatistics) {
		return nil, err
	}
	return warmup.Holes(ctx, c.target())
}

// gentleStatistics are the options of an ANALYZE beside live clients.
func (c *Cutover) gentleStatistics() warmup.AnalyzeOptions {
	return warmup.AnalyzeOptions{
		Jobs: min(max(c.Settings.AnalyzeJobs, 1), statisticsJobs), LockTimeout: statisticsLock, Attempts: 1,
		Within: statisticsWithin, Answer: statisticsAnswer, Gently: true,
	}
}

// refreshStatistics analyzes what has changed since it was analyzed, the tables
// first that clients used most on the source. The target serves: worse statistics
// are a warning, not a reason to stop.
func (c *Cutover) refreshStatistics(ctx context.Context, facts *followFacts) {
	warn := func(format string, args ...any) {
		facts.Warnings = append(facts.Warnings, "statistics: "+fmt.Sprintf(format, args...))
	}
	o := c.gentleStatistics()
	o.Progress = func(p warmup.AnalyzeProgress) {
		step.Progress(ctx, "statistics: %d of %d tables, %s %s", p.Done, p.Total, p.Table, p.Outcome)
	}
	// The source takes no writes any more and has nothing else to do; nobody waits
	// for this, and without it the order is less good.
	reading, cancel := context.WithTimeout(ctx, usageBound)
	defer cancel()
	var err error
	if o.Usage, err = warmup.ReadUsage(reading, c.source()); err != nil {
		warn("which tables are used most is not known: %v", err)
	}
	report, err := warmup.AnalyzeTables(ctx, c.target(), nil, o)
	if err != nil {
		warn("%v", err)
	}
	unfinished := report.Unfinished()
	facts.Analyzed, facts.Left = len(report.Tables)-len(unfinished), len(unfinished)
	if len(unfinished) > 0 {
		advice := "run pgcutover analyze, or leave them to autovacuum"
		if c.Direction == state.Back {
			advice = "autovacuum sees to them"
		}
		warn("%d tables have changed much since they were analyzed and could not be analyzed now, for example %s (%s): %s",
			len(unfinished), unfinished[0].Table, unfinished[0].Explain(), advice)
	}
}
