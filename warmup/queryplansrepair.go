package warmup

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// repaired is a text of pg_stat_statements in a form that can be parsed; the text
// itself where nothing is wrong with it.
func repaired(sql string) string {
	better := repairGroups(repairSyntax(sql))
	if slices.EqualFunc(meaning(tokens(better)), meaning(tokens(sql)), func(a, b token) bool { return a.text == b.text }) {
		return sql
	}
	return better
}

// What pg_stat_statements makes of a statement cannot always be parsed again: it
// puts $1 in the place of every literal, also where the grammar wants one. The
// functions below give such texts a form that means the same to the planner.

// literalTypes are the types that can stand before a literal: interval '1 day'.
var literalTypes = map[string]bool{
	"interval": true, "date": true, "time": true, "timetz": true, "timestamp": true, "timestamptz": true,
	"uuid": true, "json": true, "jsonb": true, "text": true, "varchar": true, "bpchar": true, "name": true,
	"numeric": true, "decimal": true, "int": true, "integer": true, "bigint": true, "smallint": true,
	"int2": true, "int4": true, "int8": true, "real": true, "float": true, "float4": true, "float8": true,
	"bool": true, "boolean": true, "bytea": true, "inet": true, "cidr": true, "macaddr": true, "xml": true,
	"point": true, "box": true, "circle": true, "path": true, "polygon": true, "line": true, "lseg": true,
	"int4range": true, "int8range": true, "numrange": true, "tsrange": true, "tstzrange": true, "daterange": true,
	"tsquery": true, "tsvector": true, "bit": true, "money": true, "regclass": true, "oid": true, "citext": true, "hstore": true,
}

// intervalFields may follow an interval's literal.
var intervalFields = map[string]bool{
	"year": true, "month": true, "day": true, "hour": true, "minute": true, "second": true, "to": true,
}

// repairSyntax writes  interval $1 day  as  $1::interval day  and
// extract($1 from x)  with a field, which changes nothing for the planner.
func repairSyntax(sql string) string {
	list := meaning(tokens(sql))
	var out []token
	for i := 0; i < len(list); i++ {
		if from, ok := typeBefore(out); ok && list[i].kind == parameterToken {
			name := slices.Clone(out[from:])
			out = append(out[:from], list[i], other("::"))
			out = append(out, name...)
			for name[0].is("interval") && i+1 < len(list) && intervalFields[strings.ToLower(list[i+1].text)] {
				i++
				out = append(out, list[i])
			}
			continue
		}
		if list[i].kind == parameterToken && len(out) > 1 && out[len(out)-1].is("(") && out[len(out)-2].is("extract") && i+1 < len(list) && list[i+1].is("from") {
			out = append(out, token{kind: literalToken, text: "'epoch'"})
			continue
		}
		out = append(out, list[i])
	}
	return spaced(out)
}

func other(text string) token { return token{kind: otherToken, text: text} }

// typeBefore tells where the name of a type begins that ends the list.
func typeBefore(list []token) (from int, ok bool) {
	at := len(list) - 1
	back := func(words ...string) bool {
		n := len(words)
		if at+1 < n {
			return false
		}
		for i, w := range words {
			if !list[at+1-n+i].is(w) {
				return false
			}
		}
		at -= n
		return true
	}
	_ = back("with", "time", "zone") || back("without", "time", "zone") || back("precision")
	if at >= 2 && list[at].is(")") && list[at-1].kind == literalToken && list[at-2].is("(") {
		at -= 3
	}
	if at < 0 || list[at].kind != wordToken {
		return 0, false
	}
	word := strings.ToLower(list[at].text)
	double := word == "double" && len(list)-1-at == 1
	// A name after a dot or AS is a column's, not a type's.
	if at > 0 && (list[at-1].is(".") || list[at-1].is("as")) || !literalTypes[word] && !double {
		return 0, false
	}
	return at, true
}

// repairGroups lets an expression of GROUP BY, ORDER BY or DISTINCT be the one
// that it was: pg_stat_statements gives the literals of date_trunc('day', x)
// in one place another parameter than in the other, or leaves them in one.
func repairGroups(sql string) string {
	list := meaning(tokens(sql))
	for i := 0; i+1 < len(list); i++ {
		switch {
		case (list[i].is("group") || list[i].is("order")) && list[i+1].is("by"):
			unify(list, i+2)
		case list[i].is("distinct") && list[i+1].is("on"):
			unify(list, i+3)
		}
	}
	return spaced(list)
}

// unify makes each item of the list of expressions from start on use the same
// parameters as the first expression elsewhere that is otherwise alike.
func unify(list []token, start int) {
	for start < len(list) {
		end := itemEnd(list, start)
		item := list[start:end]
		for len(item) > 0 && (item[len(item)-1].is("asc") || item[len(item)-1].is("desc")) {
			item = item[:len(item)-1]
		}
		if at := firstLike(list, start, len(item)); at >= 0 {
			// What has its literals still says more than parameters do.
			if slices.ContainsFunc(item, func(t token) bool { return t.kind == parameterToken }) {
				copy(item, list[at:])
			} else {
				copy(list[at:start], item)
			}
		}
		if end >= len(list) || !list[end].is(",") {
			return
		}
		start = end + 1
	}
}

// endOfList are the words that end GROUP BY or ORDER BY.
var endOfList = []string{"having", "window", "order", "limit", "offset", "fetch", "for", "union", "intersect", "except", "rows", "range", "groups", "nulls"}

