package warmup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Outcome is what became of a table.
type Outcome string

// What may become of a table. Only Analyzed means that the last stage was
// done; with the others the table may have the statistics of an earlier stage.
const (
	Analyzed     Outcome = "analyzed"
	Locked       Outcome = "locked"        // the lock was not to be had in time
	TimedOut     Outcome = "timed out"     // PerTable passed, or somebody cancelled the statement
	NotPermitted Outcome = "not permitted" // the role may not analyze it
	Gone         Outcome = "gone"          // dropped meanwhile
	GaveWay      Outcome = "gave way"      // somebody waited for the table's lock
	Left         Outcome = "left"          // Within had passed
	Failed       Outcome = "failed"        // any other error, see Reason
)

// TableAnalysis is what was done for one table.
type TableAnalysis struct {
	Table
	Kind     Kind          `json:"kind"`
	Bytes    int64         `json:"bytes"`
	Outcome  Outcome       `json:"outcome"`
	Targets  []string      `json:"targets"` // the stages done
	Attempts int           `json:"attempts"`
	Took     time.Duration `json:"took_ns"`            // of all attempts
	Reason   string        `json:"reason,omitempty"`   // the server's error
	Blockers []Blocker     `json:"blockers,omitempty"` // who held the lock; empty when it was free again at the look
	Lacks    string        `json:"lacks,omitempty"`    // what is missing, when there are statistics otherwise
}

// Explain says in one line why the last stage was not done.
func (t TableAnalysis) Explain() string {
	text := string(t.Outcome)
	if t.Lacks != "" {
		text = strings.TrimSuffix(fmt.Sprintf("no %s, %s", t.Lacks, text), ", ")
	}
	switch {
	case len(t.Blockers) > 0:
		text += " by " + t.Blockers[0].String()
		if n := len(t.Blockers) - 1; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
	case t.Reason != "":
		text += ": " + t.Reason
	}
	return text
}

// StageReport sums up what was done with one target.
type StageReport struct {
	Target string        `json:"target"`
	Tables int           `json:"tables"`  // analyzed with it
	Took   time.Duration `json:"took_ns"` // until the last of them was
}

// AnalyzeReport is what Analyze did, also when it returns an error.
type AnalyzeReport struct {
	Tables  []TableAnalysis `json:"tables"` // ordered by name
	Stages  []StageReport   `json:"stages"`
	Missing []Table         `json:"missing"` // have rows and no statistics
	Took    time.Duration   `json:"took_ns"`
}

// Unfinished returns the tables whose last stage was not done though they
// exist, whether or not they have statistics.
func (r AnalyzeReport) Unfinished() []TableAnalysis {
	var found []TableAnalysis
	for _, t := range r.Tables {
		if t.Outcome != Analyzed && t.Outcome != Gone {
			found = append(found, t)
		}
	}
	return found
}

// Left returns the tables that Within left no time for, as far as they were
// analyzed or not.
func (r AnalyzeReport) Left() []TableAnalysis {
	return slices.DeleteFunc(r.Unfinished(), func(t TableAnalysis) bool { return t.Outcome != Left })
}

// AnalyzeProgress is one table with one target, done or given up for now.
type AnalyzeProgress struct {
	Target   string // that the table was analyzed with
	Stage    int    // the target's place among the stages; 1 for the first
	Stages   int
	Table    Table
	Outcome  Outcome
	Done     int // ANALYZE of all stages that are done or given up
	Total    int // ANALYZE of all stages
	Took     time.Duration
	Blockers []Blocker // when Outcome is Locked
}

// ErrMissingStatistics says that tables with rows have no statistics. The
// error that carries it is a *MissingStatisticsError.
var ErrMissingStatistics = errors.New("tables without statistics")

// MissingStatisticsError names the tables that have rows and no statistics.
type MissingStatisticsError struct {
	Tables []TableAnalysis // what was tried; Outcome is empty for a table that was not in the list
}

// named is how many tables the error's text lists.
const named = 10

func (e *MissingStatisticsError) Error() string {
	var parts []string
	for _, t := range e.Tables[:min(len(e.Tables), named)] {
		text := t.Table.String()
		if why := t.Explain(); why != "" {
			text += " (" + why + ")"
		}
		parts = append(parts, text)
	}
	if n := len(e.Tables) - named; n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", n))
	}
	return fmt.Sprintf("%v (%d): %s", ErrMissingStatistics, len(e.Tables), strings.Join(parts, ", "))
}

// Unwrap makes errors.Is(err, ErrMissingStatistics) true.
func (e *MissingStatisticsError) Unwrap() error { return ErrMissingStatistics }

// advice is what to do about tables that have no statistics.
func advice(tables []TableAnalysis) string {
	texts := []string{}
	has := func(o Outcome) bool {
		return slices.ContainsFunc(tables, func(t TableAnalysis) bool { return t.Outcome == o })
	}
	if has(Locked) {
		texts = append(texts, "let the blocking sessions finish, or end them with pg_terminate_backend(pid)")
	}
	if has(NotPermitted) {
		texts = append(texts, "connect as the owner of the tables or of the database (17 and later: or GRANT MAINTAIN on them), with USAGE on their schemas")
	}
	if slices.ContainsFunc(tables, func(t TableAnalysis) bool { return t.Outcome == Analyzed && strings.HasPrefix(t.Lacks, lacksExt) }) {
		texts = append(texts, "see ANALYZE VERBOSE for why extended statistics cannot be computed, and drop the object on new or give it a statistics target of 0")
	}
	return strings.Join(append(texts, "then run: pgcutover analyze"), "; ")
}

// judge turns the error of an ANALYZE into an outcome.
func judge(err error) (Outcome, string) {
	switch {
	case err == nil:
		return Analyzed, ""
	case pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected):
		return Locked, err.Error()
	case pg.IsCode(err, pg.QueryCanceled):
		return TimedOut, err.Error()
	case pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName):
		return Gone, err.Error()
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return NotPermitted, err.Error()
	}
	return Failed, err.Error()
}
