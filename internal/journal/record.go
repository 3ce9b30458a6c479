package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Event is what happened to a step.
type Event string

// The events of a step. The package documentation has the legal orders.
const (
	// None is the state of a step that has no record; it is never stored.
	None Event = ""
	// Started is written before a step acts: from here on it may have happened.
	Started Event = "started"
	// Succeeded is written after a step has acted; it carries its facts.
	Succeeded Event = "succeeded"
	// Failed is written when a step ended with an error. It may be half done.
	Failed Event = "failed"
	// UndoStarted is written before a step is taken back.
	UndoStarted Event = "undo_started"
	// Undone is written after a step has been taken back.
	Undone Event = "undone"
	// Refuted marks that the outcome of the final step was looked up and is a
	// definitive no. Only then may a run whose final step had begun be undone.
	Refuted Event = "refuted"
)

// Record is one line of the journal.
type Record struct {
	// Run is the attempt number of a cutover, or 0 for the phases of the move.
	Run int64 `json:"run"`
	// List names the list of steps, such as "cutover" or "start".
	List string `json:"list"`
	// Seq is the record's place within its list and run, from 1, without gaps.
	// The Log gives it.
	Seq int64 `json:"seq"`
	// Step is the name of the step.
	Step string `json:"step"`
	// Event is what happened to the step.
	Event Event `json:"event"`
	// Facts are what a step that succeeded found out and later steps, or a
	// later process, need: positions, old settings. JSON, or empty.
	Facts json.RawMessage `json:"facts,omitempty"`
	// Error is the text of the error of a step that failed.
	Error string `json:"error,omitempty"`
	// At is when the record was made, by the clock of the tool, in UTC and
	// whole microseconds (what timestamptz keeps). For people, except that a
	// Log recognises its own records by it.
	At time.Time `json:"at"`
}

// Store keeps records. It knows nothing of legal orders.
type Store interface {
	// Append stores the records in the order given, all or none, and returns
	// only when they are durable. The records are of one list and run. When a
	// record with the same List, Run and Seq is stored already, nothing is
	// stored and the error wraps ErrConflict.
	Append(ctx context.Context, records ...Record) error
	// Load returns the records of one run of a list, ordered by Seq, unchanged
	// (At to the microsecond; Facts may differ in white space and key order);
	// none is not an error.
	Load(ctx context.Context, list string, run int64) ([]Record, error)
}

// ErrIllegal is wrapped by every refusal of an order of events, whether on
// Append or on replay. Use errors.As with *IllegalError for the details.
var ErrIllegal = errors.New("illegal journal order")

// ErrConflict is wrapped when somebody else has written to the same run: a
// Store returns it for a Seq that is taken, a Log for records that are not its
// own. Whoever gets it from a Log is not the one who drives this run any more.
var ErrConflict = errors.New("journal was written by another process")

// IllegalError is a refused event. It wraps ErrIllegal.
type IllegalError struct {
	List string
	Run  int64
	// Seq is the place of the refused record in its run.
	Seq  int64
	Step string
	// From is the state the step is in, To the event that was refused.
	From, To Event
	// Reason says which rule refuses it.
	Reason string
}

// Error names list, run, step, both states and the rule.
func (e *IllegalError) Error() string {
	from := string(e.From)
	if e.From == None {
		from = "nothing"
	}
	return fmt.Sprintf("%s: %s run %d, record %d: step %q from %s to %s: %s",
		ErrIllegal, e.List, e.Run, e.Seq, e.Step, from, e.To, e.Reason)
}

// Unwrap returns ErrIllegal.
func (e *IllegalError) Unwrap() error { return ErrIllegal }
