package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/preflight"
)

// madeByUs begins the comment on a schema pgcutover that this tool made.
const madeByUs = "made by pgcutover"

// identityFindings reports servers whose state is not this move's, or says that
// they are not the servers that the move was started with.
func (e *examination) identityFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		f := Finding{Server: on(s.side), Object: "schema pgcutover", Severity: preflight.Blocker, Whose: This}
		switch s.kind(e.name) {
		case another:
			f.ID, f.Severity, f.Whose = "identity.another-move", preflight.Warning, Another
			if s.stranger {
				f.Seen = fmt.Sprintf("it belongs to a move %q between other databases than the %s server says", s.move.Name, s.side.Other())
				f.Why = "The two servers are not a pair: nothing of the move is looked for here."
				f.Next = "correct the two URLs"
				found = append(found, f)
				continue
			}
			f.Seen = fmt.Sprintf("it belongs to the move %q, of %s", s.move.Name, s.move.Created.UTC().Format("2006-01-02"))
			f.Why = fmt.Sprintf("A database is in one move at a time: nothing of %q is looked for here.", e.name)
			f.Next = fmt.Sprintf("to look at that move: pgcutover doctor --%s URL --name %s", s.side, s.move.Name)
		case swapped:
			f.ID = "identity.swapped"
			f.Seen = fmt.Sprintf("the server given as %s is the %s server of the move %q", s.side, s.move.Side, s.move.Name)
			f.Why = "Everything about this server would be judged the wrong way round."
			f.Next = "correct the two URLs: old and new are swapped"
		case newer:
			f.ID = "identity.newer"
			f.Seen = fmt.Sprintf("its format is %d", s.move.Format)
			f.Why = "It was made by a newer pgcutover, and may mean what this one does not know."
			f.Next = "use that version"
		case foreign:
			found = append(found, e.foreignSchema(s))
			continue
		case live:
			text := s.timeline()
			if text == "" {
				continue
			}
			f.ID, f.Object, f.Seen = "identity.timeline", "server", text
			f.Why = "It failed over, was restored, or is a physical copy: changes may be lost, and slots may be gone."
			f.Next = "before the cutover: pgcutover abort, then start. After it: compare both servers before anything else"
		default:
			continue
		}
		found = append(found, f)
	}
	return append(found, e.oneSided()...)
}

// timeline says that a live server is not on the timeline on which the move
// began; empty when it is, or when that is not known.
func (s *server) timeline() string {
	if s.id == nil || s.move == nil || s.move.own().Timeline == s.id.Timeline {
		return ""
	}
	return fmt.Sprintf("it is on timeline %d, the move was started on %d", s.id.Timeline, s.move.own().Timeline)
}

// foreignSchema judges a schema pgcutover without the row that says whose it is.
func (e *examination) foreignSchema(s *server) Finding {
	f := Finding{
		ID: "schema.without-move", Severity: preflight.Warning, Server: on(s.side), Object: "schema pgcutover", Whose: Other,
		Seen: "nothing in it says which move made it",
		Why:  "pgcutover needs that name, and cannot begin a move while it stands.",
		Next: "if it is nobody's, drop it; if it is an application's, rename it",
		SQL:  []string{"DROP SCHEMA pgcutover CASCADE"},
	}
	if !strings.HasPrefix(s.base.SchemaComment, madeByUs) {
		return f
	}
	f.Whose = This
	f.Seen = "its comment says that pgcutover made it, and its row in pgcutover.move is gone"
	f.Next = "restore the row if the move goes on; if not, drop the schema"
	if s.refuses() || len(s.triggers) > 0 {
		// What the fence means cannot be told without the row.
		f.Severity = preflight.Blocker
		f.Seen += fmt.Sprintf("; check() %s; %s its trigger", s.checkText(), has(s.fenced(), "table"))
		f.Next += "; mind that dropping it lets clients write here"
	}
	return f
}

// checkText says what check() does.
func (s *server) checkText() string {
	switch {
	case s.check == nil:
		return "does not exist"
	case !s.check.Refuses:
		return "is open"
	case s.refuses():
		return "refuses writes here"
	}
	return fmt.Sprintf("is closed but bound to database OID %d: it does nothing here", s.check.Bound)
}

// oneSided reports a move of which only one of two reached servers knows.
func (e *examination) oneSided() []Finding {
	if !e.old.reached() || !e.new.reached() || e.unreadableState() {
		return nil
	}
	var has, lacks *server
	for _, s := range e.both() {
		switch s.kind(e.name) {
		case live:
			has = s
		case none:
			lacks = s
		}
	}
	if has == nil || lacks == nil {
		return nil
	}
	f := Finding{
		ID: "state.one-sided", Severity: preflight.Warning, Server: on(has.side), Object: "schema pgcutover", Whose: This,
		Seen: fmt.Sprintf("the %s server knows of the move %q, the %s server does not", has.side, e.name, lacks.side),
		Why:  "A start, abort or complete was interrupted, or the other database was made anew. The move cannot go on.",
		Next: e.oneSidedNext(has.side),
	}
	if e.pos.Serving() == pg.New && has.side == pg.Old && has.refuses() {
		f.Severity = preflight.Note
	}
	return []Finding{f}
}

