package journal_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// drawModel draws a list of up to five steps.
func drawModel(t *rapid.T) model {
	n := rapid.IntRange(1, 5).Draw(t, "steps")
	final := rapid.IntRange(-1, n-1).Draw(t, "final")
	m := model{rerunnable: rapid.Bool().Draw(t, "rerunnable")}
	for i := range n {
		m.steps = append(m.steps, journal.Step{
			Name:     string(rune('a' + i)),
			Final:    i == final,
			UndoLast: i != final && rapid.IntRange(0, 3).Draw(t, "undo last") == 0,
		})
	}
	return m
}

func (m model) spec() journal.Spec {
	return journal.Spec{List: "list", Run: 7, Steps: m.steps, Rerunnable: m.rerunnable}
}

// drawNext draws an event: mostly one that is legal after history, often one
// that only a rule across steps can refuse, sometimes nonsense.
func drawNext(t *rapid.T, m model, history []occurrence) occurrence {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	if possible := m.next(history); kind < 6 && len(possible) > 0 {
		return rapid.SampledFrom(possible).Draw(t, "legal")
	}
	if plausible := m.plausible(history); kind < 9 && len(plausible) > 0 {
		return rapid.SampledFrom(plausible).Draw(t, "plausible")
	}
	step := "nobody"
	if i := rapid.IntRange(0, len(m.steps)).Draw(t, "step"); i < len(m.steps) {
		step = m.steps[i].Name
	}
	return occurrence{step, rapid.SampledFrom(events).Draw(t, "event")}
}

func record(o occurrence) journal.Record { return journal.Record{Step: o.step, Event: o.event} }

// checkState compares every answer of a Log with the history.
func checkState(t *rapid.T, m model, l *journal.Log, history []occurrence) {
	t.Helper()
	var final string
	firstNot := ""
	for _, s := range slices.Backward(m.steps) {
		if got, want := l.State(s.Name), last(history, s.Name); got != want {
			t.Fatalf("state of %s is %q, the history says %q", s.Name, got, want)
		}
		if s.Final {
			final = s.Name
		}
		if last(history, s.Name) != journal.Succeeded {
			firstNot = s.Name
		}
	}
	past := final != "" && ever(history, final, journal.Succeeded)
	if l.PastFinal() != past {
		t.Fatalf("PastFinal is %t after %v", l.PastFinal(), history)
	}
	state := last(history, final)
	undecided := final != "" && (state == journal.Started || state == journal.Failed)
	if l.Undecided() != undecided {
		t.Fatalf("Undecided is %t after %v", l.Undecided(), history)
	}
	if l.Done() != (firstNot == "") {
		t.Fatalf("Done is %t after %v", l.Done(), history)
	}
	next, ok := l.Next()
	if ok != (!l.GoingBack() && firstNot != "") || (ok && next != firstNot) {
		t.Fatalf("Next is %q, %t after %v", next, ok, history)
	}
	if ok && !m.rerunnable && ever(history, "", journal.UndoStarted) {
		t.Fatalf("Next is %q although the run was being undone", next)
	}
	if got := len(l.Records()); got != len(history) {
		t.Fatalf("%d records for %d events", got, len(history))
	}
}

// A Log accepts what the model accepts and nothing else, batches are taken
// whole or not at all, and replaying gives the same state at every point.
func TestAcceptsWhatIsLegal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		store := &journal.Memory{}
		l, err := journal.Open(t.Context(), store, m.spec())
		if err != nil {
			t.Fatal(err)
		}
		var history []occurrence
		for range rapid.IntRange(1, 25).Draw(t, "writes") {
			grown := slices.Clone(history)
			var batch []journal.Record
			for range rapid.IntRange(1, 3).Draw(t, "batch") {
				o := drawNext(t, m, grown)
				grown = append(grown, o)
				batch = append(batch, record(o))
			}
			err := l.Append(t.Context(), batch...)
			switch legal := m.accepts(grown); {
			case legal && err != nil:
				t.Fatalf("refused %v after %v: %v", batch, history, err)
			case !legal && err == nil:
				t.Fatalf("accepted %v after %v", batch, history)
			case !legal:
				var illegal *journal.IllegalError
				if !errors.Is(err, journal.ErrIllegal) || !errors.As(err, &illegal) {
					t.Fatalf("refused with the wrong error: %v", err)
				}
				if illegal.List != "list" || illegal.Run != 7 || illegal.Reason == "" {
					t.Fatalf("the refusal does not say what is refused: %+v", illegal)
				}
			default:
				history = grown
			}
			checkState(t, m, l, history)
			again, err := journal.Open(t.Context(), store, m.spec())
			if err != nil {
				t.Fatalf("replay of an accepted journal: %v", err)
			}
			checkState(t, m, again, history)
		}
	})
}

