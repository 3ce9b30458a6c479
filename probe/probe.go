// Package probe asks again and again whether a client with a given connection
// string can write: it commits a row, and reads it back in a new transaction.
//
// Each round opens a connection of its own, as a client does that has just
// started, so that it sees what such a client would see: the name resolved now,
// the host chosen now, the read-only default of now, the pooler's entry of now.
// It speaks the simple protocol and keeps nothing in the session, so that it
// works through a pooler in transaction mode.
//
// A round fails when there is no connection, when the write is refused (a
// read-only database or standby, a closed fence, a missing right), when nobody
// answers in time, when the server is not the expected one, and when a write
// that was acknowledged is not there afterwards: not in the next transaction, or
// not in the next round on the same server.
//
// What it leaves alone: a prober has one row, updated in place, and takes it
// away at the end. Its statements carry time limits of their own, so that none
// of them waits on when the prober has gone. The table is pgcutover.probe where
// a move is under way (see Install: it has a fence, as the application's tables
// have, and is in nobody's publication), otherwise pgcutover_probe in the role's
// own schema, made when it is missing and dropped when empty.
//
// Terms:
//
//   - round: one attempt to write and read back.
//   - outage: the rounds from one that failed to the next that did not.
//   - kind: why a round failed, see Kind.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Pace is how often rounds begin, and for how long that is so. For zero means
// for as long as the context lives.
type Pace struct{ Every, For time.Duration }

// AfterCutover is the default schedule: every 5 seconds for 10 minutes, then
// each minute.
func AfterCutover() []Pace {
	return []Pace{{Every: 5 * time.Second, For: 10 * time.Minute}, {Every: time.Minute}}
}

// Options say what is asked, how often, and whom to tell. Zero values mean the
// defaults.
type Options struct {
	// URL is what a client would connect with: one server, several with
	// target_session_attrs, or a pooler.
	URL string
	// Schedule holds one pace after the other; default AfterCutover. A round
	// that takes longer than its pace delays the next, which then begins at
	// once.
	Schedule []Pace
	// Count is how many rounds there are; 0 means as the schedule says.
	Count int
	// Timeout bounds one round; default 5 s.
	Timeout time.Duration
	// Slow is how long a round may take before it is called slow; default 1 s.
	// A slow round has not failed.
	Slow time.Duration
	// Table is the table to write to, as "name" or "schema.name"; default see
	// the package. It is made when it is missing, and needs the columns prober
	// (text, unique), n (bigint) and at (timestamptz) when it is not.
	Table string
	// Servers are the servers known, so that rounds can be told by side.
	Servers map[pg.Side]Server
	// Expect makes rounds fail that reach another server than that of this
	// side, which Servers must hold; empty means any.
	Expect pg.Side
	// Webhook is an http or https URL to which every change of state is
	// posted, see Event; empty means none. It may hold a secret: no error and no
	// report shows more of it than its host.
	Webhook string
}

// Observer is told what happens. Its methods are called one at a time.
type Observer interface {
	// Round comes after each round.
	Round(r Round)
	// Warning comes when something beside the question went wrong: a webhook
	// that could not be told, a row that could not be removed.
	Warning(err error)
}

// Defaults of Options.
const (
	defaultTimeout = 5 * time.Second
	defaultSlow    = time.Second
)

