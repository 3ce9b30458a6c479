package sequences_test

import (
	"context"
	"flag"
	"math"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

// The stages of a leg, that is, of carrying positions from a source to a target.
const (
	beforeReading = iota // clients use the source
	beforePause          // still, after the target was set ahead
	between              // nextval alone, from the reading in the pause until the sessions are gone
	target               // clients use the target, before the source is looked at for the last time
)

// carryPairs hold every major as old between which the catalogs of sequences differ;
// with many cases those under test too.
func carryPairs(t testing.TB, many bool) []pgtest.Pair {
	all := []pgtest.Pair{{Old: 10, New: 18}, {Old: 13, New: 15}, {Old: 15, New: 18}, {Old: 18, New: 18}}
	if !many {
		return all
	}
	for _, p := range append(pairs(t), pgtest.Pair{Old: 10, New: 15}, pgtest.Pair{Old: 13, New: 18}, pgtest.Pair{Old: 15, New: 15}) {
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// bench is a pair of servers; each side has two sessions of clients.
type bench struct {
	old, fresh       side
	oldTwo, freshTwo *pgx.Conn
}

// TestNoNumberTwice is the promise of the package, with the servers as the oracle:
// random definitions and histories are carried by what a cutover runs, and back by
// what a rollback runs; whatever clients have drawn on either server, at any time,
// the next 1,000 numbers are others, and no more are skipped than the margin and a
// cache block. PGCUTOVER_SEQUENCE_CASES is how many cases each pair gets.
func TestNoNumberTwice(t *testing.T) {
	cases, many := "8", false
	if n := os.Getenv("PGCUTOVER_SEQUENCE_CASES"); n != "" {
		cases, many = n, true
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() {
		if err := checks.Value.Set(before); err != nil {
			t.Error(err)
		}
	})
	if err := checks.Value.Set(cases); err != nil {
		t.Fatal(err)
	}
	for _, p := range carryPairs(t, many) {
		t.Run(p.String(), func(t *testing.T) {
			b := bench{old: open(t, p.Old), fresh: open(t, p.New)}
			b.oldTwo, b.freshTwo = connectWith(t, b.old.url, "public"), connectWith(t, b.fresh.url, "public")
			b.old.exec(t, drawFunction)
			b.fresh.exec(t, drawFunction)
			rapid.Check(t, b.property)
		})
	}
}

func (b bench) property(t *rapid.T) {
	schema := rapid.SampledFrom(oddNames).Draw(t, "schema")
	names := rapid.Permutation(oddNames).Draw(t, "names")
	kases := make([]kase, rapid.IntRange(1, 6).Draw(t, "sequences"))
	create := "create schema " + pgx.Identifier{schema}.Sanitize() + ";"
	for i := range kases {
		kases[i] = drawCase(t, schema, names[i])
		create += kases[i].createSQL()
	}
	margin := rapid.SampledFrom([]int64{0, 0, 1, 5, 40, 100, 1000, math.MaxInt64}).Draw(t, "margin")
	for _, s := range []side{b.old, b.fresh} {
		s.run(t, create)
		defer s.run(t, "drop schema "+pgx.Identifier{schema}.Sanitize()+" cascade")
	}
	ledgers := make([]ledger, len(kases))
	for i, k := range kases {
		ledgers[i] = ledger{kase: k, seen: map[int64]bool{}}
		set(t, b.old.client, k.ref, k.set)
		set(t, b.fresh.client, k.ref, k.setNew)
	}
	there := leg{number: 0, source: b.old, target: b.fresh, sourceTwo: b.oldTwo, targetTwo: b.freshTwo, side: pg.New, margin: margin}
	back := leg{number: 1, source: b.fresh, target: b.old, sourceTwo: b.freshTwo, targetTwo: b.oldTwo, side: pg.Old, margin: margin}
	there.carry(t, kases, ledgers)
	back.carry(t, kases, ledgers)
}

// ledger holds what was ever handed out of one sequence.
type ledger struct {
	kase
	seen    map[int64]bool
	twice   []int64 // to be found in an overlap that was told
	told    []sequences.Range
	history []int64 // of old, in its order, for a cycle
}

// note writes numbers down. The same number may come again only where the next
// look at the source tells of it.
func (l *ledger) note(got []int64) {
	l.history = append(l.history, got...)
	for _, v := range got {
		if l.seen[v] {
			l.twice = append(l.twice, v)
		}
		l.seen[v] = true
	}
}

// leg carries all sequences from source to target.
type leg struct {
	number               int
	source, target       side
	sourceTwo, targetTwo *pgx.Conn
	side                 pg.Side // of the target
	margin               int64
}

// draw lets both clients of the source draw what the cases say.
func (g leg) draw(t *rapid.T, kases []kase, ledgers []ledger, stage int) {
	for _, by := range []struct {
		conn *pgx.Conn
		n    func(kase) int
	}{
		{g.source.client, func(k kase) int { return k.drawn[g.number][stage] }},
		{g.sourceTwo, func(k kase) int { return k.second[g.number][stage] }},
	} {
		for i, got := range draw(t, by.conn, kases, by.n) {
			ledgers[i].note(got)
		}
	}
}

func (g leg) carry(t *rapid.T, kases []kase, ledgers []ledger) {
	ctx := context.Background()
	g.draw(t, kases, ledgers, beforeReading)
	given, problems := sequences.PlanTo(g.side, g.source.readAll(t, kases), g.target.readAll(t, kases), g.margin)
	if len(problems) != 0 {
		t.Fatalf("problems %+v", problems)
	}
	g.applyTwice(t, kases, given, rapid.Bool().Draw(t, "fast"))
	for i, s := range g.target.readAll(t, kases) {
		kases[i].checkGiven(t, given[i], s, g.margin)
	}
	first := given

	readers := g.readers(t, kases)
	defer readers.Close(ctx)
	g.draw(t, kases, ledgers, beforePause)
	now, err := readers.ReadCalled(ctx)
	if err != nil {
		t.Fatal(err)
	}
	given = g.follow(t, kases, now, given, g.margin/2)

	// Sessions of the source draw on while clients of the target begin.
	paused := g.source.readAll(t, kases)
	g.draw(t, kases, ledgers, between)
	last, err := sequences.ReadValues(ctx, g.source.conn, g.source.version, refsOf(kases))
	if err != nil {
		t.Fatal(err)
	}
	early := make([][]int64, len(kases))
	if g.margin > 1 { // else no reserve is kept for them
		early = draw(t, g.target.client, kases, func(k kase) int { return k.drawn[g.number][target] })
	}
	for i := range ledgers {
		ledgers[i].noteTarget(t, given[i], early[i], last[i])
		kases[i].checkReserve(t, g, given[i], paused[i])
	}
	before := given
	given = g.follow(t, kases, last, given, 0)
	after := g.target.readAll(t, kases)
	drawn := draw(t, g.target.client, kases, func(kase) int { return 1000 })
	drawnTwo := draw(t, g.targetTwo, kases, func(k kase) int { return k.second[g.number][target] })
	for i, k := range kases {
		if k.cycle {
			if g.number == 0 {
				k.checkCycle(t, given[i], after[i].Value, ledgers[i].history, append(early[i], drawn[i]...))
			}
			ledgers[i].history = nil
			continue
		}
		ledgers[i].check(t, before[i], given[i], append(append([]int64(nil), drawn[i]...), drawnTwo[i]...))
		fresh := len(early[i]) == 0 && (k.cache == 1 || g.number == 0) // no session has a rest of an earlier block
		if fresh && given[i].Exhausted != (len(drawn[i]) == 0) {
			t.Errorf("%+v\n%+v: drew %v", k, given[i], drawn[i])
		}
		if !first[i].Kept {
			k.checkWaste(t, g, given[i], last[i], append(early[i], drawn[i]...))
		}
	}
}

// noteTarget writes down what clients of the target drew before the last look at
// the source. As long as the source has not come to what the target was given, none
// of that may be the source's.
func (l *ledger) noteTarget(t *rapid.T, c sequences.Change, got []int64, last sequences.Value) {
	if l.cycle {
		return
	}
	twice := len(l.twice)
	l.note(got)
	if len(l.twice) > twice && (c.Exhausted || l.past(c.Value, last.LastValue)) && len(l.told) == 0 {
		t.Fatalf("%+v\n%+v: %v handed out twice though the source came to %d only", l.kase, c, l.twice[twice:], last.LastValue)
	}
}

// checkReserve checks that the pause left the source what it was to leave.
func (k kase) checkReserve(t *rapid.T, g leg, c sequences.Change, paused sequences.Sequence) {
	if g.margin < 2 || k.cycle || c.Kept || c.Exhausted || len(c.Warnings) > 0 {
		return
	}
	reserve := min(uint64(max(g.margin/2, k.cache)), paused.Left()/2) // near the bound it is shared
	if room := k.steps(paused.Value, c.Value); room < reserve {
		t.Errorf("%+v\n%+v: the pause leaves the source %d numbers from %+v on, not %d", k, c, room, paused.Value, reserve)
	}
}

// check compares what clients of the target drew after the last look at the source
// with all that was ever handed out. A number that came twice lies in an overlap that
// was told: a session of the target keeps what it has cached of it.
func (l *ledger) check(t *rapid.T, given, after sequences.Change, got []int64) {
	if after.Overlap != nil {
		l.told = append(l.told, *after.Overlap)
	}
	before := len(l.twice)
	l.note(got)
	if l.cache == 1 && len(l.twice) > before {
		t.Fatalf("%+v\n%+v\n%+v: handed out twice: %v", l.kase, given, after, l.twice[before:])
	}
	for _, v := range l.twice {
		if !slices.ContainsFunc(l.told, func(o sequences.Range) bool { return !l.past(o.From, v) && !l.past(v, o.To) }) {
			t.Fatalf("%+v\n%+v\n%+v: %d was handed out twice and none of the overlaps %v tells", l.kase, given, after, v, l.told)
		}
	}
	l.twice = nil
}

// checkWaste counts the numbers between where the source stands and the first one
// of the target.
func (k kase) checkWaste(t *rapid.T, g leg, c sequences.Change, last sequences.Value, got []int64) {
	if len(got) == 0 {
		return
	}
	skipped, allowed := k.steps(last, got[0]), max(g.margin, k.cache)
	if g.margin == 0 {
		allowed = 0
	}
	if c.Overlap == nil && skipped > uint64(allowed) {
		t.Errorf("%+v\n%+v: %d numbers were skipped, at most %d were to be, from %+v to %d", k, c, skipped, allowed, last, got[0])
	}
}

// follow sets again what the source has outrun, twice, and returns what is given.
func (g leg) follow(t *rapid.T, kases []kase, now []sequences.Value, given []sequences.Change, reserve int64) []sequences.Change {
	again := sequences.OutranTo(g.side, now, given, g.margin, reserve)
	g.applyTwice(t, kases, again, true)
	return sequences.Merge(given, again)
}

// readers are the sessions in which a cutover reads the source in the pause; they
// know the sequences from before.
func (g leg) readers(t *rapid.T, kases []kase) *sequences.Readers {
	readers, err := sequences.NewReaders(context.Background(), sequences.Source{
		Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, g.source.conn.Config()) },
		Rest:    g.source.conn, Version: g.source.version, Patience: time.Minute, PerSession: 3,
	}, refsOf(kases))
	if err != nil {
		t.Fatal(err)
	}
	return readers
}

// applyTwice makes the changes, then once more, which must change nothing.
func (g leg) applyTwice(t *rapid.T, kases []kase, changes []sequences.Change, fast bool) {
	want := 0
	for _, c := range changes {
		if !c.Kept {
			want++
		}
	}
	var first []sequences.Sequence
	for range 2 {
		made, err := sequences.Apply(context.Background(), g.target.conn, changes, sequences.Options{Fast: fast})
		if err != nil || len(made) > want || (first != nil && len(made) > 0) {
			t.Fatalf("made %d of %d changes %+v, error %v", len(made), want, changes, err)
		}
		now := g.target.readAll(t, kases)
		if first != nil && !reflect.DeepEqual(first, now) {
			t.Fatalf("the second Apply changed\n%+v to\n%+v", first, now)
		}
		first = now
	}
}

func refsOf(kases []kase) []sequences.Ref {
	refs := make([]sequences.Ref, len(kases))
	for i, k := range kases {
		refs[i] = k.ref
	}
	return refs
}

func (s side) run(t *rapid.T, sql string) {
	if _, err := s.client.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("running %s\n%v", sql, err)
	}
}

