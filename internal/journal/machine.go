package journal

import (
	"errors"
	"fmt"
	"slices"
)

// Step is what the journal must know of a step to judge an order.
type Step struct {
	// Name is stored in the records, so it must stay the same between versions.
	Name string
	// Final marks the point of no return; at most one step of a list.
	Final bool
	// UndoLast marks a step that is undone after all others.
	UndoLast bool
}

// machine holds the state of every step of one run and the rules that move it.
type machine struct {
	steps      []Step
	rerunnable bool
	index      map[string]int
	state      []Event
	final      int // index of the final step, or -1
}

func newMachine(steps []Step, rerunnable bool) (*machine, error) {
	m := &machine{
		steps:      slices.Clone(steps),
		rerunnable: rerunnable,
		index:      make(map[string]int, len(steps)),
		state:      make([]Event, len(steps)),
		final:      -1,
	}
	if len(steps) == 0 {
		return nil, errors.New("a list needs at least one step")
	}
	for i, s := range m.steps {
		if s.Name == "" {
			return nil, fmt.Errorf("step %d has no name", i+1)
		}
		if _, twice := m.index[s.Name]; twice {
			return nil, fmt.Errorf("step %q is in the list twice", s.Name)
		}
		m.index[s.Name] = i
		if !s.Final {
			continue
		}
		if m.final >= 0 {
			return nil, fmt.Errorf("steps %q and %q are both final", m.steps[m.final].Name, s.Name)
		}
		if s.UndoLast {
			return nil, fmt.Errorf("step %q is both final and undone last", s.Name)
		}
		m.final = i
	}
	return m, nil
}

// clone returns a copy on which events can be tried.
func (m *machine) clone() *machine {
	c := *m
	c.state = slices.Clone(m.state)
	return &c
}

// advance moves step to the state that the event leads to. When that is not
// legal it changes nothing and returns the state the step is in and the rule.
func (m *machine) advance(step string, to Event) (from Event, refusal string) {
	i, known := m.index[step]
	if !known {
		return None, "the list has no such step"
	}
	from = m.state[i]
	switch to {
	case Started:
		refusal = m.refuseStart(i)
	case Succeeded, Failed:
		refusal = m.refuseEnd(i)
	case Refuted:
		refusal = m.refuseRefuted(i)
	case UndoStarted:
		refusal = m.refuseUndo(i)
	case Undone:
		if from != UndoStarted {
			refusal = "its undo was not started"
		}
	default:
		refusal = "there is no such event"
	}
	if refusal == "" {
		m.state[i] = to
	}
	return from, refusal
}

func (m *machine) refuseStart(i int) string {
	if i == m.final && m.state[i] == Succeeded {
		return "the final step has succeeded; it is not repeated"
	}
	if m.state[i] == Undone && !m.rerunnable {
		return "it was undone; a new attempt is a new run"
	}
	if back := m.goingBack(); back >= 0 {
		return fmt.Sprintf("step %q is %s; the run is being undone", m.steps[back].Name, m.state[back])
	}
	for j := range i {
		if m.state[j] != Succeeded {
			return fmt.Sprintf("the earlier step %q has not succeeded", m.steps[j].Name)
		}
	}
	return ""
}

func (m *machine) refuseEnd(i int) string {
	if m.state[i] != Started {
		return "it is not started"
	}
	if back := m.goingBack(); back >= 0 {
		return fmt.Sprintf("step %q is %s; the run is being undone", m.steps[back].Name, m.state[back])
	}
	return ""
}

func (m *machine) refuseRefuted(i int) string {
	if i != m.final {
		return "it is not the final step"
	}
	if !m.undecided() {
		return "only a final step that was started and has not succeeded can be refuted"
	}
	return ""
}

func (m *machine) refuseUndo(i int) string {
	if m.pastFinal() {
		return fmt.Sprintf("the final step %q has succeeded; nothing may be undone", m.steps[m.final].Name)
	}
	if m.undecided() {
		return fmt.Sprintf("the final step %q has begun and was not refuted", m.steps[m.final].Name)
	}
	switch m.state[i] {
	case None:
		return "it was not started"
	case Undone:
		return "it was undone already"
	}
	for j, s := range m.steps {
		if j == i || !acted(m.state[j]) {
			continue
		}
		last := m.steps[i].UndoLast
		if (last && !s.UndoLast) || (last == s.UndoLast && j > i) {
			return fmt.Sprintf("step %q must be undone first", s.Name)
		}
	}
	return ""
}

// goingBack returns the index of a step that shows that the run is being
// undone, or -1.
func (m *machine) goingBack() int {
	for i, e := range m.state {
		if e == UndoStarted || e == Refuted || (e == Undone && !m.rerunnable) {
			return i
		}
	}
	return -1
}

func (m *machine) pastFinal() bool {
	return m.final >= 0 && m.state[m.final] == Succeeded
}

func (m *machine) undecided() bool {
	return m.final >= 0 && (m.state[m.final] == Started || m.state[m.final] == Failed)
}

// acted tells whether a step may have changed something that nobody has begun
// to take back.
func acted(e Event) bool { return e == Started || e == Succeeded || e == Failed }
