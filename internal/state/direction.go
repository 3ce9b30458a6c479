package state

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Direction says which way the writes turn, and which way a stream flows. Old
// and new are fixed; the roles swap.
type Direction string

// The two directions. Each has its own marker and decision tables, which only
// its own stream publishes, so that nothing comes back to where it was written.
const (
	Forward Direction = "forward" // from old to new: cutover
	Back    Direction = "back"    // from new to old: rollback
)

// Reverse returns the other direction.
func (d Direction) Reverse() Direction {
	if d == Back {
		return Forward
	}
	return Back
}

// Source is the side that takes the writes until the decision, and publishes.
func (d Direction) Source() pg.Side {
	if d == Back {
		return pg.New
	}
	return pg.Old
}

// Target is the side that takes the writes after the decision, and subscribes.
func (d Direction) Target() pg.Side { return d.Source().Other() }

// Command is the command of the tool that turns the writes in this direction.
func (d Direction) Command() string {
	if d == Back {
		return "rollback"
	}
	return "cutover"
}

// DirectionFrom returns the direction whose source is side.
func DirectionFrom(side pg.Side) Direction { return DirectionTo(side.Other()) }

// DirectionTo returns the direction whose target is side.
func DirectionTo(side pg.Side) Direction {
	if side == pg.Old {
		return Back
	}
	return Forward
}

// Stream is one publication, slot and subscription of a move; all three bear
// its name.
type Stream struct {
	Move      string    `json:"move"`
	Direction Direction `json:"direction"`
	// Attempt is the cutover that made the stream as its way back, 0 for the
	// one that start makes.
	Attempt int64 `json:"attempt,omitempty"`
}

// FirstStream is the stream that start makes.
func FirstStream(move string) Stream { return Stream{Move: move, Direction: Forward} }

// Name is pgcutover_<move>, with the attempt behind it for a way back: such a
// stream is never taken over from an earlier attempt.
func (s Stream) Name() string {
	if s.Attempt == 0 {
		return "pgcutover_" + s.Move
	}
	return "pgcutover_" + s.Move + "_" + strconv.FormatInt(s.Attempt, 10)
}

// StreamPattern is a regular expression that all streams of a move match, and
// nobody else's: a move's name cannot end in an attempt's number.
func StreamPattern(move string) string { return "^pgcutover_" + move + "(_[0-9]{8,})?$" }

// StreamAttempt returns the attempt whose number a stream's name ends in, 0 for
// the stream that start makes.
func StreamAttempt(move, name string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(name, "pgcutover_"+move+"_"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Position is where a move stands: its newest attempt and the newest decided
// ones.
type Position struct {
	Move    string
	Attempt int64 // newest that either server has seen
	Forward int64 // newest decided cutover, 0 for none
	Back    int64 // newest decided rollback, 0 for none
}

const decidedForwardSQL = `select coalesce(max(attempt), 0) from pgcutover.decision_forward`

const decidedBackSQL = `select coalesce(max(attempt), 0) from pgcutover.decision_back`

// Locate asks both servers. A decision seen on either is a yes. That one is
// missing is definitive only for a caller who holds the one-tool lock of the
// direction's source.
func Locate(ctx context.Context, old, new *pg.Server) (Position, error) {
	p := Position{Move: old.Move()}
	for _, s := range []*pg.Server{old, new} {
		t, err := ReadTurn(ctx, s.Pool())
		if err != nil {
			return p, fmt.Errorf("on the %s server: %w", s.Side(), err)
		}
		p.Attempt = max(p.Attempt, t.Attempt)
		for _, q := range []struct {
			sql  string
			into *int64
		}{{decidedForwardSQL, &p.Forward}, {decidedBackSQL, &p.Back}} {
			var n int64
			if err := s.Pool().QueryRow(ctx, q.sql).Scan(&n); err != nil {
				return p, fmt.Errorf("looking for decisions on the %s server: %w", s.Side(), err)
			}
			*q.into = max(*q.into, n)
		}
	}
	return p, nil
}

// Decided tells whether the newest attempt is decided.
func (p Position) Decided() bool {
	return p.Attempt != 0 && (p.Attempt == p.Forward || p.Attempt == p.Back)
}

// Serving is the side that the newest decision gave the writes to.
func (p Position) Serving() pg.Side {
	if p.Forward > p.Back {
		return pg.New
	}
	return pg.Old
}

// Direction is the one of the newest attempt: of its decision, or away from
// the side that serves.
func (p Position) Direction() Direction {
	switch {
	case p.Attempt != 0 && p.Attempt == p.Forward:
		return Forward
	case p.Attempt != 0 && p.Attempt == p.Back:
		return Back
	}
	return DirectionTo(p.Serving().Other())
}

// Stream is the one that an attempt in direction d drains: what the newest
// decision the other way left behind, or what start made.
func (p Position) Stream(d Direction) Stream {
	if d == Back {
		return Stream{Move: p.Move, Direction: Back, Attempt: p.Forward}
	}
	return Stream{Move: p.Move, Direction: Forward, Attempt: p.Back}
}

// WayBack is the stream that attempt leaves behind for the way back.
func WayBack(move string, d Direction, attempt int64) Stream {
	return Stream{Move: move, Direction: d.Reverse(), Attempt: attempt}
}
