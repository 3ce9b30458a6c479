package sequences

import (
	"fmt"
	"strings"
	"unicode"
)

// SQL returns the statement that makes the change, without a comment, or an
// empty string for a sequence that is kept as it is. RESTART WITH names the
// number that nextval returns next; that a sequence has reached its end only
// setval can say.
func (c Change) SQL() string {
	switch {
	case c.Kept:
		return ""
	case c.Exhausted:
		return fmt.Sprintf("SELECT pg_catalog.setval(%s::pg_catalog.regclass, %d, true);", literal(c.Ident()), c.Value)
	default:
		return fmt.Sprintf("ALTER SEQUENCE %s RESTART WITH %d;", c.Ident(), c.Value)
	}
}

// Script returns the changes as a script for psql, to be run on new: one
// statement a line, each with a comment that says why, in one transaction.
// Sequences that are kept as they are appear as comments. Unlike Apply, the
// script does not look again at what it changes, so it is right for the
// positions it was made from.
func Script(changes []Change) string {
	var b strings.Builder
	kept := 0
	for _, c := range changes {
		if c.Kept {
			kept++
		}
	}
	fmt.Fprintf(&b, "-- Sequences of the new server, set past those of the old one.\n")
	fmt.Fprintf(&b, "-- %d to set, %d kept. Run with psql on the new server, before clients use it.\n", len(changes)-kept, kept)
	b.WriteString("set standard_conforming_strings = on;\nbegin;\n")
	for _, c := range changes {
		line := c.SQL()
		if c.Kept {
			line = "-- kept: " + oneLine(c.Ident())
		}
		fmt.Fprintf(&b, "%s -- %s\n", line, oneLine(remark(c)))
	}
	b.WriteString("commit;\n")
	return b.String()
}

// remark is the comment of one line of the script.
func remark(c Change) string {
	text := fmt.Sprintf("old last value %d, new was %d (%s): %s", c.Old.LastValue, c.New.LastValue, called(c.New.IsCalled), c.Why)
	for _, w := range c.Warnings {
		text += "; WARNING: " + w
	}
	return text
}

func called(is bool) string {
	if is {
		return "handed out"
	}
	return "not handed out yet"
}

// oneLine keeps text from ending the comment that it stands in: names may hold
// newlines.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, text)
}

// literal quotes text as an SQL string, with standard_conforming_strings on.
func literal(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
