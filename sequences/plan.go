package sequences

import (
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Change is what one sequence on new is to be set to. It is plain data and
// survives a round trip through JSON.
type Change struct {
	Ref
	// Old and New are the two sequences as they were read.
	Old Sequence `json:"old"`
	New Sequence `json:"new"`
	// Value is the number that nextval on new is to return next. When
	// Exhausted, it is the bound, and new is set to (Value, is_called = true):
	// nextval fails there as it does on old, or wraps with CYCLE.
	Value     int64 `json:"value"`
	Exhausted bool  `json:"exhausted,omitempty"`
	// Kept says that new is at Value or past it already, so that nothing is
	// done. Value is then the number that new returns next anyway (or its
	// last one, when Exhausted).
	Kept bool `json:"kept,omitempty"`
	// Wrapped says that old passed the end of its cycle, so that Value may lie
	// before New's position although it is ahead of it.
	Wrapped bool `json:"wrapped,omitempty"`
	// Margin is how many numbers old may still hand out before it reaches
	// Value. It is the margin asked for, or less when there is no room.
	Margin uint64 `json:"margin"`
	// Overlap is the range that old has handed out although new was to have it.
	Overlap  *Range   `json:"overlap,omitempty"`
	Why      string   `json:"why"`
	Warnings []string `json:"warnings,omitempty"`
}

// Range is a range of numbers, both ends included, in the direction of the
// sequence (From > To when it descends).
type Range struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// after returns new's sequence as it stands once the change has been made.
func (c Change) after() Sequence {
	s := c.New
	if !c.Kept {
		s.LastValue, s.IsCalled = c.Value, c.Exhausted
	}
	return s
}

// Problem is a sequence for which there is no safe change.
type Problem struct {
	Ref
	Text string `json:"text"`
	// Hint is the SQL or the command that mends it; may be empty.
	Hint string `json:"hint,omitempty"`
	// Blocking is false for members of extensions, which CREATE EXTENSION made
	// and the applications' tables seldom use.
	Blocking bool `json:"blocking"`
}

// Plan says for every sequence of onOld what its namesake in onNew is to be
// set to, so that no number is handed out twice while old hands out up to
// margin more (see the package comment for the margin and its limits).
// Sequences without a safe change are in the second result. Both keep the
// order of onOld. Sequences that are only on new are left alone. A negative
// margin counts as 0.
func Plan(onOld, onNew []Sequence, margin int64) ([]Change, []Problem) {
	return PlanTo(pg.New, onOld, onNew, margin)
}

// PlanTo is Plan for the way to either server: in a rollback old is the one to be
// set, and what is said of the two names them the other way round.
func PlanTo(target pg.Side, from, to []Sequence, margin int64) ([]Change, []Problem) {
	w := way{from: target.Other(), to: target}
	byRef := make(map[Ref]Sequence, len(to))
	for _, s := range to {
		byRef[s.Ref] = s
	}
	var (
		changes  []Change
		problems []Problem
	)
	for _, o := range from {
		n, found := byRef[o.Ref]
		c, p := w.planOne(o, n, found, margin)
		if p != nil {
			p.Ref, p.Blocking = o.Ref, o.Extension == ""
			problems = append(problems, *p)
			continue
		}
		changes = append(changes, c)
	}
	return changes, problems
}

// way is the way that positions are carried, for what people are told.
type way struct{ from, to pg.Side }

// forward is the way of a cutover.
var forward = way{from: pg.Old, to: pg.New}

// planOne is for the way of a cutover.
func planOne(o, n Sequence, found bool, margin int64) (Change, *Problem) {
	return forward.planOne(o, n, found, margin)
}

func (w way) planOne(o, n Sequence, found bool, margin int64) (Change, *Problem) {
	switch {
	case !found && o.Extension != "":
		return Change{}, &Problem{Text: fmt.Sprintf("missing on %s, where extension %q does not bring it", w.to, o.Extension)}
	case !found && o.Identity:
		return Change{}, &Problem{Text: fmt.Sprintf("missing on %s, where column %s is no identity column", w.to, o.OwnedBy), Hint: "run: pgcutover start --sync-schema"}
	case !found:
		return Change{}, &Problem{Text: fmt.Sprintf("missing on %s", w.to), Hint: createSQL(o)}
	case !o.Readable:
		return Change{}, &Problem{Text: fmt.Sprintf("role %q may not read it on %s", o.Role, w.from), Hint: strings.Join(o.grantRead(), " ")}
	case !n.Readable:
		return Change{}, &Problem{Text: fmt.Sprintf("role %q may not read it on %s", n.Role, w.to), Hint: strings.Join(n.grantRead(), " ")}
	}
	clashes, remarks := compareDefinitions(o, n)
	if len(clashes) > 0 {
		return Change{}, &Problem{
			Text: fmt.Sprintf("defined otherwise on %s: %s", w.to, strings.Join(clashes, ", ")),
			Hint: strings.TrimSpace(alterSQL(o, n) + fmt.Sprintf(" -- on %s, as the owner of the sequence, after: set default_transaction_read_only = off;", w.to)),
		}
	}
	c, p := w.decide(o, n, margin)
	if p != nil {
		return Change{}, p
	}
	for _, r := range remarks {
		c.warn("defined otherwise on %s: %s", w.to, r)
	}
	if p := w.refused(c); p != nil {
		return Change{}, p
	}
	return c, nil
}

// refused tells when the role lacks the right that the change needs.
func (w way) refused(c Change) *Problem {
	n := c.New
	if c.Kept || n.Settable || (n.Alterable && !c.Exhausted) {
		return nil
	}
	return &Problem{
		Text: fmt.Sprintf("role %q may not set it on %s", n.Role, w.to),
		Hint: grantSet(c.Ref, n.Role),
	}
}

// decide computes the target from old's position, then compares it with new's.
func (w way) decide(o, n Sequence, margin int64) (Change, *Problem) {
	c, p := w.target(o, n, margin)
	if p != nil {
		return c, p
	}
	next, alive := n.next()
	switch {
	case !alive:
		if !c.Exhausted {
			c.warn("%s is at its end (%d) while %s is not", w.to, n.LastValue, w.from)
		}
		c.keep(string(w.to) + " is at its end already")
	case c.Exhausted:
	case next == c.Value:
		c.keep(string(w.to) + " is there already")
	case beyond(next, c.Value, n.Increment):
		c.Margin = before(o.Value, o.Increment, next)
		if o.Cycle && c.Margin > wantedSteps(o, margin) {
			c.warn("cyclic, and %[1]s is %[2]s ahead of %[3]s: if %[3]s has begun a new cycle, set %[1]s by hand", w.to, numbers(c.Margin), w.from)
		}
		c.keep(string(w.to) + " is ahead already")
	}
	return c, nil
}

func (c *Change) keep(why string) {
	c.Kept, c.Why = true, why+"; "+c.Why
	if next, alive := c.New.next(); alive {
		c.Value, c.Exhausted = next, false
	} else {
		c.Value, c.Exhausted = c.New.LastValue, true
	}
}

// target says where new must stand, whatever it stands at now. Together with a
// problem it returns the one change that at least repeats no number: the end.
func (w way) target(o, n Sequence, margin int64) (Change, *Problem) {
	c := Change{Ref: o.Ref, Old: o, New: n}
	steps := wantedSteps(o, margin)
	oldLeft := o.left()
	room := left(o.Value, o.Increment, n.end()) // on old's grid, up to new's bound
	want := min(steps, oldLeft)
	switch {
	case want < room:
	case room > 0:
		want = room / 2
		c.warn("room for only %s before the bound %d: the margin is %d instead of %d", numbers(room), n.end(), want, steps)
	case oldLeft == 0:
		c.Value, c.Exhausted = n.end(), true
		c.Why = fmt.Sprintf("%s is at its end, %d", w.from, o.LastValue)
		if n.Cycle {
			c.warn("at the end of its cycle: the next number is the first one again, without a margin")
		} else {
			c.warn("exhausted: nextval will fail on %s", w.to)
		}
		return c, nil
	default:
		c.Value, c.Exhausted = n.end(), true
		return c, &Problem{
			Text: fmt.Sprintf("%s stands at %s, past the bound %d of %s", w.from, o.position(), n.end(), w.to),
			Hint: fmt.Sprintf("ALTER SEQUENCE %s MINVALUE %d MAXVALUE %d;", o.Ident(), o.Min, o.Max),
		}
	}
	c.Value, c.Margin = ahead(o.Value, o.Increment, want), want
	c.Why = fmt.Sprintf("%s stands at %s, %d more may follow there", w.from, o.position(), want)
	if want == oldLeft && want < steps {
		c.Why += ", its last ones"
	}
	return c, nil
}

// wantedSteps is the margin in numbers of old. A session on old takes whole
// cache blocks, so less than one block would be outrun by a single nextval.
func wantedSteps(o Sequence, margin int64) uint64 {
	if margin <= 0 {
		return 0
	}
	return uint64(max(margin, o.Cache))
}

func (c *Change) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...))
}
