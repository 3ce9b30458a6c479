package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Environment variables that `make chaos` sets.
const (
	roundsVariable = "PGCUTOVER_CHAOS_ROUNDS" // how many; default: each fault once
	seedVariable   = "PGCUTOVER_CHAOS_SEED"   // default: random, and printed
	timeVariable   = "PGCUTOVER_CHAOS_TIME"   // no round begins later than this after the start, as 20m; default: all do
	onlyVariable   = "PGCUTOVER_CHAOS_ROUND"  // only this round of the plan
	faultVariable  = "PGCUTOVER_CHAOS_FAULT"  // only faults with this in their names
	resultVariable = "PGCUTOVER_CHAOS_RESULT" // file for the result
	keepVariable   = "PGCUTOVER_CHAOS_KEEP"   // folder for what each round left; default: of a failed one only
)

// roundsOfMove is how many rounds follow each other on one move.
const roundsOfMove = 25

// shortRun is how long a run of no given length begins rounds: with each fault
// once it is about over by then, and what is left out differs from seed to seed.
const shortRun = 125 * time.Second

// TestChaos plays the rounds.
func TestChaos(t *testing.T) {
	seed := number(t, seedVariable, rand.Uint64N(1_000_000))
	rounds := int(number(t, roundsVariable, uint64(len(faults)))) //nolint:gosec // a few hundred
	only := int(number(t, onlyVariable, 0))                       //nolint:gosec // a few hundred
	pairs := pgtest.Pairs(t)
	say("chaos: %d rounds, SEED=%d", rounds, seed)
	all := newReport(seed, pairs)
	if text := os.Getenv(timeVariable); text != "" {
		limit, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("reading %s: %v", timeVariable, err)
		}
		all.until = all.began.Add(limit)
	} else if os.Getenv(roundsVariable) == "" {
		all.until = all.began.Add(shortRun)
	}
	for i, pair := range pairs {
		w := newWorld(t, pair)
		// Each pair plays its share of one plan.
		var plan []card
		for _, c := range deal(seed, rounds, w.steps(t), w.wanted()) {
			if (c.round-1)%len(pairs) == i && (only == 0 || c.round == only) {
				plan = append(plan, c)
			}
		}
		if err := w.play(plan, all); err != nil {
			t.Error(err)
			break
		}
	}
	all.print()
	if err := all.write(os.Getenv(resultVariable)); err != nil {
		t.Error(err)
	}
}

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("reading %s: %v", variable, err)
	}
	return n
}

// wanted says which faults are to be played: those that were asked for and are
// possible here.
func (w *world) wanted() func(string) bool {
	part := os.Getenv(faultVariable)
	return func(name string) bool {
		return strings.Contains(name, part) && (w.new.disk != nil || !strings.Contains(name, "disk"))
	}
}

