package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// toolRow is the session that holds the one-tool lock.
type toolRow struct {
	PID    int32 `db:"pid"`
	App    string
	Client string
	Since  time.Time
	State  string   // empty when this role may not see it
	Quiet  *float64 // seconds since it last said something; nil when not to be seen
}

// toolSQL names the session that holds the one-tool lock of this database. The
// two numbers are those of internal/pg.
const toolSQL = `
select a.pid, coalesce(a.application_name, '') as app, coalesce(host(a.client_addr), 'local') as client,
       coalesce(a.backend_start, clock_timestamp()) as since, coalesce(a.state, '') as state,
       extract(epoch from clock_timestamp() - a.state_change)::float8 as quiet
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted
   and l.classid = 1885823861 and l.objid = 1 and l.objsubid = 2
   and l.database = (select oid from pg_database where datname = current_database())`

func lookTool(ctx context.Context, s *server, _ Options) error {
	tool, err := readOne[toolRow](ctx, s.conn, "looking for the holder of the one-tool lock", toolSQL)
	if tool != nil && strings.HasSuffix(tool.App, "/"+purpose) && !tool.silent() {
		return err // this run, or another doctor: it changes nothing that is in use
	}
	s.tool = tool
	return err
}

// purpose is what doctor's own sessions are called.
const purpose = "doctor"

// String describes the session without a secret.
func (t *toolRow) String() string {
	return fmt.Sprintf("session %d (%s from %s)", t.PID, t.App, t.Client)
}

// quietBound is how long, in seconds, a tool that lives may say nothing: it asks
// its session every second. A variable, because tests cannot wait that long.
var quietBound = 15.0

// silent tells a tool that was stopped, or whose host is gone, from one at
// work.
func (t *toolRow) silent() bool {
	return t.Quiet != nil && *t.Quiet > quietBound && strings.HasPrefix(t.State, "idle")
}

// toolFindings reports who is at work.
func (e *examination) toolFindings() []Finding {
	tool, s := e.tool()
	if tool == nil {
		return nil
	}
	f := Finding{
		ID: "tool.at-work", Severity: preflight.Note, Server: on(s.side), Object: fmt.Sprintf("session %d", tool.PID), Whose: This,
		Seen: fmt.Sprintf("%s holds the one-tool lock since %s", tool, tool.Since.UTC().Format("2006-01-02 15:04:05Z")),
		Why:  "What it is in the middle of is no fault, and nobody else may change anything.",
		Next: "wait for it, then look again",
	}
	if tool.silent() {
		f.ID, f.Severity, f.Age = "tool.silent", preflight.Blocker, tool.Quiet
		f.Seen += ", and has said nothing for " + ago(*tool.Quiet)
		f.Why = "It asks its session every second: it was stopped, or its host is gone. While its session lives nobody else can go on."
		f.Next = "if that process will not come back, end its session, then run: pgcutover resume"
		f.SQL = []string{fmt.Sprintf("SELECT pg_terminate_backend(%d)", tool.PID)}
	}
	return []Finding{f}
}

// cutoverFindings reports an attempt that nobody is finishing, and a guard that
// is armed for nobody.
func (e *examination) cutoverFindings() []Finding {
	var found []Finding
	if e.interrupted != "" {
		f := Finding{
			ID: "cutover.interrupted", Severity: preflight.Blocker, Server: preflight.Both, Object: fmt.Sprintf("attempt %d", e.pos.Attempt), Whose: This,
			Seen: e.interrupted + "; no tool holds the lock",
			Why:  "Nothing was turned: the " + on(e.pos.Serving()) + " server takes the writes. What the attempt left behind keeps WAL and stands in the way of the next one.",
			Next: "run: pgcutover resume",
		}
		if e.pos.Decided() {
			f.Why = "The writes belong to the " + on(e.pos.Serving()) + " server for good. What is left to do decides whether clients reach it, and how long WAL is kept."
		}
		found = append(found, f)
	}
	for _, s := range e.reachedOnes() {
		if s.kind(e.name) == live && s.turn.Armed && !e.toolAtWork() {
			found = append(found, e.armed(s))
		}
	}
	return found
}

func (e *examination) armed(s *server) Finding {
	attempt := s.turn.Attempt
	f := Finding{
		ID: "guard.armed", Severity: preflight.Warning, Server: on(s.side), Object: fmt.Sprintf("attempt %d", attempt), Whose: This,
		Seen: "the guard may open this server, and no tool is at work",
		Why:  "It waits for a decision that nobody is making. The next attempt arms it anew.",
		SQL:  []string{fmt.Sprintf("UPDATE pgcutover.turn SET armed = false WHERE attempt = %d AND NOT open", attempt)},
		Mend: func(ctx context.Context) error { return e.disarm(ctx, s, attempt) },
	}
	if e.interrupted != "" || s.turn.Open {
		f.Next, f.SQL, f.Mend = "run: pgcutover resume", nil, nil
	}
	return f
}

