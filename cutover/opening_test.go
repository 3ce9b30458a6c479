package cutover_test

import (
	"encoding/json"
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
		report := &reporting{facts: map[string]any{}}
		c := m.cutover(t)
		c.Observer = report
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		if is := report.opened(t); is != (opened{By: "tool", Prepared: true}) {
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
