package schema

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Object is one object of a schema, named in a way that is the same on every
// major.
type Object struct {
	// Kind is the object's type in Postgres' own words: table, column, index,
	// constraint, trigger, function, text search configuration and so on.
	Kind string `json:"kind"`
	// Identity is the qualified and quoted name; for functions with the types
	// of the arguments, for triggers, rules, policies and constraints followed
	// by "on" and the table.
	Identity string `json:"identity"`
	// Definition holds what [Diff] compares. Empty where only the object's
	// existence counts.
	Definition string `json:"definition,omitempty"`
	// Section is the section whose restore makes the object; empty where
	// unknown.
	Section Section `json:"section,omitempty"`
	// Aspects are what is compared beside the definition.
	Aspects map[Aspect]string `json:"aspects,omitempty"`
	// On is the table, view, type or column that the object is a part of.
	On string `json:"on,omitempty"`
	// Parent is what a table, or an index of a partition, inherits from.
	Parent string `json:"parent,omitempty"`

	oid     uint32           // of tables
	columns int              // the highest number that a column of the table ever had
	file    int64            // changes when a table is rewritten
	numbers map[string]int16 // of the table's columns, by quoted name
}

// text returns an aspect's value, the definition included.
func (o Object) text(a Aspect) string {
	if a == Definition {
		return o.Definition
	}
	return o.Aspects[a]
}

// String returns kind and identity: table public.orders.
func (o Object) String() string { return o.Kind + " " + o.Identity }

// key identifies an object within a database.
type key struct{ kind, identity string }

func (o Object) key() key { return key{o.Kind, o.Identity} }

// sortObjects orders by kind, then identity.
func sortObjects(objects []Object) {
	slices.SortFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identity, b.Identity))
	})
}

// keysOf returns the set of the objects' keys.
func keysOf(objects []Object) map[key]bool {
	set := make(map[key]bool, len(objects))
	for _, o := range objects {
		set[o.key()] = true
	}
	return set
}

// What says how an object differs between two schemas.
type What string

// The ways in which an object differs.
const (
	Absent   What = "missing"   // on the old server only
	Extra    What = "extra"     // on the new server only
	Changed  What = "different" // on both, with different definitions
	Replaced What = "replaced"  // on both by the same name, but with other rows; see [Baseline.Compare]
)

// list names the first objects of a long list: "a, b, c and 7 more".
func list(objects []Object) string {
	const most = 10
	var names []string
	for _, o := range objects[:min(len(objects), most)] {
		names = append(names, o.String())
	}
	text := strings.Join(names, ", ")
	if len(objects) > most {
		text += fmt.Sprintf(" and %d more", len(objects)-most)
	}
	return text
}
