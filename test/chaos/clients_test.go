package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// serveBound is how soon after a fault one server has to take writes, on a
// machine that is not overloaded.
func serveBound() time.Duration { return patience(10 * time.Second) }

// clients are the writers of one round and a prober that asks each server
// directly whether it takes writes.
type clients struct {
	m              *move
	source, target pg.Side
	groups         []group
	prober         *workload.Prober
	began          time.Time
}

// settle is how long the clients write before the tool is started.
const settle = 300 * time.Millisecond

// group are writers that reach their server in the same way.
type group struct {
	name    string
	writers *workload.Writers
}

// write lets the clients of a round begin.
func (m *move) write(seed uint64) (*clients, error) {
	c := &clients{m: m, source: m.serving, target: m.serving.Other(), began: time.Now()}
	both, err := workload.Multihost(m.app(m.w.old), m.app(m.w.new))
	if err != nil {
		return c, err
	}
	type way struct {
		name, url string
		writers   int
		pooled    bool
	}
	ways := []way{{"multihost", both, 2, false}, {"direct", m.app(m.source()), 1, false}}
	if m.pooler != nil {
		ways = append(ways, way{"pgbouncer", m.pooler.URL(m.name), 2, true})
	}
	for i, g := range ways {
		w, err := workload.Start(context.Background(), workload.Options{
			URL: g.url, Pooled: g.pooled, Writers: g.writers, Rate: 30, Timeout: 20 * time.Second, Seed: seed + uint64(i),
		})
		if err != nil {
			return c, errors.Join(fmt.Errorf("%s clients: %w", g.name, err), c.stop())
		}
		c.groups = append(c.groups, group{g.name, w})
	}
	c.prober, err = workload.StartProber(context.Background(), workload.ProberOptions{OldURL: m.app(m.w.old), NewURL: m.app(m.w.new)})
	if err != nil {
		return c, errors.Join(err, c.stop())
	}
	rest(settle)
	_, err = c.serves(c.began)
	return c, err
}

// stopBound is longer than a transaction may take.
const stopBound = time.Minute

// stop ends writers and prober; more than once does no harm.
func (c *clients) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopBound)
	defer cancel()
	var errs []error
	for _, g := range c.groups {
		if err := g.writers.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s clients: %w", g.name, err))
		}
	}
	if c.prober != nil {
		errs = append(errs, c.prober.Stop(ctx))
	}
	return errors.Join(errs...)
}

// accepted returns the first write that the prober began after since and that
// was accepted, nil when there is none.
func (c *clients) accepted(since time.Time) *workload.Attempt {
	for _, a := range c.prober.Attempts() {
		if a.Outcome == workload.Accepted && a.Began.After(since) {
			return &a
		}
	}
	return nil
}

// serves waits until some server has taken a write that began after since, and
// returns how long after since it was acknowledged: serveBound at the most.
func (c *clients) serves(since time.Time) (time.Duration, error) {
	bound := serveBound()
	left := max(time.Until(since.Add(bound)), time.Millisecond)
	var first *workload.Attempt
	err := until("a server that takes writes", left, func() (bool, string, error) {
		first = c.accepted(since)
		return first != nil, "", nil
	})
	if err != nil || first.Ended.Sub(since) > bound {
		return 0, fmt.Errorf("no server took a write within %s of %s: %s", bound, since.Format(clock), c.state())
	}
	return first.Ended.Sub(since), nil
}

