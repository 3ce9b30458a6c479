package methods

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/figures"
)

// Method is one way to turn the writes. It is made for one run.
type Method interface {
	// EmptyNew tells whether Prepare wants the new database without schema.
	EmptyNew() bool
	// Prepare makes new a copy of old that follows it, ready to be turned to.
	// The clients do not write yet.
	Prepare(ctx context.Context, s *Scene) error
	// Move turns the writes while the clients write. The steps come in order.
	// An error that wraps ErrRefused says that nothing was turned.
	Move(ctx context.Context, s *Scene) ([]Step, error)
	// Close ends the method's sessions.
	Close(ctx context.Context)
}

// Scene is where a method works.
type Scene struct {
	Pair    *arena.Pair
	Clients *Clients
	Say     func(format string, args ...any)
	// BeforeFreeze is called just before the writers are held up, after all
	// that the method checks beforehand; nil for nothing.
	BeforeFreeze func(context.Context) error
}

// Step is one step of a method and how long it took, in milliseconds. A part of
// a step that the step timed itself is called step.part and has no Began.
type Step struct {
	Name  string    `json:"name"`
	MS    float64   `json:"ms"`
	Began time.Time `json:"-"`
}

// Within returns how much of the step lies between from and to.
func (s Step) Within(from, to time.Time) time.Duration {
	if s.Began.IsZero() {
		return 0
	}
	end := s.Began.Add(time.Duration(s.MS * float64(time.Millisecond)))
	if s.Began.After(from) {
		from = s.Began
	}
	if end.Before(to) {
		to = end
	}
	return max(to.Sub(from), 0)
}

// The methods' names.
const (
	Ours         = "ours"
	OursForward  = "ours-no-way-back"
	Floor        = "floor"
	Poll         = "poll"
	PollNoVacuum = "poll-no-vacuum"
	PollNoStream = "poll-no-stream"
)

// Named are the methods by name, in the order in which they are told.
func Named() []string { return []string{Ours, OursForward, Floor, Poll, PollNoVacuum, PollNoStream} }

// New makes a method for one run.
func New(name string) (Method, error) {
	switch name {
	case Ours:
		return &ours{wayBack: true}, nil
	case OursForward:
		return &ours{}, nil
	case Floor:
		return &floor{}, nil
	case Poll:
		return &poll{vacuum: true}, nil
	case PollNoVacuum:
		return &poll{}, nil
	case PollNoStream:
		return &poll{stream: stream{options: " with (streaming = off)"}}, nil
	}
	return nil, fmt.Errorf("there is no method %q: they are %v", name, Named())
}

// stopwatch times steps that follow each other.
type stopwatch struct {
	last  time.Time
	steps []Step
}

func newStopwatch() *stopwatch { return &stopwatch{last: time.Now()} }

// lap ends a step.
func (s *stopwatch) lap(name string) {
	now := time.Now()
	s.steps = append(s.steps, Step{Name: name, MS: figures.Milliseconds(now.Sub(s.last)), Began: s.last})
	s.last = now
}
