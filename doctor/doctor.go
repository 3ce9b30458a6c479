package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/preflight"
)

// Options say where to look, and what may be done about what is found.
type Options struct {
	// Move is the move's name; empty to take the one that the servers name.
	Move string
	// Old and New are connection strings. An empty one is not asked for; at
	// least one is needed.
	Old, New string
	// Fix mends what is this move's and safe.
	Fix bool
	// WALWarn is the amount of WAL, in bytes, from which a slot that is read is
	// reported, and one that is not is a blocker; 0 for never.
	WALWarn int64
	// PreparedAge is how old a prepared transaction must be to be reported; 0
	// means ten minutes.
	PreparedAge time.Duration
	// Settle is how long to wait before looking again, so that what mends itself
	// (a worker between two tries, a cutover's own steps) is not reported; 0
	// means two seconds.
	Settle time.Duration
	// Poolers reports poolers that were left paused, or that lead to the wrong
	// server. A finding's Mend ends the pause as the decision says. It may be
	// nil.
	Poolers func(context.Context, Standing) ([]Finding, error)
}

// Defaults of Options.
const (
	preparedAge = 10 * time.Minute
	settle      = 2 * time.Second
	openMove    = "unnamed" // in application_name, until the servers have said
)

// rounds is how often mending is tried: what was in the way of one thing may be
// mended before it.
const rounds = 3

// ErrUsage is wrapped when the options make no sense: no server, or a name that
// no move can have.
var ErrUsage = errors.New("cannot look")

// doctor is one run.
type doctor struct {
	options Options
	conns   map[pg.Side]*pg.Server
	errs    map[pg.Side]error
	locked  bool
}

// Run looks at both servers and, with Fix, mends. An error means that it could
// not look at all; what cannot be reached is a finding.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Old == "" && o.New == "" {
		return Report{}, fmt.Errorf("%w: no server is given", ErrUsage)
	}
	if o.Move != "" && !validName.MatchString(o.Move) {
		return Report{}, fmt.Errorf("%w: %q cannot be the name of a move", ErrUsage, o.Move)
	}
	if o.PreparedAge == 0 {
		o.PreparedAge = preparedAge
	}
	if o.Settle == 0 {
		o.Settle = settle
	}
	d := &doctor{options: o, conns: map[pg.Side]*pg.Server{}, errs: map[pg.Side]error{}}
	defer d.close()
	d.open(ctx, cmp.Or(o.Move, openMove))
	e, err := d.settled(ctx)
	if err != nil {
		return Report{}, err
	}
	found, err := d.judge(ctx, e)
	if err != nil {
		return Report{}, err
	}
	var mended []Finding
	tried := map[string]bool{}
	for range rounds {
		if !o.Fix || !slices.ContainsFunc(found, func(f Finding) bool { return f.Mend != nil && !tried[f.key()] }) {
			break
		}
		done, err := d.fix(ctx, e.name, found)
		if err != nil {
			return Report{}, err
		}
		for _, f := range found {
			tried[f.key()] = true
		}
		mended = append(mended, done...)
		if e, err = d.settled(ctx); err != nil {
			return Report{}, err
		}
		if found, err = d.judge(ctx, e); err != nil {
			return Report{}, err
		}
	}
	r := e.report()
	r.Findings, r.Mended = merge(found, mended)
	r.count()
	return r, nil
}

// open connects to the servers that were given. One that cannot be reached is
// remembered with the reason.
func (d *doctor) open(ctx context.Context, move string) {
	urls := map[pg.Side]string{pg.Old: d.options.Old, pg.New: d.options.New}
	type opened struct {
		conn *pg.Server
		err  error
	}
	results := [2]opened{}
	var group errgroup.Group
	for i, side := range []pg.Side{pg.Old, pg.New} {
		if urls[side] == "" {
			continue
		}
		group.Go(func() error {
			limit, cancel := context.WithTimeoutCause(ctx, lookBound, errSlow)
			defer cancel()
			results[i].conn, results[i].err = pg.Open(limit, pg.Options{Side: side, URL: urls[side], Move: move})
			return nil
		})
	}
	_ = group.Wait() // the functions return none
	for i, side := range []pg.Side{pg.Old, pg.New} {
		delete(d.conns, side)
		delete(d.errs, side)
		if results[i].err != nil {
			d.errs[side] = results[i].err
		} else if results[i].conn != nil {
			d.conns[side] = results[i].conn
		}
	}
}

func (d *doctor) close() {
	for _, s := range d.conns {
		s.Close()
	}
}

// look looks at both servers at the same time. Once the servers have said what
// the move is called, the tool's sessions are called after it.
func (d *doctor) look(ctx context.Context) (*examination, error) {
	seen := [2]*server{}
	var group errgroup.Group
	for i, side := range []pg.Side{pg.Old, pg.New} {
		seen[i] = &server{side: side, asked: d.conns[side] != nil || d.errs[side] != nil, err: d.errs[side]}
		if conn := d.conns[side]; conn != nil {
			group.Go(func() error {
				seen[i] = look(ctx, side, conn, d.options)
				return nil
			})
		}
	}
	_ = group.Wait() // the functions return none
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("looking at the servers: %w", err)
	}
	e := newExamination(d.options, seen[0], seen[1])
	e.locked = d.locked
	if d.options.Move == "" && e.name != "" {
		d.options.Move = e.name
		d.close()
		d.open(ctx, e.name)
		return d.look(ctx)
	}
	return e, nil
}

