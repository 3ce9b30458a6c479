package workload

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// ProberOptions say how a Prober asks. Zero values mean the defaults.
type ProberOptions struct {
	OldURL, NewURL string        // each names one server, directly
	Every          time.Duration // between two attempts on one server; default 25 ms
	// Timeout is how long the server may take over one attempt
	// (statement_timeout), for instance waiting at the gate; longer counts
	// as refused. Default 3 s.
	Timeout time.Duration
	// ConnectTimeout bounds one connection attempt; default 1 s.
	ConnectTimeout time.Duration
}

func (o ProberOptions) withDefaults() ProberOptions {
	if o.Every <= 0 {
		o.Every = 25 * time.Millisecond
	}
	if o.Timeout <= 0 {
		o.Timeout = 3 * time.Second
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = time.Second
	}
	return o
}

// Outcome is how an attempt of a Prober ended.
type Outcome string

// The outcomes of an attempt to write. Unknown is a connection lost while the
// write was under way.
const (
	Accepted Outcome = "accepted"
	Refused  Outcome = "refused"
	Unknown  Outcome = "unknown"
)

// Attempt is one write that a Prober has tried. Its times are the client's and
// carry a monotonic clock.
type Attempt struct {
	Side    pg.Side
	N       int64 // key of the row, with the side
	Began   time.Time
	Ended   time.Time
	Outcome Outcome
	Code    string // SQLSTATE of a refusal, or "connection"; empty when accepted
}

// Prober asks two servers, each directly and all the time, whether they take
// writes: it inserts rows into "SHOP".probe and commits them. Start it when
// both servers are meant to have the shop and new to be closed: before that, a
// row that it writes on new would be a rogue one.
type Prober struct {
	cancel context.CancelFunc
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
	began  time.Time

	mu       sync.Mutex
	attempts []Attempt // in the order of their ends
	expect   []pg.Side
	ended    time.Time
}

// StartProber lets the attempts begin, on each server at its own pace. It needs
// no server to be there. They go on until Stop or until ctx is cancelled; in
// either case Stop must be called.
func StartProber(ctx context.Context, o ProberOptions) (*Prober, error) {
	o = o.withDefaults()
	oldConfig, err := probeConfig(pg.Old, o.OldURL, o)
	if err != nil {
		return nil, err
	}
	newConfig, err := probeConfig(pg.New, o.NewURL, o)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	p := &Prober{
		cancel: cancel, stop: make(chan struct{}), done: make(chan struct{}),
		began: time.Now(), expect: []pg.Side{pg.Old, pg.New},
	}
	var group sync.WaitGroup
	for side, config := range map[pg.Side]*pgx.ConnConfig{pg.Old: oldConfig, pg.New: newConfig} {
		one := &probe{prober: p, side: side, config: config, o: o, n: p.began.UnixMicro()}
		group.Go(func() { one.run(running) })
	}
	go func() {
		defer close(p.done)
		group.Wait()
	}()
	return p, nil
}

func probeConfig(side pg.Side, url string, o ProberOptions) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the prober's connection string of the %s server: %w", side, pg.Redact(err, url))
	}
	config.ConnectTimeout = o.ConnectTimeout
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt(o.Timeout.Milliseconds(), 10)
	config.RuntimeParams["application_name"] = "shop/probe"
	return config, nil
}

// Stop ends the attempts, those under way included, and waits for both servers'
// to have ended. It may be called more than once.
func (p *Prober) Stop(ctx context.Context) error {
	p.once.Do(func() { close(p.stop) })
	defer p.cancel()
	var err error
	select {
	case <-p.done:
	case <-ctx.Done():
		p.cancel()
		<-p.done
		err = fmt.Errorf("stopping the prober: %w", context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.IsZero() {
		p.ended = time.Now()
	}
	return err
}

// Expect says which sides are to serve, in order: old and new for a cutover,
// which is the default; old, new, old when a rollback follows; old alone when
// the cutover is undone.
func (p *Prober) Expect(sides ...pg.Side) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expect = append([]pg.Side(nil), sides...)
}

// Attempts returns the attempts so far, in the order of their ends.
func (p *Prober) Attempts() []Attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Attempt(nil), p.attempts...)
}

func (p *Prober) note(a Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts = append(p.attempts, a)
}

// probe is the part of a Prober that asks one server.
type probe struct {
	prober *Prober
	side   pg.Side
	config *pgx.ConnConfig
	o      ProberOptions
	conn   *pgx.Conn
	n      int64
}

func (p *probe) run(ctx context.Context) {
	tick := time.NewTicker(p.o.Every)
	defer tick.Stop()
	defer func() { p.disconnect(ctx) }()
	for {
		select {
		case <-p.prober.stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.attempt(ctx)
	}
}

const probeSQL = `
insert into "SHOP".probe (server, n)
values ($1::text, $2::bigint)`

// attempt tries one write. After any error the connection is given up: a
// session opened while the database was read-only stays so.
func (p *probe) attempt(ctx context.Context) {
	p.n++
	a := Attempt{Side: p.side, N: p.n, Began: time.Now(), Outcome: Accepted}
	bounded, cancel := context.WithTimeout(ctx, p.o.ConnectTimeout+p.o.Timeout+time.Second)
	defer cancel()
	sent, err := p.write(bounded)
	a.Ended = time.Now()
	if err != nil {
		a.Outcome, a.Code = Refused, errorCode(err)
		if sent && uncertain(err) {
			a.Outcome = Unknown
		}
		p.disconnect(ctx)
	}
	p.prober.note(a)
}

func (p *probe) write(ctx context.Context) (sent bool, err error) {
	if p.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, p.config)
		if err != nil {
			return false, fmt.Errorf("connecting: %w", err)
		}
		p.conn = conn
	}
	if _, err := p.conn.Exec(ctx, probeSQL, string(p.side), p.n); err != nil {
		return true, fmt.Errorf("writing: %w", err)
	}
	return true, nil
}

