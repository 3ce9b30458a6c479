package journal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/journal/journaltest"
)

// fixed is a Store that holds what it holds.
type fixed []journal.Record

func (f fixed) Append(context.Context, ...journal.Record) error { return errors.New("fixed") }

func (f fixed) Load(context.Context, string, int64) ([]journal.Record, error) { return f, nil }

var (
	errNet  = errors.New("connection reset")
	twoStep = journal.Spec{List: "list", Run: 7, Steps: []journal.Step{{Name: "a"}, {Name: "b"}}}
)

// flaky is a Store on a bad network. plan says what becomes of each Append:
// "ok", "lost" (nothing stored), "unanswered" (stored, yet an error) or "late"
// (stored at the beginning of the Append after it, yet an error).
type flaky struct {
	journal.Memory
	plan func() string
	late [][]journal.Record
}

func (f *flaky) Append(ctx context.Context, records ...journal.Record) error {
	for _, batch := range f.late {
		// A late write whose place was taken meanwhile fails on the server.
		if err := f.Memory.Append(ctx, batch...); err != nil && !errors.Is(err, journal.ErrConflict) {
			return err
		}
	}
	f.late = nil
	switch f.plan() {
	case "lost":
		return errNet
	case "unanswered":
		if err := f.Memory.Append(ctx, records...); err != nil {
			return err
		}
		return errNet
	case "late":
		f.late = append(f.late, records)
		return errNet
	default:
		return f.Memory.Append(ctx, records...)
	}
}

// However the network behaves, what is stored is what was appended, each record
// once and in order, and the Log's answers do not depend on it.
func TestWritesThatFailAreSentAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		outcomes := rapid.SampledFrom([]string{"ok", "lost", "unanswered", "late"})
		store := &flaky{plan: func() string { return outcomes.Draw(t, "network") }}
		l, err := journal.Open(t.Context(), store, m.spec())
		if err != nil {
			t.Fatal(err)
		}
		var history []occurrence
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			possible := m.next(history)
			if len(possible) == 0 {
				break
			}
			o := rapid.SampledFrom(possible).Draw(t, "next")
			history = append(history, o)
			err := l.Append(t.Context(), record(o))
			if err != nil && !errors.Is(err, errNet) {
				t.Fatalf("a bad network is reported as %v", err)
			}
			if err == nil && l.Unwritten() != 0 {
				t.Fatalf("%d records are unwritten after a write that succeeded", l.Unwritten())
			}
			checkState(t, m, l, history)
		}
		store.plan = func() string { return "ok" }
		if err := l.Flush(t.Context()); err != nil {
			t.Fatalf("on a good network again: %v", err)
		}
		if l.Unwritten() != 0 {
			t.Fatalf("%d records unwritten after Flush", l.Unwritten())
		}
		again, err := journal.Open(t.Context(), store, m.spec())
		if err != nil {
			t.Fatalf("replaying what a bad network left: %v", err)
		}
		checkState(t, m, again, history)
	})
}

// Two processes that drive the same run do not mix their records.
func TestSecondWriterIsToldSo(t *testing.T) {
	ctx := t.Context()
	store := &journal.Memory{}
	first, err := journal.Open(ctx, store, twoStep)
	if err != nil {
		t.Fatal(err)
	}
	second, err := journal.Open(ctx, store, twoStep)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Append(ctx, journal.Record{Step: "a", Event: journal.Started}); err != nil {
		t.Fatal(err)
	}
	err = second.Append(ctx, journal.Record{Step: "a", Event: journal.Started, Error: "second"})
	if !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("the second writer gets %v", err)
	}
	if err := second.Flush(ctx); !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("the second writer goes on: %v", err)
	}
	if err := first.Append(ctx, journal.Record{Step: "a", Event: journal.Succeeded}); err != nil {
		t.Fatalf("the first writer is disturbed: %v", err)
	}
	records, err := store.Load(ctx, "list", 7)
	if err != nil || len(records) != 2 || records[0].Error != "" {
		t.Fatalf("stored: %v, %v", records, err)
	}
}

// Records that vanish from the store are noticed as soon as the Log looks.
func TestVanishedRecordsAreAConflict(t *testing.T) {
	store := &flaky{plan: func() string { return "ok" }}
	l, err := journal.Open(t.Context(), store, twoStep)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Started}); err != nil {
		t.Fatal(err)
	}
	store.Memory = journal.Memory{}
	store.plan = func() string { return "lost" }
	if err := l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Failed}); !errors.Is(err, errNet) {
		t.Fatalf("want the network's error, got %v", err)
	}
	if err := l.Flush(t.Context()); !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("want ErrConflict, got %v", err)
	}
}

// A store that refuses a number it does not hold must not keep the Log busy for
// ever, nor make it believe in a second process.
func TestStoreThatContradictsItself(t *testing.T) {
	l, err := journal.Open(t.Context(), contradictory{}, twoStep)
	if err != nil {
		t.Fatal(err)
	}
	err = l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Started})
	if err == nil || errors.Is(err, journal.ErrConflict) {
		t.Fatalf("got %v", err)
	}
}

type contradictory struct{ fixed }

func (contradictory) Append(context.Context, ...journal.Record) error { return journal.ErrConflict }

