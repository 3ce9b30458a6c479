package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Section is a part of an archive that is restored by itself.
type Section string

// The sections, in the order in which they are restored.
const (
	PreData  Section = "pre-data"  // all that must be there before data
	Identity Section = "identity"  // primary keys and replica identities
	PostData Section = "post-data" // the rest
)

// Sections returns all sections in the order in which they are restored.
func Sections() []Section { return []Section{PreData, Identity, PostData} }

// among reports whether s is in the list, or the list is empty.
func (s Section) among(list []Section) bool {
	return len(list) == 0 || slices.Contains(list, s)
}

// entry is a line of an archive's table of contents:
//
//	3919; 2606 18603 CONSTRAINT public customers customers_pkey postgres
//
// The catalog and the OID are those of the object on the old server, or 0. What
// follows the type cannot be taken apart safely, since names hold blanks.
type entry struct {
	address
	line string // as printed
	desc string // CONSTRAINT
	rest string // public customers customers_pkey postgres
}

// String returns what names the entry: CONSTRAINT public customers customers_pkey postgres.
func (e entry) String() string { return e.desc + " " + e.rest }

// named reports whether the entry's name is among tags. What follows the name
// is the owner, and both may hold blanks: so every cut at a blank is tried.
func (e entry) named(tags map[string]bool) bool {
	if tags[e.rest] {
		return true
	}
	for i := len(e.rest) - 1; i >= 0; i-- {
		if e.rest[i] == ' ' && tags[e.rest[:i]] {
			return true
		}
	}
	return false
}

// tag returns how a line of the table of contents names an object of a schema
// ("-" for none): line ends become blanks.
func tag(schema, name string) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(schema + " " + name)
}

var entryLine = regexp.MustCompile(`^\d+; (\d+) (\d+) (.*)$`)

// entryTypes are the types of several words, longest first where one begins
// with another. A type of one word needs no mention.
var entryTypes = []string{
	"ACCESS METHOD", "CHECK CONSTRAINT", "DATABASE PROPERTIES", "DEFAULT ACL", "EVENT TRIGGER", "FK CONSTRAINT",
	"FOREIGN DATA WRAPPER", "FOREIGN TABLE", "INDEX ATTACH", "LARGE OBJECT", "MATERIALIZED VIEW DATA",
	"MATERIALIZED VIEW", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURAL LANGUAGE", "PUBLICATION TABLES IN SCHEMA",
	"PUBLICATION TABLE", "ROW SECURITY", "SECURITY LABEL", "SEQUENCE OWNED BY", "SEQUENCE SET", "SHELL TYPE",
	"STATISTICS DATA", "SUBSCRIPTION TABLE", "TABLE ATTACH", "TABLE DATA", "TEXT SEARCH CONFIGURATION",
	"TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER", "TEXT SEARCH TEMPLATE", "USER MAPPING",
}

// parseTOC reads what pg_restore --list prints. Comment lines begin with ";".
func parseTOC(text string) ([]entry, error) {
	var entries []entry
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.HasPrefix(line, ";") {
			continue
		}
		e, err := parseEntry(line)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(line string) (entry, error) {
	match := entryLine.FindStringSubmatch(line)
	if match == nil {
		return entry{}, fmt.Errorf("reading the archive's table of contents: unknown line %q", line)
	}
	class, errClass := strconv.ParseUint(match[1], 10, 32)
	oid, errOID := strconv.ParseUint(match[2], 10, 32)
	if errClass != nil || errOID != nil {
		return entry{}, fmt.Errorf("reading the archive's table of contents: unknown line %q", line)
	}
	e := entry{address: address{uint32(class), uint32(oid)}, line: line}
	e.desc, e.rest = splitEntry(match[3])
	return e, nil
}

// splitEntry separates an entry's type from what names it. The type "ACL LANGUAGE"
// of old archives begins with a type of one word and is handled as that.
func splitEntry(text string) (desc, rest string) {
	for _, t := range entryTypes {
		if after, ok := strings.CutPrefix(text, t+" "); ok {
			return t, after
		}
	}
	desc, rest, _ = strings.Cut(text, " ")
	return desc, rest
}
