package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFile bounds the file: the parser is recursive, and no configuration is
// that long.
const maxFile = 64 << 10

// place is where a key stands and what was written as its value, before
// anything was expanded.
type place struct {
	at      *token.Position
	written string
}

// decoder fills a Config from YAML. The YAML library parses; walking its tree
// here, rather than letting it decode, is what gives every mistake its place,
// its key and advice, reports all of them, and never prints a line of the file,
// which may hold a password.
type decoder struct {
	file   string
	lookup func(string) (string, bool)
	places map[string]place // by key, such as "cutover.max_lag" or "traffic[0].hook"
	errs   []error
}

// fail reports a problem with a key that was decoded, or with one that is
// missing; that is reported where the mapping stands in which it is missing.
func (d *decoder) fail(key, format string, args ...any) {
	at := &token.Position{Line: 1, Column: 1}
	for k := key; k != ""; k = parent(k) {
		if p, ok := d.places[k]; ok {
			at = p.at
			break
		}
	}
	d.failAt(at, key, format, args...)
}

func (d *decoder) failAt(at *token.Position, key, format string, args ...any) {
	if at == nil {
		at = &token.Position{Line: 1, Column: 1}
	}
	d.errs = append(d.errs, &Error{
		File: d.file, Line: max(at.Line, 1), Column: max(at.Column, 1),
		Key: key, Problem: fmt.Sprintf(format, args...),
	})
}

// written is what stands in the file for a key, to be shown in place of a value
// that may come from the environment.
func (d *decoder) written(key, value string) string {
	if p, ok := d.places[key]; ok && p.written != "" {
		return p.written
	}
	return value
}

// parent cuts the last part off a key: traffic[0].hook, traffic[0], traffic.
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func (d *decoder) decode(data []byte, into *Config) {
	if len(data) > maxFile {
		d.failAt(nil, "", "is larger than %s: not a configuration", Size(maxFile))
		return
	}
	// Keys given twice are found below, with a message of ours.
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at *token.Position
		problem := "is not YAML"
		var e yaml.Error
		if errors.As(err, &e) {
			problem += ": " + e.GetMessage()
			if tk := e.GetToken(); tk != nil {
				at = tk.Position
			}
		}
		d.failAt(at, "", "%s", problem)
		return
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc != nil && doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	if len(bodies) == 0 {
		return // everything is missing; validation says so
	}
	if len(bodies) > 1 {
		d.failAt(position(bodies[1]), "", "has a second YAML document; there may be one")
		return
	}
	d.value(bodies[0], reflect.ValueOf(into).Elem(), "", position(bodies[0]))
}

// position is where a node begins. A mapping without braces begins at its first
// key, although its token is the first colon.
func position(n ast.Node) *token.Position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return position(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(m.Key)
	}
	if n == nil || n.GetToken() == nil {
		return nil
	}
	return n.GetToken().Position
}

// value decodes a node into v. at is where the key stands that it belongs to.
func (d *decoder) value(n ast.Node, v reflect.Value, key string, at *token.Position) {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode, *ast.DirectiveNode:
		d.failAt(position(n), key, "anchors, aliases and tags are not supported here")
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.scalar(n, key, func(text string) error { return u.UnmarshalText([]byte(text)) })
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		if filled, ok := v.Interface().(interface{ setDefaults() }); ok {
			filled.setDefaults()
		}
		d.value(n, v.Elem(), key, at)
	case reflect.Struct:
		d.mapping(n, v, key, at)
	case reflect.Slice:
		if _, single := scalarText(n); single && v.Type() == reflect.TypeFor[Names]() {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			d.value(n, v.Index(0), key, at)
			return
		}
		d.sequence(n, v, key, at)
	case reflect.String:
		d.scalar(n, key, func(text string) error { v.SetString(text); return nil })
	case reflect.Int, reflect.Int64:
		d.scalar(n, key, func(text string) error {
			i, err := strconv.ParseInt(text, 10, v.Type().Bits())
			if err != nil {
				return errors.New("expects a whole number")
			}
			v.SetInt(i)
			return nil
		})
	case reflect.Bool:
		d.scalar(n, key, func(text string) error {
			if text != "true" && text != "false" {
				return errors.New("expects true or false")
			}
			v.SetBool(text == "true")
			return nil
		})
	default:
		panic("config: no way to decode " + v.Type().String()) // a mistake in the types of this package
	}
}

