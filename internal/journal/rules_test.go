package journal_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// Every rule by hand. The list is: ahead, guard (undone last), freeze, decide
// (final), open. A history is written as words "step:event".
func TestRules(t *testing.T) {
	spec := journal.Spec{List: "cutover", Run: 3, Steps: []journal.Step{
		{Name: "ahead"}, {Name: "guard", UndoLast: true}, {Name: "freeze"}, {Name: "decide", Final: true}, {Name: "open"},
	}}
	const (
		ahead   = "ahead:started ahead:succeeded "
		guard   = ahead + "guard:started guard:succeeded "
		freeze  = guard + "freeze:started freeze:succeeded "
		decided = freeze + "decide:started decide:succeeded "
		refuted = freeze + "decide:started decide:refuted "
	)
	for _, c := range []struct {
		history, event string
		refusal        string // empty: legal
	}{
		{"", "ahead:started", ""},
		{"", "guard:started", `the earlier step "ahead" has not succeeded`},
		{"", "ahead:succeeded", "it is not started"},
		{"", "ahead:failed", "it is not started"},
		{"", "ahead:undo_started", "it was not started"},
		{"", "ahead:undone", "its undo was not started"},
		{"", "decide:refuted", "only a final step that was started and has not succeeded can be refuted"},
		{"", "nobody:started", "the list has no such step"},
		{"", "ahead:forgotten", "there is no such event"},
		{"ahead:started", "ahead:started", ""},
		{"ahead:started", "ahead:undo_started", ""},
		{"ahead:started ahead:failed", "ahead:started", ""},
		{"ahead:started ahead:failed", "ahead:succeeded", "it is not started"},
		{"ahead:started ahead:failed", "guard:started", `the earlier step "ahead" has not succeeded`},
		{ahead, "ahead:started", ""},
		{ahead, "ahead:succeeded", "it is not started"},
		{ahead, "ahead:refuted", "it is not the final step"},
		{ahead + "ahead:undo_started", "ahead:undo_started", ""},
		{ahead + "ahead:undo_started", "ahead:failed", "it is not started"},
		{ahead + "ahead:undo_started", "guard:started", `step "ahead" is undo_started; the run is being undone`},
		{ahead + "ahead:undo_started ahead:undone", "ahead:started", "it was undone; a new attempt is a new run"},
		{ahead + "ahead:undo_started ahead:undone", "ahead:undo_started", "it was undone already"},
		{guard + "freeze:started", "freeze:undo_started", ""},
		{guard + "freeze:started", "ahead:undo_started", `step "freeze" must be undone first`},
		{guard + "freeze:started freeze:failed", "ahead:undo_started", `step "freeze" must be undone first`},
		{freeze, "guard:undo_started", `step "ahead" must be undone first`},
		{freeze + "freeze:undo_started", "ahead:undo_started", ""},
		{freeze + "freeze:undo_started freeze:undone", "guard:undo_started", `step "ahead" must be undone first`},
		{freeze + "freeze:undo_started ahead:undo_started", "guard:undo_started", ""},
		{freeze + "decide:started", "freeze:undo_started", `the final step "decide" has begun and was not refuted`},
		{freeze + "decide:started", "decide:undo_started", `the final step "decide" has begun and was not refuted`},
		{freeze + "decide:started decide:failed", "freeze:undo_started", `the final step "decide" has begun and was not refuted`},
		{freeze + "decide:started decide:failed", "decide:started", ""},
		{freeze + "decide:started decide:failed", "decide:refuted", ""},
		{freeze + "decide:started", "ahead:started", ""},
		{refuted, "freeze:undo_started", ""},
		{refuted, "decide:undo_started", ""},
		{refuted, "decide:started", `step "decide" is refuted; the run is being undone`},
		{refuted, "ahead:started", `step "decide" is refuted; the run is being undone`},
		{refuted, "decide:refuted", "only a final step that was started and has not succeeded can be refuted"},
		{decided, "decide:started", "the final step has succeeded; it is not repeated"},
		{decided, "decide:refuted", "only a final step that was started and has not succeeded can be refuted"},
		{decided, "decide:undo_started", `the final step "decide" has succeeded; nothing may be undone`},
		{decided, "guard:undo_started", `the final step "decide" has succeeded; nothing may be undone`},
		{decided, "ahead:started", ""},
		{decided + "open:started open:failed", "open:undo_started", `the final step "decide" has succeeded; nothing may be undone`},
		{decided + "open:started open:failed", "open:started", ""},
	} {
		t.Run(c.history+" then "+c.event, func(t *testing.T) {
			l, err := journal.Open(t.Context(), &journal.Memory{}, spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Append(t.Context(), parse(c.history)...); err != nil {
				t.Fatalf("the history is refused: %v", err)
			}
			next := parse(c.event)
			err = l.Append(t.Context(), next...)
			if c.refusal == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var refused *journal.IllegalError
			if !errors.As(err, &refused) || refused.Reason != c.refusal {
				t.Fatalf("got %v, want %q", err, c.refusal)
			}
			if refused.Step != next[0].Step || refused.To != next[0].Event || refused.From != l.State(next[0].Step) ||
				refused.Seq != int64(len(parse(c.history))+1) {
				t.Fatalf("the refusal names the wrong event: %+v", refused)
			}
		})
	}
}

func parse(words string) []journal.Record {
	var records []journal.Record
	for _, word := range strings.Fields(words) {
		step, event, _ := strings.Cut(word, ":")
		records = append(records, journal.Record{Step: step, Event: journal.Event(event)})
	}
	return records
}
