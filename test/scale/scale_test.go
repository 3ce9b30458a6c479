package main

import (
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// servers are quick ones of the first pair.
func servers(t *testing.T, lockTable int, settings map[string]string) bootOptions {
	pair := pgtest.Pairs(t)[0]
	return bootOptions{Old: pair.Old, New: pair.New, Locks: lockTable, Settings: settings}
}

// done runs a case; nothing may be lost, left behind, or deadlocked by the tool.
func done(t *testing.T, r runner) outcome {
	t.Helper()
	o, err := r.run(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.wrong(); err != nil {
		t.Error(err)
	}
	o.judge()
	if text, err := json.Marshal(o); err != nil || len(text) == 0 || o.print(io.Discard) != nil {
		t.Errorf("%s, %v", text, err)
	}
	for _, r := range o.Turns {
		t.Logf("%s: %.0f ms, pause %.1f ms, gap %.1f ms, longest %.0f ms during %s; %s", r.What, r.TookMS, r.PauseMS, r.GapMS, r.Clients.LongestMS, r.SlowestIn, listed(r.Steps))
	}
	if o.Proof.Looked == 0 {
		t.Error("no write was looked up")
	}
	return o
}

// The numbers of `make bench-scale` are for a machine of one's own; here the
// pause has room.
const roomyPause = 10000

func TestManyTables(t *testing.T) {
	t.Parallel()
	o := done(t, many{bootOptions: servers(t, defaultLocks, nil), InScope: 50, OutOfScope: 950, Clients: 4, Rate: 100})
	if len(o.Turns) != 1 || o.Sequences != 1000 {
		t.Fatalf("%+v", o)
	}
	for _, r := range o.Turns {
		if r.fact("ahead", "triggers") != 1000 || r.fact("sequences", "read") != 1000 || r.PauseMS <= 0 || r.PauseMS > roomyPause {
			t.Errorf("%+v", r)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	o, err := check{bootOptions: servers(t, defaultLocks, nil), Tables: 200}.run(t.Context(), t.Logf)
	if err = errors.Join(err, o.wrong()); err != nil || o.CheckMS <= 0 || len(o.Goals) != 1 || o.print(io.Discard) != nil {
		t.Errorf("%+v, %v", o, err)
	}
}

// As many tables as fill the lock table several times over.
func TestSmallLockTable(t *testing.T) {
	t.Parallel()
	small := servers(t, 20, map[string]string{"max_connections": "25", "autovacuum_max_workers": "1"})
	o := done(t, locks{bootOptions: small, InScope: 20, OutOfScope: 1980, Clients: 4, Rate: 100})
	if len(o.Turns) != 4 {
		t.Fatalf("%+v", o)
	}
	for _, r := range o.Turns[:3] {
		if r.fact("ahead", "triggers") != 2000 || r.fact("lease", "protected_tables") != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestTriggers(t *testing.T) {
	t.Parallel()
	small := servers(t, defaultLocks, nil)
	small.Explain = true
	o := done(t, triggers{bootOptions: small, Busy: 100, Idle: 900, Clients: 4, Rate: 200, Rounds: 1})
	if len(o.Turns) != 2 {
		t.Fatalf("%+v", o)
	}
	for _, r := range o.Turns {
		if r.fact(r.What, "tables") != 1000 || r.Clients.Acknowledged == 0 || r.LongestBesideMS <= 0 || r.LongestBesideMS > roomyPause {
			t.Errorf("%+v", r)
		}
	}
}

// Clients that deadlock with each other and LOCK TABLE, beside a lease that keeps
// DDL out: both get on. Before the lease gave way nobody did.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	h := hostile{
		bootOptions: servers(t, defaultLocks, map[string]string{"deadlock_timeout": "500ms"}),
		Tables:      6, Rows: 4, Clients: 6, Rate: 150, Locking: true, Turns: 2, Quiet: 3 * time.Second, Deadlocked: true,
	}
	o := done(t, h)
	if len(o.Turns) != 2 || o.Deadlocks.All == 0 {
		t.Fatalf("%d turns, %+v", len(o.Turns), o.Deadlocks)
	}
	for _, r := range o.Turns {
		if r.PauseMS <= 0 || r.PauseMS > roomyPause || r.Clients.LongestMS > 20000 {
			t.Errorf("%+v", r)
		}
	}
}
