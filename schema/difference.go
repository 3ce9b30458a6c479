package schema

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Difference is one object that is not the same on both servers.
type Difference struct {
	What     What   `json:"what"`
	Kind     string `json:"kind"`
	Identity string `json:"identity"`
	// Aspect says what of an object that both have differs.
	Aspect Aspect `json:"aspect,omitempty"`
	Old    string `json:"old,omitempty"` // on the old server
	New    string `json:"new,omitempty"` // on the new server
	// Parts are the differences that come with this one: the columns and indexes
	// of a table that is missing, what partitions have from their parent.
	Parts []Difference `json:"-"`

	object Object // as one of the servers has it
}

func (d Difference) key() key { return key{d.Kind, d.Identity} }

// Object names the object: table public.orders.
func (d Difference) Object() string { return d.Kind + " " + d.Identity }

// shown is how much of a text goes into a message.
const shown = 300

// String describes the difference in one line.
func (d Difference) String() string {
	switch {
	case d.What == Replaced && d.Kind == kindColumn:
		return fmt.Sprintf("column %s was dropped and made again, or renamed, on the old server since start: its values are another column's", d.Identity)
	case d.What == Replaced:
		return fmt.Sprintf("table %s was dropped and made again, or renamed, on the old server since start: its rows are another table's", d.Identity)
	case d.What == Absent:
		return fmt.Sprintf("%s %s is missing on the new server", d.Kind, d.Identity)
	case d.What == Extra:
		return fmt.Sprintf("%s %s is on the new server only", d.Kind, d.Identity)
	case d.Aspect == Definition:
		return fmt.Sprintf("%s %s is %q on the old server, %q on the new one", d.Kind, d.Identity, d.Old, d.New)
	}
	return fmt.Sprintf("%s of %s %s: %s on the old server, %s on the new one", d.Aspect, d.Kind, d.Identity,
		orNone(d.Old), orNone(d.New))
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return fmt.Sprintf("%q", firstWords(text, shown))
}

// Diff compares the definitions of the old and the new database. The result is
// ordered by kind and identity; it is empty when the schemas are equal. An
// extension on the new server only is no difference: providers install theirs
// in every database. See [Baseline.Compare] for the other aspects.
func Diff(old, new []Object) []Difference { return fold(compare(old, new, nil), old, new) }

// compare lists what differs; same says whether two texts of an aspect mean the
// same, nil that aspects are not compared.
func compare(old, new []Object, same func(o Object, a Aspect, old, new string) bool) []Difference {
	onNew := make(map[key]Object, len(new))
	for _, o := range new {
		onNew[o.key()] = o
	}
	var out []Difference
	for _, o := range old {
		n, found := onNew[o.key()]
		delete(onNew, o.key())
		if !found {
			out = append(out, Difference{What: Absent, Kind: o.Kind, Identity: o.Identity, Old: o.Definition, object: o})
			continue
		}
		if n.Definition != o.Definition {
			out = append(out, Difference{What: Changed, Kind: o.Kind, Identity: o.Identity, Old: o.Definition, New: n.Definition, object: o})
		}
		if same == nil {
			continue
		}
		for _, a := range aspects {
			if x, y := o.text(a), n.text(a); x != y && !same(o, a, x, y) {
				out = append(out, Difference{What: Changed, Kind: o.Kind, Identity: o.Identity, Aspect: a, Old: x, New: y, object: o})
			}
		}
	}
	for _, n := range onNew {
		if n.Kind != kindExtension {
			out = append(out, Difference{What: Extra, Kind: n.Kind, Identity: n.Identity, New: n.Definition, object: n})
		}
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Aspect, b.Aspect))
	})
	return out
}

// mark tells one difference from the others.
type mark struct {
	key
	what   What
	aspect Aspect
}

func (d Difference) mark() mark { return mark{d.key(), d.What, d.Aspect} }

// folding finds, for each difference, the one that it comes with.
type folding struct {
	at      map[mark]int
	parents map[string]string // of tables: what they inherit from
	keys    map[string][]int  // of tables: their primary keys among the differences
	all     []Difference
	owners  []int // by index: the one that it comes with, or itself
}

