package step

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
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
	Undoable       bool        `json:"undoable"`
	Statements     []Statement `json:"statements"`
	UndoStatements []Statement `json:"undo_statements"`
}

// Plan describes the steps without doing any of them. Its error joins those of
// the functions that return the statements.
func Plan(steps []Step) ([]Entry, error) {
	entries := make([]Entry, 0, len(steps))
	var errs []error
	list := func(s Step, of string, f func() ([]Statement, error)) []Statement {
		statements := []Statement{}
		if f == nil {
			return statements
		}
		found, err := f()
		if err != nil {
			errs = append(errs, fmt.Errorf("listing the %s of step %s: %w", of, s.Name, err))
		}
		return append(statements, found...)
	}
	for _, s := range steps {
		e := Entry{
			Name: s.Name, About: s.About, BoundSeconds: s.Bound.Seconds(),
			Final: s.Final, UndoLast: s.UndoLast, Undoable: s.Undo != nil,
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

// WriteText writes the plan for a terminal.
func WriteText(w io.Writer, entries []Entry) error {
	var b strings.Builder
	for i, e := range entries {
		fmt.Fprintf(&b, "%2d. %s: %s\n", i+1, e.Name, e.About)
		fmt.Fprintf(&b, "    %s\n", strings.Join(append([]string{"at most " + seconds(e.BoundSeconds)}, e.remarks()...), ", "))
		textOf(&b, "does", e.Statements)
		textOf(&b, "undo", e.UndoStatements)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func textOf(b *strings.Builder, title string, statements []Statement) {
	for _, s := range statements {
		fmt.Fprintf(b, "    %s on %s:", title, s.Server)
		if s.Why != "" {
			fmt.Fprintf(b, " -- %s", s.Why)
		}
		b.WriteString("\n")
		for line := range strings.Lines(strings.Trim(s.SQL, "\n") + "\n") {
			b.WriteString(strings.TrimRight("        "+line, " \t\n") + "\n")
		}
	}
}

// WriteMarkdown writes the plan as a runbook: a table of the steps, then every
// statement of each.
func WriteMarkdown(w io.Writer, entries []Entry) error {
	var b strings.Builder
	b.WriteString("| # | step | does | at most | undo | |\n|--:|---|---|--:|---|---|\n")
	for i, e := range entries {
		undo := "nothing to undo"
		if e.Undoable {
			undo = "at most " + seconds(e.UndoBoundSeconds)
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s |\n", i+1, cell(e.Name), cell(e.About),
			seconds(e.BoundSeconds), undo, strings.Join(e.remarks(), ", "))
	}
	for i, e := range entries {
		fmt.Fprintf(&b, "\n## %d. %s\n\n%s\n", i+1, e.Name, e.About)
		if len(e.Statements)+len(e.UndoStatements) == 0 {
			b.WriteString("\nNo statement changes a server.\n")
		}
		markdownOf(&b, "On", e.Statements)
		markdownOf(&b, "Undo, on", e.UndoStatements)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markdownOf(b *strings.Builder, title string, statements []Statement) {
	for _, s := range statements {
		fmt.Fprintf(b, "\n%s %s", title, s.Server)
		if s.Why != "" {
			fmt.Fprintf(b, " (%s)", s.Why)
		}
		// The fence must be longer than any run of backticks within.
		fence := "```"
		for strings.Contains(s.SQL, fence) {
			fence += "`"
		}
		fmt.Fprintf(b, ":\n\n%ssql\n%s\n%s\n", fence, strings.Trim(s.SQL, "\n"), fence)
	}
}

// cell makes text safe within a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}
