package doctor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// examination is one look at both servers, and where the move stands by it.
type examination struct {
	options Options
	name    string // the move's, empty when nobody names one
	old     *server
	new     *server
	locked  bool // doctor holds the one-tool lock

	streams     *regexp.Regexp  // names of the move's streams
	pos         state.Position  // of the live servers
	live        bool            // at least one carries the move
	seen        map[string]bool // what an earlier look found; nil when there was none
	promised    int64           // newest attempt in which an operator gave a server up
	interrupted string          // what an unfinished cutover has left to do; empty when none is
}

// Standing is what is known of the move when poolers are looked at.
type Standing struct {
	Move     string
	Old, New *pg.Server // nil when not reached
	// Position is where the move stands, by the servers that were reached.
	Position state.Position
	// Serving is the side that the newest decision gave the writes to, empty
	// when no server carries a move.
	Serving pg.Side
	// Certain tells that both servers were reached and agree, so that a missing
	// decision is a no, provided the one-tool lock is held.
	Certain bool
	// Locked tells that doctor holds the one-tool lock on both servers.
	Locked bool
	// Tool names another tool that holds it.
	Tool string
}

func newExamination(o Options, old, new *server) *examination {
	e := &examination{options: o, old: old, new: new, name: o.Move}
	if e.name == "" {
		e.name = e.discover()
	}
	e.pos.Move = e.name
	e.streams = regexp.MustCompile(state.StreamPattern(e.name))
	if old.kind(e.name) == live && new.kind(e.name) == live && !paired(old, new) {
		new.stranger = true
	}
	for _, s := range e.both() {
		if s.kind(e.name) != live {
			continue
		}
		e.live = true
		e.pos.Attempt = max(e.pos.Attempt, s.turn.Attempt)
		e.pos.Forward = max(e.pos.Forward, s.decisions.Forward)
		e.pos.Back = max(e.pos.Back, s.decisions.Back)
		e.promised = max(e.promised, s.decisions.Promised)
	}
	e.interrupted = e.unfinished()
	return e
}

// paired tells whether two servers' states name the same two databases.
func paired(old, new *server) bool {
	o, n := old.move.Identity, new.move.Identity
	return o.Old.System == n.Old.System && o.Old.Database == n.Old.Database &&
		o.New.System == n.New.System && o.New.Database == n.New.Database
}

