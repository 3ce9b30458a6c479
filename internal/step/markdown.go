package step

import (
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes the runbook for a person who does it by hand: what to
// open, then for each step what it does, its statements, labelled by server and
// session, what to look at before going on, and how it is taken back. Nothing is
// left out.
func (r Runbook) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", r.Title)
	for _, text := range r.Intro {
		fmt.Fprintf(&b, "\n%s\n", text)
	}
	r.markdownSessions(&b)
	for _, p := range r.Parts {
		p.markdown(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Runbook) markdownSessions(b *strings.Builder) {
	if len(r.Sessions) == 0 {
		return
	}
	b.WriteString("\n## Sessions\n\nEvery session is a window of its own with psql in it. Open it when the first statement asks for it.\n")
	for _, s := range r.Sessions {
		fmt.Fprintf(b, "\n### Session: %s\n\n%s\n", s.Title(), s.Why)
		fence(b, "sh", fmt.Sprintf("psql \"%s\"", s.Connect))
		setup := s.Setup
		for _, v := range r.Variables {
			if v.Server == s.Server && s.Name == Subscribe {
				setup += "\n" + v.set()
			}
		}
		if setup = strings.Trim(setup, "\n"); setup != "" {
			b.WriteString("\nBegin with:\n")
			fence(b, label(s.Server, s.Name, "setup"), setup)
		}
	}
	for i, v := range r.Variables {
		if i == 0 {
			b.WriteString("\nPasswords are not in this text. Set before opening psql:\n\n")
		}
		fmt.Fprintf(b, "- `%s`: %s\n", v.Environment, v.What)
	}
}

func (p Part) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n# %s\n\n%s\n", p.Title, p.About)
	b.WriteString("\n| # | step | does | at most | takes | undo | |\n|--:|---|---|--:|---|---|---|\n")
	for i, e := range p.Entries {
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s |\n", i+1, cell(e.Name), cell(e.About),
			seconds(e.BoundSeconds), cell(e.takes()), e.undoCell(), strings.Join(e.remarks(), ", "))
	}
	for i, e := range p.Entries {
		e.markdown(b, p.Name, i+1)
	}
}

func (e Entry) takes() string {
	switch {
	case e.Estimate == nil:
		return ""
	case !e.Estimate.Known:
		return "not known"
	}
	return "about " + roughly(e.Estimate.Seconds)
}

func (e Entry) undoCell() string {
	if e.Undoable {
		return "at most " + seconds(e.UndoBoundSeconds)
	}
	return "nothing to undo"
}

func (e Entry) markdown(b *strings.Builder, part string, n int) {
	fmt.Fprintf(b, "\n## %s %d: %s\n\n%s.\n\n", part, n, e.Name, sentence(e.About))
	fmt.Fprintf(b, "At most %s.", seconds(e.BoundSeconds))
	if e.Estimate != nil {
		fmt.Fprintf(b, " %s.", sentence(e.Estimate.String()))
	}
	b.WriteString("\n")
	if e.Final {
		b.WriteString("\n> **Point of no return.** Until the COMMIT of this step everything before can be undone; after it, only forward, or by a rollback of its own.\n")
	}
	if e.Behind {
		b.WriteString("\nClients wait during this step.\n")
	}
	if len(e.Statements)+len(e.UndoStatements) == 0 {
		b.WriteString("\nNo statement changes a server.\n")
	}
	for _, s := range e.Statements {
		s.markdown(b, "")
	}
	if len(e.UndoStatements) > 0 {
		last := ""
		if e.UndoLast {
			last = ", after the undo of all other steps"
		}
		fmt.Fprintf(b, "\n### Undo of %s\n\nOnly to take it back%s. At most %s.\n", e.Name, last, seconds(e.UndoBoundSeconds))
	}
	for _, s := range e.UndoStatements {
		s.markdown(b, "undo")
	}
}

func (s Statement) markdown(b *strings.Builder, undo string) {
	fmt.Fprintf(b, "\nOn **%s**", s.Server)
	if s.Session != "" {
		fmt.Fprintf(b, ", session **%s**", s.Session)
	}
	if s.Why != "" {
		fmt.Fprintf(b, ": %s", oneLine(s.Why))
	}
	b.WriteString("\n")
	fence(b, label(s.Server, s.Session, undo), s.Script())
	for _, remark := range s.remarks() {
		fmt.Fprintf(b, "\n%s.\n", sentence(code(remark, s.Expect)))
	}
}

// code marks the expected answer within a remark.
func code(text, answer string) string {
	if answer == "" {
		return text
	}
	return strings.Replace(text, "answers "+answer, "answers `"+answer+"`", 1)
}

// label is the info string of a code block: sql, the server, the session (a dash
// for the ordinary one) and, where it is none of the way forward, what it is.
func label(server, session, kind string) string {
	if session == "" {
		session = "-"
	}
	return strings.TrimSpace("sql " + server + " " + session + " " + kind)
}

// fence writes a code block. Its fence is longer than any run of backticks
// within.
func fence(b *strings.Builder, info, text string) {
	mark := "```"
	for strings.Contains(text, mark) {
		mark += "`"
	}
	fmt.Fprintf(b, "\n%s%s\n%s\n%s\n", mark, info, strings.Trim(text, "\n"), mark)
}

// sentence begins with a capital letter.
func sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// cell makes text safe within a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(text)
}
