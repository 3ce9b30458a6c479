package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/preflight"
)

// check is pgcutover check of very many tables.
type check struct {
	bootOptions
	Tables int
}

// mostCheck is how long it may take.
const mostCheck = 10 * time.Second

func (c check) run(ctx context.Context, say func(string, ...any)) (o outcome, err error) {
	o = outcome{
		Case: "check", Pair: fmt.Sprintf("%d:%d", c.Old, c.New), Tables: c.Tables, InScope: c.Tables,
		Sequences: c.Tables, Locks: c.Locks,
	}
	w, err := boot(ctx, c.bootOptions, say)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	if err := w.fill(ctx, c.Tables, 0); err != nil {
		return o, err
	}
	move, err := w.open(ctx, &times{say: say})
	if err != nil {
		return o, err
	}
	defer move.Close()
	began := time.Now()
	report, err := move.Check(ctx)
	if err != nil {
		return o, err
	}
	o.CheckMS = milliseconds(time.Since(began))
	for _, r := range report.Checks {
		if !r.Ran {
			o.problem("check %s could not run", r.ID)
		}
	}
	if o.CheckMS > milliseconds(mostCheck) {
		o.problem("check took %.1f s", o.CheckMS/1000)
	}
	o.goal("check, ms", milliseconds(mostCheck), o.CheckMS)
	say("%d tables: %d checks took %.1f s, the longest: %s", c.Tables, len(report.Checks), o.CheckMS/1000, longest(report.Checks, 5))
	return o, nil
}

// longest names the n checks that took longest.
func longest(all []preflight.Result, n int) string {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b preflight.Result) int { return int(b.Took - a.Took) })
	var out []string
	for _, r := range sorted[:min(n, len(sorted))] {
		out = append(out, fmt.Sprintf("%s %s", r.ID, r.Took.Round(time.Millisecond)))
	}
	return strings.Join(out, ", ")
}
