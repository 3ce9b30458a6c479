package methods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// ErrRefused means that the gates found a reason not to begin, by name, and
// that nothing was changed.
var ErrRefused = errors.New("refused before anything was touched")

// ErrUndone means that the cutover was begun and taken back.
var ErrUndone = errors.New("begun and undone")

// ours is this repository's move, with the settings that a config file has when
// it says nothing. It runs in this process, as in the demo; the watchdog of a
// pooler's pause, which the command starts before the pause, is left out.
type ours struct {
	wayBack bool // rollback.keep
	move    *upgrade.Move
	times   *timer
}

// moveName is what the move calls its objects.
const moveName = "bench"

func (*ours) EmptyNew() bool { return true }

// Prepare is pgcutover start.
func (o *ours) Prepare(ctx context.Context, s *Scene) error {
	o.times = &timer{ctx: ctx, before: s.BeforeFreeze}
	move, err := upgrade.Open(ctx, o.options(s), o.times)
	if err != nil {
		return err
	}
	o.move = move
	report, err := move.Start(ctx, ctx, "")
	if errors.Is(err, upgrade.ErrBlockers) {
		var text strings.Builder
		err = errors.Join(err, report.WriteText(&text), errors.New(text.String()))
	}
	return err
}

// Move is pgcutover cutover.
func (o *ours) Move(ctx context.Context, s *Scene) ([]Step, error) {
	c, err := o.move.NewCutover(ctx)
	if err != nil {
		return nil, err
	}
	o.times.reset()
	err = errors.Join(c.Run(ctx, ctx), o.times.err)
	steps := o.times.done()
	var undone *step.Aborted
	switch {
	case errors.Is(err, cutover.ErrBlocked):
		return steps, fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.As(err, &undone) && undone.Undone:
		return steps, fmt.Errorf("%w: %w", ErrUndone, err)
	}
	return steps, err
}

// Close ends the move's sessions.
func (o *ours) Close(context.Context) {
	if o.move != nil {
		o.move.Close()
	}
}

func (o *ours) options(s *Scene) upgrade.Options {
	return upgrade.Options{
		Name:    moveName,
		Old:     upgrade.Endpoint{URL: s.Pair.OldURL()},
		New:     upgrade.Endpoint{URL: s.Pair.NewURL()},
		Margin:  100,
		Analyze: warmup.AnalyzeOptions{Stages: warmup.Stages(), Jobs: 2},
		Warm:    warmup.WarmOptions{Jobs: 2},
		Cutover: cutover.Settings{
			MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 20,
			OnClosed: fence.Error, WayBack: o.wayBack,
		},
		Traffic: []traffic.Driver{driver(s)},
	}
}

// driver is what a config file names for these clients.
func driver(s *Scene) traffic.Driver {
	switch s.Clients.Kind {
	case PgBouncer:
		return traffic.NewPgBouncer(traffic.PgBouncerOptions{
			AdminURL: s.Clients.Pooler.AdminURL(), Databases: []string{entry}, File: s.Clients.Pooler.ConfigFile(),
			ClientURL: s.Pair.AppOld(), PauseTimeout: time.Second, PauseAttempts: 5,
		})
	case Direct:
		return traffic.Hook{Command: s.Clients.repointCommand(), Bound: 10 * time.Second}
	case Multihost:
	}
	return traffic.Multihost{}
}

// timer keeps how long each step took: all of it by its name, and those parts
// of it that the step itself timed, as step.part.
type timer struct {
	step.NopObserver
	ctx    context.Context //nolint:containedctx // an Observer gets none
	before func(context.Context) error
	err    error

	mu    sync.Mutex
	steps []Step
}

// beforeFreeze is the step ahead of which BeforeFreeze is called: nothing is
// locked yet, and all that is checked beforehand is done.
const beforeFreeze = "lease"

// StepStarted lets the bench act just before the freeze.
func (t *timer) StepStarted(s step.Step, _, _ int) {
	if s.Name == beforeFreeze && t.before != nil {
		t.err = t.before(t.ctx)
	}
}

// StepDone keeps the time.
func (t *timer) StepDone(s step.Step, facts any, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, Step{Name: s.Name, MS: figures.Milliseconds(took), Began: time.Now().Add(-took)})
	text, err := json.Marshal(facts)
	if err != nil {
		return
	}
	var parts map[string]any
	if json.Unmarshal(text, &parts) != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if ms, ok := parts[name].(float64); ok && strings.HasSuffix(name, "_ms") {
			t.steps = append(t.steps, Step{Name: s.Name + "." + strings.TrimSuffix(name, "_ms"), MS: ms})
		}
	}
}

func (t *timer) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = nil
}

func (t *timer) done() []Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}
