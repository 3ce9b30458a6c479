package upgrade

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

// fillRunbook makes the runbook of a plan that is complete.
func (m *Move) fillRunbook(p *Plan, start *startPlan) {
	r := step.Runbook{
		Title: fmt.Sprintf("Move %s: PostgreSQL %d to %d", m.Options.Name, m.Old.Major(), m.New.Major()),
		Intro: []string{
			fmt.Sprintf("old is %s, new is %s. These are the statements that pgcutover runs, in their order; whoever follows them by hand does the same move.", m.Old.Address(), m.New.Address()),
			"Numbers, names and sequences' values are those of the moment at which this was printed: print the part of the cutover again just before it. A step is done when each of its answers is as it says; when one is not, undo the steps so far, the last one first.",
			"The statements of one session are to be run in one and the same session. Times are estimates from sizes in the catalogs and assumed rates, not measurements.",
			fmt.Sprintf("The shell's variables OLD and NEW are the connection strings, as keywords and values, since one session adds a keyword: %s; %s. Passwords belong in ~/.pgpass.",
				direct(m.Old), direct(m.New)),
		},
		Parts: []step.Part{
			{Name: "start", Title: "Start: new follows old", About: "Nobody waits for anything. What is done here is taken back by the part Abort.", Entries: p.Start},
			{Name: "cutover", Title: "Cutover: the writes turn from old to new", About: "Clients wait from freeze to open. Everything before decide can be undone.", Entries: p.Cutover},
			{Name: "rollback", Title: "Rollback: the writes turn back from new to old", About: "Only after the cutover, if old is to serve again. Nothing that was written on new is lost.", Entries: p.Rollback},
			{Name: "complete", Title: "Complete: end the move", About: "After the cutover, when nobody wants to go back. Old takes writes again afterwards, as a server of its own.", Entries: p.Complete},
			{Name: "abort", Title: "Abort: take start back", About: "Before the cutover. The schema and data that start brought to new are dropped.", Entries: p.Abort},
		},
	}
	for _, s := range []*pg.Server{m.Old, m.New} {
		side := string(s.Side())
		r.Variables = append(r.Variables, step.Variable{
			Server: string(s.Side().Other()), Name: subscriber.ConninfoVariable(s.Side()), Environment: conninfoVariable(s.Side()),
			What: fmt.Sprintf("the connection string, as keywords and values, by which the %s server reaches the %s one, password included: %s", s.Side().Other(), side, m.peer(s)),
		})
	}
	r.Sessions = append(sessions(m.Old, start.onOld, r.Used(string(pg.Old))), sessions(m.New, start.onNew, r.Used(string(pg.New)))...)
	p.Variables, p.Sessions, p.runbook = r.Variables, r.Sessions, r
}

func conninfoVariable(side pg.Side) string { return strings.ToUpper(string(side)) + "_CONNINFO" }

// peer describes how the other side reaches a server, without what is secret.
func (m *Move) peer(s *pg.Server) string {
	endpoint := m.Options.Old
	if s.Side() == pg.New {
		endpoint = m.Options.New
	}
	if endpoint.PeerURL != "" {
		return "what " + string(s.Side()) + ".peer_url says"
	}
	return direct(s)
}

// direct is how the tool reaches a server, as keywords and values.
func direct(s *pg.Server) string {
	host, port, database := s.Endpoint()
	return fmt.Sprintf("host=%s port=%d dbname=%s user=%s", host, port, database, s.User())
}

// sessions describes the sessions with a server that the plan uses, the ordinary
// one first. The timeouts that are there for a tool that has died are longer for a
// person who types.
func sessions(s *pg.Server, plan subscriber.Plan, used []string) []step.Session {
	ordinary := s.SessionSettings()
	ordinary["statement_timeout"], ordinary["idle_in_transaction_session_timeout"] = "0", "10min"
	with := func(settings map[string]string) string {
		all := maps.Clone(ordinary)
		maps.Copy(all, settings)
		return setAll(all)
	}
	lease := maps.Clone(publisher.LeaseSettings(s))
	lease["idle_in_transaction_session_timeout"] = "10min"
	side := strings.ToUpper(string(s.Side()))
	var out []step.Session
	for _, name := range used {
		session := step.Session{Server: string(s.Side()), Name: name, Connect: "$" + side}
		switch name {
		case "":
			session.Why = "The ordinary one: it may write although the database's default is read-only, and its commits are durable."
			session.Setup = with(nil)
		case step.Lease:
			session.Why = "Holds the one-tool lock and, in a cutover, the transaction under which writers wait: they go on when it ends, however that is. Close it at the end of the part."
			session.Setup = with(lease)
		case step.Replication:
			session.Why = "Speaks the replication protocol; the role needs REPLICATION."
			session.Connect += " replication=database"
		case step.Restore:
			session.Why = "What pg_restore sends changes settings of its session."
			session.Setup = with(nil)
		case step.Subscribe:
			session.Why = "Its statement holds a password, which stays out of the server's log where the role may say so."
			session.Setup = with(plan.Quiet())
		case step.Analyze:
			session.Why = "Changes the statistics target of its session, and how much of the disk's time ANALYZE takes."
			session.Setup = with(nil)
		case step.Client:
			session.Why = "Has none of these settings: it sees what a client of the application sees."
		}
		out = append(out, session)
	}
	return out
}

func setAll(settings map[string]string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := pg.Literal(settings[name])
		if name == "search_path" || name == "DateStyle" { // lists
			value = settings[name]
		}
		lines = append(lines, fmt.Sprintf("set %s = %s;", name, value))
	}
	return strings.Join(lines, "\n")
}