// writeFindings judges who takes client writes, against who should.
func (e *examination) writeFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		if s.kind(e.name) == live {
			found = append(found, e.turnFindings(s)...)
		}
		found = append(found, e.readOnlyFindings(s)...)
	}
	if e.old.kind(e.name) != live || e.new.kind(e.name) != live {
		return found
	}
	open := e.old.turn.Open && e.new.turn.Open && !e.old.refuses() && !e.new.refuses()
	f := Finding{Severity: preflight.Blocker, Server: preflight.Both, Object: "writes", Whose: This}
	switch {
	case open:
		f.ID = "writes.both"
		f.Seen = fmt.Sprintf("pgcutover.turn says on both servers that clients may write; the newest decision gave the writes to the %s server", e.pos.Serving())
		f.Why = "Rows written on one server are missing on the other, and keys collide."
		f.Next = fmt.Sprintf("stop the clients of the %s server now, then compare both", e.pos.Serving().Other())
	case e.old.refuses() && e.new.refuses():
		f.ID = "writes.nowhere"
		f.Seen = "both servers refuse client writes"
		f.Why = "The application is down."
		f.Next = "run: pgcutover resume"
		if !e.pos.Decided() {
			// Without a decision the server that serves has no reason to refuse.
			s := e.on(e.pos.Serving())
			f.Seen += fmt.Sprintf("; no decision took them from the %s server", s.side)
			f.Next = fmt.Sprintf("see that no cutover is under way (pgcutover status), then let the %s server take them again", s.side)
			f.SQL = []string{"BEGIN", state.TurnLockSQL, "SELECT pgcutover.open_now()", "COMMIT"}
			f.Server = on(s.side)
		}
	default:
		return found
	}
	if e.toolAtWork() {
		f.Next = "a tool is at work: it ends this, or gives up, within its bounds. If it does neither: " + f.Next
	}
	return append(found, f)
}

// turnFindings compares a server's turn with its check().
func (e *examination) turnFindings(s *server) []Finding {
	if s.check == nil || s.turn.Open != s.refuses() {
		return nil
	}
	f := Finding{
		ID: "turn.disagrees", Severity: preflight.Blocker, Server: on(s.side), Object: "pgcutover.turn", Whose: This,
		Seen: fmt.Sprintf("the turn says that clients may write here, and check() %s", s.checkText()),
		Why:  "Both are always changed together: somebody has replaced check() or the turn by hand, or restored one of them.",
		Next: "see that no cutover is under way (pgcutover status); the newest decision gave the writes to the " + on(e.pos.Serving()) + " server",
	}
	if s.turn.Open {
		if e.pos.Serving() == s.side {
			f.SQL = []string{"BEGIN", state.TurnLockSQL, "SELECT pgcutover.open_now()", "COMMIT"}
		}
		return []Finding{f}
	}
	f.Seen = fmt.Sprintf("the turn says that clients may not write here, and check() %s", s.checkText())
	f.Why += " Clients can write on a server that is not theirs: what they write is lost."
	if e.pos.Serving() == s.side {
		return []Finding{f}
	}
	f.Mend = func(ctx context.Context) error { return closeFence(ctx, s) }
	f.Next = "--fix closes it"
	return []Finding{f}
}

// readOnlySeverity is that of a read-only default: nobody can write where it is
// on the server that serves.
func (e *examination) readOnlySeverity(s *server) preflight.Severity {
	serving := e.serving()
	if s.side == serving || (serving == "" && s.side == pg.Old) {
		return preflight.Blocker
	}
	return preflight.Warning
}

// readOnlyFindings judges the database's read-only default, which multihost
// clients choose by.
func (e *examination) readOnlyFindings(s *server) []Finding {
	f := Finding{Server: on(s.side), Object: "default_transaction_read_only of database " + quote(s.base.Name)}
	database := quote(s.base.Name)
	closed := s.kind(e.name) == live && !s.turn.Open
	switch k := s.kind(e.name); {
	case k == unknown || k == copied || k == swapped || k == newer, k == foreign && s.refuses():
		return nil
	case closed && s.check != nil && s.base.ReadOnly != "on":
		f.ID, f.Severity, f.Whose = "read-only.missing", preflight.Warning, This
		f.Seen = "not on, while the server refuses writes"
		f.Why = "Clients whose connection strings name both servers choose by it: they land here and are refused."
		f.SQL = []string{fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = on", database)}
		f.Mend = func(ctx context.Context) error { return setReadOnly(ctx, s) }
	case !closed && s.base.ReadOnly == "on":
		f.ID, f.Severity, f.Whose = "read-only.database", e.readOnlySeverity(s), Other
		f.Seen = "on, and no fence of this move is closed here"
		f.Why = "New sessions cannot write, whoever they are: ending sessions or SET in one of them does not help, because it stands on the database."
		f.SQL = []string{"SET default_transaction_read_only = off", fmt.Sprintf("ALTER DATABASE %s RESET default_transaction_read_only", database)}
	default:
		return nil
	}
	return []Finding{f}
}
