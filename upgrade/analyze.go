package upgrade

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/warmup"
)

func (s *start) analyze(ctx context.Context) (any, error) {
	report, err := s.Analyze(ctx, false)
	return report, err
}

// Analyze makes planner statistics on new, in stages, the tables first that are
// used most on old: those that are missing, rough, older than the copy, or behind
// the rows; or of all tables. What an earlier Analyze has done it does not do
// again, unless it is to do all.
func (m *Move) Analyze(ctx context.Context, all bool) (warmup.AnalyzeReport, error) {
	o, err := m.analyzeOptions(ctx)
	if err != nil {
		return warmup.AnalyzeReport{}, err
	}
	if m.Observer != nil {
		o.Progress = func(p warmup.AnalyzeProgress) { m.Observer.Progress("analyze", analyzeLine(p)) }
	}
	if all {
		return warmup.Analyze(ctx, m.New, o)
	}
	return warmup.AnalyzeTables(ctx, m.New, nil, o)
}

func analyzeLine(p warmup.AnalyzeProgress) string {
	text := fmt.Sprintf("%d of %d: %s, target %s, %s", p.Done, p.Total, p.Table, p.Target, p.Outcome)
	if len(p.Blockers) > 0 {
		text += " by " + p.Blockers[0].String()
	}
	return text
}

// analyzeOptions are the configured ones with what old and the journal know.
func (m *Move) analyzeOptions(ctx context.Context) (warmup.AnalyzeOptions, error) {
	o := m.Options.Analyze
	var err error
	if o.Usage, err = m.usage(ctx); err != nil {
		return o, err
	}
	o.Since, err = m.copied(ctx)
	return o, err
}

// usageBound is how long old's counters are waited for, which only the order
// depends on.
const usageBound = 10 * time.Second

// usage reads how much tables are used on old. Where old does not say, it tells
// the observer and returns nil.
func (m *Move) usage(ctx context.Context) (warmup.Usage, error) {
	if m.Old == nil {
		return nil, nil
	}
	reading, cancel := context.WithTimeout(ctx, usageBound)
	defer cancel()
	usage, err := warmup.ReadUsage(reading, m.Old)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil && m.Observer != nil {
		m.Observer.Progress("analyze", fmt.Sprintf("which tables old uses most is not known: %v", err))
	}
	return usage, nil
}

// copied is when all rows were on new, by the journal and the clock of the tool
// that wrote it; the zero time before, and where there is no journal.
func (m *Move) copied(ctx context.Context) (time.Time, error) {
	var at time.Time
	records, err := state.Journal{Server: m.New}.Load(ctx, List, 0)
	if pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return at, nil
	}
	if err != nil {
		return at, err
	}
	for _, r := range records {
		if r.Step == "copy" && r.Event == journal.Succeeded {
			at = r.At
		}
	}
	return at, nil
}