func TestFacts(t *testing.T) {
	type facts struct{ LSN string }
	spec := twoStep
	spec.Rerunnable = true
	l, err := journal.Open(t.Context(), &journal.Memory{}, spec)
	if err != nil {
		t.Fatal(err)
	}
	appended := func(r journal.Record) {
		t.Helper()
		if err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	found := func(step, want string) {
		t.Helper()
		var got facts
		ok, err := l.Facts(step, &got)
		if err != nil || ok != (want != "") || got.LSN != want {
			t.Fatalf("facts of %s: %t %q %v, want %q", step, ok, got.LSN, err, want)
		}
	}
	found("a", "")
	appended(journal.Record{Step: "a", Event: journal.Started})
	found("a", "")
	appended(journal.Record{Step: "a", Event: journal.Succeeded, Facts: json.RawMessage(`{"LSN":"0/1"}`)})
	found("a", "0/1")
	appended(journal.Record{Step: "a", Event: journal.Started})
	found("a", "0/1")
	appended(journal.Record{Step: "a", Event: journal.Succeeded, Facts: json.RawMessage(`{"LSN":"0/2"}`)})
	found("a", "0/2")
	appended(journal.Record{Step: "b", Event: journal.Started})
	appended(journal.Record{Step: "b", Event: journal.Succeeded})
	found("b", "")
	appended(journal.Record{Step: "b", Event: journal.UndoStarted})
	appended(journal.Record{Step: "b", Event: journal.Undone})
	appended(journal.Record{Step: "a", Event: journal.UndoStarted})
	appended(journal.Record{Step: "a", Event: journal.Undone})
	found("a", "")
	appended(journal.Record{Step: "a", Event: journal.Started})
	found("a", "")

	var number int
	appended(journal.Record{Step: "a", Event: journal.Succeeded, Facts: json.RawMessage(`"text"`)})
	if ok, err := l.Facts("a", &number); ok || err == nil {
		t.Fatalf("facts of the wrong type are %t, %v", ok, err)
	}
	err = l.Append(t.Context(), journal.Record{Step: "b", Event: journal.Started, Facts: json.RawMessage(`{`)})
	if !errors.Is(err, journal.ErrIllegal) || l.State("b") != journal.Undone {
		t.Fatalf("facts that are no JSON: %v, state %s", err, l.State("b"))
	}
}

func TestOpenRefusesBadLists(t *testing.T) {
	for name, steps := range map[string][]journal.Step{
		"empty":      nil,
		"no name":    {{Name: ""}},
		"twice":      {{Name: "a"}, {Name: "a"}},
		"two finals": {{Name: "a", Final: true}, {Name: "b", Final: true}},
		"final last": {{Name: "a", Final: true, UndoLast: true}},
	} {
		if _, err := journal.Open(t.Context(), &journal.Memory{}, journal.Spec{List: "l", Steps: steps}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := journal.Open(t.Context(), unreadable{}, twoStep); !errors.Is(err, errNet) {
		t.Errorf("a store that cannot be read: %v", err)
	}
}

type unreadable struct{ fixed }

func (unreadable) Load(context.Context, string, int64) ([]journal.Record, error) { return nil, errNet }

func TestMemoryStore(t *testing.T) {
	journaltest.Run(t, func(testing.TB) journal.Store { return &journal.Memory{} })
}

// The Log stamps records in what a timestamptz can hold, so that it recognises
// them after they were read back.
func TestRecordsAreStampedInMicroseconds(t *testing.T) {
	spec := twoStep
	spec.Now = func() time.Time { return time.Unix(1, 123456789).In(time.FixedZone("x", 3600)) }
	store := &journal.Memory{}
	l, err := journal.Open(t.Context(), store, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Started}); err != nil {
		t.Fatal(err)
	}
	stored, err := store.Load(t.Context(), "list", 7)
	if err != nil || len(stored) != 1 {
		t.Fatalf("stored: %v, %v", stored, err)
	}
	if want := time.Unix(1, 123456000).UTC(); stored[0].At != want {
		t.Fatalf("stamped %v, want %v", stored[0].At, want)
	}
}

// What a database cannot store in a text must not make the Log take its own
// record for somebody else's.
func TestErrorTextIsStorable(t *testing.T) {
	l, err := journal.Open(t.Context(), &journal.Memory{}, twoStep)
	if err != nil {
		t.Fatal(err)
	}
	bad := journal.Record{Step: "a", Event: journal.Failed, Error: "a\x00b\xffc ä"}
	if err := l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Started}, bad); err != nil {
		t.Fatal(err)
	}
	if got := l.Records()[1].Error; got != "ab?c ä" {
		t.Fatalf("stored %q", got)
	}
}

// FuzzRecordJSON: a record that was read is written and read again unchanged.
func FuzzRecordJSON(f *testing.F) {
	f.Add([]byte(`{"run":3,"list":"cutover","seq":1,"step":"drain","event":"succeeded","facts":{"lsn":"0/16B3748"},"at":"2026-01-02T03:04:05.123456Z"}`))
	f.Add([]byte(`{"step":"a","event":"failed","error":"no \u0000 end <&>","facts":null,"at":"2026-01-02T03:04:05+02:00"}`))
	f.Add([]byte(`{"facts":"<b>\u2028"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var first, second journal.Record
		if json.Unmarshal(text, &first) != nil {
			return
		}
		written, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("writing %+v: %v", first, err)
		}
		if err := json.Unmarshal(written, &second); err != nil {
			t.Fatalf("reading %s: %v", written, err)
		}
		if first.Run != second.Run || first.List != second.List || first.Seq != second.Seq ||
			first.Step != second.Step || first.Event != second.Event || first.Error != second.Error ||
			!first.At.Equal(second.At) || !sameJSON(t, first.Facts, second.Facts) {
			t.Fatalf("%+v became %+v through %s", first, second, written)
		}
		again, err := json.Marshal(second)
		if err != nil || !bytes.Equal(written, again) {
			t.Fatalf("%s became %s, %v", written, again, err)
		}
	})
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	plain := func(text json.RawMessage) []byte {
		var v any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("facts %q are not JSON: %v", text, err)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return slices.Equal(plain(a), plain(b))
}