func (p *probe) disconnect(ctx context.Context) {
	if p.conn != nil {
		closeConn(ctx, p.conn)
		p.conn = nil
	}
}

// Violation is a write that one server accepted although it began after
// another one, which serves later, had accepted a write: both took writes.
type Violation struct {
	Write Attempt // the late one
	After Attempt // the earlier one on the other server; zero when Write's side was not to serve at all
}

// String says which server took what when.
func (v Violation) String() string {
	if v.After.Side == "" {
		return fmt.Sprintf("the %s server accepted a write at %s, and was not to serve", v.Write.Side, v.Write.Ended.Format(clock))
	}
	return fmt.Sprintf("the %s server accepted a write that began at %s, %s after the %s server had accepted one",
		v.Write.Side, v.Write.Began.Format(clock), v.Write.Began.Sub(v.After.Ended), v.After.Side)
}

// Violations returns the writes that were accepted out of turn, see Expect.
// None is what the protocol promises.
func (p *Prober) Violations() []Violation {
	p.mu.Lock()
	defer p.mu.Unlock()
	accepted, spans := p.accepted()
	var order []string
	for _, s := range p.expect {
		order = append(order, string(s))
	}
	_, overlaps := reigns(order, spans)
	out := make([]Violation, 0, len(overlaps))
	for _, o := range overlaps {
		v := Violation{Write: accepted[o.late]}
		if o.early >= 0 {
			v.After = accepted[o.early]
		}
		out = append(out, v)
	}
	return out
}

// accepted returns the accepted attempts. The caller holds p.mu.
func (p *Prober) accepted() (attempts []Attempt, spans []span) {
	for _, a := range p.attempts {
		if a.Outcome == Accepted {
			attempts = append(attempts, a)
			spans = append(spans, span{string(a.Side), a.Began, a.Ended})
		}
	}
	return attempts, spans
}

// NeitherFor is the longest time in which neither server accepted a write, from
// StartProber to Stop (or until now): between two accepted answers, or to
// either end. It cannot be shorter than the pace of the attempts.
func (p *Prober) NeitherFor() time.Duration {
	p.mu.Lock()
	to := p.ended
	p.mu.Unlock()
	if to.IsZero() {
		to = time.Now()
	}
	return p.NeitherBetween(p.began, to)
}

// NeitherBetween is the same for a part of the run.
func (p *Prober) NeitherBetween(from, to time.Time) time.Duration {
	p.mu.Lock()
	_, spans := p.accepted()
	p.mu.Unlock()
	var answers []time.Time
	for _, s := range spans {
		if !s.ended.Before(from) && !s.ended.After(to) {
			answers = append(answers, s.ended)
		}
	}
	return longestGap(answers, from, to)
}

// Interval is a run of attempts on one server that ended alike.
type Interval struct {
	From, To time.Time // from the first one's beginning to the last one's end
	Outcome  Outcome
	Code     string
	Attempts int
}

// Intervals returns what one server answered, in order of time: when it
// accepted, when it refused and why.
func (p *Prober) Intervals(side pg.Side) []Interval {
	var out []Interval
	for _, a := range p.Attempts() {
		if a.Side != side {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Outcome == a.Outcome && out[n-1].Code == a.Code {
			out[n-1].To = a.Ended
			out[n-1].Attempts++
			continue
		}
		out = append(out, Interval{From: a.Began, To: a.Ended, Outcome: a.Outcome, Code: a.Code, Attempts: 1})
	}
	return out
}

const probedSQL = `
select server, n
  from "SHOP".probe
 where n between $1::bigint and $2::bigint`

// Missing returns the accepted attempts whose rows are not on the server that
// conn reaches. On the serving server, after Stop, none may be missing.
func (p *Prober) Missing(ctx context.Context, conn *pgx.Conn) ([]Attempt, error) {
	p.mu.Lock()
	accepted, _ := p.accepted()
	p.mu.Unlock()
	if len(accepted) == 0 {
		return nil, nil
	}
	sort.Slice(accepted, func(i, j int) bool { return accepted[i].N < accepted[j].N })
	rows, err := conn.Query(ctx, probedSQL, accepted[0].N, accepted[len(accepted)-1].N)
	if err != nil {
		return nil, fmt.Errorf("reading the probes: %w", err)
	}
	type key struct {
		server string
		n      int64
	}
	there := map[key]bool{}
	var k key
	if _, err := pgx.ForEachRow(rows, []any{&k.server, &k.n}, func() error { there[k] = true; return nil }); err != nil {
		return nil, fmt.Errorf("reading the probes: %w", err)
	}
	var missing []Attempt
	for _, a := range accepted {
		if !there[key{string(a.Side), a.N}] {
			missing = append(missing, a)
		}
	}
	return missing, nil
}

// ErrBothWritable is wrapped by Prober.Err.
var ErrBothWritable = errors.New("two servers took writes at the same time")

// Err is nil when no write was accepted out of turn, and otherwise wraps
// ErrBothWritable and tells the first one.
func (p *Prober) Err() error {
	v := p.Violations()
	if len(v) == 0 {
		return nil
	}
	return fmt.Errorf("%w, %d times, first: %s", ErrBothWritable, len(v), v[0])
}
