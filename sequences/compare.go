package sequences

import (
	"fmt"
	"strings"
)

// Status says how a sequence on new stands to its namesake on old.
type Status string

// The statuses of a Difference.
const (
	Equal      Status = "equal"      // nextval does the same on both
	Ahead      Status = "ahead"      // new is past old: safe
	Behind     Status = "behind"     // new would hand out again what old has handed out
	Missing    Status = "missing"    // not on new
	Extra      Status = "extra"      // only on new
	Unreadable Status = "unreadable" // the role may not read it on one of the two
)

// Difference is how one sequence differs between the two servers.
type Difference struct {
	Ref
	Status Status    `json:"status"`
	Old    *Sequence `json:"old,omitempty"` // nil when extra
	New    *Sequence `json:"new,omitempty"` // nil when missing
	// Steps is how many numbers of the sequence new is behind or ahead.
	Steps uint64 `json:"steps"`
	// Definition lists what is defined otherwise on new, whatever the status.
	Definition []string `json:"definition,omitempty"`
	// Text says it in one line for people.
	Text string `json:"text"`
}

// Differs reports whether anything is wrong or worth a look: everything but a
// sequence of equal definition whose position on new is equal or ahead.
func (d Difference) Differs() bool {
	return len(d.Definition) > 0 || (d.Status != Equal && d.Status != Ahead)
}

// Compare returns one Difference for every sequence of onOld, in its order,
// equal ones included, then those that are only in onNew.
func Compare(onOld, onNew []Sequence) []Difference {
	byRef := make(map[Ref]*Sequence, len(onNew))
	for i := range onNew {
		byRef[onNew[i].Ref] = &onNew[i]
	}
	diffs := make([]Difference, 0, len(onOld))
	known := make(map[Ref]bool, len(onOld))
	for i := range onOld {
		known[onOld[i].Ref] = true
		diffs = append(diffs, compareOne(&onOld[i], byRef[onOld[i].Ref]))
	}
	for i := range onNew {
		if n := &onNew[i]; !known[n.Ref] {
			diffs = append(diffs, Difference{Ref: n.Ref, Status: Extra, New: n, Text: "only on new"})
		}
	}
	return diffs
}

func compareOne(o, n *Sequence) Difference {
	d := Difference{Ref: o.Ref, Old: o, New: n}
	if n == nil {
		d.Status, d.Text = Missing, "missing on new"
		return d
	}
	clashes, remarks := compareDefinitions(*o, *n)
	d.Definition = append(clashes, remarks...)
	switch {
	case !o.Readable:
		d.Status, d.Text = Unreadable, fmt.Sprintf("role %q may not read it on old", o.Role)
	case !n.Readable:
		d.Status, d.Text = Unreadable, fmt.Sprintf("role %q may not read it on new", n.Role)
	default:
		d.Status, d.Steps = standing(*o, *n)
		d.Text = standingText(d)
	}
	if len(d.Definition) > 0 {
		d.Text += "; defined otherwise: " + strings.Join(d.Definition, ", ")
	}
	return d
}

// standing compares what nextval will return on the two servers, in the
// direction of old.
func standing(o, n Sequence) (Status, uint64) {
	oldNext, oldAlive := o.next()
	newNext, newAlive := n.next()
	from := Value{LastValue: newNext}
	switch {
	case !newAlive && !oldAlive:
		return Equal, 0
	case !newAlive:
		return Ahead, o.left()
	case !oldAlive && beyond(newNext, o.LastValue, o.Increment):
		return Ahead, 0
	case !oldAlive:
		return Behind, left(from, o.Increment, o.LastValue)
	case newNext == oldNext:
		return Equal, 0
	case beyond(newNext, oldNext, o.Increment):
		return Ahead, distance(newNext, oldNext) / magnitude(o.Increment)
	default:
		return Behind, before(from, o.Increment, oldNext)
	}
}

func standingText(d Difference) string {
	o, n := d.Old, d.New
	switch d.Status {
	case Equal:
		return fmt.Sprintf("both stand at %s", o.position())
	case Ahead:
		return fmt.Sprintf("old stands at %s, new is %s ahead at %s", o.position(), numbers(d.Steps), n.position())
	default:
		return fmt.Sprintf("old stands at %s, new is %s behind at %s: it would hand out again what old has handed out", o.position(), numbers(d.Steps), n.position())
	}
}

var typeRank = map[string]int{"smallint": 1, "integer": 2, "bigint": 3}

// compareDefinitions returns what on new clashes with old, so that no position
// on new is right, and what merely differs. Bounds are judged against the
// position, by target.
func compareDefinitions(o, n Sequence) (clashes, remarks []string) {
	if (o.Increment < 0) != (n.Increment < 0) {
		clashes = append(clashes, fmt.Sprintf("increment %d instead of %d, the other direction", n.Increment, o.Increment))
	} else if o.Increment != n.Increment {
		remarks = append(remarks, fmt.Sprintf("increment %d instead of %d", n.Increment, o.Increment))
	}
	if typeRank[n.Type] < typeRank[o.Type] {
		clashes = append(clashes, fmt.Sprintf("type %s instead of %s", n.Type, o.Type))
	} else if n.Type != o.Type {
		remarks = append(remarks, fmt.Sprintf("type %s instead of %s", n.Type, o.Type))
	}
	if n.Cycle && !o.Cycle {
		clashes = append(clashes, "CYCLE instead of NO CYCLE")
	} else if n.Cycle != o.Cycle {
		remarks = append(remarks, "NO CYCLE instead of CYCLE")
	}
	number := func(what string, o, n int64) {
		if o != n {
			remarks = append(remarks, fmt.Sprintf("%s %d instead of %d", what, n, o))
		}
	}
	number("minimum", o.Min, n.Min)
	number("maximum", o.Max, n.Max)
	number("start", o.Start, n.Start)
	number("cache", o.Cache, n.Cache)
	if o.OwnedBy != n.OwnedBy {
		remarks = append(remarks, fmt.Sprintf("owned by %s instead of %s", orNone(n.OwnedBy), orNone(o.OwnedBy)))
	}
	if o.Identity != n.Identity && o.OwnedBy == n.OwnedBy {
		remarks = append(remarks, fmt.Sprintf("identity %t instead of %t", n.Identity, o.Identity))
	}
	return clashes, remarks
}

func orNone(s string) string {
	if s == "" {
		return "no column"
	}
	return s
}
