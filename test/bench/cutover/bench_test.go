package main

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/methods"
)

// The whole bench, small: every method turns the writes of its clients, ours and
// the floor lose nothing, and what the summary says is what a program can read.
func TestBench(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	s := settings{
		Case: caseSmall, Rounds: 1, TPS: []int{100}, Kinds: []methods.Kind{methods.PgBouncer, methods.Direct, methods.Multihost},
		Methods: []string{methods.Ours, methods.Floor, methods.PollNoVacuum}, Old: pair.Old, New: pair.New,
		Connections: 4, Accounts: 500, Sequences: 5, Warm: 300 * time.Millisecond, After: 300 * time.Millisecond,
	}
	a, err := arena.Boot(t.Context(), arena.Options{Old: s.Old, New: s.New, Accounts: s.Accounts, Sequences: s.Sequences, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	outcomes, err := s.rounds(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	sum := summarize(s, a, outcomes)
	if err := sum.verdict(); err != nil {
		t.Error(err)
	}
	if len(sum.Results) != 9 {
		t.Fatalf("%d results", len(sum.Results))
	}
	for _, r := range sum.Results {
		behind := 0
		if r.Method == methods.PollNoVacuum {
			behind = s.Sequences // it knows no sequence without an owner
		}
		// Who only polls may lose what is being committed when it looks.
		good := r.Proof.Good() || r.Method == methods.PollNoVacuum
		if !good || r.Proof.Looked == 0 || r.Wrong != 0 || r.Behind != behind || r.Gap.Median <= 0 || len(r.Steps) == 0 {
			t.Errorf("%+v", r)
		}
		if pooled := r.Clients == methods.PgBouncer; pooled && r.Method != methods.PollNoVacuum && r.Counts.Failed != 0 {
			t.Errorf("a client saw a failure: %+v", r)
		}
	}
	if text, err := json.Marshal(sum); err != nil || len(text) == 0 {
		t.Errorf("%s, %v", text, err)
	}
}

// The large transaction, not so large.
func TestBulkIsLookedUp(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	s := settings{
		Case: caseLarge, Rounds: 1, TPS: []int{50}, Kinds: []methods.Kind{methods.PgBouncer}, Methods: []string{methods.Ours, methods.Floor},
		Old: pair.Old, New: pair.New, Connections: 2, Accounts: 100, Sequences: 2, Bulk: 20_000, Warm: 200 * time.Millisecond, After: 200 * time.Millisecond,
	}
	a, err := arena.Boot(t.Context(), arena.Options{Old: s.Old, New: s.New, Accounts: s.Accounts, Sequences: s.Sequences, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	outcomes, err := s.rounds(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.BulkLost != 0 || !o.Proof.Good() || o.Failed != nil {
			t.Errorf("%s, %s: %d rows lost, %+v, %v", o.Method, o.Bulk, o.BulkLost, o.Proof, o.Failed)
		}
	}
}
