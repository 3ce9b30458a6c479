package main

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
)

// timed is one step and how long it took, in milliseconds.
type timed struct {
	Name  string         `json:"name"`
	MS    float64        `json:"ms"`
	Facts map[string]any `json:"facts,omitempty"` // its numbers
	began time.Time
}

// tellEvery is how often a line of progress is told.
const tellEvery = 5 * time.Second

// times is an Observer that keeps how long every step took.
type times struct {
	step.NopObserver
	say func(format string, args ...any)

	mu    sync.Mutex
	steps []timed
	told  time.Time
	at    map[string]func() // called when the step of that name begins
}

// StepStarted lets a case act at a step.
func (t *times) StepStarted(s step.Step, _, _ int) {
	t.mu.Lock()
	act := t.at[s.Name]
	delete(t.at, s.Name)
	t.mu.Unlock()
	if act != nil {
		act()
	}
}

// when calls f, once, at the beginning of the step.
func (t *times) when(name string, f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = map[string]func(){name: f}
}

// StepDone keeps the time and the numbers among the facts.
func (t *times) StepDone(s step.Step, facts any, took time.Duration) {
	one := timed{Name: s.Name, MS: milliseconds(took), Facts: map[string]any{}, began: time.Now().Add(-took)}
	if text, err := json.Marshal(facts); err == nil {
		var all map[string]any
		if json.Unmarshal(text, &all) == nil {
			for name, value := range all {
				switch value.(type) {
				case float64, string:
					one.Facts[name] = value
				}
			}
		}
	}
	t.add(one)
}

// UndoDone keeps the time of an undo as "undo step".
func (t *times) UndoDone(s step.Step, _ error, took time.Duration) {
	t.add(timed{Name: "undo " + s.Name, MS: milliseconds(took), began: time.Now().Add(-took)})
}

// Progress tells what takes long, now and then.
func (t *times) Progress(step, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.told) >= tellEvery {
		t.told = time.Now()
		t.say("    %s: %s", step, text)
	}
}

// Warning tells what went wrong.
func (t *times) Warning(step string, err error) { t.say("    %s: %v", step, err) }

func (t *times) add(one timed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, one)
}

// take returns the steps since the last time.
func (t *times) take() []timed {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.steps
	t.steps = nil
	return out
}