// settled looks, and, when something was found that may pass, looks again after
// a moment.
func (d *doctor) settled(ctx context.Context) (*examination, error) {
	e, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	first := e.judge()
	if !slices.ContainsFunc(first, func(f Finding) bool { return f.Severity != preflight.Note }) {
		return e, nil
	}
	wait := time.NewTimer(d.options.Settle)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("looking at the servers: %w", context.Cause(ctx))
	case <-wait.C:
	}
	again, err := d.look(ctx)
	if err != nil {
		return nil, err
	}
	again.seen = map[string]bool{}
	for _, f := range first {
		again.seen[f.key()] = true
	}
	return again, nil
}

// judge returns the findings of an examination, those of the poolers included.
func (d *doctor) judge(ctx context.Context, e *examination) ([]Finding, error) {
	found := e.judge()
	if e.seen != nil {
		found = slices.DeleteFunc(found, func(f Finding) bool { return !e.seen[f.key()] })
	}
	if d.options.Poolers == nil {
		return found, nil
	}
	more, err := d.options.Poolers(ctx, e.standing())
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		more = append(more, Finding{
			ID: "pooler.could-not-look", Severity: preflight.Warning, Server: preflight.Both, Object: "poolers", Whose: This,
			Seen: err.Error(), Next: hint.Of(err), Why: "Nobody knows whether clients wait in a paused pooler.",
		})
	}
	if e.toolAtWork() {
		for i := range more {
			more[i].Mend = nil
		}
	}
	return append(found, more...), nil
}

// lockBound is how long the one-tool lock is waited for: a tool at work is to be
// left alone.
const lockBound = 2 * time.Second

// fix takes the one-tool lock on the servers that were reached, looks once more
// and mends what was found before, and still may be. Each error stands with its
// finding.
func (d *doctor) fix(ctx context.Context, name string, before []Finding) ([]Finding, error) {
	held := ctx
	for _, side := range []pg.Side{pg.Old, pg.New} {
		conn := d.conns[side]
		if conn == nil {
			continue
		}
		next, release, err := pg.HoldLock(held, conn, purpose, lockBound)
		if errors.Is(err, pg.ErrLockHeld) {
			return nil, nil // the next look says who is at work
		}
		if err != nil {
			return nil, err
		}
		defer release()
		held = next
	}
	d.locked = true
	defer func() { d.locked = false }()
	e, err := d.look(held)
	if err != nil {
		return nil, err
	}
	if e.name != name {
		return nil, fmt.Errorf("the servers named the move %q, and now %q", name, e.name)
	}
	found, err := d.judge(held, e)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, f := range before {
		known[f.key()] = true
	}
	found = slices.DeleteFunc(found, func(f Finding) bool { return f.Mend == nil || !known[f.key()] })
	slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(a.order, b.order) })
	for i, f := range found {
		if err := context.Cause(held); err != nil {
			found[i].Error = err.Error() // the lock is lost, or the run interrupted
			continue
		}
		limit, cancel := context.WithTimeoutCause(held, mendAll, pg.ErrTimeout)
		if err := f.Mend(limit); err != nil {
			found[i].Error = err.Error()
		}
		cancel()
	}
	return found, nil
}

// merge splits what was tried into what is mended and what is still there; the
// latter says why.
func merge(found, tried []Finding) (left, mended []Finding) {
	still := map[string]int{}
	for i, f := range found {
		still[f.key()] = i
	}
	for _, f := range tried { // a later try of the same thing overrides
		if i, ok := still[f.key()]; ok {
			found[i].Error = f.Error
			continue
		}
		if f.Error == "" {
			f.Fix = true
			mended = append(mended, f)
		}
	}
	return found, mended
}

// report fills in what is not a finding.
func (e *examination) report() Report {
	r := Report{Move: e.name, At: time.Now().UTC(), Serving: string(e.serving())}
	if e.live {
		r.Attempt, r.Direction, r.Decided = e.pos.Attempt, string(e.pos.Direction()), e.pos.Decided()
	}
	if tool, _ := e.tool(); tool != nil {
		r.Tool = tool.String()
	}
	for _, s := range e.both() {
		if !s.asked {
			continue
		}
		out := Server{Side: string(s.side), Reached: s.reached(), State: string(s.kind(e.name))}
		if s.conn != nil {
			out.Address, out.Major = s.conn.Address(), s.conn.Major()
		}
		if s.err != nil {
			out.Error = s.err.Error()
		}
		if s.reached() {
			writable := !s.refuses() && s.client.Setting != "on" && !s.base.Recovering
			out.Writable = &writable
		}
		r.Servers = append(r.Servers, out)
	}
	return r
}
