package step

import (
	"fmt"
	"io"
	"strings"
)

// What the text form shows of statements of one kind, and of one statement; the
// other forms leave nothing out.
const (
	mostOfAKind = 3
	mostLines   = 30
	mostOfALine = 400 // bytes
)

// WriteText writes the plan for a terminal. Of many statements of one kind, and
// of one that is long, it shows the beginning and says how much follows.
func WriteText(w io.Writer, entries []Entry) error {
	var b strings.Builder
	for i, e := range entries {
		fmt.Fprintf(&b, "%2d. %s: %s\n", i+1, e.Name, e.About)
		fmt.Fprintf(&b, "    %s\n", strings.Join(append([]string{"at most " + seconds(e.BoundSeconds)}, e.remarks()...), ", "))
		if e.Estimate != nil {
			fmt.Fprintf(&b, "    %s\n", e.Estimate)
		}
		textOf(&b, "does", e.Statements)
		textOf(&b, "undo", e.UndoStatements)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the estimate in words.
func (e Estimate) String() string {
	if !e.Known {
		return "takes: not known beforehand (" + e.How + ")"
	}
	return fmt.Sprintf("takes about %s (%s)", roughly(e.Seconds), e.How)
}

// roughly prints an estimate with no more digits than it deserves.
func roughly(s float64) string {
	switch {
	case s < 1:
		return "a moment"
	case s < 90:
		return fmt.Sprintf("%.0f s", s)
	case s < 90*60:
		return fmt.Sprintf("%.0f min", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%.1f h", s/3600)
	}
	return fmt.Sprintf("%.1f days", s/86400)
}

// alike tells that two statements are of one kind.
func (s Statement) alike(o Statement) bool {
	return s.Why != "" && s.Why == o.Why && s.Server == o.Server && s.Session == o.Session && s.Expect == "" && o.Expect == ""
}

func textOf(b *strings.Builder, title string, statements []Statement) {
	for i := 0; i < len(statements); {
		s, n := statements[i], 1
		for i+n < len(statements) && s.alike(statements[i+n]) {
			n++
		}
		for _, one := range statements[i : i+min(n, mostOfAKind)] {
			textOne(b, title, one)
		}
		if n > mostOfAKind {
			fmt.Fprintf(b, "    ... and %d more of these on %s; --format sql shows all of them\n", n-mostOfAKind, s.Server)
		}
		i += n
	}
}

func textOne(b *strings.Builder, title string, s Statement) {
	fmt.Fprintf(b, "    %s on %s:", title, s.where())
	if s.Why != "" {
		fmt.Fprintf(b, " -- %s", s.Why)
	}
	b.WriteString("\n")
	n := 0
	for line := range strings.Lines(strings.Trim(s.SQL, "\n") + "\n") {
		if n++; n <= mostLines {
			if len(line) > mostOfALine {
				line = strings.ToValidUTF8(line[:mostOfALine], "") + " ..."
			}
			b.WriteString(strings.TrimRight("        "+line, " \t\n") + "\n")
		}
	}
	if n > mostLines {
		fmt.Fprintf(b, "        ... and %d more lines; --format sql shows all of them\n", n-mostLines)
	}
	for _, remark := range s.remarks() {
		fmt.Fprintf(b, "      %s\n", remark)
	}
}

// where names the server and, unless it is an ordinary one, the session.
func (s Statement) where() string {
	if s.Session == "" {
		return s.Server
	}
	return s.Server + ", session " + s.Session
}

// remarks say what to do besides running it.
func (s Statement) remarks() []string {
	var out []string
	switch {
	case s.Expect == "":
	case s.WaitSeconds > 0:
		out = append(out, fmt.Sprintf("wait until it answers %s, at most %s", s.Expect, seconds(s.WaitSeconds)))
	default:
		out = append(out, fmt.Sprintf("go on only if it answers %s", s.Expect))
	}
	switch s.RunOn {
	case "":
	case s.Server:
		out = append(out, "run each row that it answers here, too")
	default:
		out = append(out, fmt.Sprintf("run each row that it answers on %s", s.RunOn))
	}
	if s.Optional != "" {
		out = append(out, "may be left out: "+s.Optional)
	}
	return out
}

// WriteText writes the runbook for a terminal, part by part; see [WriteText].
func (r Runbook) WriteText(w io.Writer) error {
	for i, p := range r.Parts {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s\n%s\n\n", p.Title, p.About); err != nil {
			return err
		}
		if err := WriteText(w, p.Entries); err != nil {
			return err
		}
	}
	return nil
}
