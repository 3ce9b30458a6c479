package upgrade

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/warmup"
)

// statisticsFacts are what the journal keeps of the carrying: counts and names,
// no values.
type statisticsFacts struct {
	Carried  int      `json:"carried"`
	Partly   int      `json:"partly"`
	Kept     int      `json:"kept"`
	Analyze  []string `json:"analyze,omitempty"` // that only ANALYZE can do, the first few
	Left     int      `json:"left"`              // how many those are
	Warnings []string `json:"warnings,omitempty"`
}

// fewNames is how many tables the facts name.
const fewNames = 10

func factsOf(report warmup.CarryReport) statisticsFacts {
	facts := statisticsFacts{
		Carried: report.Count(warmup.Carried), Partly: report.Count(warmup.PartlyCarried), Kept: report.Count(warmup.Kept),
	}
	left := report.ToAnalyze()
	facts.Left = len(left)
	for _, t := range left[:min(len(left), fewNames)] {
		facts.Analyze = append(facts.Analyze, t.String())
	}
	return facts
}

// statistics carries the planner's statistics over, so that new has some from
// here on. Whatever goes wrong, step analyze makes them: nothing stops start.
func (s *start) statistics(ctx context.Context) (any, error) {
	report, err := s.CarryStatistics(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	facts := factsOf(report)
	switch {
	case errors.Is(err, warmup.ErrNoCarrying):
		step.Progress(ctx, "new is %d: only 18 and later take statistics over; step analyze makes them", s.New.Major())
	case errors.Is(err, errNotCarried):
		step.Progress(ctx, "%v; step analyze makes them", err)
	case err != nil:
		facts.Warnings = append(facts.Warnings, fmt.Sprintf("%v; step analyze makes what is missing", err))
		step.Progress(ctx, "warning: %s", facts.Warnings[0])
	default:
		step.Progress(ctx, "statistics of %d tables carried over, of %d partly; %d are left to step analyze", facts.Carried, facts.Partly, facts.Left)
	}
	return facts, nil
}

// errNotCarried is what CarryStatistics says when the config forbids it.
var errNotCarried = errors.New("analyze.carry is false: no statistics are carried over")

// CarryStatistics gives new the planner's statistics of old. It returns
// warmup.ErrNoCarrying when new is too old.
func (m *Move) CarryStatistics(ctx context.Context) (warmup.CarryReport, error) {
	if m.Options.NoCarry {
		return warmup.CarryReport{}, errNotCarried
	}
	return warmup.CarryStatistics(ctx, m.Old, m.New, warmup.CarryOptions{Jobs: m.Options.Analyze.Jobs})
}

// CarryFirst is CarryStatistics before an Analyze, which makes up for whatever
// goes wrong: it returns what there is to say of it.
func (m *Move) CarryFirst(ctx context.Context) string {
	report, err := m.CarryStatistics(ctx)
	switch {
	case errors.Is(err, warmup.ErrNoCarrying), errors.Is(err, errNotCarried):
		return ""
	case err != nil:
		return fmt.Sprintf("warning: %v", err)
	}
	if n := report.Count(warmup.Carried, warmup.PartlyCarried); n > 0 {
		return fmt.Sprintf("statistics of %d tables carried over from old", n)
	}
	return ""
}

func (s *start) statisticsStatements(startPlan) ([]step.Statement, error) {
	if !warmup.CanCarry(s.New) || s.Options.NoCarry {
		return nil, nil
	}
	return []step.Statement{{
		Server: "old", SQL: warmup.CarrySQL(s.Old.Version()), RunOn: "new",
		Why: "the planner's statistics, a call for each column; the tool looks first which of them new can use, and writes a table's at once; without this step analyze makes them",
	}}, nil
}
