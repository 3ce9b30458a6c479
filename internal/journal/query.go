package journal

import (
	"encoding/json"
	"fmt"
	"slices"
)

// stateOf is the state of a step; None for one the list does not have.
func (m *machine) stateOf(step string) Event {
	i, known := m.index[step]
	if !known {
		return None
	}
	return m.state[i]
}

// Spec returns what the Log was opened with.
func (l *Log) Spec() Spec {
	s := l.spec
	s.Steps = slices.Clone(s.Steps)
	return s
}

// State returns the last event of a step; None when it has none or is not in
// the list.
func (l *Log) State(step string) Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.stateOf(step)
}

// Begun tells whether the run has any record.
func (l *Log) Begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records) > 0
}

// PastFinal tells whether the final step has succeeded: only forward from here.
func (l *Log) PastFinal() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.pastFinal()
}

// Undecided tells whether the final step was started and neither succeeded nor
// was refuted. Its outcome must be looked up before anything is undone.
func (l *Log) Undecided() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.undecided()
}

// GoingBack tells whether the run is being undone, or was: it will not go
// forward again. In a Rerunnable list that holds only while an undo is
// unfinished.
func (l *Log) GoingBack() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machine.goingBack() >= 0
}

// Done tells whether every step has succeeded.
func (l *Log) Done() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.machine.state {
		if e != Succeeded {
			return false
		}
	}
	return true
}

// Standing tells whether some step was begun and is not undone: there is
// something that Undo would take back, or that Run would go on from.
func (l *Log) Standing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.machine.state {
		if e != None && e != Undone {
			return true
		}
	}
	return false
}

// Next returns the step that a run would start now: the first that has not
// succeeded. ok is false when all have, or when the run is going back.
func (l *Log) Next() (step string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.machine.goingBack() >= 0 {
		return "", false
	}
	for i, e := range l.machine.state {
		if e != Succeeded {
			return l.machine.steps[i].Name, true
		}
	}
	return "", false
}

// Facts decodes into what a step stored when it last succeeded. found is false,
// and into unchanged, when the step has not succeeded since it was last undone,
// or succeeded without facts. A step that is being redone still has the facts
// of its last success.
func (l *Log) Facts(step string, into any) (found bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range slices.Backward(l.records) {
		if r.Step != step {
			continue
		}
		switch r.Event {
		case Undone:
			return false, nil
		case Succeeded:
			if len(r.Facts) == 0 {
				return false, nil
			}
			if err := json.Unmarshal(r.Facts, into); err != nil {
				return false, fmt.Errorf("decoding the facts of step %q, %s run %d: %w", step, l.spec.List, l.spec.Run, err)
			}
			return true, nil
		}
	}
	return false, nil
}

// Records returns a copy of all records in order, those not yet stored
// included.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records)
}

// Unwritten returns how many records are not known to be stored.
func (l *Log) Unwritten() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records) - l.stored
}