// validName is what a move may be called.
var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,29}$`)

// discover takes the move's name from the servers: that of a move first, then
// that of a copy.
func (e *examination) discover() string {
	var name string
	for _, s := range e.both() {
		if s.move == nil || !validName.MatchString(s.move.Name) {
			continue
		}
		if !s.isCopy() {
			return s.move.Name
		}
		name = s.move.Name
	}
	return name
}

func (e *examination) both() []*server { return []*server{e.old, e.new} }

func (e *examination) reachedOnes() []*server {
	var out []*server
	for _, s := range e.both() {
		if s.reached() {
			out = append(out, s)
		}
	}
	return out
}

// on returns what was seen on a side.
func (e *examination) on(side pg.Side) *server {
	if side == pg.New {
		return e.new
	}
	return e.old
}

// other returns the server that s is not.
func (e *examination) other(s *server) *server { return e.on(s.side.Other()) }

// serving is the side that the newest decision gave the writes to; empty when
// no server carries the move.
func (e *examination) serving() pg.Side {
	if !e.live {
		return ""
	}
	return e.pos.Serving()
}

// certain tells whether both servers were seen whole, and both carry this move
// or neither carries any: only then is what is missing really missing. One that
// knows nothing of the move may be the wrong server.
func (e *examination) certain() bool {
	for _, s := range e.both() {
		k := s.kind(e.name)
		if !s.reached() || len(s.unreadable) > 0 || (k != live && k != none) || k != e.other(s).kind(e.name) {
			return false
		}
		if k == live && s.timeline() != "" {
			return false
		}
	}
	return true
}

// tool returns the session that holds the one-tool lock on a server, and the
// server; nil when nobody does.
func (e *examination) tool() (*toolRow, *server) {
	for _, s := range e.reachedOnes() {
		if s.tool != nil {
			return s.tool, s
		}
	}
	return nil, nil
}

// toolAtWork tells whether a tool holds the lock and shows signs of life.
func (e *examination) toolAtWork() bool {
	tool, _ := e.tool()
	return tool != nil && !tool.silent()
}

// stream is the one that flows, or should, by the newest decision: from the
// server that serves to the other one.
func (e *examination) stream() state.Stream {
	return e.pos.Stream(state.DirectionTo(e.pos.Serving().Other()))
}

// inFlux are the names of streams that are an unfinished attempt's to go on
// with or to take back: the one that it has prepared and, once it is decided,
// the one that it drained.
func (e *examination) inFlux() []string {
	if e.interrupted == "" {
		return nil
	}
	d := e.pos.Direction()
	names := []string{state.WayBack(e.name, d, e.pos.Attempt).Name()}
	if e.pos.Decided() {
		names = append(names, e.pos.Stream(d).Name())
	}
	return names
}

// attemptOf takes the attempt out of a stream's name; 0 for the one that start
// makes. ok is false for a name that is not a stream of this move.
func (e *examination) attemptOf(name string) (attempt int64, ok bool) {
	if e.name == "" || !e.streams.MatchString(name) {
		return 0, false
	}
	rest := strings.TrimPrefix(name, "pgcutover_"+e.name)
	if rest == "" {
		return 0, true
	}
	attempt, err := strconv.ParseInt(rest[1:], 10, 64)
	return attempt, err == nil
}

// ourPrefix begins every name of ours that is no schema.
const ourPrefix = "pgcutover_"

// whose tells whose a stream or role of a name is; here says that it belongs to
// the database at hand.
func (e *examination) whose(name string, here bool) Whose {
	if _, ok := e.attemptOf(name); ok && here {
		return This
	}
	if strings.HasPrefix(name, ourPrefix) {
		return Another
	}
	return Other
}

// What the journal calls the list of a cutover or rollback, its last step, and
// the list of start's phases.
const (
	cutoverList = "cutover"
	lastStep    = "follow"
	startList   = "start"
)

// steps are the newest attempt's in the journal, by their last event; nil when
// there is no journal of it.
func (e *examination) steps() map[string]journal.Event {
	if e.new.kind(e.name) != live {
		return nil
	}
	var out map[string]journal.Event
	for _, r := range e.new.journal {
		if r.List != cutoverList || r.Run != e.pos.Attempt {
			continue
		}
		if out == nil {
			out = map[string]journal.Event{}
		}
		out[r.Step] = journal.Event(r.Event)
	}
	return out
}

// phaseDone tells whether the journal has a phase of start as done; known is
// false without a journal.
func (e *examination) phaseDone(phase string) (done, known bool) {
	if e.new.kind(e.name) != live {
		return false, false
	}
	for _, r := range e.new.journal {
		if r.List != startList {
			continue
		}
		known = true
		if r.Step == phase && journal.Event(r.Event) == journal.Succeeded {
			return true, true
		}
	}
	return false, known
}

// unfinished says what the newest attempt has left to do, with nobody at work on
// it; empty when nothing.
func (e *examination) unfinished() string {
	if !e.live || e.toolAtWork() || e.givenUp() {
		return ""
	}
	steps := e.steps()
	if !e.pos.Decided() {
		for _, event := range steps {
			if event != journal.Undone {
				return "it was begun (" + e.lastRecord() + ") and neither decided nor undone"
			}
		}
		return ""
	}
	d := e.pos.Direction()
	if target := e.on(d.Target()); target.kind(e.name) == live && !target.turn.Open {
		return fmt.Sprintf("it was decided, and the %s server has not been opened yet", target.side)
	}
	if steps != nil {
		if steps[lastStep] != journal.Succeeded {
			return "it was decided, and not all steps after that are done (" + e.lastRecord() + ")"
		}
		return ""
	}
	drained := e.pos.Stream(d).Name()
	if e.on(d.Target()).subscription(drained) != nil || e.on(d.Source()).slot(drained) != nil {
		return "it was decided, and the stream that it drained, " + drained + ", still stands"
	}
	return ""
}

// lastRecord is the newest record of the newest attempt, for people.
func (e *examination) lastRecord() string {
	var last journalRow
	for _, r := range e.new.journal {
		if r.List == cutoverList && r.Run == e.pos.Attempt && r.At.After(last.At) {
			last = r
		}
	}
	return fmt.Sprintf("last record: %s %s, %s", last.Step, last.Event, last.At.UTC().Format("2006-01-02 15:04:05Z"))
}

func (e *examination) standing() Standing {
	out := Standing{Move: e.name, Position: e.pos, Serving: e.serving(), Certain: e.certain() && e.live, Locked: e.locked}
	if e.old.reached() {
		out.Old = e.old.conn
	}
	if e.new.reached() {
		out.New = e.new.conn
	}
	if tool, _ := e.tool(); tool != nil {
		out.Tool = tool.String()
	}
	return out
}

// judge returns everything that is not as it should be.
func (e *examination) judge() []Finding {
	var found []Finding
	for _, j := range []func() []Finding{
		e.reachable, e.identityFindings, e.toolFindings, e.givenUpFindings, e.cutoverFindings, e.writeFindings, e.settingsFindings,
		e.fenceFindings, e.copyFindings, e.slotFindings, e.subscriptionFindings, e.streamFindings, e.originFindings,
		e.publicationFindings, e.roleFindings, e.settingFindings, e.commentFindings, e.eventFindings, e.preparedFindings,
	} {
		found = append(found, j()...)
	}
	sure := e.certain()
	for i, f := range found {
		// A copy is no part of the move; all else is mended only by one who sees
		// everything, while no cutover is unfinished.
		if f.Whose != Copy && (!sure || e.interrupted != "" || e.givenUp() || e.toolAtWork()) {
			found[i].Mend = nil
		}
		if f.Whose == This && e.toolAtWork() && !keeps(f.ID) {
			found[i].Severity = preflight.Note
			found[i].Next = "a tool is at work: wait for it, then look again"
		}
	}
	return found
}

// keeps tells which findings a tool at work does not explain.
func keeps(id string) bool {
	kind, _, _ := strings.Cut(id, ".")
	return kind == "server" || kind == "tool" || kind == "writes" || kind == "identity"
}
