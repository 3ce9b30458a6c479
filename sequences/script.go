package sequences

import (
	"fmt"
	"strconv"
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
// statement a line, each with a comment that says why, in transactions of 1,000 (see
// chunk). Sequences that are kept as they are appear as comments, and so do those
// for which there is no safe change, with what mends them. Unlike Apply, the script
// does not look again at what it changes, so it is right for the positions it was
// made from, on a server that no client uses yet. Such a server may be closed, so that
// transactions are read-only unless they say otherwise.
func Script(changes []Change, problems []Problem) string {
	var b strings.Builder
	kept := 0
	for _, c := range changes {
		if c.Kept {
			kept++
		}
	}
	fmt.Fprintf(&b, "-- Sequences of the new server, set past those of the old one.\n")
	fmt.Fprintf(&b, "-- %d to set, %d kept, %d without a safe change.\n", len(changes)-kept, kept, len(problems))
	fmt.Fprintf(&b, "-- Run with psql on the new server, before clients use it: it looks at nothing again.\n")
	b.WriteString("\\set ON_ERROR_STOP on\nset client_encoding = 'UTF8';\nset standard_conforming_strings = on;\n")
	for _, p := range problems {
		fmt.Fprintf(&b, "-- PROBLEM: %s\n", p)
	}
	b.WriteString("begin read write;\n")
	due := 0
	for _, c := range changes {
		line := "-- kept: " + oneLine(c.Ident())
		if !c.Kept {
			if due++; due > 1 && due%chunk == 1 {
				b.WriteString("commit;\nbegin read write;\n")
			}
			line = c.SQL()
		}
		fmt.Fprintf(&b, "%s -- %s\n", line, oneLine(remark(c)))
	}
	b.WriteString("commit;\n")
	return b.String()
}

// remark is the comment of one line of the script.
func remark(c Change) string {
	text := fmt.Sprintf("new was %s, next is %s; %s", c.New.position(), c.nextText(), c.Why)
	if c.Kept {
		text = fmt.Sprintf("new stands at %s; %s", c.New.position(), c.Why)
	}
	for _, w := range c.Warnings {
		text += "; WARNING: " + w
	}
	return text
}

// nextText says what nextval on new returns after the change.
func (c Change) nextText() string {
	switch {
	case !c.Exhausted:
		return strconv.FormatInt(c.Value, 10)
	case c.New.Cycle:
		return "the first one of a new cycle"
	default:
		return "none"
	}
}

// String says it in one line, with what mends it.
func (p Problem) String() string {
	text := fmt.Sprintf("%s: %s", p.Ident(), p.Text)
	if p.Hint != "" {
		text += ": " + p.Hint
	}
	return oneLine(text)
}

// SetText says for people which changes were made, and of which something is to be
// known.
func SetText(made []Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s set\n", plural(len(made), "sequence"))
	for _, c := range made {
		for _, w := range c.Warnings {
			fmt.Fprintf(&b, "  %s: next is %s: %s\n", oneLine(c.Ident()), c.nextText(), oneLine(w))
		}
	}
	return b.String()
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
