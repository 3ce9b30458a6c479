package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// lockTimeout is how long one attempt to freeze may hold writers up.
const lockTimeout = 300 * time.Millisecond

// open opens the move with the settings that a config file has when it says
// nothing. Without include all tables are in scope.
func (w *world) open(ctx context.Context, t *times, include ...string) (*upgrade.Move, error) {
	return upgrade.Open(ctx, upgrade.Options{
		Name:    "scale",
		Old:     upgrade.Endpoint{URL: w.old.URL(database)},
		New:     upgrade.Endpoint{URL: w.new.URL(database)},
		Include: include,
		Margin:  100,
		Analyze: warmup.AnalyzeOptions{Stages: warmup.Stages(), Jobs: 2},
		Warm:    warmup.WarmOptions{Jobs: 2},
		Cutover: cutover.Settings{
			MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: lockTimeout, Attempts: 20,
			OnClosed: fence.Error, WayBack: true,
		},
		Traffic: []traffic.Driver{traffic.Multihost{}},
	}, t)
}

// start is pgcutover start.
func start(ctx context.Context, m *upgrade.Move) error {
	report, err := m.Start(ctx, ctx, "")
	if errors.Is(err, upgrade.ErrBlockers) {
		var text strings.Builder
		err = errors.Join(err, report.WriteText(&text), errors.New(text.String()))
	}
	return err
}

// turned is one turn of the writes, or an attempt at it.
type turned struct {
	What    string  `json:"what"`
	TookMS  float64 `json:"took_ms"`
	PauseMS float64 `json:"pause_ms,omitempty"` // from the frozen gate to the open server, by the tool's clock
	GapMS   float64 `json:"gap_ms,omitempty"`   // longest time without an acknowledged write while it ran
	// The same, and the longest transaction, before and after the time in which
	// writers are held up on purpose: by the preparation and by the tidying up.
	GapBesideMS     float64 `json:"gap_beside_pause_ms"`
	LongestBesideMS float64 `json:"longest_beside_pause_ms"`

	Steps   []timed `json:"steps"`
	Clients counts  `json:"clients"`
	// SlowestIn names the steps during which the longest transaction ran.
	SlowestIn string `json:"longest_during,omitempty"`

	began, ended time.Time
}

// settle is how long the clients write before and after what is measured.
const settle = time.Second

// turn runs a cutover or a rollback; what the clients saw comes with measure.
func turn(ctx context.Context, what string, t *times, c *cutover.Cutover) (turned, error) {
	t.take()
	r := turned{What: what, began: time.Now()}
	err := c.Run(ctx, ctx)
	r.ended = time.Now()
	r.TookMS, r.PauseMS, r.Steps = milliseconds(r.ended.Sub(r.began)), milliseconds(c.Pause()), t.take()
	if err != nil {
		err = fmt.Errorf("%s: %w", what, explained(err))
	}
	return r, err
}

// undone runs a cutover that is told to stop when the step begins.
func undone(ctx context.Context, at string, t *times, c *cutover.Cutover) (turned, error) {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	t.when(at, stop)
	t.take()
	r := turned{What: "cutover, stopped before " + at, began: time.Now()}
	err := c.Run(soft, ctx)
	r.ended = time.Now()
	r.TookMS, r.Steps = milliseconds(r.ended.Sub(r.began)), t.take()
	var aborted *step.Aborted
	if !errors.As(err, &aborted) || !aborted.Undone || !errors.Is(err, context.Canceled) {
		return r, fmt.Errorf("%s: not undone: %w", r.What, explained(err))
	}
	return r, nil
}

func explained(err error) error {
	if advice := hint.Of(err); advice != "" {
		return fmt.Errorf("%w\n%s", err, advice)
	}
	return err
}

// measure adds what the clients saw.
func (r *turned) measure(l ledger) {
	until := r.ended.Add(settle)
	r.GapMS = milliseconds(l.gap(r.began, until))
	r.Clients = l.counts(r.began, until)
	from, to := r.held()
	gap, longest := l.beside(r.began, until, from, to)
	r.GapBesideMS, r.LongestBesideMS = milliseconds(gap), milliseconds(longest)
	if slow := l.slowest(r.began, until); slow.token != 0 {
		r.SlowestIn = r.during(slow.began, slow.ended)
	}
}

// held is from when to when writers are held up: from the freeze until the target
// is open and the clients' sessions have moved there, or the freeze is undone.
func (r *turned) held() (from, to time.Time) {
	for _, s := range r.Steps {
		switch end := s.began.Add(time.Duration(s.MS * float64(time.Millisecond))); s.Name {
		case "pause", "freeze":
			if from.IsZero() {
				from = s.began
			}
			to = end
		case "switch", "undo freeze":
			to = end
		}
	}
	return from, to
}

// during names the steps, or undos, that ran between from and to.
func (r *turned) during(from, to time.Time) string {
	var names []string
	for _, s := range r.Steps {
		if s.began.Before(to) && s.began.Add(time.Duration(s.MS*float64(time.Millisecond))).After(from) {
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ", ")
}

// fact returns a number that a step told, 0 when it did not.
func (r *turned) fact(step, name string) float64 {
	for _, s := range r.Steps {
		if n, ok := s.Facts[name].(float64); ok && s.Name == step {
			return n
		}
	}
	return 0
}
