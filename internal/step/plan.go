package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
)

// Entry is one step as the plan shows it.
type Entry struct {
	Name  string `json:"name"`
	About string `json:"about"`
	// BoundSeconds is how long the step may take, UndoBoundSeconds its undo (0
	// when there is none).
	BoundSeconds     float64 `json:"bound_seconds"`
	UndoBoundSeconds float64 `json:"undo_bound_seconds,omitempty"`
	Final            bool    `json:"final,omitempty"`
	UndoLast         bool    `json:"undo_last,omitempty"`
	// Undoable tells that the step has something to take back.
	Undoable bool `json:"undoable"`
	// Behind tells that clients wait meanwhile, so that the journal comes later.
	Behind bool `json:"behind,omitempty"`
	// Estimate is how long the step will take; nil when nobody has said.
	Estimate       *Estimate   `json:"estimate,omitempty"`
	Statements     []Statement `json:"statements"`
	UndoStatements []Statement `json:"undo_statements"`
}

// Plan describes the steps without doing any of them. Its error joins those of
// the functions that return the statements.
func Plan(ctx context.Context, steps []Step) ([]Entry, error) {
	entries := make([]Entry, 0, len(steps))
	var errs []error
	list := func(s Step, of string, f func(context.Context) ([]Statement, error)) []Statement {
		statements := []Statement{}
		if f == nil {
			return statements
		}
		found, err := f(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("listing the %s of step %s: %w", of, s.Name, err))
		}
		return append(statements, found...)
	}
	for _, s := range steps {
		e := Entry{
			Name: s.Name, About: s.About, BoundSeconds: s.Bound.Seconds(),
			Final: s.Final, UndoLast: s.UndoLast, Undoable: s.Undo != nil, Behind: s.Behind,
			Statements:     list(s, "statements", s.Statements),
			UndoStatements: list(s, "undo statements", s.UndoStatements),
		}
		if s.Undo != nil {
			e.UndoBoundSeconds = s.UndoBound.Seconds()
			if s.UndoBound == 0 {
				e.UndoBoundSeconds = DefaultUndoBound.Seconds()
			}
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}

// Records adds to the entries the writes to the journal, made by write, which a
// [Runner] would do at these places: the end of a step together with the
// beginning of the next one, and nothing while clients wait.
func Records(entries []Entry, write func([]journal.Record) (Statement, error)) error {
	var carry []journal.Record
	begun := false
	for i := range entries {
		e := &entries[i]
		carry = append(carry, journal.Record{Step: e.Name, Event: journal.Started})
		begun = begun || e.Final
		late := e.Behind && begun && !e.Final
		if !e.Behind || late {
			s, err := write(carry)
			if err != nil {
				return fmt.Errorf("writing down the journal of step %s: %w", e.Name, err)
			}
			carry = nil
			if late { // beside the step: clients wait for it
				e.Statements = append(e.Statements, s)
			} else {
				early := 0
				for early < len(e.Statements) && e.Statements[early].Early {
					early++
				}
				e.Statements = slices.Insert(e.Statements, early, s)
			}
		}
		carry = append(carry, journal.Record{Step: e.Name, Event: journal.Succeeded})
	}
	if len(entries) == 0 {
		return nil
	}
	s, err := write(carry)
	if err != nil {
		return fmt.Errorf("writing down the end of the journal: %w", err)
	}
	last := &entries[len(entries)-1]
	last.Statements = append(last.Statements, s)
	return nil
}

// seconds prints a bound for people: 500ms, 10s, 30m, 24h, 30 days.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if days := d / (24 * time.Hour); days > 1 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", days)
	}
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if text == "" || !strings.HasSuffix(text, "m") {
		return d.String()
	}
	if trimmed := strings.TrimSuffix(text, "0m"); strings.HasSuffix(trimmed, "h") {
		return trimmed
	}
	return text
}

// remarks are what a reader must know of a step besides its bound.
func (e Entry) remarks() []string {
	var words []string
	if e.Final {
		words = append(words, "point of no return")
	}
	if e.UndoLast {
		words = append(words, "undone last")
	}
	return words
}
