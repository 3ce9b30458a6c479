package main

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// The whole bench, small: every method does its part, ours exactly, and a sequence
// that is not where it should be is found.
func TestBench(t *testing.T) {
	p := pgtest.Pairs(t)[0]
	s := settings{Rounds: 2, Pairs: []rounds.Pair{{Old: p.Old, New: p.New}}, Counts: []int{80}, Margin: 1000, Busy: 20}
	w, err := boot(t.Context(), s.Pairs[0], s.Counts[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	all, err := s.rounds(t.Context(), w, s.Pairs[0], s.Counts[0])
	if err != nil {
		t.Fatal(err)
	}
	sum := summarize(s, all)
	if err := sum.verdict(); err != nil {
		t.Error(err)
	}
	if len(sum.Results) != len(methods()) || len(sum.Ratios) != len(methods())-2 {
		t.Errorf("%d results, %d ratios", len(sum.Results), len(sum.Ratios))
	}
	for _, r := range sum.Results {
		again := 0
		if r.Part == inPause && r.Judged {
			again = 15 // of 16; one of them is never used
		}
		if len(r.All) != s.Rounds || r.Min <= 0 || r.Again != again || (r.Method == oursName) && !r.Judged {
			t.Errorf("%+v", r)
		}
	}
	if text, err := json.Marshal(sum); err != nil || len(text) == 0 {
		t.Errorf("%s, %v", text, err)
	}
	wrongIsFound(t, s, w)
}

func wrongIsFound(t *testing.T, s settings, w *world) {
	t.Helper()
	m := methods()[0]
	o := outcome{Count: s.Counts[0], Part: m.part, Method: m.name}
	if err := s.measure(t.Context(), w, m, &o); err != nil || o.Wrong != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	before, err := w.old.read(t.Context())
	if err == nil {
		err = w.new.exec(t.Context(), "select nextval('app.s2')")
	}
	if err == nil {
		err = s.check(t.Context(), w, before, &o)
	}
	if err != nil || o.Wrong != 1 || o.First == "" {
		t.Errorf("%+v, %v", o, err)
	}
}
