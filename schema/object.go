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

// The three ways in which an object differs.
const (
	Absent  What = "missing"   // on the old server only
	Extra   What = "extra"     // on the new server only
	Changed What = "different" // on both, with different definitions
)

// Difference is one object that is not the same on both servers.
type Difference struct {
	What     What   `json:"what"`
	Kind     string `json:"kind"`
	Identity string `json:"identity"`
	Old      string `json:"old,omitempty"` // the definition on the old server
	New      string `json:"new,omitempty"` // the definition on the new server
}

// String describes the difference in one line.
func (d Difference) String() string {
	switch d.What {
	case Absent:
		return fmt.Sprintf("%s %s is missing on the new server", d.Kind, d.Identity)
	case Extra:
		return fmt.Sprintf("%s %s is on the new server only", d.Kind, d.Identity)
	default:
		return fmt.Sprintf("%s %s is %q on the old server, %q on the new one", d.Kind, d.Identity, d.Old, d.New)
	}
}

// Diff compares the fingerprints of the old and the new database. The result is
// ordered by kind and identity; it is empty when the schemas are equal. An
// extension on the new server only is no difference: providers install theirs
// in every database.
func Diff(old, new []Object) []Difference {
	onNew := make(map[key]Object, len(new))
	for _, o := range new {
		onNew[o.key()] = o
	}
	var out []Difference
	for _, o := range old {
		n, found := onNew[o.key()]
		delete(onNew, o.key())
		switch {
		case !found:
			out = append(out, Difference{What: Absent, Kind: o.Kind, Identity: o.Identity, Old: o.Definition})
		case n.Definition != o.Definition:
			out = append(out, Difference{What: Changed, Kind: o.Kind, Identity: o.Identity, Old: o.Definition, New: n.Definition})
		}
	}
	for _, n := range onNew {
		if n.Kind != kindExtension {
			out = append(out, Difference{What: Extra, Kind: n.Kind, Identity: n.Identity, New: n.Definition})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identity, b.Identity))
	})
	return out
}

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