func (o Options) withDefaults() Options {
	if len(o.Schedule) == 0 {
		o.Schedule = AfterCutover()
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Slow <= 0 {
		o.Slow = defaultSlow
	}
	return o
}

// Run asks by the schedule until it has ended, until Count rounds are done, or
// until ctx ends; a round that ctx interrupts does not count. Then it removes
// its row. The error says that it could not begin (an option is wrong): what
// the rounds found is in the Report, see Report.Err.
func Run(ctx context.Context, o Options, observer Observer) (Report, error) {
	p, err := newProber(o, observer)
	if err != nil {
		return Report{}, err
	}
	pace := schedule{paces: p.o.Schedule, began: time.Now()}
	for {
		began := time.Now()
		if !p.round(ctx) || (p.o.Count > 0 && p.report.Rounds >= p.o.Count) {
			break
		}
		next, more := pace.next(began, time.Now())
		if !more || !waitUntil(ctx, next) {
			break
		}
	}
	return p.finish(ctx), nil
}

// Once is Run with one round, which it returns. Its error is that of the round,
// too.
func Once(ctx context.Context, o Options, observer Observer) (Round, error) {
	o.Count = 1
	var r Round
	report, err := Run(ctx, o, &lastRound{Observer: observer, r: &r})
	if err != nil {
		return r, err
	}
	if report.Rounds == 0 {
		return r, fmt.Errorf("probing: %w", context.Cause(ctx))
	}
	return r, report.Err()
}

type lastRound struct {
	Observer
	r *Round
}

func (l *lastRound) Round(r Round) {
	*l.r = r
	l.Observer.Round(r)
}

// schedule says when rounds begin.
type schedule struct {
	paces []Pace
	began time.Time
}

// next is when the round after the one that began then is due; false when the
// schedule has ended by that time.
func (s schedule) next(roundBegan, now time.Time) (time.Time, bool) {
	from := s.began
	for _, p := range s.paces {
		end := from.Add(p.For)
		if p.For > 0 && !roundBegan.Before(end) {
			from = end
			continue
		}
		due := roundBegan.Add(p.Every)
		if due.Before(now) {
			due = now
		}
		return due, s.endless() || due.Before(s.end())
	}
	return now, false
}

func (s schedule) endless() bool { return s.paces[len(s.paces)-1].For == 0 }

func (s schedule) end() time.Time {
	end := s.began
	for _, p := range s.paces {
		end = end.Add(p.For)
	}
	return end
}

// waitUntil waits for a moment; false when ctx has ended before.
func waitUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// prober is one Run.
type prober struct {
	o        Options
	config   *pgx.ConnConfig
	named    table // Options.Table; no name when not given
	notifier *notifier

	mu       sync.Mutex // the notifier warns from a goroutine of its own
	observer Observer

	// written is what was acknowledged last, per table of a server; made holds
	// the servers on which this prober made the table, rows those on which a row
	// of its may stand.
	written map[relation]acknowledged
	made    map[identity]table
	rows    map[identity]table
	last    identity // where the last write went
	warned  bool     // that the table has no fence

	since  time.Time // of the outage; zero while all is well
	outage int       // rounds failed in it
	lastN  int64
	report Report
}

// acknowledged is a write of an earlier round.
type acknowledged struct {
	n  int64
	at time.Time
}

// relation is a table of a server; one dropped and made again is another one.
type relation struct {
	identity
	oid uint32
}

func newProber(o Options, observer Observer) (*prober, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	named, err := parseTable(o.Table)
	if err != nil {
		return nil, err
	}
	c, err := clientConfig(o)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	p := &prober{
		o: o, config: c, named: named, observer: observer,
		written: map[relation]acknowledged{}, made: map[identity]table{}, rows: map[identity]table{},
	}
	p.report = Report{URL: config.NewSecret(o.URL).String(), Prober: id, Began: time.Now()}
	if o.Webhook != "" {
		if p.notifier, err = newNotifier(o.Webhook, p.warn); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (o Options) check() error {
	if o.URL == "" {
		return errors.New("probing: no connection string is given")
	}
	for i, pace := range o.Schedule {
		if pace.Every <= 0 || pace.For < 0 || (pace.For == 0 && i < len(o.Schedule)-1) {
			return fmt.Errorf("probing: pace %d of the schedule (every %s for %s) is not one that ends or begins", i+1, pace.Every, pace.For)
		}
	}
	if _, known := o.Servers[o.Expect]; o.Expect != "" && !known {
		return fmt.Errorf("probing: the %s server is expected, and not known", o.Expect)
	}
	return nil
}

// applicationName is what the prober's sessions are called: not as the tool's
// own are, since it is a client like any other and is ended like one.
const applicationName = "pgcutover-probe"

// clientConfig is the client's own configuration but for the protocol. Nothing
// else goes into the startup packet, since a pooler may refuse it.
func clientConfig(o Options) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string to probe: %w", pg.Redact(err, o.URL))
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = applicationName
	}
	if c.ConnectTimeout == 0 {
		// A host that does not answer must leave time for the next one.
		c.ConnectTimeout = o.Timeout / time.Duration(2+len(c.Fallbacks))
	}
	return c, nil
}

// round does one round and tells about it; false when ctx ended meanwhile.
func (p *prober) round(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	r := p.try(ctx)
	if ctx.Err() != nil {
		return false // what failed may have failed for that reason
	}
	p.judge(&r)
	p.report.add(r)
	p.mu.Lock()
	p.observer.Round(r)
	p.mu.Unlock()
	if r.Change != "" && p.notifier != nil {
		p.notifier.tell(p.event(r))
	}
	return true
}

// judge follows the state from round to round.
func (p *prober) judge(r *Round) {
	switch {
	case !r.OK && p.since.IsZero():
		p.since, p.outage = r.At, 1
		r.Change = Failing
	case !r.OK:
		p.outage++
	case !p.since.IsZero():
		r.Change = Recovered
	}
	if !p.since.IsZero() {
		since := p.since
		r.Since, r.FailingMS, r.FailedRounds = &since, milliseconds(r.ended.Sub(p.since)), p.outage
	}
	if r.OK {
		p.since, p.outage = time.Time{}, 0
	}
	if r.Server != nil && r.OK {
		if n := len(p.report.Servers); n > 0 && p.report.Servers[n-1].Server.identity() != r.Server.identity() {
			r.Moved = true
		}
	}
}

// warn tells the observer and keeps the text for the report. Any goroutine may
// call it.
func (p *prober) warn(err error) {
	err = pg.Redact(err, p.o.URL)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.report.Warnings) < maxKept {
		p.report.Warnings = append(p.report.Warnings, oneLine(err.Error()))
	}
	p.observer.Warning(err)
}

