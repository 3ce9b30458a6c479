package step

import (
	"context"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// DefaultJournalBound is how long one write of the journal may take.
const DefaultJournalBound = 3 * time.Second

// Hook is called before and after each step's Do; event is "before-<step>" or
// "after-<step>". An error vetoes: the step counts as failed. Once the final
// step has begun an error is only reported to the Observer.
type Hook func(ctx context.Context, event string, s Step) error

// Runner runs a list of steps and journals it. Log and Steps must be set. Its
// methods must not be called concurrently.
type Runner struct {
	// Log is the journal of this run, opened with Journal(Steps).
	Log *journal.Log
	// Steps is the list.
	Steps []Step
	// Observer is told what happens; nil means nobody.
	Observer Observer
	// Hook is called around each step; nil means none.
	Hook Hook
	// JournalBound is how long one write of the journal may take; 0 means
	// DefaultJournalBound.
	JournalBound time.Duration
	// Keep makes Run leave everything as it is when a step fails before the
	// final one, instead of undoing it: for lists that are resumed by running
	// them again.
	Keep bool
}
