package journal_test

import (
	"slices"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// occurrence is an event as the model sees it.
type occurrence struct {
	step  string
	event journal.Event
}

// model says which histories are legal. It is written apart from the machine
// under test: it keeps no state, but asks questions about the whole history.
type model struct {
	steps      []journal.Step
	rerunnable bool
}

// follows is what may come after what within one step, other steps aside.
var follows = map[journal.Event][]journal.Event{
	journal.None:        {journal.Started},
	journal.Started:     {journal.Started, journal.Succeeded, journal.Failed, journal.UndoStarted, journal.Refuted},
	journal.Succeeded:   {journal.Started, journal.UndoStarted},
	journal.Failed:      {journal.Started, journal.UndoStarted, journal.Refuted},
	journal.UndoStarted: {journal.UndoStarted, journal.Undone},
	journal.Undone:      {journal.Started}, // only in a list that can be rerun
	journal.Refuted:     {journal.UndoStarted},
}

func last(history []occurrence, step string) journal.Event {
	for _, o := range slices.Backward(history) {
		if o.step == step {
			return o.event
		}
	}
	return journal.None
}

func ever(history []occurrence, step string, events ...journal.Event) bool {
	return slices.ContainsFunc(history, func(o occurrence) bool {
		return (step == "" || o.step == step) && slices.Contains(events, o.event)
	})
}

// legal tells whether next may follow a legal history.
func (m model) legal(history []occurrence, next occurrence) bool {
	at := slices.IndexFunc(m.steps, func(s journal.Step) bool { return s.Name == next.step })
	if at < 0 {
		return false
	}
	if !slices.Contains(follows[last(history, next.step)], next.event) {
		return false
	}
	switch next.event {
	case journal.Started, journal.Succeeded, journal.Failed:
		return m.mayGoForward(history, at, next.event)
	case journal.Refuted:
		return m.steps[at].Final
	case journal.UndoStarted:
		return m.mayBeUndone(history, at)
	default:
		return true
	}
}

func (m model) mayGoForward(history []occurrence, at int, event journal.Event) bool {
	if !m.rerunnable && ever(history, "", journal.UndoStarted, journal.Undone, journal.Refuted) {
		return false
	}
	for i, s := range m.steps {
		state := last(history, s.Name)
		if state == journal.UndoStarted || state == journal.Refuted {
			return false
		}
		if event == journal.Started && i < at && state != journal.Succeeded {
			return false
		}
	}
	if m.steps[at].Final && ever(history, m.steps[at].Name, journal.Succeeded) {
		return false
	}
	return true
}

func (m model) mayBeUndone(history []occurrence, at int) bool {
	// The order of undoing: ordinary steps from the last to the first, then
	// those that are undone last, from the last to the first. Whatever comes
	// earlier in it must not stand as it was done.
	var order []int
	for _, wantLast := range []bool{false, true} {
		for i := len(m.steps) - 1; i >= 0; i-- {
			if m.steps[i].UndoLast == wantLast {
				order = append(order, i)
			}
		}
	}
	standing := []journal.Event{journal.Started, journal.Succeeded, journal.Failed}
	for _, i := range order {
		if i == at {
			break
		}
		if slices.Contains(standing, last(history, m.steps[i].Name)) {
			return false
		}
	}
	// The final step, itself included, must not have begun unless refuted.
	for _, s := range m.steps {
		if s.Final && slices.Contains(standing, last(history, s.Name)) {
			return false
		}
	}
	return true
}

// accepts tells whether a whole history is legal.
func (m model) accepts(history []occurrence) bool {
	for i, o := range history {
		if !m.legal(history[:i], o) {
			return false
		}
	}
	return true
}

// events are all there are, with one there is not.
var events = []journal.Event{
	journal.Started, journal.Succeeded, journal.Failed,
	journal.UndoStarted, journal.Undone, journal.Refuted, "unheard-of",
}

// next lists everything that may follow a legal history.
func (m model) next(history []occurrence) []occurrence {
	var possible []occurrence
	for _, s := range m.steps {
		for _, e := range events {
			if o := (occurrence{s.Name, e}); m.legal(history, o) {
				possible = append(possible, o)
			}
		}
	}
	return possible
}

// plausible lists what would be legal if there were no other steps.
func (m model) plausible(history []occurrence) []occurrence {
	var found []occurrence
	for _, s := range m.steps {
		for _, e := range follows[last(history, s.Name)] {
			found = append(found, occurrence{s.Name, e})
		}
	}
	return found
}
