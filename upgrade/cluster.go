package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
)

// Cluster is a move of several databases of one server, which are cut over
// together. Each database has a Move of its own, with its own stream, journal,
// lease and decision, because a transaction lives in one database; Cluster is
// what makes them one: one check, one status, one verdict, and cutovers that
// wait for each other so that all of them decide or none does.
type Cluster struct {
	Moves []*Member
}

// Member is one database of a Cluster.
type Member struct {
	*Move
	Database string
}

// MemberOptions are the options of one database's part of the move.
type MemberOptions struct {
	Database string
	Options  Options
	Observer step.Observer // nil for none
}

// atOnce is how many databases are opened, checked, copied or removed at a
// time; the cutover is of all at once.
const atOnce = 4

// OpenCluster connects to both servers for every database.
func OpenCluster(ctx context.Context, members []MemberOptions) (*Cluster, error) {
	c := &Cluster{Moves: make([]*Member, len(members))}
	databases := make([]string, len(members))
	for i, m := range members {
		databases[i] = m.Database
	}
	err := together(len(members), atOnce, func(i int) error {
		o := members[i].Options
		o.Beside = len(members)
		m, err := Open(ctx, o, members[i].Observer)
		if err != nil {
			return named(members[i].Database, err)
		}
		c.Moves[i] = &Member{Move: m, Database: members[i].Database}
		return nil
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends all connections.
func (c *Cluster) Close() {
	for _, m := range c.Moves {
		if m != nil {
			m.Close()
		}
	}
}

// databases are the names, in order.
func (c *Cluster) databases() []string {
	out := make([]string, len(c.Moves))
	for i, m := range c.Moves {
		out[i] = m.Database
	}
	return out
}

// together runs f for 0 to n-1, at most jobs at a time, and joins all errors:
// one database that fails does not stop the others.
func together(n, jobs int, f func(i int) error) error {
	errs := make([]error, n)
	var group errgroup.Group
	group.SetLimit(jobs)
	for i := range n {
		group.Go(func() error {
			errs[i] = f(i)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// Each runs f for every database, a few at a time, and joins their errors, each
// with its database.
func (c *Cluster) Each(f func(m *Member) error) error {
	return together(len(c.Moves), atOnce, func(i int) error { return named(c.Moves[i].Database, f(c.Moves[i])) })
}

// named puts a database's name before its error, and keeps the advice.
func named(database string, err error) error {
	if err == nil {
		return nil
	}
	return hint.With(fmt.Errorf("database %s: %w", database, err), hint.Of(err))
}

// Check runs every preflight check for every database. What concerns the
// servers and is the same for all databases is in the report once; every other
// finding names its database. It changes nothing.
func (c *Cluster) Check(ctx context.Context) (preflight.Report, error) {
	reports := make([]preflight.Report, len(c.Moves))
	err := together(len(c.Moves), atOnce, func(i int) error {
		var err error
		reports[i], err = c.Moves[i].Check(ctx)
		return named(c.Moves[i].Database, err)
	})
	if err != nil {
		return preflight.Report{}, err
	}
	return preflight.Merge(c.databases(), reports), nil
}

// Start checks all databases and then does their phases, a few databases at a
// time; see Move.Start. One that fails does not stop the others, and running it
// again continues.
func (c *Cluster) Start(soft, hard context.Context, until string) (preflight.Report, error) {
	for _, m := range c.Moves {
		if err := m.knownPhase(until); err != nil {
			return preflight.Report{}, err
		}
	}
	report, err := c.Check(soft)
	if err != nil {
		return report, err
	}
	if n := len(report.Blockers()); n > 0 {
		return report, fmt.Errorf("%w: %d", ErrBlockers, n)
	}
	return report, c.Each(func(m *Member) error { return m.begin(soft, hard, until) })
}

// ClusterStatus is where all databases stand, and the one verdict.
type ClusterStatus struct {
	Databases []DatabaseStatus `json:"databases"`
	Verdict   Verdict          `json:"verdict"`
	At        time.Time        `json:"at"`
}

// DatabaseStatus is the status of one database.
type DatabaseStatus struct {
	Database string `json:"database"`
	Status
}

// Status asks all databases. It changes nothing.
func (c *Cluster) Status(ctx context.Context) (ClusterStatus, error) {
	s := ClusterStatus{Databases: make([]DatabaseStatus, len(c.Moves)), At: time.Now().UTC()}
	err := together(len(c.Moves), atOnce, func(i int) error {
		status, err := c.Moves[i].Status(ctx)
		s.Databases[i] = DatabaseStatus{Database: c.Moves[i].Database, Status: status}
		return named(c.Moves[i].Database, err)
	})
	s.Verdict = s.verdict()
	return s, err
}

// verdict is about all databases: they can be cut over when each one can.
func (s ClusterStatus) verdict() Verdict {
	v := Verdict{CanCutOver: true}
	var serving, next, back []string
	for _, d := range s.Databases {
		v.CanCutOver = v.CanCutOver && d.Verdict.CanCutOver
		for _, r := range d.Verdict.Reasons {
			v.Reasons = append(v.Reasons, d.Database+": "+r)
		}
		for value, into := range map[string]*[]string{d.Serving: &serving, d.Verdict.Next: &next, d.Verdict.CanGoBack: &back} {
			if !slices.Contains(*into, value) {
				*into = append(*into, value)
			}
		}
	}
	v.Next, v.CanGoBack = s.oneOf(next, func(d DatabaseStatus) string { return d.Verdict.Next }), s.oneOf(back, func(d DatabaseStatus) string { return d.Verdict.CanGoBack })
	if len(serving) > 1 && !s.interrupted() {
		v.CanCutOver = false
		v.Reasons = append([]string{"the databases are not all on the same server"}, v.Reasons...)
		v.Next = "pgcutover resume, which moves the rest"
	}
	return v
}

// interrupted tells that some database's newest attempt is unfinished.
func (s ClusterStatus) interrupted() bool {
	return slices.ContainsFunc(s.Databases, func(d DatabaseStatus) bool { return d.Phase == "cutover interrupted" || d.Phase == "cutover under way" })
}

// oneOf is what all databases say, or what each says.
func (s ClusterStatus) oneOf(values []string, of func(DatabaseStatus) string) string {
	if len(values) == 1 {
		return values[0]
	}
	var text string
	for _, v := range values {
		var who []string
		for _, d := range s.Databases {
			if of(d) == v {
				who = append(who, d.Database)
			}
		}
		if text != "" {
			text += "; "
		}
		text += few(who) + ": " + v
	}
	return text
}

// WriteText writes the status of each database, then the verdict.
func (s ClusterStatus) WriteText(w io.Writer) error {
	for _, d := range s.Databases {
		if _, err := fmt.Fprintf(w, "database %s: ", d.Database); err != nil {
			return err
		}
		if err := d.Status.WriteText(w); err != nil {
			return err
		}
	}
	return s.Verdict.writeText(w, "all databases\n")
}

// Abort is Move.Abort for every database; see there. Nothing is removed while
// some databases are served by new.
func (c *Cluster) Abort(soft, hard context.Context, o RemoveOptions) error {
	if err := c.allOn(soft, pg.Old); err != nil {
		return err
	}
	empty := newGathering(len(c.Moves))
	return together(len(c.Moves), len(c.Moves), func(i int) error {
		m, mine := c.Moves[i], o
		mine.gather = func(ctx context.Context) error { return empty.wait(ctx, i) }
		defer empty.arrive(i) // also when it failed before
		return named(m.Database, m.Abort(soft, hard, mine))
	})
}

// Complete is Move.Complete for every database; see there. Nothing is removed
// while some databases are served by old.
func (c *Cluster) Complete(soft, hard context.Context, o RemoveOptions) error {
	if err := c.allOn(soft, pg.New); err != nil {
		return err
	}
	return c.Each(func(m *Member) error { return m.Complete(soft, hard, o) })
}

// allOn returns an error unless all databases whose move stands are served by
// the side.
func (c *Cluster) allOn(ctx context.Context, side pg.Side) error {
	elsewhere := make([]bool, len(c.Moves))
	err := together(len(c.Moves), atOnce, func(i int) error {
		m := c.Moves[i]
		for _, s := range []*pg.Server{m.Old, m.New} {
			if recorded, err := state.Load(ctx, s); err != nil || recorded == nil {
				return named(m.Database, err) // never started, or removed before
			}
		}
		pos, err := state.Locate(ctx, m.Old, m.New)
		elsewhere[i] = pos.Serving() != side
		return named(m.Database, err)
	})
	if err != nil {
		return err
	}
	var names []string
	for i, is := range elsewhere {
		if is {
			names = append(names, c.Moves[i].Database)
		}
	}
	if len(names) == 0 {
		return nil
	}
	advice := "see where things stand: pgcutover status"
	if len(names) < len(c.Moves) {
		advice = "run: pgcutover resume, which moves the rest"
	}
	return hint.With(fmt.Errorf("the %s server serves %s: nothing was removed", side.Other(), few(names)), advice)
}
