package doctor

import (
	"fmt"
	"io"
	"strings"

	"github.com/pgcutover/pgcutover/preflight"
)

// shownPerKind is how many findings of one kind the text names; the rest is
// counted.
const shownPerKind = 12

// WriteText writes the report for people: who takes the writes, then what is
// wrong, the worst first.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	for i := 0; i < len(r.Findings); {
		same := i + 1
		for same < len(r.Findings) && alike(r.Findings[i], r.Findings[same]) {
			same++
		}
		writeKind(&b, r.Findings[i:same])
		i = same
	}
	for _, f := range r.Mended {
		fmt.Fprintf(&b, "mended: %s on %s: %s\n", f.Object, f.Server, f.ID)
	}
	r.writeSum(&b)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// writeHead says where things stand.
func (r Report) writeHead(b *strings.Builder) {
	switch {
	case r.Move == "":
		b.WriteString("No move is known here.\n")
	case r.Serving == "":
		fmt.Fprintf(b, "Move %q: neither server that was reached carries its state.\n", r.Move)
	default:
		fmt.Fprintf(b, "Move %q: the writes belong to the %s server.\n", r.Move, r.Serving)
	}
	for _, s := range r.Servers {
		switch {
		case !s.Reached:
			fmt.Fprintf(b, "  %s  not reached\n", s.Side)
		case s.Writable != nil && *s.Writable:
			fmt.Fprintf(b, "  %s  %d at %s takes client writes\n", s.Side, s.Major, s.Address)
		default:
			fmt.Fprintf(b, "  %s  %d at %s refuses client writes\n", s.Side, s.Major, s.Address)
		}
	}
	if r.Tool != "" {
		fmt.Fprintf(b, "At work: %s\n", r.Tool)
	}
	b.WriteByte('\n')
}

// writeSum says how many there are and what could be done.
func (r Report) writeSum(b *strings.Builder) {
	if len(r.Findings) == 0 {
		b.WriteString("Nothing is stuck or left over.\n")
		return
	}
	fmt.Fprintf(b, "%s, %s, %s\n", plural(r.Blocking, "blocker"), plural(r.Warnings, "warning"), plural(r.Notes, "note"))
	mendable := 0
	for _, f := range r.Findings {
		if f.Fix {
			mendable++
		}
	}
	if mendable > 0 {
		fmt.Fprintf(b, "pgcutover doctor --fix mends %d of them; the others need somebody to decide\n", mendable)
	}
}

func alike(a, b Finding) bool {
	return a.ID == b.ID && a.Severity == b.Severity && a.Server == b.Server && a.Whose == b.Whose && a.Why == b.Why && a.Next == b.Next
}

// writeKind writes findings that are alike: the consequence once, then each.
func writeKind(b *strings.Builder, same []Finding) {
	f := same[0]
	where := "on " + f.Server
	if f.Server == preflight.Both {
		where = "on both servers"
	}
	fmt.Fprintf(b, "%s  %s  (%s, %s)\n", strings.ToUpper(string(f.Severity)), f.ID, where, f.Whose)
	for i, f := range same {
		if i == shownPerKind {
			fmt.Fprintf(b, "  - and %d more; all of them with --json\n", len(same)-i)
			break
		}
		fmt.Fprintf(b, "  - %s: %s\n", f.Object, indent(f.Seen, "    "))
		for _, sql := range f.SQL {
			fmt.Fprintf(b, "      %s;\n", indent(sql, "      "))
		}
		if f.Error != "" {
			fmt.Fprintf(b, "    --fix failed: %s\n", indent(f.Error, "    "))
		} else if f.Fix {
			b.WriteString("    --fix does it\n")
		}
	}
	fmt.Fprintf(b, "  %s\n", f.Why)
	if f.Next != "" {
		fmt.Fprintf(b, "  next: %s\n", indent(f.Next, "    "))
	}
	b.WriteByte('\n')
}

func indent(text, by string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}
