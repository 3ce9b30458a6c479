package step

import (
	"slices"
	"strings"
)

// Runbook is a plan as a person follows it by hand, or reads it before the tool
// does it: the sessions to open, then the lists.
type Runbook struct {
	Title string `json:"title"`
	// Intro are paragraphs for the reader.
	Intro []string `json:"intro"`
	// Variables are what the reader has to set: passwords are never shown.
	Variables []Variable `json:"variables"`
	Sessions  []Session  `json:"sessions"`
	Parts     []Part     `json:"parts"`
}

// Variable is a variable of psql that stands in the statements.
type Variable struct {
	Name   string `json:"name"`
	Server string `json:"server"` // in whose sessions it is used
	What   string `json:"what"`
	// Environment is the environment variable that it is taken from.
	Environment string `json:"environment"`
}

// Session is a session that statements run in. It is opened before its first
// statement and stays open until the end of the part.
type Session struct {
	Server string `json:"server"`
	Name   string `json:"name,omitempty"` // empty for the ordinary one
	Why    string `json:"why"`
	// Connect is the connection string for psql, with an environment variable in
	// place of what is secret.
	Connect string `json:"connect"`
	// Setup are the statements to begin with.
	Setup string `json:"setup,omitempty"`
}

// Title is how people call the session.
func (s Session) Title() string { return Statement{Server: s.Server, Session: s.Name}.where() }

// Part is one list of the procedure.
type Part struct {
	Name    string  `json:"name"` // the command that does it
	Title   string  `json:"title"`
	About   string  `json:"about"`
	Entries []Entry `json:"entries"`
}

// used tells which sessions the part needs.
func (p Part) used() map[[2]string]bool {
	out := map[[2]string]bool{}
	for _, e := range p.Entries {
		for _, list := range [][]Statement{e.Statements, e.UndoStatements} {
			for _, s := range list {
				out[[2]string{s.Server, s.Session}] = true
			}
		}
	}
	return out
}

// Script is the statement as psql takes it, with what ends it.
func (s Statement) Script() string {
	sql := strings.Trim(s.SQL, "\n \t")
	last := sql[strings.LastIndexByte(sql, '\n')+1:]
	switch {
	case s.RunOn != "" && s.RunOn == s.Server:
		return strings.TrimRight(sql, ";") + "\n\\gexec"
	case strings.HasSuffix(sql, ";"), strings.HasPrefix(last, `\`):
		return sql
	case strings.Contains(last, "--"): // a comment must not swallow the end
		return sql + "\n;"
	}
	return sql + ";"
}

// setVariable is how a reader gives psql the variable, from the environment: so
// that it stands in no history and no argument list.
func (v Variable) set() string {
	return `\set ` + v.Name + " `printf %s \"$" + v.Environment + "\"`"
}

// Used lists the sessions with a server that the statements need, the ordinary
// one first.
func (r Runbook) Used(server string) []string {
	var out []string
	for _, p := range r.Parts {
		for key := range p.used() {
			if key[0] == server && !slices.Contains(out, key[1]) {
				out = append(out, key[1])
			}
		}
	}
	slices.Sort(out)
	return out
}

// Only returns the runbook with these parts alone, and the sessions and variables
// that they need.
func (r Runbook) Only(parts []string) Runbook {
	r.Parts = slices.DeleteFunc(slices.Clone(r.Parts), func(p Part) bool { return !slices.Contains(parts, p.Name) })
	r.Sessions = slices.DeleteFunc(slices.Clone(r.Sessions), func(s Session) bool { return !slices.Contains(r.Used(s.Server), s.Name) })
	r.Variables = slices.DeleteFunc(slices.Clone(r.Variables), func(v Variable) bool { return !slices.Contains(r.Used(v.Server), Subscribe) })
	return r
}