// steps asks the tool for the steps of a cutover.
func (w *world) steps(t *testing.T) stepNames {
	t.Helper()
	m, err := w.newMove()
	var p *tool
	if err == nil {
		p, err = m.must("plan", "--json")
	}
	type entries struct{ Cutover, Rollback []step.Entry }
	var plan entries
	if err == nil {
		plan, err = answer[entries](p)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.first = m
	s := stepNames{pause: "lease"}
	for _, e := range plan.Cutover {
		s.all = append(s.all, e.Name)
	}
	if !slices.EqualFunc(plan.Rollback, s.all, func(e step.Entry, name string) bool { return e.Name == name }) {
		t.Fatalf("a rollback has other steps than a cutover: %v", s.all)
	}
	if !slices.Contains(s.all, s.pause) {
		t.Fatalf("the cutover has no step %s: %v", s.pause, s.all)
	}
	return s
}

// play plays the rounds of one pair, until one fails.
func (w *world) play(plan []card, all *report) (err error) {
	m := w.first
	for _, c := range plan {
		if !all.until.IsZero() && time.Now().After(all.until) {
			break
		}
		if m == nil {
			if m, err = w.newMove(); err != nil {
				return fmt.Errorf("making a move before round %d: %w", c.round, err)
			}
		}
		r := &round{card: c, m: m, back: m.turn() == "rollback", logs: map[*server]int64{}}
		err := r.play()
		all.add(w.pair, r, err)
		if dir := os.Getenv(keepVariable); dir != "" {
			if err := r.keep(dir, err); err != nil {
				return err
			}
		}
		if err != nil {
			return r.failed(err, all.seed, len(plan))
		}
		if m.rounds >= roundsOfMove {
			if err := all.end(m, c); err != nil {
				return err
			}
			m = nil
		}
	}
	if m != nil && m.rounds > 0 {
		return all.end(m, plan[len(plan)-1])
	}
	return nil
}

// end ends a move after its last round.
func (p *report) end(m *move, last card) error {
	f, err := m.end()
	p.later.lost += f.lost
	p.later.doubled += f.doubled
	if err != nil {
		p.failed = append(p.failed, fmt.Sprintf("end of the move after round %d", last.round))
		return fmt.Errorf("ending the move after round %d: %w\nagain: make chaos PAIRS=%s N=%d SEED=%d", last.round, err, m.w.pair, last.round, p.seed)
	}
	return nil
}

// failed keeps what a failed round left, and says how to repeat it.
func (r *round) failed(err error, seed uint64, rounds int) error {
	dir, errDir := os.MkdirTemp("", "pgcutover-chaos-failed-")
	return errors.Join(fmt.Errorf("%s on %s: %w\nkept in %s; again: make chaos PAIRS=%s N=%d SEED=%d, or this round alone with ROUND=%d",
		r.card, r.m.w.pair, err, dir, r.m.w.pair, rounds, seed, r.round), errDir, r.keep(dir, err))
}

// keep writes what a round left into a folder: what the tool said, what the
// clients saw, what the servers logged.
func (r *round) keep(dir string, err error) error {
	text := fmt.Sprintf("%s on %s: %s %s\n", r.card, r.m.w.pair, r.what(), r.result.outcome)
	if err != nil {
		text += fmt.Sprintf("\nFAILED: %v\n", err)
	}
	if !r.begin.IsZero() {
		text += fmt.Sprintf("\nfault from %s to %s\n", r.begin.Format(clock), r.over.Format(clock))
	}
	for _, t := range r.m.tools {
		text += "\n" + t.String()
	}
	if r.clients != nil && r.clients.prober != nil {
		text += "\n" + r.clients.story()
	}
	name := filepath.Join(dir, fmt.Sprintf("round-%d", r.round))
	kept := os.WriteFile(name+".txt", []byte(text), 0o600)
	for s, from := range r.logs {
		log, errRead := os.ReadFile(s.cluster.LogPath())
		if errRead == nil {
			errRead = os.WriteFile(name+"-"+string(s.side)+".log", log[min(from, int64(len(log))):], 0o600)
		}
		kept = errors.Join(kept, errRead)
	}
	return kept
}

// report sums up the rounds.
type report struct {
	seed   uint64
	pairs  []pgtest.Pair
	began  time.Time
	until  time.Time // no round begins afterwards; zero: all do
	rows   map[string]*row
	later  findings // of earlier rounds' writes, when they were looked up again
	failed []string
}

// row is one line of the table. Times are milliseconds.
type row struct {
	Fault        string          `json:"fault"`
	Rounds       int             `json:"rounds"`
	Rollbacks    int             `json:"rollbacks"` // of the rounds; the others are cutovers
	Missed       int             `json:"missed"`    // rounds in which the fault came too late
	Outcomes     map[outcome]int `json:"outcomes"`
	Unwritable   int64           `json:"unwritable_ms"` // longest time in which no server took writes
	Recovered    int64           `json:"recovered_ms"`  // longest time from the fault, or the server's return, to an accepted write
	Acknowledged int             `json:"acknowledged"`
	Unknown      int             `json:"unknown"` // writes without an answer, which may be there or not
	Lost         int             `json:"lost"`
	Doubled      int             `json:"doubled"`
	Both         int             `json:"both_writable"` // writes taken by a server out of its turn
	Failed       int             `json:"failed"`
}

func newReport(seed uint64, pairs []pgtest.Pair) *report {
	return &report{seed: seed, pairs: pairs, began: time.Now(), rows: map[string]*row{}}
}

// add counts a round and says what became of it.
func (p *report) add(pair pgtest.Pair, r *round, err error) {
	x := p.rows[r.fault]
	if x == nil {
		x = &row{Fault: r.fault, Outcomes: map[outcome]int{}}
		p.rows[r.fault] = x
	}
	x.Rounds++
	if r.back {
		x.Rollbacks++
	}
	if r.missed {
		x.Missed++
	}
	if r.result.outcome != "" {
		x.Outcomes[r.result.outcome]++
	}
	x.Unwritable = max(x.Unwritable, r.result.unwritable.Milliseconds())
	x.Recovered = max(x.Recovered, r.result.recovered.Milliseconds())
	x.Acknowledged += r.result.acknowledged
	x.Unknown += r.result.unknown
	x.Lost += r.result.lost
	x.Doubled += r.result.doubled
	x.Both += r.result.both
	text := fmt.Sprintf("%s (%s): %s %s, nobody took writes for %s, %d acknowledged, %s", r.card, pair, r.what(), r.result.outcome,
		r.result.unwritable.Round(time.Millisecond), r.result.acknowledged, r.result.took.Round(100*time.Millisecond))
	if r.missed {
		text += ", the fault came too late"
	}
	if err != nil {
		x.Failed++
		p.failed = append(p.failed, r.String())
		text = fmt.Sprintf("%s (%s): %s FAILED", r.card, pair, r.what())
	}
	say("%s", text)
}

// summary is the object on stdout.
type summary struct {
	Chaos        string   `json:"chaos"`
	Seed         uint64   `json:"seed"`
	Pairs        []string `json:"pairs"`
	Rounds       int      `json:"rounds"`
	Rollbacks    int      `json:"rollbacks"`
	Acknowledged int      `json:"acknowledged"`
	Lost         int      `json:"lost"`
	Doubled      int      `json:"doubled"`
	Both         int      `json:"both_writable"`
	Unwritable   int64    `json:"unwritable_ms_max"`
	DurationS    float64  `json:"duration_s"`
	Faults       []row    `json:"faults"`
	Failed       []string `json:"failed"`
}

func (p *report) sum() summary {
	s := summary{Chaos: "cutover", Seed: p.seed, DurationS: time.Since(p.began).Seconds(), Failed: append([]string{}, p.failed...)}
	s.Lost, s.Doubled = p.later.lost, p.later.doubled
	for _, pair := range p.pairs {
		s.Pairs = append(s.Pairs, pair.String())
	}
	for _, name := range faultNames() {
		x := p.rows[name]
		if x == nil {
			continue
		}
		s.Faults = append(s.Faults, *x)
		s.Rounds += x.Rounds
		s.Rollbacks += x.Rollbacks
		s.Acknowledged += x.Acknowledged
		s.Lost += x.Lost
		s.Doubled += x.Doubled
		s.Both += x.Both
		s.Unwritable = max(s.Unwritable, x.Unwritable)
	}
	return s
}

// print writes the table, as Markdown.
func (p *report) print() {
	s := p.sum()
	say("\n| fault | rounds | of them rollbacks | too late | done | undone | resumed forward | resumed back | refused | longest unwritable (ms) | longest from fault to write (ms) | lost | doubled |")
	say("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, x := range s.Faults {
		o := x.Outcomes
		say("| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d |", x.Fault, x.Rounds, x.Rollbacks, x.Missed,
			o[done], o[undone], o[resumedForward], o[resumedBack], o[refused], x.Unwritable, x.Recovered, x.Lost, x.Doubled)
	}
	say("\n%d rounds (%d rollbacks) in %.0f s (SEED=%d): %d acknowledged writes, %d lost, %d doubled, %d taken by two servers; %d rounds failed",
		s.Rounds, s.Rollbacks, s.DurationS, s.Seed, s.Acknowledged, s.Lost, s.Doubled, s.Both, len(s.Failed))
}

// write writes the summary as one JSON object.
func (p *report) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.Marshal(p.sum())
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
