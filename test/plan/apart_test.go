package plan

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// apart takes a text apart into statements, each without its comments, its
// literals and numbers replaced by "?", and in one line. A DO block of the tool is
// taken apart too, and a LOCK of several tables is several.
func apart(sql string) []string {
	var out []string
	for _, tokens := range split(sql) {
		one := strings.Join(strings.Fields(strings.Join(tokens, " ")), " ")
		if one == "" || strings.HasPrefix(one, `\`) {
			continue
		}
		out = append(out, several(one)...)
	}
	return out
}

// several makes one statement for each table of LOCK TABLE ONLY a, ONLY b.
func several(one string) []string {
	rest, ok := strings.CutPrefix(one, "lock table only ")
	if !ok {
		return []string{one}
	}
	at := strings.LastIndex(rest, " in ")
	var out []string
	for table := range strings.SplitSeq(rest[:at], " , only ") {
		out = append(out, "lock table only "+table+rest[at:])
	}
	return out
}

// split reads SQL as psql does, as far as it must: strings, quoted names, dollar
// quotes, comments, and the semicolon between statements.
func split(sql string) [][]string {
	var out [][]string
	var tokens []string
	for i := 0; i < len(sql); {
		rest := sql[i:]
		switch c := sql[i]; {
		case strings.HasPrefix(rest, "--"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			i += end
		case c == ';':
			out, tokens = append(out, tokens), nil
			i++
		case c == '\'':
			end := quoted(rest, '\'', len(tokens) > 0 && tokens[len(tokens)-1] == "e")
			if len(tokens) > 0 && tokens[len(tokens)-1] == "e" {
				tokens = tokens[:len(tokens)-1]
			}
			if len(tokens) == 1 && tokens[0] == "do" {
				return append(out, split(unescaped(rest[1:end-1]))...)
			}
			tokens = append(tokens, "?")
			i += end
		case c == '"':
			end := quoted(rest, '"', false)
			tokens = append(tokens, plainName(rest[:end]))
			i += end
		case dollarQuote.MatchString(rest):
			tag := dollarQuote.FindString(rest)
			end := strings.Index(rest[len(tag):], tag)
			if end < 0 {
				end = len(rest) - 2*len(tag)
			}
			body := rest[len(tag) : len(tag)+end]
			tokens = append(tokens, "$$"+strings.Join(slices.Concat(split(body)...), " ")+"$$")
			i += end + 2*len(tag)
		case parameterOrNumber.MatchString(rest):
			i += len(parameterOrNumber.FindString(rest))
			tokens = append(tokens, "?")
		case variable.MatchString(rest):
			i += len(variable.FindString(rest))
			tokens = append(tokens, "?")
		case word.MatchString(rest):
			found := word.FindString(rest)
			i += len(found)
			if found = strings.ToLower(found); found == "true" || found == "false" {
				found = "?"
			}
			tokens = append(tokens, found)
		case c == ' ' || c == '\n' || c == '\t' || c == '\r':
			i++
		case c == '\\' && (i == 0 || sql[i-1] == '\n'): // a command of psql
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			i += end
		default:
			tokens = append(tokens, string(c))
			i++
		}
	}
	return append(out, tokens)
}

var (
	dollarQuote       = regexp.MustCompile(`^\$[a-zA-Z_]*\$`)
	parameterOrNumber = regexp.MustCompile(`^(\$[0-9]+|-?[0-9]+(\.[0-9]+)?)`)
	variable          = regexp.MustCompile(`^:'[a-z_]+'`)
	word              = regexp.MustCompile(`^[\pL_][\pL\pN_$]*`)
	plain             = regexp.MustCompile(`^"[a-z_][a-z0-9_]*"$`)
)

// plainName takes the quotes from a name that needs none.
func plainName(name string) string {
	if plain.MatchString(name) {
		return strings.Trim(name, `"`)
	}
	return name
}

// quoted returns the length of what is in quotes, with them.
func quoted(text string, mark byte, escapes bool) int {
	for i := 1; i < len(text); i++ {
		switch {
		case escapes && text[i] == '\\':
			i++
		case text[i] == mark && i+1 < len(text) && text[i+1] == mark:
			i++
		case text[i] == mark:
			return i + 1
		}
	}
	return len(text)
}

func unescaped(text string) string {
	text = strings.NewReplacer(`''`, `'`, `\'`, `'`, `\\`, `\`).Replace(text)
	text = strings.TrimPrefix(strings.TrimSpace(text), "begin\n")
	return strings.TrimSuffix(text, ";\nend")
}

func TestApart(t *testing.T) {
	for sql, want := range map[string][]string{
		"Select 1; select 'a;b' -- c;\n":                                     {"select ?", "select ?"},
		`insert into "x".y values ($1, -5, E'a\'b'::text, "A b")`:            {`insert into x . y values ( ? , ? , ? : : text , "A b" )`},
		"lock table only \"a\".\"b\", only c in share update exclusive mode": {"lock table only a . b in share update exclusive mode", "lock table only c in share update exclusive mode"},
		"do E'begin\ndrop trigger \"t\" on \"it''s\";\nselect 1;\nend'":      {`drop trigger t on "it's"`, "select ?"},
		"create function f() as $x$ begin a := 1; end $x$":                   {"create function f ( ) as $$begin a : = ? end$$"},
		"\\restrict abc\ncreate subscription s connection :'old_conninfo'":   {"create subscription s connection ?"},
	} {
		if got := apart(sql); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", sql, got, want)
		}
	}
}