// mutate changes a stored journal in one place, as an edit or a mix-up would.
func mutate(t *rapid.T, m model, history []occurrence) []occurrence {
	h := slices.Clone(history)
	i := rapid.IntRange(0, len(h)-1).Draw(t, "at")
	switch rapid.SampledFrom([]string{"drop", "double", "swap", "event", "step", "cut", "add"}).Draw(t, "mutation") {
	case "drop":
		return slices.Delete(h, i, i+1)
	case "double":
		return slices.Insert(h, i, h[i])
	case "swap":
		j := rapid.IntRange(0, len(h)-1).Draw(t, "with")
		h[i], h[j] = h[j], h[i]
	case "event":
		h[i].event = rapid.SampledFrom(events).Draw(t, "other event")
	case "step":
		h[i].step = rapid.SampledFrom(m.steps).Draw(t, "other step").Name
	case "cut":
		return h[i:]
	case "add":
		if plausible := m.plausible(h); len(plausible) > 0 {
			return append(h, rapid.SampledFrom(plausible).Draw(t, "added"))
		}
	}
	return h
}

// A stored journal that was tampered with is refused at replay exactly when the
// model refuses it.
func TestReplayRefusesWhatIsIllegal(t *testing.T) {
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		var history []occurrence
		for range rapid.IntRange(1, 25).Draw(t, "events") {
			possible := m.next(history)
			if len(possible) == 0 {
				break
			}
			history = append(history, rapid.SampledFrom(possible).Draw(t, "next"))
		}
		changed := mutate(t, m, history)
		store := &journal.Memory{}
		for i, o := range changed {
			r := record(o)
			r.List, r.Run, r.Seq, r.At = "list", 7, int64(i+1), time.Unix(int64(i), 0)
			if err := store.Append(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		l, err := journal.Open(t.Context(), store, m.spec())
		switch legal := m.accepts(changed); {
		case legal && err != nil:
			t.Fatalf("replay of %v: %v", changed, err)
		case legal:
			checkState(t, m, l, changed)
		case !errors.Is(err, journal.ErrIllegal):
			t.Fatalf("replay of %v is not refused as illegal: %v", changed, err)
		default:
			refused++
		}
	})
	if refused == 0 {
		t.Fatal("no mutation was illegal: the test has tested nothing")
	}
}

// Every refusal that replay makes for reasons other than the order of events.
func TestReplayRefusesForeignRecords(t *testing.T) {
	good := journal.Record{List: "list", Run: 7, Seq: 1, Step: "a", Event: journal.Started}
	for name, change := range map[string]func(*journal.Record){
		"other list":     func(r *journal.Record) { r.List = "other" },
		"other run":      func(r *journal.Record) { r.Run = 8 },
		"number missing": func(r *journal.Record) { r.Seq = 2 },
		"no number":      func(r *journal.Record) { r.Seq = 0 },
		"facts no JSON":  func(r *journal.Record) { r.Facts = []byte("{") },
		"unknown step":   func(r *journal.Record) { r.Step = "zz" },
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			change(&r)
			spec := journal.Spec{List: "list", Run: 7, Steps: []journal.Step{{Name: "a"}}}
			if _, err := journal.Open(t.Context(), fixed{r}, spec); !errors.Is(err, journal.ErrIllegal) {
				t.Fatalf("want ErrIllegal, got %v", err)
			}
			if _, err := journal.Open(t.Context(), fixed{good}, spec); err != nil {
				t.Fatalf("the unchanged record is refused as well: %v", err)
			}
		})
	}
}

func ExampleIllegalError() {
	fmt.Println(&journal.IllegalError{
		List: "cutover", Run: 3, Seq: 9, Step: "freeze", From: journal.Succeeded, To: journal.UndoStarted,
		Reason: `the final step "decide" has succeeded; nothing may be undone`,
	})
	// Output:
	// illegal journal order: cutover run 3, record 9: step "freeze" from succeeded to undo_started: the final step "decide" has succeeded; nothing may be undone
}