// fold puts differences that come with another into its Parts, so that one
// statement shows as one difference.
func fold(all []Difference, old, new []Object) []Difference {
	f := folding{at: make(map[mark]int, len(all)), parents: map[string]string{}, keys: map[string][]int{}, all: all, owners: make([]int, len(all))}
	for _, objects := range [][]Object{new, old} {
		for _, o := range objects {
			if o.Kind == kindTable && o.Parent != "" {
				f.parents[o.Identity] = o.Parent
			}
		}
	}
	for i, d := range all {
		f.at[d.mark()] = i
		if d.Kind == kindConstraint && strings.HasPrefix(d.object.Definition, "primary key (") {
			f.keys[d.object.On] = append(f.keys[d.object.On], i)
		}
	}
	for i, d := range all {
		f.owners[i] = f.with(i, d)
	}
	var out []Difference
	place := map[int]int{}
	for i := range all {
		if f.owners[i] == i {
			place[i] = len(out)
			out = append(out, all[i])
		}
	}
	for i := range all {
		root := i
		for steps := 0; f.owners[root] != root && steps < len(all); steps++ {
			root = f.owners[root]
		}
		if at, found := place[root]; found && root != i {
			out[at].Parts = append(out[at].Parts, all[i])
		}
	}
	return out
}

// with returns the difference that d, at i, comes with; i when it stands alone.
func (f folding) with(i int, d Difference) int {
	for part, whole := range map[Aspect]Aspect{Expression: Definition, Privileges: Owner} {
		// The expression of an index or partition tells what its definition does, and
		// a new owner takes the former one's place in the privileges.
		if at, found := f.at[mark{d.key(), Changed, whole}]; found && d.What == Changed && d.Aspect == part {
			return at
		}
	}
	on := d.object.On
	for _, kind := range []string{kindTable, kindView, kindMatview, "foreign table", kindType, kindColumn} {
		for _, what := range []What{Absent, Extra} {
			if at, found := f.at[mark{key{kind, on}, what, Definition}]; found && at != i {
				return at
			}
		}
	}
	if d.Kind == kindColumn {
		for _, kind := range []string{kindView, kindMatview} {
			if at, found := f.at[mark{key{kind, on}, Changed, Expression}]; found {
				return at
			}
		}
		if at, found := f.primaryKey(d); found {
			return at
		}
	}
	if d.Kind == kindTable || d.Kind == kindIndex {
		if at, found := f.at[mark{key{d.Kind, d.object.Parent}, d.What, d.Aspect}]; found && d.object.Parent != "" {
			return at
		}
	}
	if d.Kind == kindIndex {
		if at, found := f.at[mark{key{kindConstraint, d.name() + " on " + on}, d.What, Definition}]; found {
			return at
		}
	}
	for above := f.parents[on]; above != ""; above = f.parents[above] {
		var k key
		switch d.Kind {
		case kindColumn:
			k = key{kindColumn, above + "." + d.name()}
		case kindConstraint:
			k = key{kindConstraint, d.name() + " on " + above}
		default:
			return i
		}
		if at, found := f.at[mark{k, d.What, d.Aspect}]; found {
			return at
		}
	}
	return i
}

// name is the object's own name, quoted, without what it is on.
func (d Difference) name() string {
	switch on := d.object.On; d.Kind {
	case kindColumn:
		return strings.TrimPrefix(d.Identity, on+".")
	case kindIndex: // in the schema of its table
		return strings.TrimPrefix(d.Identity, schemaOf(d.Identity)+".")
	default:
		return strings.TrimSuffix(d.Identity, " on "+on)
	}
}

// schemaOf returns the first part of a qualified and quoted name.
func schemaOf(identity string) string {
	quoted := false
	for i, r := range identity {
		switch {
		case r == '"':
			quoted = !quoted
		case r == '.' && !quoted:
			return identity[:i]
		}
	}
	return ""
}

// primaryKey finds the primary key whose making or dropping has changed
// whether the column is NOT NULL.
func (f folding) primaryKey(d Difference) (int, bool) {
	if d.What != Changed || d.Aspect != Definition {
		return 0, false
	}
	what := Absent
	longer, shorter := d.Old, d.New
	if len(longer) < len(shorter) {
		longer, shorter, what = shorter, longer, Extra
	}
	if strings.Replace(longer, " not null", "", 1) != shorter {
		return 0, false
	}
	for _, at := range f.keys[d.object.On] {
		key := f.all[at]
		columns := "(" + strings.TrimSuffix(strings.TrimPrefix(key.object.Definition, "primary key ("), ")") + ","
		if key.What == what && (strings.Contains(columns, " "+d.name()+",") || strings.HasPrefix(columns, "("+d.name()+",")) {
			return at, true
		}
	}
	return 0, false
}
