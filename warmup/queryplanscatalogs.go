package warmup

import (
	"slices"
	"strings"
)

// namesApplication tells whether the text of a statement that could not be planned
// names anything to read but system catalogs, the tool's own tables, functions and
// its own WITH queries. What looks like a table is taken for one.
func namesApplication(sql string) bool {
	list := meaning(tokens(sql))
	with := map[string]bool{}
	for i := range list {
		if i > 0 && list[i].is("as") && i+1 < len(list) && (list[i+1].is("(") || list[i+1].is("materialized") || list[i+1].is("not")) {
			with[nameOf(list[i-1])] = true
		}
	}
	// "with recursive r(n) as (": the name stands before its columns.
	for i := 1; i < len(list); i++ {
		if list[i].is("(") && (list[i-1].kind == wordToken || list[i-1].kind == nameToken) && i > 1 && (list[i-2].is("with") || list[i-2].is("recursive") || list[i-2].is(",")) {
			if end := closing(list, i); end+1 < len(list) && list[end+1].is("as") {
				with[nameOf(list[i-1])] = true
			}
		}
	}
	for i, t := range list {
		if (t.is("from") || t.is("join") || t.is("table")) && targets(list[i+1:], with) {
			return true
		}
	}
	return false
}

// targets tells whether a list of what is read begins with, or has after a comma,
// something of the application.
func targets(list []token, with map[string]bool) bool {
	for {
		for len(list) > 0 && (list[0].is("only") || list[0].is("lateral")) {
			list = list[1:]
		}
		if len(list) == 0 {
			return false
		}
		next := 1
		switch {
		case list[0].is("("):
			next = closing(list, 0) + 1 // a query in it has a FROM of its own
		case list[0].kind == wordToken || list[0].kind == nameToken:
			schema, name := "", nameOf(list[0])
			if len(list) > 2 && list[1].is(".") {
				schema, name, next = name, nameOf(list[2]), 3
			}
			switch {
			case len(list) > next && list[next].is("("):
				next = closing(list, next) + 1 // a function
			case ofSystem(schema, name), schema == "" && with[name]:
			default:
				return true
			}
		default:
			return true
		}
		// An alias, perhaps with columns; then a comma goes on.
		if next < len(list) && list[next].is("as") {
			next++
		}
		if next < len(list) && (list[next].kind == wordToken || list[next].kind == nameToken) {
			next++
		}
		if next < len(list) && list[next].is("(") {
			next = closing(list, next) + 1
		}
		if next >= len(list) || !list[next].is(",") {
			return false
		}
		list = list[next+1:]
	}
}

// ofSystem tells whether a table is one of the system's or of the tool's; without a
// schema by the prefix that Postgres keeps for itself.
func ofSystem(schema, name string) bool {
	if schema == "" {
		return strings.HasPrefix(name, "pg_")
	}
	return slices.Contains([]string{"pg_catalog", "information_schema", "pgcutover"}, schema) ||
		name == "pg_stat_statements" || name == "pg_buffercache"
}

// closing returns where the parenthesis that is opened at a place is closed; the
// last token where it is not.
func closing(list []token, at int) int {
	depth := 0
	for i := at; i < len(list); i++ {
		switch {
		case list[i].is("("):
			depth++
		case list[i].is(")"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return len(list) - 1
}

// nameOf is a token as the name of something, as Postgres folds it.
func nameOf(t token) string {
	if t.kind == nameToken {
		return strings.ReplaceAll(strings.Trim(t.text, `"`), `""`, `"`)
	}
	return strings.ToLower(t.text)
}
