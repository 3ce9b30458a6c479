// Package journaltest checks that an implementation of journal.Store keeps the
// promises that journal.Log relies on. For tests only.
package journaltest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// Run tests stores made by open, which returns an empty one at every call.
func Run(t *testing.T, open func(testing.TB) journal.Store) {
	t.Run("keeps records as they are", func(t *testing.T) { keeps(t, open(t)) })
	t.Run("keeps runs and lists apart", func(t *testing.T) { apart(t, open(t)) })
	t.Run("refuses a number that is taken", func(t *testing.T) { refusesTaken(t, open(t)) })
	t.Run("lets one of many writers win", func(t *testing.T) { oneWins(t, open(t)) })
	t.Run("heeds its context", func(t *testing.T) { heeds(t, open(t)) })
	t.Run("serves a log", func(t *testing.T) { serves(t, open(t)) })
}

func rec(list string, run, seq int64, step string, event journal.Event) journal.Record {
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC).Add(time.Duration(seq) * time.Microsecond)
	return journal.Record{List: list, Run: run, Seq: seq, Step: step, Event: event, At: at}
}

func load(t *testing.T, s journal.Store, list string, run int64, want ...journal.Record) {
	t.Helper()
	got, err := s.Load(t.Context(), list, run)
	if err != nil {
		t.Fatalf("loading %s %d: %v", list, run, err)
	}
	if len(got) != len(want) {
		t.Fatalf("%s %d has %d records, want %d: %+v", list, run, len(got), len(want), got)
	}
	for i := range want {
		g, w := got[i], want[i]
		if !equalJSON(t, g.Facts, w.Facts) {
			t.Errorf("facts of record %d: %s, want %s", i+1, g.Facts, w.Facts)
		}
		if !g.At.Equal(w.At) {
			t.Errorf("time of record %d: %v, want %v", i+1, g.At, w.At)
		}
		if g.List != w.List || g.Run != w.Run || g.Seq != w.Seq || g.Step != w.Step || g.Event != w.Event || g.Error != w.Error {
			t.Errorf("record %d: %+v, want %+v", i+1, g, w)
		}
	}
}

func equalJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	plain := func(text json.RawMessage) []byte {
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("facts %q: %v", text, err)
		}
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return bytes.Equal(plain(a), plain(b))
}

func keeps(t *testing.T, s journal.Store) {
	load(t, s, "cutover", 3)
	one := rec("cutover", 3, 1, "gates", journal.Started)
	two := rec("cutover", 3, 2, "gates", journal.Succeeded)
	two.Facts = json.RawMessage(`{"lsn": "0/16B3748", "tables": [1, 2.5, null], "quote": "'\"\\"}`)
	three := rec("cutover", 3, 3, "ahead", journal.Started)
	four := rec("cutover", 3, 4, "ahead", journal.Failed)
	four.Error = "lock timeout: it's \"late\" \\ ä\nnext line"
	if err := s.Append(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), two, three, four); err != nil {
		t.Fatal(err)
	}
	load(t, s, "cutover", 3, one, two, three, four)
}

func apart(t *testing.T, s journal.Store) {
	var all []journal.Record
	for _, r := range []journal.Record{
		rec("cutover", 1, 1, "a", journal.Started),
		rec("cutover", 2, 1, "a", journal.Started),
		rec("start", 1, 1, "a", journal.Started),
		rec("start", 0, 1, "a", journal.Started),
	} {
		if err := s.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	for _, r := range all {
		load(t, s, r.List, r.Run, r)
	}
}

func refusesTaken(t *testing.T, s journal.Store) {
	one := rec("cutover", 1, 1, "a", journal.Started)
	two := rec("cutover", 1, 2, "a", journal.Succeeded)
	three := rec("cutover", 1, 3, "b", journal.Started)
	if err := s.Append(t.Context(), one, two); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), two, three); !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("a number that is taken: got %v, want an error that wraps journal.ErrConflict", err)
	}
	load(t, s, "cutover", 1, one, two)
	// Also when the taken number is not the first of the write: all or nothing.
	if err := s.Append(t.Context(), three, two); !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("a number that is taken: got %v, want an error that wraps journal.ErrConflict", err)
	}
	load(t, s, "cutover", 1, one, two)
	if err := s.Append(t.Context(), three); err != nil {
		t.Fatalf("the store is unusable after a refusal: %v", err)
	}
	load(t, s, "cutover", 1, one, two, three)
}

func oneWins(t *testing.T, s journal.Store) {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			r := rec("cutover", 1, 1, "a", journal.Started)
			r.Error = fmt.Sprint(i)
			errs[i] = s.Append(t.Context(), r)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, journal.ErrConflict):
			t.Fatalf("writer %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	want := rec("cutover", 1, 1, "a", journal.Started)
	want.Error = fmt.Sprint(winner)
	load(t, s, "cutover", 1, want)
}

func heeds(t *testing.T, s journal.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, rec("cutover", 1, 1, "a", journal.Started)); err == nil {
		t.Error("Append ignores that its context has ended")
	}
	if _, err := s.Load(ctx, "cutover", 1); err == nil {
		t.Error("Load ignores that its context has ended")
	}
	load(t, s, "cutover", 1)
}

func serves(t *testing.T, s journal.Store) {
	spec := journal.Spec{List: "cutover", Run: 1, Steps: []journal.Step{{Name: "a"}, {Name: "b", Final: true}}}
	l, err := journal.Open(t.Context(), s, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), journal.Record{Step: "a", Event: journal.Started}); err != nil {
		t.Fatal(err)
	}
	done := journal.Record{Step: "a", Event: journal.Succeeded, Facts: json.RawMessage(`{"n":1}`)}
	if err := l.Append(t.Context(), done, journal.Record{Step: "b", Event: journal.Started}); err != nil {
		t.Fatal(err)
	}
	again, err := journal.Open(t.Context(), s, spec)
	if err != nil {
		t.Fatalf("replay: %v", err)
	}
	var facts struct{ N int }
	if found, err := again.Facts("a", &facts); err != nil || !found || facts.N != 1 {
		t.Fatalf("facts after replay: %t, %+v, %v", found, facts, err)
	}
	if !again.Undecided() {
		t.Fatal("the replayed run is not undecided")
	}
	// The first Log does not know of a record of the second.
	if err := again.Append(t.Context(), journal.Record{Step: "b", Event: journal.Succeeded}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), journal.Record{Step: "b", Event: journal.Failed}); !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("a second process is told %v", err)
	}
}
