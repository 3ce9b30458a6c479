package plan

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestUndoByHand goes, for each step of the cutover that can be undone, as far as
// that by hand, and back by hand in the order that the runbook says. Then both
// servers are as they were.
func TestUndoByHand(t *testing.T) {
	m := newMove(t, pgtest.Pairs(t)[0])
	m.start(t)
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := m.both(t)
	tried := 0
	for i, last := range plan.Cutover {
		if !last.Undoable {
			continue
		}
		tried++
		h := newHand(t, m, m.markdown(t))
		undo := []string{}
		for _, e := range plan.Cutover[:i+1] {
			h.some(h.book.of("cutover", e.Name, ""))
			switch {
			case !e.Undoable:
			case e.UndoLast:
				undo = append([]string{e.Name}, undo...)
			default:
				undo = append(undo, e.Name)
			}
		}
		// The last one first, but for those that come after all others.
		slices.Reverse(undo)
		for _, name := range undo {
			h.some(h.book.of("cutover", name, "undo"))
		}
		h.close()
		if diff := pgtest.Diff(before, m.both(t)); diff != "" {
			t.Errorf("after %s and its undo:\n%s", last.Name, diff)
		}
		// The tool finds nothing left to undo, and says so in the journal.
		c, err := m.NewCutover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if outcome, err := c.Resume(t.Context(), t.Context()); outcome != cutover.Undone && !errors.Is(err, cutover.ErrNothing) {
			t.Fatalf("resume after the undo of %s by hand: %q, %v", last.Name, outcome, err)
		}
	}
	if tried < 6 {
		t.Errorf("only %d steps can be undone", tried)
	}
	m.turn(t)
}

// some does blocks where there may be none.
func (h *hand) some(blocks []block) {
	h.t.Helper()
	if len(blocks) > 0 {
		h.do(blocks)
	}
}

// kept lists what an undo leaves as it is: the number of the attempt, the
// journal, and sequences that stay ahead.
var kept = regexp.MustCompile(`(?m)^(pgcutover\.(journal|turn|kept|marker_forward)|shop\.(\w+_seq|numbers)): .*\n`)

// both is what there is on both servers.
func (m *move) both(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, url := range []string{m.oldURL, m.newURL} {
		out.WriteString(catalog(t, m, url))
		out.WriteString(kept.ReplaceAllString(rows(t, m, url), ""))
	}
	return out.String()
}