// follow waits until clients that can find the serving server by themselves
// write there again.
func (c *clients) follow(serving pg.Side, since time.Time) error {
	for _, g := range c.groups {
		if g.name == "direct" {
			continue
		}
		err := until("the "+g.name+" clients to write on the "+string(serving)+" server", serveBound(), func() (bool, string, error) {
			for _, t := range g.writers.Ledger().Commits() {
				if !t.Unknown && t.Server == c.m.names[serving] && t.Began.After(since) {
					return true, "", nil
				}
			}
			return false, c.state(), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pooled waits until the pooler's clients have written again, anywhere.
func (c *clients) pooled(since time.Time) error {
	i := slices.IndexFunc(c.groups, func(g group) bool { return g.name == "pgbouncer" })
	if i < 0 {
		return nil
	}
	return until("the pooler's clients to write", max(time.Until(since.Add(serveBound())), time.Millisecond), func() (bool, string, error) {
		for _, t := range c.groups[i].writers.Ledger().Commits() {
			if !t.Unknown && t.Ended.After(since) {
				return true, "", nil
			}
		}
		return false, c.state(), nil
	})
}

// gap is the longest time since a moment in which no server took writes.
func (c *clients) gap(since time.Time) time.Duration {
	return c.prober.NeitherBetween(since, time.Now())
}

// state tells what the servers answered last.
func (c *clients) state() string {
	text := ""
	for _, side := range []pg.Side{pg.Old, pg.New} {
		if all := c.prober.Intervals(side); len(all) > 0 {
			last := all[len(all)-1]
			text += fmt.Sprintf("%s: %s %s, %d attempts since %s; ", side, last.Outcome, last.Code, last.Attempts, last.From.Format(clock))
		}
	}
	return text
}

// story is all that the prober was answered, for the reader of a failed round.
func (c *clients) story() string {
	text := ""
	for _, side := range []pg.Side{pg.Old, pg.New} {
		for _, i := range c.prober.Intervals(side) {
			text += fmt.Sprintf("%s - %s %s: %s %s (%d)\n", i.From.Format(clock), i.To.Format(clock), side, i.Outcome, i.Code, i.Attempts)
		}
	}
	for _, g := range c.groups {
		text += fmt.Sprintf("%s clients: %+v\n", g.name, g.writers.Ledger().Stats())
	}
	return text
}

// findings are what the comparison of all ledgers with a server says.
type findings struct {
	acknowledged, unknown int
	lost, doubled, both   int
	problems              []string
}

func (f *findings) problem(format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}

// prove compares what the clients were told with the serving server. They must
// have been stopped.
func (c *clients) prove(serving pg.Side) (findings, error) {
	order := []pg.Side{c.source}
	if serving == c.target {
		order = append(order, c.target)
	}
	var names []string
	for _, side := range order {
		names = append(names, c.m.names[side])
	}
	for _, g := range c.groups {
		g.writers.Ledger().Expect(names...)
	}
	c.prober.Expect(order...)
	var f findings
	if err := c.gone(serving); err != nil {
		return f, err
	}
	if err := c.compare(serving, &f); err != nil {
		return f, err
	}
	c.together(serving, &f)
	if f.acknowledged == 0 {
		f.problem("the proof compared nothing")
	}
	return f, nil
}

const clientsSQL = `select count(*) from pg_stat_activity where datname = $1 and application_name like 'shop/%'`

// gone waits until the server has ended the clients' sessions: what a lost one
// was doing may still be committed.
func (c *clients) gone(serving pg.Side) error {
	if c.m.pooler != nil {
		// It keeps its sessions for other clients.
		if _, err := c.m.console("RECONNECT"); err != nil {
			return err
		}
	}
	return until("the clients' sessions to end", time.Minute, func() (bool, string, error) {
		n, err := one[int](c.m.w.at(serving), "postgres", clientsSQL, c.m.name)
		return n == 0, fmt.Sprintf("%d are left", n), err
	})
}

// compare looks each ledger up on the serving server.
func (c *clients) compare(serving pg.Side, f *findings) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.m.app(c.m.w.at(serving)))
	if err != nil {
		return fmt.Errorf("connecting to the %s server: %w", serving, err)
	}
	defer pg.Close(ctx, conn)
	for _, g := range c.groups {
		p, err := workload.Prove(ctx, conn, g.writers.Ledger())
		if err != nil {
			return fmt.Errorf("%s clients: %w", g.name, err)
		}
		f.acknowledged += p.Acknowledged
		f.unknown += p.Unknown
		f.lost += p.Lost + max(int(p.LoadedMissing), 0)
		f.doubled += p.Duplicated + p.SequenceValuesDuplicated + max(-int(p.LoadedMissing), 0)
		f.both += p.SplitBrains
		if err := p.Err(); err != nil {
			f.problem("%s clients: %v", g.name, err)
		}
	}
	missing, err := c.prober.Missing(ctx, conn)
	if err != nil {
		return err
	}
	f.lost += len(missing)
	for _, a := range missing {
		f.problem("the row of probe %d, accepted by the %s server at %s, is not there", a.N, a.Side, a.Ended.Format(clock))
	}
	return nil
}

// taken is one write that a server accepted, as its client saw it.
type taken struct {
	who          string
	side         pg.Side
	began, ended time.Time
}

// together looks at all clients at once: no write that began after the target
// had taken one may have been accepted by the source, none at all by a target
// that does not serve, and no value of a sequence by two clients.
func (c *clients) together(serving pg.Side, f *findings) {
	var first *taken
	spans := c.spans()
	for _, s := range spans {
		if s.side != c.target {
			continue
		}
		if serving == c.source {
			f.both++
			f.problem("the %s server took a write of %s at %s, and was not to serve", s.side, s.who, s.ended.Format(clock))
		}
		if first == nil || s.ended.Before(first.ended) {
			first = &s
		}
	}
	for _, s := range spans {
		if first != nil && s.side == c.source && s.began.After(first.ended) {
			f.both++
			f.problem("the %s server took a write of %s that began at %s, when the %s server had taken one of %s at %s",
				s.side, s.who, s.began.Format(clock), first.side, first.who, first.ended.Format(clock))
		}
	}
	type value struct {
		sequence string
		value    int64
	}
	drawn := map[value]string{}
	for _, g := range c.groups {
		for _, d := range g.writers.Ledger().Draws() {
			v := value{d.Sequence, d.Value}
			if who, twice := drawn[v]; d.Committed && twice && who != g.name {
				f.doubled++
				f.problem("%s gave %d to %s and %s clients", v.sequence, v.value, who, g.name)
			}
			if d.Committed {
				drawn[v] = g.name
			}
		}
	}
}

// spans are the accepted writes of the prober and of all clients.
func (c *clients) spans() []taken {
	var out []taken
	for _, a := range c.prober.Attempts() {
		if a.Outcome == workload.Accepted {
			out = append(out, taken{"the prober", a.Side, a.Began, a.Ended})
		}
	}
	sides := map[string]pg.Side{c.m.names[pg.Old]: pg.Old, c.m.names[pg.New]: pg.New}
	for _, g := range c.groups {
		for _, t := range g.writers.Ledger().Commits() {
			if !t.Unknown {
				out = append(out, taken{g.name + " clients", sides[t.Server], t.Began, t.Ended})
			}
		}
	}
	return out
}

// proveAgain looks up once more, on the server that serves now, what the
// clients of all earlier rounds were told.
func (m *move) proveAgain() (findings, error) {
	var f findings
	for i, c := range m.past {
		before := len(f.problems)
		if err := c.compare(m.serving, &f); err != nil {
			return f, err
		}
		if len(f.problems) > before {
			return f, fmt.Errorf("what was right at the end of the move's round %d of %d, whose clients began at %s, is not so any more: %s",
				i+1, len(m.past), c.began.Format(clock), strings.Join(f.problems, "\n"))
		}
	}
	return f, nil
}
