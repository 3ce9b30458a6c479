package sequences

import (
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Outran returns the changes that are needed because old went on since given
// was planned. now are old's positions, read again; given are the changes that
// were applied (or kept). Sequences that are in only one of the two are left
// out, and so are those that still are where new may safely go on.
//
// A sequence is set again when old has reached the number that new was to hand
// out first, or when old may hand out fewer than reserve numbers until then.
// During the write pause ask for a reserve, since sessions of old still live;
// once they are gone, 0 is right. margin is the room that the new changes
// leave, as in Plan. Where old reached numbers of new, Overlap names them: if
// clients have used new meanwhile, both servers may have handed these out.
//
// A sequence with CYCLE that stands behind where it stood at planning time has
// passed its end (or was set back, which is the same to its users): new
// follows it over the bound.
//
// Use Merge to keep the list of what was given up to date.
func Outran(now []Value, given []Change, margin, reserve int64) []Change {
	return OutranTo(pg.New, now, given, margin, reserve)
}

// OutranTo is Outran for the way to either server, as PlanTo is Plan.
func OutranTo(target pg.Side, now []Value, given []Change, margin, reserve int64) []Change {
	w := way{from: target.Other(), to: target}
	find := finder(now, given)
	var again []Change
	for i := range given {
		g := &given[i]
		v, found := find(g.Ref)
		if !found {
			continue
		}
		o := g.Old
		o.Value = v
		var (
			c      Change
			needed bool
		)
		if o.Cycle && beyond(g.Old.LastValue, v.LastValue, o.Increment) {
			c, needed = w.followWrap(o, *g, margin)
		} else {
			c, needed = w.follow(o, *g, margin, reserve)
		}
		if needed {
			again = append(again, c)
		}
	}
	return again
}

// finder returns a function that finds the position of one sequence after the
// other, as they are in given: usually now has them in that order, and neither a
// map nor its making is waited for by clients.
func finder(now []Value, given []Change) func(Ref) (Value, bool) {
	i := 0
	for g := range given {
		if i < len(now) && now[i].Ref == given[g].Ref {
			i++
		}
	}
	if i == len(now) {
		i = 0
		return func(r Ref) (Value, bool) {
			if i == len(now) || now[i].Ref != r {
				return Value{}, false
			}
			i++
			return now[i-1], true
		}
	}
	byRef := make(map[Ref]Value, len(now))
	for _, v := range now {
		byRef[v.Ref] = v
	}
	return func(r Ref) (Value, bool) {
		v, found := byRef[r]
		return v, found
	}
}

// follow treats a sequence that went on in its direction.
func (w way) follow(o Sequence, g Change, margin, reserve int64) (Change, bool) {
	n := g.after()
	limit, alive := n.next()
	if !alive {
		return Change{}, false // new hands out nothing, or begins its next cycle
	}
	free := before(o.Value, o.Increment, limit)
	next, oldAlive := o.next()
	outran := (o.IsCalled && !beyond(limit, o.LastValue, o.Increment)) || (oldAlive && beyond(next, limit, o.Increment))
	if !outran && free >= wantedSteps(o, reserve) {
		return Change{}, false
	}
	c, problem := w.decide(o, n, margin)
	switch {
	case problem != nil && !outran:
		return Change{}, false
	case problem != nil:
		c.Why = fmt.Sprintf("%s went on past what %s can hold", w.from, w.to)
		c.warn("%s: %s is set to its end, so that nothing is handed out twice", problem.Text, w.to)
	case c.Kept:
		return Change{}, false // no room for the reserve, and new is not outrun
	}
	if o.IsCalled && !beyond(limit, o.LastValue, o.Increment) {
		c.Overlap = &Range{From: limit, To: o.LastValue}
		c.warn("%s has handed out %d to %d, which %s was to hand out", w.from, limit, o.LastValue, w.to)
	}
	return c, true
}

// followWrap treats a sequence with CYCLE that began a new cycle on old.
func (w way) followWrap(o Sequence, g Change, margin int64) (Change, bool) {
	n := g.after()
	c, problem := w.target(o, n, margin)
	if problem != nil {
		return Change{}, false
	}
	if limit, alive := n.next(); alive {
		c.Overlap = &Range{From: limit, To: o.end()}
	}
	c.Wrapped = !c.Exhausted && beyond(n.LastValue, c.Value, o.Increment)
	c.Why += fmt.Sprintf("; it began a new cycle after %d", g.Old.LastValue)
	c.warn("cyclic, and %s began a new cycle: %s follows it over the bound", w.from, w.to)
	return c, c.due(n.Value)
}

// Merge returns given with the changes of later in place of those of the same
// sequences, in the order of given; what is only in later follows.
func Merge(given, later []Change) []Change {
	byRef := make(map[Ref]Change, len(later))
	for _, c := range later {
		byRef[c.Ref] = c
	}
	merged := make([]Change, 0, len(given))
	for _, g := range given {
		if c, found := byRef[g.Ref]; found {
			g = c
			delete(byRef, g.Ref)
		}
		merged = append(merged, g)
	}
	for _, c := range later {
		if _, left := byRef[c.Ref]; left {
			merged = append(merged, c)
		}
	}
	return merged
}