// oneSidedNext is what to do when only one server knows of the move. Where the
// other one's URL leads to a server that took its place, the one that knows may
// have the only copy of the rows.
func (e *examination) oneSidedNext(has pg.Side) string {
	switch serving := e.pos.Serving(); {
	case e.givenUp() && serving == pg.New:
		return "pgcutover complete --new-only"
	case e.givenUp():
		return "pgcutover abort --old-only"
	case serving == pg.New && has == pg.New:
		return "pgcutover complete; if the old server is gone for good, and another one is where it was: pgcutover complete --new-only"
	case serving == pg.New:
		return "pgcutover complete. After complete --keep-fence all is as it should be: the old server refuses writes until somebody drops the schema there. " +
			"If the new server is gone for good: pgcutover resume --new-is-lost, which says first what is lost with it"
	case has == pg.New:
		return "if the old server is gone for good, and another one is where it was: pgcutover resume --old-is-lost, which says first what is lost with it, then pgcutover complete --new-only. " +
			"If it is the right one: pgcutover abort, which empties new (before a start that was interrupted: pgcutover start goes on)"
	}
	return "pgcutover abort; if the new server is gone for good: pgcutover abort --old-only (before a start that was interrupted: pgcutover start goes on)"
}

func (e *examination) unreadableState() bool {
	return e.old.kind(e.name) == unknown || e.new.kind(e.name) == unknown
}

// copyFindings reports a schema pgcutover, with its fence, that came with a dump.
func (e *examination) copyFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		if s.kind(e.name) != copied {
			continue
		}
		f := Finding{
			ID: "fence.restored-dump", Severity: preflight.Warning, Server: on(s.side), Object: "schema pgcutover", Whose: Copy,
			Seen: s.copyText(),
			Why:  "It came with a dump of a server of that move. No tool knows of it here, and none will open or remove it.",
			SQL: []string{
				"SET default_transaction_read_only = off",
				"DROP SCHEMA pgcutover CASCADE",
			},
			Mend: func(ctx context.Context) error { return dropCopy(ctx, s) },
		}
		if s.base.ReadOnly == "on" {
			f.SQL = append(f.SQL, fmt.Sprintf("ALTER DATABASE %s RESET default_transaction_read_only", quote(s.base.Name)))
		}
		if s.refuses() && s.fenced() > 0 {
			// Whether clients may write here is not for a program to say.
			f.Severity, f.Mend = preflight.Blocker, nil
			f.Why += " It refuses all client writes."
			f.Next = "if this database is to take writes, run the SQL"
			if s.decisions.Forward > 0 || s.decisions.Back > 0 {
				f.Why += " A decision gave them to the other server: before you run the SQL, be sure that nobody is to write there."
			}
		}
		found = append(found, f)
	}
	return found
}

func (s *server) copyText() string {
	from := "the definitions of a move came along, without its rows"
	if s.move != nil {
		own := s.move.own()
		from = fmt.Sprintf("it says that it is the %s server of the move %q, database OID %d of cluster %s", s.move.Side, s.move.Name, own.Database, own.System)
	}
	text := fmt.Sprintf("%s; this is %s. check() %s; %s its trigger", from, s.here(), s.checkText(), has(s.fenced(), "table"))
	if s.base.ReadOnly == "on" {
		text += "; the database's default is read-only"
	}
	return text
}

// has writes "1 table has", "3 tables have".
func has(n int, what string) string {
	if n == 1 {
		return "1 " + what + " has"
	}
	return plural(n, what) + " have"
}

// commentFindings reports what closing a server has put on its database and
// opening it has not taken back: the comment, and the right to connect.
func (e *examination) commentFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		if s.refuses() || s.kind(e.name) == unknown {
			continue
		}
		whose := This
		if s.kind(e.name) == copied {
			whose = Copy
		}
		database := "database " + quote(s.base.Name)
		if strings.HasPrefix(s.base.Comment, ourComment) {
			// With its memory at hand the earlier comment comes back.
			sql := fmt.Sprintf("COMMENT ON DATABASE %s IS NULL", quote(s.base.Name))
			if slices.Contains(s.kept, "announced") {
				sql = "SELECT pgcutover.retract()"
			}
			found = append(found, Finding{
				ID: "database.comment", Severity: preflight.Warning, Server: on(s.side), Object: database, Whose: whose,
				Seen: fmt.Sprintf("its comment is %q, and its fence is not closed", s.base.Comment),
				Why:  "It tells people that writes are refused, which is not so.", SQL: []string{sql},
				Mend: func(ctx context.Context) error { return run(ctx, s, sql) },
			})
		}
		if s.kind(e.name) == live && s.turn.Open {
			found = append(found, s.revokedFindings(database)...)
		}
	}
	return found
}

// revokedFindings reports the rights that were taken from the clients of a server
// that is open again.
func (s *server) revokedFindings(database string) []Finding {
	const sql = "SELECT pgcutover.let_in()"
	kept := func(prefix string) (out []string) {
		for _, key := range s.kept {
			if rest, found := strings.CutPrefix(key, prefix+" "); found {
				out = append(out, rest)
			}
		}
		return out
	}
	f := Finding{
		Severity: preflight.Blocker, Server: on(s.side), Object: database, Whose: This, SQL: []string{sql},
		Mend: func(ctx context.Context) error { return run(ctx, s, sql) },
	}
	var found []Finding
	if len(kept("connect")) > 0 {
		f.ID = "database.connect-revoked"
		f.Seen = "CONNECT was revoked when this server was closed, and it is open now"
		f.Why = "Clients are turned away by the server that serves."
		found = append(found, f)
	}
	if functions := kept("execute"); len(functions) > 0 {
		f.ID = "database.execute-revoked"
		f.Seen = fmt.Sprintf("EXECUTE on %s was revoked from PUBLIC when this server was closed, and it is open now", strings.Join(functions, ", "))
		f.Why = "Clients cannot write large objects on the server that serves."
		found = append(found, f)
	}
	return found
}

// ourComment begins the comment of a closed server's database.
const ourComment = "writes are refused: pgcutover"
