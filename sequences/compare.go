package sequences

import (
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Status says how a sequence on the target, which is new unless the clients are
// there already, stands to its namesake on the other server, the source.
type Status string

// The statuses of a Difference.
const (
	Equal      Status = "equal"      // nextval does the same on both
	Ahead      Status = "ahead"      // the target is past the source: safe
	Behind     Status = "behind"     // the target would hand out again what the source has handed out
	Missing    Status = "missing"    // not on the target
	Extra      Status = "extra"      // only on the target
	Unreadable Status = "unreadable" // the role may not read it on one of the two
)

// Difference is how one sequence differs between the two servers.
type Difference struct {
	Ref
	Status Status    `json:"status"`
	Old    *Sequence `json:"old,omitempty"` // nil when it is not there
	New    *Sequence `json:"new,omitempty"`
	// Target is the server that clients are to be moved to.
	Target pg.Side `json:"target"`
	// Steps is how many numbers of the sequence the target is behind or ahead.
	Steps uint64 `json:"steps"`
	// Definition lists what is defined otherwise on the target, whatever the status.
	Definition []string `json:"definition,omitempty"`
	// Text says it in one line for people.
	Text string `json:"text"`
	// Mend are the statements that make the definitions equal or give the role the
	// rights that it lacks. Positions are set by Apply, so no statement does.
	Mend []Mend `json:"mend,omitempty"`
	// Beyond are the columns with numbers that the sequence will hand out again,
	// and NotLooked why rows could not be looked at; both empty before AddRows.
	Beyond    []Beyond    `json:"beyond,omitempty"`
	NotLooked []NotLooked `json:"not_looked,omitempty"`
}

// Differs reports whether anything is wrong or worth a look: everything but a
// sequence of equal definition whose position on new is equal or ahead, and that
// no row is beyond of.
func (d Difference) Differs() bool {
	return len(d.Definition) > 0 || len(d.Beyond) > 0 || (d.Status != Equal && d.Status != Ahead)
}

// Compare returns one Difference for every sequence of onOld, in its order,
// equal ones included, then those that are only in onNew.
func Compare(onOld, onNew []Sequence) []Difference { return CompareTo(pg.New, onOld, onNew) }

// CompareTo is Compare for the way to either server: once the clients are on new,
// old is the target, where a rollback would set them.
func CompareTo(target pg.Side, from, to []Sequence) []Difference {
	w := way{from: target.Other(), to: target}
	byRef := make(map[Ref]*Sequence, len(to))
	for i := range to {
		byRef[to[i].Ref] = &to[i]
	}
	diffs := make([]Difference, 0, len(from))
	known := make(map[Ref]bool, len(from))
	for i := range from {
		known[from[i].Ref] = true
		diffs = append(diffs, w.compareOne(&from[i], byRef[from[i].Ref]))
	}
	for i := range to {
		if n := &to[i]; !known[n.Ref] {
			d := w.difference(n.Ref, nil, n)
			d.Status, d.Text = Extra, fmt.Sprintf("only on %s", w.to)
			diffs = append(diffs, d)
		}
	}
	return diffs
}

// difference is one with the two sequences in their places.
func (w way) difference(r Ref, from, to *Sequence) Difference {
	d := Difference{Ref: r, Target: w.to, Old: from, New: to}
	if w.to == pg.Old {
		d.Old, d.New = to, from
	}
	return d
}

// source returns the sequence on the server that clients are on.
func (d Difference) source() *Sequence {
	if d.Target == pg.Old {
		return d.New
	}
	return d.Old
}

func (d Difference) target() *Sequence {
	if d.Target == pg.Old {
		return d.Old
	}
	return d.New
}

func (w way) compareOne(o, n *Sequence) Difference {
	d := w.difference(o.Ref, o, n)
	if n == nil {
		d.missing()
		return d
	}
	clashes, remarks := compareDefinitions(*o, *n)
	d.Definition = append(clashes, remarks...)
	var unread []string
	if !o.Readable {
		unread = append(unread, fmt.Sprintf("role %q may not read it on %s", o.Role, w.from))
		d.Mend = append(d.Mend, mends(w.from, o.grantRead()...)...)
	}
	if !n.Readable {
		unread = append(unread, fmt.Sprintf("role %q may not read it on %s", n.Role, w.to))
		d.Mend = append(d.Mend, mends(w.to, n.grantRead()...)...)
	}
	switch {
	case len(unread) > 0:
		d.Status, d.Text = Unreadable, strings.Join(unread, "; ")
	case (o.Increment < 0) != (n.Increment < 0):
		d.Status, d.Text = Behind, fmt.Sprintf("%s stands at %s, %s counts the other way, from %s", w.from, o.position(), w.to, n.position())
	default:
		d.Status, d.Steps = standing(*o, *n)
		d.Text = w.standingText(d.Status, d.Steps, o, n)
	}
	if len(d.Definition) > 0 {
		d.Text += "; defined otherwise: " + strings.Join(d.Definition, ", ")
		if sql := alterSQL(*o, *n); sql != "" {
			d.Mend = append(d.Mend, mends(w.to, sql)...)
		}
	}
	if d.Status == Behind && !n.Settable && !n.Alterable {
		d.Text += fmt.Sprintf("; role %q may not set it on %s", n.Role, w.to)
		d.Mend = append(d.Mend, mends(w.to, grantSet(n.Ref, n.Role))...)
	}
	return d
}

// missing says what is missing on the target, and what makes it.
func (d *Difference) missing() {
	o, from := d.source(), d.Target.Other()
	d.Status, d.Text = Missing, fmt.Sprintf("missing on %s; %s stands at %s", d.Target, from, o.position())
	if !o.Readable {
		d.Text = fmt.Sprintf("missing on %s; role %q may not read it on %s", d.Target, o.Role, from)
		d.Mend = mends(from, o.grantRead()...)
	}
	sql := createSQL(*o)
	switch {
	case o.Extension != "":
		d.Text += fmt.Sprintf("; a member of extension %q, which does not bring it on %s", o.Extension, d.Target)
	case sql == "":
		d.Text += fmt.Sprintf("; column %s is no identity column on %s", o.OwnedBy, d.Target)
	default:
		d.Mend = append(d.Mend, mends(d.Target, sql)...)
	}
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

func (w way) standingText(status Status, steps uint64, o, n *Sequence) string {
	switch status {
	case Equal:
		return fmt.Sprintf("both stand at %s", o.position())
	case Ahead:
		return fmt.Sprintf("%s stands at %s, %s is %s ahead at %s", w.from, o.position(), w.to, numbers(steps), n.position())
	default:
		return fmt.Sprintf("%s stands at %s, %s is %s behind at %s", w.from, o.position(), w.to, numbers(steps), n.position())
	}
}

var typeRank = map[string]int{"smallint": 1, "integer": 2, "bigint": 3}

// compareDefinitions returns what on the target (n) clashes with the source (o), so
// that no position there is right, and what merely differs. Bounds are judged against the
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
