package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/warmup"
)

// The ways to get statistics.
const (
	stages       = "vacuumdb --analyze-in-stages"
	plain        = "vacuumdb --analyze-only"
	ours         = "analyze"           // this repository's, in stages
	carry        = "carry"             // from old
	carryRest    = "carry+rest"        // and ANALYZE of what could not be carried whole
	carryAnalyze = "carry+analyze-all" // and ANALYZE of everything
)

func named() []string { return []string{stages, plain, ours, carry, carryRest, carryAnalyze} }

// variants are those of the settings that the new server can do.
func (w *world) variants() []string {
	return slices.DeleteFunc(slices.Clone(w.Variants), func(name string) bool {
		return !warmup.CanCarry(w.to) && (name == carry || name == carryRest || name == carryAnalyze)
	})
}

// gather does what the variant does. carried is called when carrying is over.
func (w *world) gather(ctx context.Context, variant string, carried func()) error {
	switch variant {
	case stages:
		return w.runVacuumdb(ctx, "--analyze-in-stages")
	case plain:
		return w.runVacuumdb(ctx, "--analyze-only")
	case ours:
		report, err := warmup.Analyze(ctx, w.to, w.analyzeOptions())
		w.explain(report)
		return err
	}
	report, err := warmup.CarryStatistics(ctx, w.from, w.to, warmup.CarryOptions{Jobs: w.Jobs})
	if err != nil {
		return err
	}
	carried()
	switch variant {
	case carryRest:
		rest := []warmup.Table{}
		for _, t := range report.ToAnalyze() {
			rest = append(rest, t.Table)
		}
		if len(rest) > 0 {
			_, err = warmup.AnalyzeTables(ctx, w.to, rest, w.analyzeOptions())
		}
	case carryAnalyze:
		_, err = warmup.Analyze(ctx, w.to, w.analyzeOptions())
	}
	return err
}

func (w *world) analyzeOptions() warmup.AnalyzeOptions {
	return warmup.AnalyzeOptions{Jobs: w.Jobs}
}

// explain tells where the time went.
func (w *world) explain(report warmup.AnalyzeReport) {
	if !w.Explain {
		return
	}
	for _, stage := range report.Stages {
		w.say("    target %s: %d tables in %s", stage.Target, stage.Tables, stage.Took.Round(time.Millisecond))
	}
	slices.SortFunc(report.Tables, func(a, b warmup.TableAnalysis) int { return cmp.Compare(b.Took, a.Took) })
	for _, t := range report.Tables[:min(10, len(report.Tables))] {
		w.say("    %s, %d MB: targets %v in %s", t.Table, t.Bytes>>20, t.Targets, t.Took.Round(time.Millisecond))
	}
}

func (w *world) runVacuumdb(ctx context.Context, how string) error {
	//nolint:gosec // a program of PostgreSQL and the bench's own server
	text, err := exec.CommandContext(ctx, w.vacuumdb, how, "--jobs="+strconv.Itoa(w.Jobs), "--quiet", "--dbname="+w.New.URL(database)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("running vacuumdb %s: %w: %s", how, err, text)
	}
	return nil
}
