package sequences

import "fmt"

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
	byRef := make(map[Ref]Value, len(now))
	for _, v := range now {
		byRef[v.Ref] = v
	}
	var again []Change
	for _, g := range given {
		v, found := byRef[g.Ref]
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
			c, needed = followWrap(o, g, margin)
		} else {
			c, needed = follow(o, g, margin, reserve)
		}
		if needed {
			again = append(again, c)
		}
	}
	return again
}

// follow treats a sequence that went on in its direction.
func follow(o Sequence, g Change, margin, reserve int64) (Change, bool) {
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
	c, problem := forward.decide(o, n, margin)
	switch {
	case problem != nil && !outran:
		return Change{}, false
	case problem != nil:
		c.Why = "old went on past what new can hold"
		c.warn("%s: new is set to its end, so that nothing is handed out twice", problem.Text)
	case c.Kept:
		return Change{}, false // no room for the reserve, and new is not outrun
	}
	if o.IsCalled && !beyond(limit, o.LastValue, o.Increment) {
		c.Overlap = &Range{From: limit, To: o.LastValue}
		c.warn("old has handed out %d to %d, which new was to hand out", limit, o.LastValue)
	}
	return c, true
}

// followWrap treats a sequence with CYCLE that began a new cycle on old.
func followWrap(o Sequence, g Change, margin int64) (Change, bool) {
	n := g.after()
	c, problem := forward.target(o, n, margin)
	if problem != nil {
		return Change{}, false
	}
	if limit, alive := n.next(); alive {
		c.Overlap = &Range{From: limit, To: o.end()}
	}
	c.Wrapped = !c.Exhausted && beyond(n.LastValue, c.Value, o.Increment)
	c.Why += fmt.Sprintf("; it began a new cycle after %d", g.Old.LastValue)
	c.warn("cyclic, and old began a new cycle: new follows it over the bound")
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
