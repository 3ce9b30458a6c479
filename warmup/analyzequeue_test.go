package warmup

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestQueue gives out the tasks of random trees to several sessions, which end
// them in any order.
func TestQueue(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // the same numbers each time
		a := &analysis{options: AnalyzeOptions{Jobs: 1 + r.IntN(4), Small: 100, Stages: Stages()}, server: nil}
		a.options.Stages = a.options.Stages[r.IntN(3):]
		long, short := randomWork(r, a)
		simulate(t, seed, r, a, long, short)
	}
}

// randomWork makes tables, of which some are below others that were made before.
func randomWork(r *rand.Rand, a *analysis) (long, short []task) {
	var all []*relation
	for n := range uint32(3 + r.IntN(12)) {
		table := &relation{OID: n + 1, Kind: OrdinaryTable}
		if n > 0 && r.IntN(2) == 0 {
			parent := all[r.IntN(len(all))]
			parent.children = append(parent.children, table.OID)
		}
		all = append(all, table)
	}
	a.known = byOID(all)
	last := len(a.options.Stages) - 1
	var parents, first []task
	for _, table := range all {
		switch {
		case table.isParent():
			parents = append(parents, task{table, last})
			if last > 0 && r.IntN(2) == 0 {
				first = append(first, task{table, 0})
			}
		case r.IntN(2) == 0:
			short = append(short, task{table, last})
		default:
			for stage := range a.options.Stages {
				long = append(long, task{table, stage})
			}
		}
	}
	slices.SortStableFunc(long, func(x, y task) int { return x.stage - y.stage })
	at := slices.IndexFunc(long, func(t task) bool { return t.stage > 0 || last == 0 })
	at = max(at, 0)
	return slices.Concat(long[at:], a.deepestFirst(parents)), slices.Concat(long[:at], a.deepestFirst(first), short)
}

// simulate takes and ends tasks until there are none, and holds each that begins
// against those that run, and those that are done.
func simulate(t *testing.T, seed uint64, r *rand.Rand, a *analysis, long, short []task) {
	q := a.newQueue(long, short, len(short)/2)
	last := len(a.options.Stages) - 1
	var running, done []task
	for len(done) < len(long)+len(short) {
		begun, ok := task{}, false
		if len(running) < a.options.Jobs {
			begun, ok = q.take(r.IntN(2) == 0)
		}
		if !ok || len(running) > 0 && r.IntN(2) == 0 {
			if len(running) == 0 && !ok {
				t.Fatalf("seed %d: nothing runs and nothing may begin: %v", seed, q.lanes)
			}
			if len(running) > 0 {
				at := r.IntN(len(running))
				done = append(done, running[at])
				q.done(running[at], nil)
				running = slices.Delete(running, at, at+1)
			}
		}
		if !ok {
			continue
		}
		below := begun.descendants(a.known)
		for _, other := range running {
			if other.OID == begun.OID || slices.Contains(below, other.OID) || slices.Contains(other.descendants(a.known), begun.OID) {
				t.Fatalf("seed %d: %d begins beside %d", seed, begun.OID, other.OID)
			}
		}
		for _, other := range slices.Concat(q.lanes[0], q.lanes[1]) {
			switch {
			case other.OID == begun.OID && other.stage < begun.stage,
				begun.stage == last && slices.Contains(below, other.OID),
				begun.stage > 0 && other.stage < last && other.isParent() && slices.Contains(other.descendants(a.known), begun.OID):
				t.Fatalf("seed %d: stage %d of %d begins before stage %d of %d", seed, begun.stage, begun.OID, other.stage, other.OID)
			}
		}
		running = append(running, begun)
	}
}

func TestEarly(t *testing.T) {
	for _, try := range []struct{ jobs, big, want int }{
		{1, 1, 0}, {2, 0, 0}, {2, 1, 1}, {2, 2, 0}, {4, 1, 1}, {4, 2, 2}, {4, 3, 1}, {4, 9, 0},
	} {
		a := &analysis{options: AnalyzeOptions{Jobs: try.jobs, Stages: Stages()}}
		var w work
		for range try.big {
			w.big = append(w.big, task{&relation{}, 1}, task{&relation{}, 2})
		}
		if got := a.early(w); got != try.want {
			t.Errorf("%d sessions, %d big tables: %d turn to these early, want %d", try.jobs, try.big, got, try.want)
		}
	}
}