// finish removes what the prober made and waits, within bounds, for webhooks
// under way.
func (p *prober) finish(ctx context.Context) Report {
	p.clean(ctx)
	if p.notifier != nil {
		delivered := p.notifier.close()
		p.report.Webhook = &delivered
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.Ended = time.Now()
	p.report.Failing = !p.since.IsZero()
	return p.report
}

// ErrFailed is wrapped by Report.Err.
var ErrFailed = errors.New("the probe failed")

// Err is nil when every round succeeded, and otherwise wraps ErrFailed, tells
// the last failure and carries its hint. Rounds that failed count although later
// ones did not: an outage that nobody watched is to be noticed, too.
func (r Report) Err() error {
	if r.Failed == 0 {
		return nil
	}
	state := "it works again"
	if r.Failing {
		state = "it still fails"
	}
	last := r.Last
	return hint.With(fmt.Errorf("%w: %d of %d rounds, %s; last: %s", ErrFailed, r.Failed, r.Rounds, state, last), last.Hint)
}

// oneLine makes one line of an error that was written over several.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// hostOf is all of a URL that may be shown.
func hostOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return "(redacted)"
	}
	return u.Scheme + "://" + u.Host + "/..."
}

// side tells which of the known servers this is; empty when none.
func (p *prober) side(s Server) pg.Side {
	for _, side := range []pg.Side{pg.Old, pg.New} {
		if known, ok := p.o.Servers[side]; ok && known.identity() == s.identity() {
			return side
		}
	}
	return ""
}

// named servers, for messages.
func (p *prober) describe(s Server) string {
	if side := p.side(s); side != "" {
		return "the " + string(side) + " server (" + s.String() + ")"
	}
	return s.String()
}

// contains reports whether a code is among the given ones.
func contains(code string, codes ...string) bool { return slices.Contains(codes, code) }
