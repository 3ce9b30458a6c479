package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// card is one round as it is planned: what happens, when, and for how long.
type card struct {
	round int // from 1
	seed  uint64
	fault string // one of faults
	at    moment
	hold  hold
	lasts time.Duration
	// second lets another tool finish the work while the first one is stopped.
	second bool
}

// moment is when the fault comes: at a hook, some time after a step has ended,
// or some time after the tool was started. Without any of these it is there
// before the tool is started.
type moment struct {
	event string // before-<step>, after-<step>
	step  string
	after time.Duration
}

func (m moment) String() string {
	switch {
	case m.event != "":
		return m.event
	case m.step != "":
		return fmt.Sprintf("%s past %s", m.after.Round(time.Millisecond), m.step)
	case m.after > 0:
		return fmt.Sprintf("%s in", m.after.Round(time.Millisecond))
	}
	return "from the start"
}

// hold says how long the tool is kept in its hook.
type hold string

const (
	holdNone  hold = "none"  // it goes on while the fault comes
	holdBegun hold = "begun" // until the fault is there
	holdOver  hold = "over"  // until it is over
)

// String is the card as a person reads it.
func (c card) String() string {
	text := fmt.Sprintf("round %d: %s %s", c.round, c.fault, c.at)
	if c.at.event != "" && c.fault != killTool {
		text += ", held: " + string(c.hold)
	}
	if c.lasts > 0 {
		text += fmt.Sprintf(", for %s", c.lasts.Round(time.Millisecond))
	}
	if c.second {
		text += ", another tool meanwhile"
	}
	return text
}

// stepNames are the steps of the cutover, first to last; pause is the one from
// which writers wait.
type stepNames struct {
	all   []string
	pause string
}

// events are the hooks of all steps.
func (s stepNames) events() []string {
	var out []string
	for _, name := range s.all {
		out = append(out, "before-"+name, "after-"+name)
	}
	return out
}

// streaming are the hooks at which the stream that is drained surely exists.
func (s stepNames) streaming() []string {
	events := s.events()
	return events[:len(events)-2]
}

// deal plans n rounds. Every fault comes once, for a short time, before any comes
// again; after that all cards of the deck are dealt in random order, again and again. Equal
// arguments give equal plans.
func deal(seed uint64, n int, steps stepNames, only func(fault string) bool) []card {
	rng := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a repeatable choice, no secret
	var cards []card
	for _, name := range faultNames() {
		if only(name) {
			cards = append(cards, draw(rng, name, steps, -1))
		}
	}
	shuffle(rng, cards)
	for len(cards) < n {
		var deck []card
		for _, name := range faultNames() {
			for i := range faults[name].weight(steps) {
				if only(name) {
					deck = append(deck, draw(rng, name, steps, i))
				}
			}
		}
		if len(deck) == 0 {
			return nil
		}
		shuffle(rng, deck)
		cards = append(cards, deck...)
	}
	for i := range cards {
		cards[i].round, cards[i].seed = i+1, rand.New(rand.NewPCG(seed, uint64(i+1))).Uint64() //nolint:gosec // the same
	}
	return cards[:n]
}

func shuffle(rng *rand.Rand, cards []card) {
	rng.Shuffle(len(cards), func(i, j int) { cards[i], cards[j] = cards[j], cards[i] })
}

// draw makes the i-th card of a fault in a deck, or with -1 any.
func draw(rng *rand.Rand, name string, steps stepNames, i int) card {
	f := faults[name]
	c := card{fault: name, hold: []hold{holdNone, holdBegun, holdOver}[rng.IntN(3)]}
	switch f.when {
	case atStart:
	case atEachStep: // and, in a deck, at some random instants
		events := steps.events()
		switch {
		case i < 0:
			c.at.event = events[rng.IntN(len(events))]
		case i < len(events):
			c.at.event = events[i]
		default:
			c.at = instant(rng, steps)
		}
	case atSomeStep, whileStreaming:
		events := steps.events()
		if f.when == whileStreaming {
			events = steps.streaming()
		}
		// Most of them where writers wait or have just waited.
		from := slices.Index(events, "before-"+steps.pause)
		if from > 0 && rng.IntN(4) > 0 {
			events = events[from:]
		}
		c.at.event = events[rng.IntN(len(events))]
		if rng.IntN(4) == 0 {
			c.at = instant(rng, steps)
		}
	}
	if c.at.event == "" {
		c.hold = holdNone // nothing is held but in hooks
	}
	c.lasts = f.short.draw(rng)
	if f.long != (span{}) && i >= 0 && rng.IntN(10) < 3 {
		c.lasts = f.long.draw(rng)
	}
	if f.second {
		c.second, c.hold = rng.IntN(2) == 0, holdBegun
	}
	return c
}

// instant is a random one: mostly soon after the writers began to wait.
func instant(rng *rand.Rand, steps stepNames) moment {
	const pause, whole = 50 * time.Millisecond, 500 * time.Millisecond
	if rng.IntN(4) == 0 {
		return moment{after: span{time.Millisecond, whole}.draw(rng)}
	}
	return moment{step: steps.pause, after: span{0, pause}.draw(rng)}
}

// span is a range of durations.
type span struct{ from, to time.Duration }

func (s span) draw(rng *rand.Rand) time.Duration {
	if s.to <= s.from {
		return s.from
	}
	return s.from + time.Duration(rng.Int64N(int64(s.to-s.from)))
}

// TestPlan checks that a seed stands for its rounds, that every fault comes
// early, and that the tool is killed at every step of a deck.
func TestPlan(t *testing.T) {
	steps := stepNames{all: []string{"one", "freeze", "two", "three"}, pause: "freeze"}
	everything := func(string) bool { return true }
	total := len(faults)
	for _, f := range faults {
		total += f.weight(steps)
	}
	plan := deal(7, total, steps, everything)
	if again := deal(7, total, steps, everything); !slices.Equal(plan, again) {
		t.Error("the same seed gives two plans")
	}
	if other := deal(8, total, steps, everything); slices.Equal(plan, other) {
		t.Error("two seeds give the same plan")
	}
	if short := deal(7, 5, steps, everything); !slices.Equal(plan[:5], short) {
		t.Error("a shorter run is not the beginning of a longer one")
	}
	seen, killedAt := map[string]bool{}, map[string]bool{}
	for i, c := range plan {
		if i < len(faults) {
			seen[c.fault] = true
		} else if c.fault == killTool {
			killedAt[c.at.event] = true
		}
		if i+1 != c.round {
			t.Errorf("round %d is called %d", i+1, c.round)
		}
	}
	for _, name := range faultNames() {
		if !seen[name] {
			t.Errorf("%s does not come in the first %d rounds", name, len(faults))
		}
	}
	for _, event := range steps.events() {
		if !killedAt[event] {
			t.Errorf("the tool is not killed at %s: %s", event, strings.Join(steps.events(), " "))
		}
	}
}