func itemEnd(list []token, start int) int {
	depth := 0
	for i := start; i < len(list); i++ {
		t := list[i]
		switch {
		case t.is("("), t.is("["):
			depth++
		case depth == 0 && (t.is(")") || t.is(",") || t.is(";")):
			return i
		case t.is(")"), t.is("]"):
			depth--
		case depth == 0 && t.kind == wordToken && slices.ContainsFunc(endOfList, t.is):
			return i
		}
	}
	return len(list)
}

// firstLike finds the first place of an expression that is like the one at start but
// for constants; -1 where there is none, or where it has no constants.
func firstLike(list []token, start, length int) int {
	constants := 0
	for i := start; i < start+length; i++ {
		if constantAt(list, i) {
			constants++
		}
	}
	if constants == 0 || length < 2 {
		return -1
	}
	for at := 0; at+length <= start; at++ {
		same := true
		for i := 0; same && i < length; i++ {
			x, y := list[at+i], list[start+i]
			same = constantAt(list, at+i) && constantAt(list, start+i) || x.kind == y.kind && strings.EqualFold(x.text, y.text)
		}
		if same {
			return at
		}
	}
	return -1
}

// constantAt tells whether a token is a literal, a parameter, or the field of an
// EXTRACT, which may be a word.
func constantAt(list []token, i int) bool {
	field := i >= 2 && list[i].kind == wordToken && list[i-1].is("(") && list[i-2].is("extract") && i+1 < len(list) && list[i+1].is("from")
	return field || list[i].kind == parameterToken || list[i].kind == literalToken
}

// spaced writes tokens with spaces between words, and numbers the parameters
// anew from $1: an unused number has no type.
func spaced(list []token) string {
	numbers := map[string]string{}
	var b strings.Builder
	for i, t := range list {
		if t.kind == parameterToken {
			if numbers[t.text] == "" {
				numbers[t.text] = "$" + strconv.Itoa(len(numbers)+1)
			}
			t.text = numbers[t.text]
		}
		if i > 0 && (t.gap || list[i-1].kind != otherToken || t.kind != otherToken) {
			b.WriteByte(' ')
		}
		b.WriteString(t.text)
	}
	return b.String()
}

// subselects puts ((select null::type)::type) in the place of each parameter: what
// the planner knows as little about as about a parameter of a generic plan.
func subselects(sql string, types []string) string {
	list := tokens(sql)
	for i, t := range list {
		if t.kind != parameterToken {
			continue
		}
		if n, err := strconv.Atoi(t.text[1:]); err == nil && n >= 1 && n <= len(types) {
			list[i].text = "((select null::" + types[n-1] + ")::" + types[n-1] + ")"
		}
	}
	return textOf(list)
}

// parameterIn finds the number of a parameter in a message, which stands in it in
// every language.
var parameterIn = regexp.MustCompile(`\$([1-9][0-9]{0,4})\b`)

// undetermined returns which parameter a message is about, from 1; 0 for none.
func undetermined(message string) int {
	found := parameterIn.FindStringSubmatch(message)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		return 0
	}
	return n
}

// guessed are the types that are tried for parameters whose literals had one:
// array[1, 2] is array[$1, $2] in pg_stat_statements, and taken for texts.
// In order: int, bigint, numeric, text, timestamptz, date, interval, double
// precision, uuid, inet, boolean.
var guessed = []uint32{23, 20, 1700, 25, 1184, 1082, 1186, 701, 2950, 869, 16}

// parametersAt lists the parameters (from 1) of the function or operator at a
// position of a text, which is counted in characters from 1. Those that are cast
// have a type.
func parametersAt(sql string, position int) []int {
	list := tokens(sql)
	at, seen := -1, 0
	for i, t := range list {
		if seen += len([]rune(t.text)); seen >= position {
			at = i
			break
		}
	}
	if at < 0 || position < 1 {
		return nil
	}
	list = meaning(slices.Concat(list[:at], []token{placeMark}, list[at:]))
	at = slices.IndexFunc(list, func(t token) bool { return t.text == placeMark.text })
	list = slices.Delete(list, at, at+1)
	if at == len(list) {
		return nil
	}
	if list[at].kind != otherToken {
		return within(list, at+1, 1)
	}
	right := at
	for right < len(list) && list[right].kind == otherToken && !list[right].is("(") && !list[right].is("[") {
		right++
	}
	return append(within(list, right, 1), within(list, at-1, -1)...)
}

// placeMark stands in a list of tokens for a place in it.
var placeMark = token{kind: otherToken, text: "\x00"}

// endOfOperand are the words and characters that no operand goes beyond.
var endOfOperand = []string{
	"and", "or", "where", "on", "when", "then", "else", "end", "select", "from", "group", "order", "having", "limit",
	"offset", "union", "as", ",", ";",
}

// within lists the parameters from a place on, in steps of 1 or -1, up to the end
// of the operand.
func within(list []token, from, step int) []int {
	var numbers []int
	depth := 0
	for i := from; i >= 0 && i < len(list); i += step {
		t := list[i]
		switch {
		case t.is("("), t.is("["):
			depth += step
		case t.is(")"), t.is("]"):
			depth -= step
		case depth == 0 && slices.ContainsFunc(endOfOperand, t.is):
			return numbers
		case t.kind == parameterToken && (i+2 >= len(list) || !list[i+1].is(":") && !list[i+1].is("::")):
			if n, err := strconv.Atoi(t.text[1:]); err == nil {
				numbers = append(numbers, n)
			}
		}
		if depth < 0 {
			return numbers
		}
	}
	return numbers
}

// uncast lists all parameters of a text that are not cast.
func uncast(sql string) []int {
	var numbers []int
	list := meaning(tokens(sql))
	for i := range list {
		if list[i].kind == parameterToken {
			numbers = append(numbers, within(list[i:min(i+2, len(list))], 0, 1)...)
		}
	}
	return numbers
}
