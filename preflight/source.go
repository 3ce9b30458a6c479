package preflight

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// reference is a name in the text of a function.
type reference struct {
	schema string // empty: the name stands alone
	name   string
	call   bool // a parenthesis follows: a function
	table  bool // it stands where the name of a table does
}

// word is one piece of a text: a name, or any other character.
type word struct {
	text   string
	name   bool
	quoted bool
}

// beforeTable are the words that the name of a table follows.
var beforeTable = map[string]bool{"from": true, "join": true, "into": true, "update": true, "table": true, "only": true, "using": true, "truncate": true}

// references returns the names that may be those of functions and tables in
// the text of a function in SQL or PL/pgSQL. It knows words, not grammar: what
// stands in strings (EXECUTE) is not seen, and a name may be another thing's.
func references(source string) []reference {
	words := split(source)
	at := func(i int) word {
		if i < 0 || i >= len(words) {
			return word{}
		}
		return words[i]
	}
	var out []reference
	for i := 0; i < len(words); i++ {
		if !words[i].name || (beforeTable[words[i].text] && !words[i].quoted) {
			continue
		}
		before, parts := at(i-1), words[i:i+1]
		for at(i+1).text == "." && at(i+2).name {
			i += 2
			parts = append(slices.Clone(parts), words[i])
		}
		if len(parts) > 2 {
			continue // schema, table and column
		}
		r := reference{name: parts[len(parts)-1].text, table: !before.quoted && beforeTable[before.text]}
		if len(parts) == 2 {
			r.schema = parts[0].text
		}
		r.call = at(i+1).text == "(" && !(r.table && before.text == "into")
		r.table = (r.table && !r.call) || (at(i+1).text == "%" && at(i+2).text == "rowtype")
		if r.call || r.table {
			out = append(out, r)
		}
	}
	return out
}

// split cuts a text into words, without comments and strings.
// Postgres manual: 4.1, Lexical Structure.
func split(s string) []word {
	var out []word
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case unicode.IsSpace(r):
			s = s[size:]
		case strings.HasPrefix(s, "--"):
			s = s[until(s, 2, "\n"):]
		case strings.HasPrefix(s, "/*"):
			s = s[until(s, 2, "*/"):]
		case r == '\'':
			s = s[until(s, 1, "'"):]
			out = append(out, word{text: "'"})
		case r == '"':
			end := until(s, 1, `"`)
			out = append(out, word{text: strings.Trim(s[:end], `"`), name: true, quoted: true})
			s = s[end:]
		case r == '$' && dollarTag(s) != "":
			tag := dollarTag(s)
			s = s[until(s, len(tag), tag):]
			out = append(out, word{text: "'"})
		case isNameStart(r):
			end := strings.IndexFunc(s, func(r rune) bool { return !isNameStart(r) && !unicode.IsDigit(r) && r != '$' })
			if end < 0 {
				end = len(s)
			}
			out = append(out, word{text: strings.ToLower(s[:end]), name: true})
			s = s[end:]
		default:
			out = append(out, word{text: s[:size]})
			s = s[size:]
		}
	}
	return out
}

func isNameStart(r rune) bool { return r == '_' || unicode.IsLetter(r) }

// until is where a piece of s ends whose end mark comes at or after position
// from; the end of s when the mark does not come.
func until(s string, from int, mark string) int {
	i := strings.Index(s[from:], mark)
	if i < 0 {
		return len(s)
	}
	return from + i + len(mark)
}

// dollarTag is the quoting mark that s begins with, such as $$ or $body$.
func dollarTag(s string) string {
	end := strings.IndexByte(s[1:], '$')
	if end < 0 || strings.IndexFunc(s[1:end+1], func(r rune) bool { return !isNameStart(r) && !unicode.IsDigit(r) }) >= 0 {
		return ""
	}
	if end > 0 && unicode.IsDigit(rune(s[1])) {
		return ""
	}
	return s[:end+2]
}
