package cutover_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
)

// ofAttemptSQL is what the steps write in our own schema.
const ofAttemptSQL = `
select format('%s; markers %s; decisions %s', t,
              (select count(*) from pgcutover.marker_forward),
              (select count(*) from pgcutover.decision_forward))
  from pgcutover.turn as t`

// everything is what a step may change on both servers.
func (m *move) everything(t *testing.T) string {
	t.Helper()
	return strings.Join([]string{
		pgtest.Catalog(t, m.oldURL), pgtest.Value[string](t, m.oldURL, ofAttemptSQL),
		pgtest.Catalog(t, m.newURL), pgtest.Value[string](t, m.newURL, ofAttemptSQL),
	}, "\n")
}

// undoing is the order in which the runner undoes.
func undoing(steps []step.Step) []step.Step {
	var ordinary, last []step.Step
	for _, s := range slices.Backward(steps) {
		switch {
		case s.Undo == nil:
		case s.UndoLast:
			last = append(last, s)
		default:
			ordinary = append(ordinary, s)
		}
	}
	return append(ordinary, last...)
}

// twice does something twice: the second time must change nothing.
func (m *move) twice(t *testing.T, what string, do func() error) {
	t.Helper()
	if err := do(); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, hint.Of(err))
	}
	once := m.everything(t)
	if err := do(); err != nil {
		t.Fatalf("%s again: %v\n%s", what, err, hint.Of(err))
	}
	if d := pgtest.Diff(once, m.everything(t)); d != "" {
		t.Errorf("%s again changed:\n%s", what, d)
	}
}

// After a crash nobody knows whether a step's Do or Undo came to its end, so
// each must be able to be done again.
func TestStepsTwice(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.Options.Cutover.MaxPause = time.Minute // the test looks around meanwhile
		before := m.rest(t)

		c := m.cutover(t)
		end, err := cutover.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		steps := c.Steps()
		final := slices.IndexFunc(steps, func(s step.Step) bool { return s.Final })
		undo := func() {
			for _, s := range undoing(steps) {
				m.twice(t, "undoing "+s.Name, func() error { return s.Undo(t.Context()) })
			}
			m.unchanged(t, before)
		}
		undo() // nothing was done yet
		for _, s := range steps[:final] {
			m.twice(t, "doing "+s.Name, func() error {
				_, err := s.Do(t.Context())
				return err
			})
		}
		undo()
		m.writes(t, pg.Old)
		end()

		c = m.cutover(t)
		if end, err = cutover.Begin(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		defer end()
		for i, s := range c.Steps() {
			if i < final {
				if _, err := s.Do(t.Context()); err != nil {
					t.Fatalf("doing %s: %v", s.Name, err)
				}
				continue
			}
			m.twice(t, "doing "+s.Name, func() error {
				_, err := s.Do(t.Context())
				if i == final && err == nil { // the guard opens new by itself, half a second later at the most
					until(t, "new to be open", func() (bool, error) { return pgtest.Value[bool](t, m.newURL, `select open from pgcutover.turn`), nil })
				}
				return err
			})
		}
		for _, s := range undoing(c.Steps()) { // nothing may open old again
			closed := pgtest.Catalog(t, m.oldURL)
			err := s.Undo(t.Context())
			if d := pgtest.Diff(closed, pgtest.Catalog(t, m.oldURL)); d != "" {
				t.Errorf("undoing %s after the decision (%v) changed old:\n%s", s.Name, err, d)
			}
		}
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}

// failing makes a folder of hooks of which the given ones fail.
func failing(t *testing.T, events ...string) traffic.Hooks {
	t.Helper()
	dir := t.TempDir()
	for _, event := range events {
		script := "#!/bin/sh\necho no to $PGCUTOVER_EVENT, $PGCUTOVER_SERVING serves\nexit 1\n"
		if err := os.WriteFile(filepath.Join(dir, event), []byte(script), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	return traffic.Hooks{Dir: dir, Bound: time.Minute}
}

// Whatever fails before the decision leaves old exactly as it was.
func TestStepsThatFail(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		before := m.rest(t)
		var after []string // hooks that come too late to stop anything
		decided := false
		for _, s := range m.cutover(t).Steps() {
			for _, event := range []string{"before-" + s.Name, "after-" + s.Name} {
				if decided || event == "after-decide" {
					decided = true
					after = append(after, event)
					continue
				}
				c := m.cutover(t)
				c.Hooks = failing(t, event)
				err := c.Run(t.Context(), t.Context())
				aborted := outcome[*step.Aborted](t, err)
				if aborted.Step != s.Name || !aborted.Undone || aborted.UndoErr != nil {
					t.Errorf("%s: %+v", event, aborted)
				}
				if want := "no to " + event + ", old serves"; !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %q does not tell what the hook said", event, err)
				}
				m.writes(t, pg.Old)
				m.unchanged(t, before)
				if _, err := m.cutover(t).Resume(t.Context(), t.Context()); !errors.Is(err, cutover.ErrNothing) {
					t.Errorf("%s: resume finds something: %v", event, err)
				}
			}
		}
		c := m.cutover(t)
		c.Hooks = failing(t, after...)
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("hooks after the decision stopped it: %v", err)
		}
		if c.Pause() <= 0 || c.Attempt() == 0 {
			t.Errorf("pause %s, attempt %d", c.Pause(), c.Attempt())
		}
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}
