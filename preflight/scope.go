package preflight

import "strings"

// Scope says which tables the move replicates, by patterns "schema.table" in
// which * stands for any number of characters, the dot excepted only by being
// written. An empty Include means every table; Exclude wins over Include.
type Scope struct {
	Include []string
	Exclude []string
}

// Match reports whether a table is in scope. A pattern without a dot is a table
// name in any schema.
func (s Scope) Match(schema, table string) bool {
	included := len(s.Include) == 0
	for _, p := range s.Include {
		included = included || matchTable(p, schema, table)
	}
	if !included {
		return false
	}
	for _, p := range s.Exclude {
		if matchTable(p, schema, table) {
			return false
		}
	}
	return true
}

// matchTable compares the two halves of a pattern, cut at its first dot.
func matchTable(pattern, schema, table string) bool {
	inSchema, name, ok := strings.Cut(pattern, ".")
	if !ok {
		inSchema, name = "*", pattern
	}
	return matchName(inSchema, schema) && matchName(name, table)
}

// matchName matches * against any run of characters, the rest literally.
func matchName(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if !strings.HasPrefix(name, first) {
		return false
	}
	name = name[len(first):]
	parts := strings.Split(rest, "*")
	last := parts[len(parts)-1]
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, last)
}
