package traffic

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// span is a part of a file, by byte offsets.
type span struct{ from, to int }

// pair is one key=value of an entry. The span is that of the value as it is
// written, quotes included; value is what it says.
type pair struct {
	key   string
	at    span
	value string
}

// entry is one line of a section [databases].
type entry struct {
	name string
	line int
	at   span // of the whole value, from its first byte to its last one
	// pairs are the keys in order; of a key given twice the last one counts.
	pairs []pair
}

// last returns the pair that counts for a key.
func (e entry) last(key string) (pair, bool) {
	for i := len(e.pairs) - 1; i >= 0; i-- {
		if e.pairs[i].key == key {
			return e.pairs[i], true
		}
	}
	return pair{}, false
}

// defaultPort is what PgBouncer takes when an entry names no port.
const defaultPort = 5432

// endpoint is where the entry leads to: what SHOW DATABASES shows once the
// entry was loaded.
func (e entry) endpoint() (PoolerEndpoint, error) {
	to := PoolerEndpoint{Port: defaultPort, Database: e.name}
	if p, ok := e.last("host"); ok {
		to.Host = p.value
	}
	if p, ok := e.last("dbname"); ok {
		to.Database = p.value
	}
	if p, ok := e.last("port"); ok {
		port, err := strconv.Atoi(p.value)
		if err != nil || port < 1 || port > 65535 {
			return to, fmt.Errorf("line %d: the port %q of %s is no port number", e.line, p.value, e.name)
		}
		to.Port = port
	}
	return to, nil
}

// include is one %include of a file.
type include struct {
	path string
	line int
}

// ini is what matters of a PgBouncer configuration file: the entries of its
// sections [databases], and the files that it includes.
type ini struct {
	text     []byte
	entries  []entry
	includes []include
}

// find returns the entry that counts for a database: the last one of its name.
func (f ini) find(name string) (entry, bool) {
	for i := len(f.entries) - 1; i >= 0; i-- {
		if f.entries[i].name == name {
			return f.entries[i], true
		}
	}
	return entry{}, false
}

// readIni reads a file the way PgBouncer does (its cfparser.c and loader.c; the
// manual says less): blanks, comment lines that begin with ; or #, %include,
// [section], and key = value up to the end of the line. There are no comments
// behind values. Lines before the first section are taken for databases, since
// a file may be included from within that section. An error names the line.
func readIni(text []byte) (ini, error) {
	s := &iniScanner{text: text, section: databasesSection}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return ini{}, fmt.Errorf("line %d holds a NUL byte: not a text file", s.lineOf(i))
	}
	for s.skipSpace(); s.pos < len(s.text); s.skipSpace() {
		if err := s.item(); err != nil {
			return ini{}, fmt.Errorf("line %d: %w", s.lineOf(s.pos), err)
		}
	}
	return ini{text: text, entries: s.entries, includes: s.includes}, nil
}

const databasesSection = "databases"

type iniScanner struct {
	text     []byte
	pos      int
	section  string
	entries  []entry
	includes []include
}

func (s *iniScanner) lineOf(pos int) int {
	return bytes.Count(s.text[:min(pos, len(s.text))], []byte("\n")) + 1
}

// isSpace is isspace of the C locale.
func isSpace(c byte) bool { return c == ' ' || (c >= '\t' && c <= '\r') }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func (s *iniScanner) skip(is func(byte) bool) {
	for s.pos < len(s.text) && is(s.text[s.pos]) {
		s.pos++
	}
}

func (s *iniScanner) skipSpace() { s.skip(isSpace) }

// restOfLine takes what is left of the line without the spaces at its end.
func (s *iniScanner) restOfLine() span {
	at := span{from: s.pos}
	s.skip(func(c byte) bool { return c != '\n' })
	for at.to = s.pos; at.to > at.from && isSpace(s.text[at.to-1]); at.to-- {
		continue
	}
	return at
}

var (
	errNoSection = errors.New("a section's name has no closing ]")
	errNoValue   = errors.New("neither a section, nor a comment, nor key = value")
)

// item reads what begins at the position: a directive, a comment, a section's
// name or a key with its value.
func (s *iniScanner) item() error {
	rest := s.text[s.pos:]
	switch c := rest[0]; {
	case bytes.HasPrefix(rest, []byte("%include")) && len(rest) > 8 && isBlank(rest[8]):
		line := s.lineOf(s.pos)
		s.pos += len("%include")
		s.skip(isBlank)
		at := s.restOfLine()
		s.includes = append(s.includes, include{path: string(s.text[at.from:at.to]), line: line})
		return nil
	case c == '#' || c == ';':
		s.restOfLine()
		return nil
	case c == '[':
		end := bytes.IndexAny(rest, "]\n")
		if end < 0 || rest[end] != ']' {
			return errNoSection
		}
		s.section = string(rest[1:end])
		s.pos += end + 1
		return nil
	}
	return s.keyValue()
}

func (s *iniScanner) keyValue() error {
	line := s.lineOf(s.pos)
	key, err := s.key()
	if err != nil {
		return err
	}
	s.skip(isBlank)
	if s.pos >= len(s.text) || s.text[s.pos] != '=' {
		return errNoValue
	}
	s.pos++
	s.skip(isBlank)
	start := s.pos
	at := s.restOfLine()
	if s.section != databasesSection {
		return nil
	}
	pairs, err := readPairs(s.text, at)
	if err != nil {
		s.pos = start
		return fmt.Errorf("the entry %s: %w", key, err)
	}
	s.entries = append(s.entries, entry{name: key, line: line, at: at, pairs: pairs})
	return nil
}