func (s side) readAll(t *rapid.T, kases []kase) []sequences.Sequence {
	all, err := sequences.Read(context.Background(), s.conn, s.version)
	if err != nil {
		t.Fatal(err)
	}
	byRef := map[sequences.Ref]sequences.Sequence{}
	for _, one := range all {
		byRef[one.Ref] = one
	}
	ordered := make([]sequences.Sequence, len(kases))
	for i, k := range kases {
		ordered[i] = byRef[k.ref]
	}
	return ordered
}

// TestWayBackIsNamed: in a rollback it is new that hands out, and old that is set.
func TestWayBackIsNamed(t *testing.T) {
	given, _ := sequences.PlanTo(pg.Old, []sequences.Sequence{seq(41, true)}, []sequences.Sequence{seq(1, false)}, 100)
	now := sequences.Value{Ref: given[0].Ref, LastValue: 142, IsCalled: true}
	again := sequences.OutranTo(pg.Old, []sequences.Value{now}, given, 100, 0)
	if len(again) != 1 || again[0].Value != 243 || !slices.Contains(again[0].Warnings, "new has handed out 142 to 142, which old was to hand out") ||
		again[0].Why != "new stands at 142 (handed out), 100 more may follow there" {
		t.Errorf("got %+v", again)
	}
}
