package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/preflight"
)

// Whose says who made a thing.
type Whose string

// The owners that doctor tells apart.
const (
	This    Whose = "this move"
	Another Whose = "another pgcutover move"
	Copy    Whose = "a copy of a pgcutover move" // came with a dump
	Other   Whose = "somebody else"
)

// Finding is one thing that is stuck or orphaned.
type Finding struct {
	ID       string             `json:"id"` // stable, for example "slot.inactive"
	Severity preflight.Severity `json:"severity"`
	Server   string             `json:"server"` // old, new or both
	Object   string             `json:"object,omitempty"`
	Whose    Whose              `json:"whose"`
	Seen     string             `json:"seen"`                  // the evidence
	Bytes    *int64             `json:"bytes,omitempty"`       // WAL that it keeps
	Age      *float64           `json:"age_seconds,omitempty"` // since when it is so
	Why      string             `json:"why"`                   // why it matters
	Next     string             `json:"next,omitempty"`        // what to do, where SQL alone is not it
	SQL      []string           `json:"sql,omitempty"`         // statements that mend it, to be run on Server in the move's database
	Fix      bool               `json:"fix"`                   // --fix does it
	Error    string             `json:"error,omitempty"`       // why --fix failed
	// Mend does what Fix promises; nil when nothing does. It is called with the
	// one-tool lock held.
	Mend func(context.Context) error `json:"-"`

	order int // of mending: what others depend on goes last
}

// key tells findings of two looks to be the same.
func (f Finding) key() string { return f.ID + "\x00" + f.Server + "\x00" + f.Object }

// Report is what doctor found.
type Report struct {
	Move      string    `json:"move,omitempty"`
	At        time.Time `json:"at"`
	Servers   []Server  `json:"servers"`
	Serving   string    `json:"serving,omitempty"`   // the side that the newest decision gave the writes to
	Attempt   int64     `json:"attempt,omitempty"`   // the newest attempt
	Direction string    `json:"direction,omitempty"` // of the newest attempt
	Decided   bool      `json:"decided"`             // the newest attempt is
	Tool      string    `json:"tool,omitempty"`      // the session that holds the one-tool lock
	Healthy   bool      `json:"healthy"`             // no blockers
	Blocking  int       `json:"blockers"`
	Warnings  int       `json:"warnings"`
	Notes     int       `json:"notes"`
	Findings  []Finding `json:"findings"`
	Mended    []Finding `json:"mended"` // by this run, with --fix
}

// Server is one of the two as the report shows it.
type Server struct {
	Side     string `json:"side"`
	Address  string `json:"address,omitempty"`
	Major    int    `json:"major,omitempty"`
	Reached  bool   `json:"reached"`
	Error    string `json:"error,omitempty"`
	State    string `json:"state"` // live, none, copy, another, swapped, foreign, newer or unknown, see docs/doctor.md
	Writable *bool  `json:"writable,omitempty"`
}

// count fills in the sums and puts the worst first.
func (r *Report) count() {
	rank := map[preflight.Severity]int{preflight.Blocker: 0, preflight.Warning: 1, preflight.Note: 2}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	r.Blocking, r.Warnings, r.Notes = 0, 0, 0
	for i, f := range r.Findings {
		r.Findings[i].Fix = f.Mend != nil
		switch f.Severity {
		case preflight.Blocker:
			r.Blocking++
		case preflight.Warning:
			r.Warnings++
		default:
			r.Notes++
		}
	}
	r.Healthy = r.Blocking == 0
	if r.Findings == nil {
		r.Findings = []Finding{} // an empty list in JSON, not null
	}
	if r.Mended == nil {
		r.Mended = []Finding{}
	}
}

// quote is an identifier as it stands in SQL.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal is a string as it stands in SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// on is what a finding names a server.
func on(side pg.Side) string { return string(side) }

// size writes bytes for people.
func size(n int64) string {
	const units = "kMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, u := range units {
		f /= 1024
		if f < 1024 || u == 'P' {
			return fmt.Sprintf("%.1f %ciB", f, u)
		}
	}
	return ""
}

// ago writes an age in seconds for people: the two largest units.
func ago(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// plural writes a number of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// some joins the first names of n.
func some(names []string, n int) string {
	text := strings.Join(names, ", ")
	if n > len(names) {
		text += fmt.Sprintf(" and %d more", n-len(names))
	}
	return text
}