// key reads a key: letters, digits and _.-* or, since PgBouncer 1.24, anything
// within single quotes.
func (s *iniScanner) key() (string, error) {
	start := s.pos
	if s.text[s.pos] == '\'' {
		end := bytes.IndexByte(s.text[start+1:], '\'')
		if end < 1 {
			return "", errNoValue
		}
		s.pos += end + 2
		return string(s.text[start+1 : start+1+end]), nil
	}
	s.skip(func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.-*", c) >= 0
	})
	return string(s.text[start:s.pos]), nil
}

var errNoConnstr = errors.New("its value is not a list of key=value")

// readPairs reads the value of an entry: key=value, separated by spaces (a tab
// is none), values with spaces in single quotes, a quote within them doubled.
func readPairs(text []byte, at span) ([]pair, error) {
	var pairs []pair
	for p := at.from; ; {
		for p < at.to && text[p] == ' ' {
			p++
		}
		if p >= at.to {
			return pairs, nil
		}
		from := p
		for p < at.to && text[p] != '=' && text[p] != ' ' {
			p++
		}
		key := string(text[from:p])
		for p < at.to && text[p] == ' ' {
			p++
		}
		if p >= at.to || text[p] != '=' || key == "" {
			return nil, errNoConnstr
		}
		for p++; p < at.to && text[p] == ' '; p++ {
			continue
		}
		value, end, ok := readValue(text, span{p, at.to})
		if !ok {
			return nil, errNoConnstr
		}
		pairs = append(pairs, pair{key: key, at: span{p, end}, value: value})
		p = end
	}
}

// readValue reads the value that begins at at.from and returns its end.
func readValue(text []byte, at span) (value string, end int, ok bool) {
	if at.from < at.to && text[at.from] == '\'' {
		var b strings.Builder
		for p := at.from + 1; p < at.to; p++ {
			switch {
			case text[p] != '\'':
				b.WriteByte(text[p])
			case p+1 < at.to && text[p+1] == '\'':
				b.WriteByte('\'')
				p++
			default:
				// PgBouncer drops the byte behind the quote, whatever it is.
				clean := p+1 == at.to || text[p+1] == ' '
				return b.String(), p + 1, b.Len() > 0 && clean
			}
		}
		return "", 0, false
	}
	end = at.from
	for end < at.to && text[end] != ' ' {
		end++
	}
	return string(text[at.from:end]), end, end > at.from
}

// writeValue writes a value as readValue reads it, in quotes when it needs them
// or the one that it replaces has them.
func writeValue(value string, quoted bool) (string, error) {
	if value == "" || strings.ContainsAny(value, "\n\r\x00") {
		return "", fmt.Errorf("%q cannot stand in a PgBouncer file", value)
	}
	if quoted || strings.ContainsAny(value, "' \t\v\f") {
		return "'" + strings.ReplaceAll(value, "'", "''") + "'", nil
	}
	return value, nil
}

// rewritten returns the file with the entry of a database leading to another
// endpoint. Only the values of host, port and dbname that differ are changed;
// a missing one is put in front of the entry's other keys, unless PgBouncer's
// default says the same. All other bytes stay.
func (f ini) rewritten(name string, to PoolerEndpoint) ([]byte, error) {
	e, ok := f.find(name)
	if !ok {
		return nil, errNoEntry
	}
	now, err := e.endpoint()
	if err != nil {
		return nil, err
	}
	var missing []string
	var changes []pair // the spans to replace, with their new text
	for _, want := range []struct{ key, now, to string }{
		{"host", now.Host, to.Host},
		{"port", strconv.Itoa(now.Port), strconv.Itoa(to.Port)},
		{"dbname", now.Database, to.Database},
	} {
		if want.now == want.to {
			continue
		}
		p, ok := e.last(want.key)
		text, err := writeValue(want.to, ok && f.text[p.at.from] == '\'')
		if err != nil {
			return nil, fmt.Errorf("writing %s of %s: %w", want.key, name, err)
		}
		if ok {
			changes = append(changes, pair{at: p.at, value: text})
		} else {
			missing = append(missing, want.key+"="+text)
		}
	}
	if len(missing) > 0 {
		text := strings.Join(missing, " ")
		if e.at.to > e.at.from {
			text += " "
		}
		changes = append(changes, pair{at: span{e.at.from, e.at.from}, value: text})
	}
	return replaced(f.text, changes), nil
}

// errNoEntry says that a file has no entry for a database.
var errNoEntry = errors.New("there is no entry")

// replaced returns text with spans, which do not overlap, replaced.
func replaced(text []byte, changes []pair) []byte {
	slices.SortFunc(changes, func(a, b pair) int { return cmp.Compare(a.at.from, b.at.from) })
	out := make([]byte, 0, len(text)+64)
	done := 0
	for _, c := range changes {
		out = append(out, text[done:c.at.from]...)
		out = append(out, c.value...)
		done = c.at.to
	}
	return append(out, text[done:]...)
}
