package cutover_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// reporting keeps the facts of the steps.
type reporting struct {
	step.NopObserver
	facts map[string]any
}

func (r *reporting) StepDone(s step.Step, facts any, _ time.Duration) { r.facts[s.Name] = facts }

// opened is what the open step says of itself.
type opened struct {
	By       string `json:"by"`
	Prepared bool   `json:"prepared"`
}

func (r *reporting) opened(t *testing.T) (o opened) {
	t.Helper()
	text, err := json.Marshal(r.facts["open"])
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// The opening is prepared before the decision, so that its COMMIT is all that
// clients wait for.
func TestOpeningIsPrepared(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		var is opened
		for try := range 10 { // on a busy machine the guard may come first, but not each time
			if try > 0 {
				m.back(t)
			}
			report := &reporting{facts: map[string]any{}}
			c := m.cutover(t)
			c.Observer = report
			if err := c.Run(t.Context(), t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, hint.Of(err))
			}
			if is = report.opened(t); is == (opened{By: "tool", Prepared: true}) {
				break
			}
		}
		if is != (opened{By: "tool", Prepared: true}) {
			t.Errorf("%+v, want the tool to have opened new with what was prepared", is)
		}
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}

// Between the decision and the opening the tool may be held up, by a hook or by
// its host. What it has prepared must not hold up the guard as long.
func TestPreparedOpeningIsHeldUp(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		report := &heldUp{reporting: reporting{facts: map[string]any{}}, act: func() { m.writes(t, pg.New) }}
		c := m.cutover(t)
		c.Observer = report
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		if is := report.opened(t); is != (opened{By: "guard"}) {
			t.Errorf("%+v, want the guard to have opened new", is)
		}
		m.proved(t, pg.New)
	})
}

// heldUp acts when the decision is made and the tool has not gone on.
type heldUp struct {
	reporting
	act func()
}

func (h *heldUp) StepDone(s step.Step, facts any, took time.Duration) {
	h.reporting.StepDone(s, facts, took)
	if s.Final {
		h.act()
	}
}

// What a busy sequence has used up is given to it again before the clients have
// to wait, not while they do.
func TestBusySequencesGetRoomBeforeThePause(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		pgtest.Exec(t, m.oldURL, `create sequence public.busy`)
		pgtest.Exec(t, m.newURL, `set default_transaction_read_only = off`, `create sequence public.busy`)
		m.Options.Margin = 1000
		report := &reporting{facts: map[string]any{}}
		c := m.cutover(t)
		c.Observer = &leased{reporting: report, act: func() {
			pgtest.Exec(t, m.oldURL, `select count(nextval('public.busy')) from generate_series(1, 700)`)
		}}
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		type named struct{ Name string }
		var pause, again struct{ Again []named }
		for name, into := range map[string]any{"pause": &pause, "sequences": &again} {
			text, err := json.Marshal(report.facts[name])
			if err == nil {
				err = json.Unmarshal(text, into)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Contains(pause.Again, named{"busy"}) || slices.Contains(again.Again, named{"busy"}) {
			t.Errorf("set again before the pause: %v, in it: %v", pause.Again, again.Again)
		}
		if next := pgtest.Value[int64](t, m.newURL, `select nextval('public.busy')`); next < 1700 {
			t.Errorf("new hands out %d", next)
		}
	})
}

// leased acts when the lease has begun.
type leased struct {
	*reporting
	act func()
}

func (l *leased) StepDone(s step.Step, facts any, took time.Duration) {
	l.reporting.StepDone(s, facts, took)
	if s.Name == "lease" {
		l.act()
	}
}
