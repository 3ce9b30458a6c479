package step_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/step"
)

func planned() []step.Step {
	s := cutover()[2:4]
	s[0].About, s[0].Bound, s[0].UndoLast = "writers wait | at the gate", 1500*time.Millisecond, true
	s[0].Statements = step.Fixed(
		step.Statement{Server: "old", SQL: "lock table pgcutover.gate\n  in exclusive mode;\n", Why: "writers wait"},
		step.Statement{Server: "old", SQL: "select '```';"},
	)
	s[0].UndoStatements = step.Fixed(step.Statement{Server: "old", SQL: "rollback;"})
	s[1].About, s[1].Bound = "commits the decision", 10*time.Second
	return s
}

func TestPlanJSON(t *testing.T) {
	entries, err := step.Plan(t.Context(), planned())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(entries, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want := `[
 {
  "name": "freeze",
  "about": "writers wait | at the gate",
  "bound_seconds": 1.5,
  "undo_bound_seconds": 30,
  "undo_last": true,
  "undoable": true,
  "statements": [
   {
    "server": "old",
    "sql": "lock table pgcutover.gate\n  in exclusive mode;\n",
    "why": "writers wait"
   },
   {
    "server": "old",
    "sql": "select '` + "```" + `';"
   }
  ],
  "undo_statements": [
   {
    "server": "old",
    "sql": "rollback;"
   }
  ]
 },
 {
  "name": "decide",
  "about": "commits the decision",
  "bound_seconds": 10,
  "final": true,
  "undoable": false,
  "statements": [],
  "undo_statements": []
 }
]`
	if string(text) != want {
		t.Fatalf("got %s", text)
	}
}

func TestPlanText(t *testing.T) {
	entries, err := step.Plan(t.Context(), planned())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := step.WriteText(&b, entries); err != nil {
		t.Fatal(err)
	}
	want := ` 1. freeze: writers wait | at the gate
    at most 1.5s, undone last
    does on old: -- writers wait
        lock table pgcutover.gate
          in exclusive mode;
    does on old:
        select '` + "```" + `';
    undo on old:
        rollback;
 2. decide: commits the decision
    at most 10s, point of no return
`
	if b.String() != want {
		t.Fatalf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// brokenPipe is a writer that fails.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

func TestPlanErrors(t *testing.T) {
	s := planned()
	s[0].UndoStatements = func(context.Context) ([]step.Statement, error) { return nil, errBroken }
	_, err := step.Plan(t.Context(), s)
	if !errors.Is(err, errBroken) || err.Error() != "listing the undo statements of step freeze: broken" {
		t.Fatalf("got %v", err)
	}
	entries, err := step.Plan(t.Context(), planned())
	if err != nil {
		t.Fatal(err)
	}
	if err := step.WriteText(brokenPipe{}, entries); !errors.Is(err, errBroken) {
		t.Errorf("text: %v", err)
	}
	book := step.Runbook{Parts: []step.Part{{Name: "cutover", Entries: entries}}}
	if err := book.WriteMarkdown(brokenPipe{}); !errors.Is(err, errBroken) {
		t.Errorf("markdown: %v", err)
	}
	if err := book.WriteSQL(brokenPipe{}, ""); !errors.Is(err, errBroken) {
		t.Errorf("sql: %v", err)
	}
	if err := book.WriteText(brokenPipe{}); !errors.Is(err, errBroken) {
		t.Errorf("text of a runbook: %v", err)
	}
}
