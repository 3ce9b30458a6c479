package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// unavailable are the keys that belong to the file's format but not to this
// version, with what to say about them. Values that are not available yet are
// refused by validation.
var unavailable = map[string]string{
	"verify":    "is not available in this version; remove it",
	"wal.limit": "is not available in this version; remove it (wal.warn is)",
}

var index = regexp.MustCompile(`\[\d+\]`)

// generic turns traffic[0].hook into traffic[].hook.
func generic(key string) string { return index.ReplaceAllString(key, "[]") }

// advice says what may have been meant by an unknown key.
func advice(in, name string, known map[string]int) string {
	best, distance := "", 3
	for _, candidate := range sortedKeys(known) {
		if d := edits(name, candidate); d < distance && d <= (len(name)+1)/2 {
			best, distance = candidate, d
		}
	}
	if best != "" {
		return "; did you mean " + best + "?"
	}
	for _, path := range allKeys(reflect.TypeFor[Config](), "") {
		if path != join(generic(in), name) && strings.HasSuffix("."+path, "."+name) {
			return "; did you mean " + path + "?"
		}
	}
	return "; this is a mapping" + keysOf(known)
}

func sortedKeys(known map[string]int) []string {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// allKeys lists every key of the file, such as cutover.max_lag.
func allKeys(t reflect.Type, prefix string) []string {
	switch t.Kind() {
	case reflect.Pointer:
		return allKeys(t.Elem(), prefix)
	case reflect.Slice:
		return allKeys(t.Elem(), prefix+"[]")
	case reflect.Struct:
	default:
		return nil
	}
	var keys []string
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		if name == "" {
			continue // a value with fields of its own, such as a Secret
		}
		keys = append(keys, join(prefix, name))
		keys = append(keys, allKeys(t.Field(i).Type, join(prefix, name))...)
	}
	return keys
}

// edits is the number of letters to change, add or drop to make b of a
// (Levenshtein's distance).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// shown is a key for a message. A slip in the syntax can make a key of anything,
// also of a connection string.
func shown(key string) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	if plain.MatchString(last) {
		return key
	}
	return join(parent(key), "(not shown)")
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_\-\[\]]{1,40}$`)
