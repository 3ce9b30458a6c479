package sequences

import "math"

// Room is how much of the margin that new was given is left: how many numbers old
// may still hand out before it comes to those of new. It is for a look before a
// cutover, and costs nothing beyond reading both servers' sequences.
type Room struct {
	Ref
	// Left counts numbers of the sequence, that is steps, not the difference of
	// two numbers. 0 means that the next number of old is one of new's already;
	// that old has none left is no lack of room (see Unbounded).
	Left uint64 `json:"left"`
	// Wanted is the margin that a cutover would give it: that of Plan, or a cache
	// block where that is more.
	Wanted uint64 `json:"wanted"`
	// Behind says that new would hand out what old has handed out: the sequence
	// was not set yet, or old outran it.
	Behind bool `json:"behind,omitempty"`
	// Unbounded says that old cannot come to new's numbers at all: it is at its
	// end, or new is.
	Unbounded bool `json:"unbounded,omitempty"`
	// End is how many numbers old has left up to the nearer of both bounds, and
	// Short says that this is less than Wanted: the margin is cut, as the
	// warning of the Change says.
	End   uint64 `json:"end"`
	Short bool   `json:"short,omitempty"`
}

// RoomLeft sums up rooms.
type RoomLeft struct {
	Sequences int `json:"sequences"` // those on both servers that the role may read
	Behind    int `json:"behind"`    // see Room
	Low       int `json:"low"`       // not behind nor short, with less than half of the margin left
	Short     int `json:"short"`     // near a bound
	// Least is the one with the least room in proportion to what it was to have,
	// of those that are not behind; nil when there is none that old can come to.
	Least *Room `json:"least,omitempty"`
}

// Rooms returns the room of every sequence that is on both servers, readable, and
// counts in one direction, in the order of onOld. margin is that of Plan.
func Rooms(onOld, onNew []Sequence, margin int64) []Room {
	byRef := make(map[Ref]*Sequence, len(onNew))
	for i := range onNew {
		byRef[onNew[i].Ref] = &onNew[i]
	}
	rooms := make([]Room, 0, len(onOld))
	for _, o := range onOld {
		n := byRef[o.Ref]
		if n == nil || !o.Readable || !n.Readable || (o.Increment < 0) != (n.Increment < 0) {
			continue
		}
		rooms = append(rooms, roomOf(o, *n, margin))
	}
	return rooms
}

func roomOf(o, n Sequence, margin int64) Room {
	r := Room{Ref: o.Ref, Wanted: wantedSteps(o, margin), End: min(o.left(), left(o.Value, o.Increment, n.end()))}
	r.Short = r.End < r.Wanted
	status, _ := standing(o, n)
	next, alive := n.next()
	switch {
	case status == Behind:
		r.Behind = true
	case !alive || o.left() == 0:
		r.Unbounded = true
	default:
		r.Left = before(o.Value, o.Increment, next)
	}
	return r
}

// SumRooms counts rooms for a status.
func SumRooms(rooms []Room) RoomLeft {
	sum := RoomLeft{Sequences: len(rooms)}
	least := math.Inf(1)
	for i, r := range rooms {
		if r.Short {
			sum.Short++
		}
		switch {
		case r.Behind:
			sum.Behind++
			continue
		case r.Unbounded:
			continue
		case !r.Short && r.Left < r.Wanted-r.Wanted/2:
			sum.Low++
		}
		if share := float64(r.Left) / float64(max(r.Wanted, 1)); share < least {
			least, sum.Least = share, &rooms[i]
		}
	}
	return sum
}
