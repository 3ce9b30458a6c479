package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/traffic"
)

// Pooler is a PgBouncer whose clients the move sends to the server that serves.
type Pooler struct {
	// AdminURL leads to its admin console.
	AdminURL string
	// Databases are its names of the move's database.
	Databases []string
	// Old and New are how it reaches the servers; what is empty is taken from
	// the connection string by which doctor does.
	Old, New traffic.PoolerEndpoint
	// Driver ends a pause.
	Driver traffic.Pauser
}

// LookAtPoolers is an Options.Poolers that asks the admin console of each.
func LookAtPoolers(poolers []Pooler) func(context.Context, Standing) ([]Finding, error) {
	if len(poolers) == 0 {
		return nil
	}
	return func(ctx context.Context, where Standing) ([]Finding, error) {
		var found []Finding
		for _, p := range poolers {
			shown, err := p.show(ctx)
			if err != nil {
				found = append(found, p.silent(err))
				continue
			}
			found = append(found, p.judge(where, shown)...)
		}
		return found, nil
	}
}

func (p Pooler) finding(id string, severity preflight.Severity) Finding {
	return Finding{ID: id, Severity: severity, Server: preflight.Both, Object: p.Driver.Name(), Whose: This}
}

// silent reports a pooler whose console does not answer.
func (p Pooler) silent(err error) Finding {
	f := p.finding("pooler.unreachable", preflight.Warning)
	f.Seen = pg.Redact(err, p.AdminURL).Error()
	f.Why = "Nobody knows whether its clients wait. A pooler that does not run is not paused."
	f.Next = "see whether it runs; if it does: SHOW DATABASES in its admin console, then RESUME what is paused"
	return f
}

// judge compares what a pooler does with where the move stands. While a tool is
// at work a pause is its own.
func (p Pooler) judge(where Standing, shown []traffic.PoolerDatabase) []Finding {
	var found []Finding
	var paused, astray []string
	for _, e := range shown {
		if e.Paused {
			paused = append(paused, "RESUME "+quote(e.Name))
		}
		if side := p.sideOf(e.Leads, where); where.Serving != "" && side == where.Serving.Other() {
			astray = append(astray, fmt.Sprintf("the clients of %s are sent to the %s server (%s)", e.Name, side, e.Leads))
		}
	}
	if len(paused) > 0 {
		f := p.finding("pooler.paused", preflight.Blocker)
		f.Seen = "paused, with no tool at work: " + some(names(shown, true), len(paused))
		f.Why = "Its clients wait, and go on waiting."
		f.SQL = paused
		f.Next = "the statements are for its admin console"
		f.Mend = func(ctx context.Context) error { return p.Driver.Resume(ctx, p.target(where)) }
		if where.Tool != "" {
			f.Severity, f.Mend = preflight.Note, nil
			f.Seen = "paused, while a tool is at work: " + some(names(shown, true), len(paused))
			f.Next = "wait for it, then look again"
		}
		found = append(found, f)
	}
	if len(astray) > 0 && where.Tool == "" {
		f := p.finding("pooler.astray", preflight.Blocker)
		f.Seen = strings.Join(astray, "; ")
		f.Why = fmt.Sprintf("That server refuses their writes: the %s server serves.", where.Serving)
		f.Next = "run: pgcutover resume, or write the entry by hand and RELOAD"
		if decided(where) {
			f.Mend = func(ctx context.Context) error { return p.Driver.Switch(ctx, p.target(where)) }
		}
		found = append(found, f)
	}
	return found
}

// names lists the databases that are paused.
func names(shown []traffic.PoolerDatabase, paused bool) []string {
	var out []string
	for _, e := range shown {
		if e.Paused == paused {
			out = append(out, quote(e.Name))
		}
	}
	return out
}

// decided tells whether the side that serves is known for certain: a decision
// that was seen is a yes; none is a no only under the one-tool lock, with both
// servers seen.
func decided(where Standing) bool {
	return where.Position.Decided() || (where.Certain && where.Locked)
}

// target tells the driver which server serves, if that is certain. If not, the
// pause ends and nothing else is changed, which is always safe: the fences
// protect.
func (p Pooler) target(where Standing) traffic.Target {
	t := traffic.Target{Move: where.Move, Attempt: where.Position.Attempt, Old: where.Old, New: where.New}
	if decided(where) {
		t.Serving = where.Serving
	}
	return t
}

// sideOf says which server an entry leads to; empty when neither is known by
// that address.
func (p Pooler) sideOf(leads traffic.PoolerEndpoint, where Standing) pg.Side {
	old, new := fill(p.Old, where.Old), fill(p.New, where.New)
	switch {
	case old == new:
		return ""
	case leads == old:
		return pg.Old
	case leads == new:
		return pg.New
	}
	return ""
}

func fill(e traffic.PoolerEndpoint, s *pg.Server) traffic.PoolerEndpoint {
	if s == nil {
		return e
	}
	host, port, database := s.Endpoint()
	return traffic.PoolerEndpoint{Host: cmp.Or(e.Host, host), Port: cmp.Or(e.Port, port), Database: cmp.Or(e.Database, database)}
}

// show asks the admin console for the move's databases.
func (p Pooler) show(ctx context.Context) ([]traffic.PoolerDatabase, error) {
	all, err := traffic.PoolerDatabases(ctx, p.AdminURL)
	return slices.DeleteFunc(all, func(d traffic.PoolerDatabase) bool { return !slices.Contains(p.Databases, d.Name) }), err
}
