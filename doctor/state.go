package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// moveRow is pgcutover.move.
type moveRow struct {
	Name     string
	Side     string
	Format   int
	Identity struct {
		Old state.Identity `json:"old"`
		New state.Identity `json:"new"`
	}
	Created time.Time
}

// own is the identity that the row records for the database that it stands in.
func (m *moveRow) own() state.Identity {
	if m.Side == string(pg.New) {
		return m.Identity.New
	}
	return m.Identity.Old
}

const moveSQL = `
select name, side, format, identity, created
  from pgcutover.move`

const turnSQL = `
select attempt, armed, open
  from pgcutover.turn`

// decisions are the newest attempts whose decisions a server has.
type decisions struct {
	Forward int64
	Back    int64
	// Promised is the newest one that no server made: see state.Promise.
	Promised int64
}

// decisionsForwardSQL is for a state made before there was a way back.
const decisionsForwardSQL = `
select coalesce(max(attempt), 0) as forward, 0::bigint as back, 0::bigint as promised
  from pgcutover.decision_forward`

const decisionsSQL = `
select (select coalesce(max(attempt), 0) from pgcutover.decision_forward) as forward,
       (select coalesce(max(attempt), 0) from pgcutover.decision_back) as back,
       (select coalesce(max(p.attempt), 0)
          from (select attempt from pgcutover.decision_forward where stream = -1
                 union all
                select attempt from pgcutover.decision_back where stream = -1) p) as promised`

// journalRow is the last event of a step.
type journalRow struct {
	List  string
	Run   int64
	Step  string
	Event string
	At    time.Time
}

// journalSQL reads how far the phases of the move (run 0) and the newest
// attempt are.
const journalSQL = `
select distinct on (list, run, step) list, run, step, event, at
  from pgcutover.journal
 where run in (0, (select max(run) from pgcutover.journal))
 order by list, run, step, seq desc`

// keptRow is something that closing the server has replaced, and remembers.
type keptRow struct{ Key string }

const keptSQL = `
select key
  from pgcutover.kept`

// undefinedColumn is raised when a table of ours has other columns.
const undefinedColumn = "42703"

// lookState reads schema pgcutover. Somebody else's, or a damaged one, is no
// failure: then there is no move.
func lookState(ctx context.Context, s *server, _ Options) error {
	if !s.base.Schema {
		return nil
	}
	err := s.readState(ctx)
	if pg.IsCode(err, undefinedColumn, pg.UndefinedTable) {
		s.move, s.turn, s.decisions, s.journal = nil, nil, decisions{}, nil
		return nil
	}
	return err
}

func (s *server) readState(ctx context.Context) error {
	has := func(table string) bool { return slices.Contains(s.base.Tables, table) }
	if !has("move") || !has("turn") || !has("decision_forward") {
		return nil
	}
	var err error
	if s.move, err = readOne[moveRow](ctx, s.conn, "reading pgcutover.move", moveSQL); err != nil {
		return err
	}
	if s.turn, err = readOne[state.Turn](ctx, s.conn, "reading pgcutover.turn", turnSQL); err != nil {
		return err
	}
	sql := decisionsForwardSQL
	if has("decision_back") {
		sql = decisionsSQL
	}
	d, err := readOne[decisions](ctx, s.conn, "reading the decisions", sql)
	if err != nil {
		return err
	}
	s.decisions = *d
	if has("journal") {
		if s.journal, err = read[journalRow](ctx, s.conn, "reading the journal", journalSQL); err != nil {
			return err
		}
	}
	if has("kept") {
		kept, err := read[keptRow](ctx, s.conn, "reading what closing the server has replaced", keptSQL)
		for _, k := range kept {
			s.kept = append(s.kept, k.Key)
		}
		return err
	}
	return nil
}

// check is what pgcutover.check() says.
type check struct {
	Refuses bool  // it raises an error, in the database that it is bound to
	Bound   int64 // OID of that database, 0 for none
	Move    string
	Since   string
}

// checkSQL finds the function by name: to_regprocedure fails without rights on
// the schema.
const checkSQL = `
select p.prosrc as source
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'pgcutover' and p.proname = 'check' and p.pronargs = 0`

type checkRow struct{ Source string }

func lookCheck(ctx context.Context, s *server, _ Options) error {
	row, err := readOne[checkRow](ctx, s.conn, "reading pgcutover.check()", checkSQL)
	if err == nil && row != nil {
		s.check = parseCheck(row.Source)
	}
	return err
}

var (
	raises  = regexp.MustCompile(`(?i)\braise\s+exception\b`)
	boundTo = regexp.MustCompile(`current_database\(\)\)?\s*<>\s*(\d+)`)
	ofMove  = regexp.MustCompile(`\(move "([^"]*)", (?:old|new) server, closed since ([^)]*)\)`)
)

// parseCheck reads the body of check(): package fence writes it, open (nothing
// between begin and end) or closed.
func parseCheck(source string) *check {
	c := &check{Refuses: raises.MatchString(source)}
	if m := boundTo.FindStringSubmatch(source); m != nil {
		// Digits only; a number that does not fit is the OID of no database.
		c.Bound, _ = strconv.ParseInt(m[1], 10, 64)
	}
	if m := ofMove.FindStringSubmatch(source); m != nil {
		c.Move, c.Since = m[1], m[2]
	}
	return c
}

// refuses tells whether client writes are refused in this very database, by
// the tables that have a trigger.
func (s *server) refuses() bool {
	return s.check != nil && s.check.Refuses && (s.check.Bound == 0 || s.check.Bound == s.base.OID)
}

// kind is what schema pgcutover on a server is.
type kind string

const (
	unknown kind = "unknown" // not reached, or it could not be read
	none    kind = "none"    // there is none
	live    kind = "live"    // the move's own
	copied  kind = "copy"    // it came with a dump
	another kind = "another" // another move's
	swapped kind = "swapped" // the move's other server
	foreign kind = "foreign" // somebody else's, or without the row that says whose
	newer   kind = "newer"   // made by a newer pgcutover
)

// kind says what schema pgcutover on the server is, for a move called name.
func (s *server) kind(name string) kind {
	switch {
	case !s.reached() || s.unreadable["database"] != nil || s.unreadable["state"] != nil:
		return unknown
	case !s.base.Schema:
		return none
	case s.isCopy():
		return copied
	case s.move == nil || s.turn == nil:
		return foreign
	case s.move.Name != name, s.stranger:
		return another
	case s.move.Format > state.Format:
		return newer
	case s.move.Side != string(s.side):
		return swapped
	}
	return live
}

// isCopy compares what schema pgcutover says of its database with the database
// that it stands in. A physical copy of the whole cluster cannot be told that
// way; its timeline tells, once it was promoted.
func (s *server) isCopy() bool {
	if s.move == nil { // only the definitions came along
		return s.check != nil && s.check.Bound != 0 && s.check.Bound != s.base.OID
	}
	own := s.move.own()
	if int64(own.Database) != s.base.OID {
		return true
	}
	return s.id != nil && own.System != s.id.System
}

// here names the identity of the database for people.
func (s *server) here() string {
	if s.id == nil {
		return fmt.Sprintf("database OID %d", s.base.OID)
	}
	return fmt.Sprintf("database OID %d of cluster %s", s.base.OID, s.id.System)
}
