package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// DefaultUndoBound is how long an Undo may take whose step names no bound.
const DefaultUndoBound = 30 * time.Second

// Step is one journaled action of a list. Do and Undo must be idempotent: after
// a crash nobody knows whether the last call finished.
type Step struct {
	// Name is stable: it is what the journal stores and hooks are called after.
	Name string
	// About says in one line what the step does, for help, plan and report.
	About string
	// Bound is how long Do may take; also each hook of the step.
	Bound time.Duration
	// Do acts. The facts it returns are saved with "succeeded" as JSON; nil
	// means none. They must not contain secrets.
	Do func(ctx context.Context) (facts any, err error)
	// Undo takes Do back, and must accept that there is nothing to take back.
	// Nil means that the step leaves nothing behind.
	Undo func(ctx context.Context) error
	// UndoBound is how long Undo may take; 0 means DefaultUndoBound.
	UndoBound time.Duration
	// UndoLast puts Undo after those of all other steps.
	UndoLast bool
	// Final marks the point of no return; at most one step of a list.
	Final bool
	// Always makes a resumed run do the step again although it succeeded,
	// because what it does lasts only as long as the process (a lock, a session).
	Always bool
	// Behind lets the journal come behind: nobody waits for it before or during
	// the step, because clients wait meanwhile. The record of its intent may be
	// missing after a crash, so an undo of the run calls the step's Undo also
	// when no record says that it was begun; and a caller that knows from
	// elsewhere that the final step happened tells the journal with Settle.
	Behind bool
	// Statements and UndoStatements return what Do and Undo run on the servers,
	// for the plan. Nil means none. See Fixed.
	Statements     func(context.Context) ([]Statement, error)
	UndoStatements func(context.Context) ([]Statement, error)
}

// Statement is one statement, or several that are sent together, as the plan
// shows it.
type Statement struct {
	// Server is where it runs, such as "old" or "new".
	Server string `json:"server"`
	// Session names the session on that server that it has to run in, because
	// that one holds a transaction, a lock, or settings; empty for an ordinary one.
	Session string `json:"session,omitempty"`
	// SQL can be pasted into psql. Passwords stand in it as psql's variables.
	SQL string `json:"sql"`
	// Why says in a few words what it is for; may be empty. Statements in a row
	// that say the same are of one kind, and the text form shows only a few.
	Why string `json:"why,omitempty"`
	// Expect is the answer, as psql -At prints it, without which nobody goes on;
	// empty when any will do.
	Expect string `json:"expect,omitempty"`
	// WaitSeconds is how long a query is asked again until it answers Expect; 0
	// for one that must do so at once.
	WaitSeconds float64 `json:"wait_seconds,omitempty"`
	// RunOn names the server on which each row that a query answers is to be run
	// as a statement: what is needed there is known only at that moment.
	RunOn string `json:"run_on,omitempty"`
	// Optional says why it may be left out; empty when it may not.
	Optional string `json:"optional,omitempty"`
	// Early tells that it comes before the journal says that the step has begun.
	Early bool `json:"-"`
}

// Sessions that a statement may have to run in, besides the ordinary one.
const (
	Lease       = "lease"       // holds the one-tool lock and, in a cutover, the transaction
	Replication = "replication" // speaks the replication protocol
	Restore     = "restore"     // what pg_restore sends changes its settings
	Subscribe   = "subscribe"   // keeps a password out of the log
	Analyze     = "analyze"     // changes default_statistics_target and vacuum_cost_delay
	Client      = "client"      // without any setting of the tool's, as the application's
)

// Estimate says how long a step will take.
type Estimate struct {
	// Known is false when it cannot be said beforehand; then Seconds is 0.
	Known   bool    `json:"known"`
	Seconds float64 `json:"seconds,omitempty"`
	// How it was found, or why it cannot be said.
	How string `json:"how"`
}

// Fixed is for the Statements of a step whose statements are known beforehand.
func Fixed(statements ...Statement) func(context.Context) ([]Statement, error) {
	return func(context.Context) ([]Statement, error) { return statements, nil }
}

// Journal returns what a journal must know of the steps, for journal.Spec.
func Journal(steps []Step) []journal.Step {
	known := make([]journal.Step, len(steps))
	for i, s := range steps {
		known[i] = journal.Step{Name: s.Name, Final: s.Final, UndoLast: s.UndoLast}
	}
	return known
}

// Check tells whether the steps make a list that can be run: every step has a
// name of its own, a Do and a Bound; at most one is final, and that one is
// neither UndoLast nor Always. The error names everything that is wrong.
func Check(steps []Step) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(steps) == 0 {
		wrong("the list has no steps")
	}
	names := make(map[string]bool, len(steps))
	final := ""
	for i, s := range steps {
		if s.Name == "" {
			wrong("step %d has no name", i+1)
		} else if names[s.Name] {
			wrong("step %q is in the list twice", s.Name)
		}
		names[s.Name] = true
		if s.Do == nil {
			wrong("step %q does nothing", s.Name)
		}
		if s.Bound <= 0 {
			wrong("step %q has no bound", s.Name)
		}
		if s.UndoBound < 0 {
			wrong("step %q has a negative bound for its undo", s.Name)
		}
		if !s.Final {
			continue
		}
		if final != "" {
			wrong("steps %q and %q are both final", final, s.Name)
		}
		final = s.Name
		if s.UndoLast || s.Always {
			wrong("step %q is final, so it can be neither undone last nor always repeated", s.Name)
		}
	}
	return errors.Join(errs...)
}
