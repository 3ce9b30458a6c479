package warmup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Query is a read of a file, with the values that it is run with.
type Query struct {
	Name string `json:"name,omitempty"` // -- name: of the file
	Line int    `json:"line"`           // where it begins
	SQL  string `json:"sql"`            // without the semicolon
	// Parameters are the lists of values, one for each run; one empty list for a
	// query without parameters.
	Parameters []QueryValues `json:"parameters"`

	named bool
}

// String is the name, or the line.
func (q Query) String() string {
	if q.Name != "" {
		return q.Name
	}
	return "line " + strconv.Itoa(q.Line)
}

// QueryValues are values of $1, $2 and so on as JSON: a string is any value in
// the text form of Postgres, a list is an array, an object a json.
type QueryValues []json.RawMessage

// ParseQueries reads a file of queries: SQL, each statement ended by a semicolon.
// A comment line  -- parameters: [...]  before a statement gives the values of its
// parameters as a JSON list; several such lines are several runs. A comment line
// -- name: ...  names it. Errors tell the line.
//
// Only statements that read are taken: SELECT, WITH, VALUES, TABLE.
func ParseQueries(r io.Reader) ([]Query, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("reading queries: %w", err)
	}
	var (
		queries []Query
		next    Query
		body    []token
	)
	end := func() error {
		if next.SQL = strings.TrimSpace(textOf(body)); next.SQL != "" {
			if err := next.complete(); err != nil {
				return fmt.Errorf("line %d: %w", next.Line, err)
			}
			for n := 2; slices.ContainsFunc(queries, func(q Query) bool { return q.String() == next.String() }); n++ {
				if next.named {
					return fmt.Errorf("line %d: another query is named %q, too", next.Line, next.Name)
				}
				next.Name = fmt.Sprintf("line %d, query %d", next.Line, n)
			}
			queries = append(queries, next)
		}
		next, body = Query{}, nil
		return nil
	}
	for _, t := range tokens(strings.TrimPrefix(string(text), "\ufeff")) {
		switch {
		case t.is(";"):
			err = end()
		case len(body) == 0 && t.kind == blankToken:
			if err = next.directive(t); err != nil {
				err = fmt.Errorf("line %d: %w", t.line, err)
			}
		default:
			if len(body) == 0 {
				next.Line = t.line
			}
			body = append(body, t)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	if len(queries) == 0 {
		return nil, errors.New("the file has no query")
	}
	return queries, nil
}

// directive reads a comment before a statement; others mean nothing.
func (q *Query) directive(t token) error {
	text, isLine := strings.CutPrefix(t.text, "--")
	if !isLine {
		return nil
	}
	key, value, found := strings.Cut(strings.TrimSpace(text), ":")
	value = strings.TrimSpace(value)
	switch key {
	case "name":
		if found {
			q.Name, q.named = value, value != ""
		}
	case "parameters", "params":
		if !found {
			return nil
		}
		var values QueryValues
		if err := json.Unmarshal([]byte(value), &values); err != nil || values == nil {
			return fmt.Errorf(`parameters: expects a JSON list such as ["a", 1, null], not %s`, value)
		}
		q.Parameters = append(q.Parameters, values)
	}
	return nil
}

// complete checks a statement against its lists of values.
func (q *Query) complete() error {
	if strings.HasPrefix(q.SQL, `\`) {
		return errors.New("commands of psql are not understood, only SQL")
	}
	if why := readsOnly(q.SQL); why != "" {
		return fmt.Errorf("%s; only queries are run", why)
	}
	most := 0
	for _, t := range tokens(q.SQL) {
		if t.kind != parameterToken {
			continue
		}
		n, err := strconv.Atoi(t.text[1:])
		if err != nil || n < 1 || n > mostParameters {
			return fmt.Errorf("%s is no parameter", t.text)
		}
		most = max(most, n)
	}
	if len(q.Parameters) == 0 && most == 0 {
		q.Parameters = []QueryValues{{}}
	}
	if len(q.Parameters) == 0 {
		return fmt.Errorf("it has %d parameters; a line before it gives their values:  -- parameters: [...]", most)
	}
	for _, values := range q.Parameters {
		if len(values) != most {
			return fmt.Errorf("it has %d parameters, and a list of %d values", most, len(values))
		}
	}
	return nil
}

// PlanStatements makes of queries what ComparePlans takes: each with each of its
// lists of values.
func PlanStatements(queries []Query) []PlanStatement {
	all := []PlanStatement{}
	for _, q := range queries {
		for i, values := range q.Parameters {
			id := q.String()
			if len(q.Parameters) > 1 {
				id += " #" + strconv.Itoa(i+1)
			}
			all = append(all, PlanStatement{ID: id, Text: q.SQL, Parameters: values})
		}
	}
	return all
}

// Object ids of json and jsonb, whose values are lists and objects as they are.
const (
	oidOfJSON  = 114
	oidOfJSONB = 3802
)

// encode writes values as the server takes them in text form, by the types that
// it wants.
func (v QueryValues) encode(types []uint32) ([][]byte, error) {
	if len(v) != len(types) {
		return nil, fmt.Errorf("it has %d parameters, and %d values are given", len(types), len(v))
	}
	out := make([][]byte, len(v))
	for i, value := range v {
		text, null, err := encodeValue(value, types[i] == oidOfJSON || types[i] == oidOfJSONB)
		if err != nil {
			return nil, fmt.Errorf("the value of $%d: %w", i+1, err)
		}
		if !null {
			out[i] = []byte(text)
		}
	}
	return out, nil
}

func encodeValue(value json.RawMessage, isJSON bool) (text string, null bool, err error) {
	value = bytes.TrimSpace(value)
	switch {
	case string(value) == "null":
		return "", true, nil
	case value[0] == '"':
		err = json.Unmarshal(value, &text)
		return text, false, err
	case value[0] == '[' && !isJSON:
		text, err = arrayOf(value)
		return text, false, err
	}
	return string(value), false, nil // a number, true, false, or JSON
}

// arrayOf writes a list as an array. Postgres manual: 8.15.2, Array Value Input.
func arrayOf(value json.RawMessage) (string, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return "", err
	}
	texts := make([]string, len(elements))
	for i, e := range elements {
		e = bytes.TrimSpace(e)
		text, null, err := encodeValue(e, false)
		switch {
		case err != nil:
			return "", err
		case null:
			texts[i] = "NULL"
		case e[0] == '[':
			texts[i] = text
		default:
			texts[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
		}
	}
	return "{" + strings.Join(texts, ",") + "}", nil
}
