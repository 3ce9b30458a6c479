package warmup

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind says what a piece of an SQL text is.
type tokenKind int

const (
	blankToken     tokenKind = iota // white space or a comment
	wordToken                       // a keyword or an unquoted name
	nameToken                       // a quoted name
	literalToken                    // a string of any kind, or a number
	parameterToken                  // $1
	otherToken                      // one character of an operator or punctuation
)

// token is a piece of an SQL text. The pieces put together are the text.
type token struct {
	kind tokenKind
	text string
	line int  // where it begins, from 1
	gap  bool // white space or a comment stands before it; set by meaning
}

// is tells whether the token is this keyword or character.
func (t token) is(word string) bool {
	return (t.kind == wordToken || t.kind == otherToken) && strings.EqualFold(t.text, word)
}

// tokens takes an SQL text apart, with standard_conforming_strings on. What is
// not closed goes to the text's end, so that the server is who complains.
// Postgres manual: 4.1, Lexical Structure.
func tokens(sql string) []token {
	var all []token
	line := 1
	for sql != "" {
		kind, n := nextToken(sql)
		all = append(all, token{kind: kind, text: sql[:n], line: line})
		line += strings.Count(sql[:n], "\n")
		sql = sql[n:]
	}
	return all
}

func nextToken(s string) (tokenKind, int) {
	r, size := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsSpace(r):
		return blankToken, spanOf(s, unicode.IsSpace)
	case strings.HasPrefix(s, "--"):
		if end := strings.IndexByte(s, '\n'); end >= 0 {
			return blankToken, end
		}
		return blankToken, len(s)
	case strings.HasPrefix(s, "/*"):
		return blankToken, blockComment(s)
	case r == '\'':
		return literalToken, quoted(s, '\'', false)
	case r == '"':
		return nameToken, quoted(s, '"', false)
	case r == '$':
		return dollar(s)
	case r >= '0' && r <= '9', r == '.' && len(s) > 1 && s[1] >= '0' && s[1] <= '9':
		return literalToken, number(s)
	case wordStart(r):
		return word(s)
	}
	return otherToken, size
}

func wordStart(r rune) bool { return unicode.IsLetter(r) || r == '_' || r >= utf8.RuneSelf }

func wordPart(r rune) bool { return wordStart(r) || r >= '0' && r <= '9' || r == '$' }

func spanOf(s string, in func(rune) bool) int {
	if end := strings.IndexFunc(s, func(r rune) bool { return !in(r) }); end >= 0 {
		return end
	}
	return len(s)
}

// word is a word, or the literal or quoted name that its letters introduce:
// E'..', B'..', X'..', N'..', U&'..' and U&"..".
func word(s string) (tokenKind, int) {
	n := spanOf(s, wordPart)
	rest := s[n:]
	switch prefix := strings.ToLower(s[:n]); {
	case n == 1 && strings.HasPrefix(rest, "'") && strings.Contains("ebxn", prefix):
		return literalToken, n + quoted(rest, '\'', prefix == "e")
	case prefix == "u" && strings.HasPrefix(rest, "&'"):
		return literalToken, n + 1 + quoted(rest[1:], '\'', false)
	case prefix == "u" && strings.HasPrefix(rest, `&"`):
		return nameToken, n + 1 + quoted(rest[1:], '"', false)
	}
	return wordToken, n
}

// quoted is the length of a quoted text at the beginning of s; a doubled quote
// is part of it.
func quoted(s string, quote byte, backslashes bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case backslashes && s[i] == '\\':
			i++
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] == quote:
			return i + 1
		}
	}
	return len(s)
}

// blockComment is the length of a comment; they nest.
func blockComment(s string) int {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// dollar is a parameter, a dollar-quoted text, or a lone character.
func dollar(s string) (tokenKind, int) {
	if n := spanOf(s[1:], func(r rune) bool { return r >= '0' && r <= '9' }); n > 0 {
		return parameterToken, n + 1
	}
	tag := 1 + spanOf(s[1:], func(r rune) bool { return r != '$' && wordPart(r) })
	if tag >= len(s) || s[tag] != '$' {
		return otherToken, 1
	}
	mark := s[:tag+1]
	if end := strings.Index(s[len(mark):], mark); end >= 0 {
		return literalToken, len(mark) + end + len(mark)
	}
	return literalToken, len(s)
}

// number is the length of a number; 1..5 is a number before two dots.
func number(s string) int {
	n := spanOf(s, func(r rune) bool { return r >= '0' && r <= '9' || wordStart(r) })
	if n < len(s) && s[n] == '.' && !strings.HasPrefix(s[n:], "..") {
		n += 1 + spanOf(s[n+1:], func(r rune) bool { return r >= '0' && r <= '9' || wordStart(r) })
	}
	if n < len(s) && (s[n] == '-' || s[n] == '+') && (s[n-1] == 'e' || s[n-1] == 'E') {
		n += 1 + spanOf(s[n+1:], func(r rune) bool { return r >= '0' && r <= '9' })
	}
	return n
}

// textOf puts tokens together.
func textOf(list []token) string {
	var b strings.Builder
	for _, t := range list {
		b.WriteString(t.text)
	}
	return b.String()
}

// meaning are the tokens without blanks.
func meaning(list []token) []token {
	var out []token
	for i, t := range list {
		if t.kind != blankToken {
			t.gap = i > 0 && list[i-1].kind == blankToken
			out = append(out, t)
		}
	}
	return out
}

// maskLiterals replaces the literals that are left in a text, for people to read:
// pg_stat_statements leaves those of GROUP BY and of statements that it kept from
// growing.
func maskLiterals(sql string) string {
	list := tokens(sql)
	for i, t := range list {
		if t.kind == literalToken && strings.ContainsAny(t.text, `'$`) {
			list[i].text = "'...'"
		}
	}
	return strings.TrimSpace(textOf(list))
}

// readsOnly tells why a statement is none that may be explained or run as a
// query: empty when it is one. Only the server knows for certain; this keeps from
// asking it to plan a write at all, for which it would lock the table.
func readsOnly(sql string) string {
	list := meaning(tokens(sql))
	for len(list) > 0 && list[0].is("(") {
		list = list[1:]
	}
	switch {
	case len(list) == 0:
		return "it is empty"
	case !list[0].is("select") && !list[0].is("with") && !list[0].is("values") && !list[0].is("table"):
		return "it is no SELECT, WITH, VALUES or TABLE"
	}
	depth := 0
	for i, t := range list {
		next := func(word string) bool { return i+1 < len(list) && list[i+1].is(word) }
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.is("into"):
			return "it is a SELECT INTO or a write"
		case t.is(";"):
			if i+1 < len(list) {
				return "it is more than one statement"
			}
		}
		if !list[0].is("with") || i == 0 {
			continue
		}
		// A statement that writes begins right after a bracket: as x ( or the end
		// of the list of them.
		begins := list[i-1].is("(") || list[i-1].is(")")
		if begins && (t.is("insert") || t.is("update") || t.is("delete") && next("from") || t.is("merge") && next("into")) {
			return "it writes within WITH"
		}
	}
	return ""
}