// mapping decodes the keys of a mapping into the fields of a struct.
func (d *decoder) mapping(n ast.Node, v reflect.Value, key string, at *token.Position) {
	known := fields(v.Type())
	m, ok := n.(ast.MapNode)
	if !ok {
		if _, null := n.(*ast.NullNode); !null {
			d.failAt(position(n), key, "expects a mapping%s", keysOf(known))
		}
		return
	}
	seen := map[string]*token.Position{}
	for i := m.MapRange(); i.Next(); {
		keyAt := position(i.Key())
		name, ok := keyName(i.Key())
		if !ok {
			d.failAt(keyAt, key, "has a key that is not a plain word%s", keysOf(known))
			continue
		}
		path := join(key, name)
		if first, twice := seen[name]; twice {
			d.failAt(keyAt, shown(path), "is given twice, first in line %d", first.Line)
			continue
		}
		seen[name] = keyAt
		if refusal, ok := unavailable[generic(path)]; ok {
			d.failAt(keyAt, path, "%s", refusal)
			continue
		}
		field, ok := known[name]
		if !ok {
			d.failAt(keyAt, shown(path), "unknown key%s", advice(key, name, known))
			continue
		}
		d.places[path] = place{at: keyAt}
		d.value(i.Value(), v.Field(field), path, keyAt)
	}
}

// keyName returns the text of a key that is a scalar.
func keyName(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken().Value, true
	default:
		return "", false
	}
}

// sequence decodes a list.
func (d *decoder) sequence(n ast.Node, v reflect.Value, key string, at *token.Position) {
	a, ok := n.(ast.ArrayNode)
	if !ok {
		d.failAt(position(n), key, "expects a list, such as [a, b]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for i := a.ArrayRange(); i.Next(); {
		path := fmt.Sprintf("%s[%d]", key, v.Len())
		itemAt := position(i.Value())
		if itemAt == nil {
			itemAt = at
		}
		d.places[path] = place{at: itemAt}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(i.Value(), item, path, itemAt)
		v.Set(reflect.Append(v, item))
	}
}

// scalar decodes a single value after expanding it.
func (d *decoder) scalar(n ast.Node, key string, set func(text string) error) {
	written, ok := scalarText(n)
	at := position(n)
	if !ok {
		what := "expects a single value"
		if _, null := n.(*ast.NullNode); null {
			what = "has no value"
		}
		d.failAt(at, key, "%s", what)
		return
	}
	d.places[key] = place{at: at, written: written}
	text, err := expand(written, d.lookup)
	if err == nil {
		err = set(text)
	}
	if err != nil {
		d.failAt(at, key, "%v", err)
	}
}

// scalarText returns a scalar as it is written, quotes removed.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimSuffix(n.Value.Value, "\n"), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	default:
		return "", false
	}
}

// expand replaces ${NAME} by the environment variable and $$ by a dollar sign.
// Its errors show names only.
func expand(text string, lookup func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			text = rest[1:]
		case strings.HasPrefix(rest, "{"):
			name, after, closed := strings.Cut(rest[1:], "}")
			if !closed || !variable(name) {
				return "", errors.New("${ must be followed by the name of an environment variable and }; write $$ for a dollar sign")
			}
			value, set := lookup(name)
			if !set {
				return "", fmt.Errorf("the environment variable %s is not set", name)
			}
			b.WriteString(value)
			text = after
		default:
			b.WriteByte('$')
			text = rest
		}
	}
}

// variable tells whether a name can be that of an environment variable.
func variable(name string) bool {
	for i, r := range name {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// fields maps the keys of a struct to its fields.
func fields(t reflect.Type) map[string]int {
	known := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		known[t.Field(i).Tag.Get("yaml")] = i
	}
	return known
}

// keysOf lists keys for a message.
func keysOf(known map[string]int) string {
	if len(known) == 0 {
		return " without keys"
	}
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return " with the keys " + strings.Join(names, ", ")
}
