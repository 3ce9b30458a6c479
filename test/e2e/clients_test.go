package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// stopBound is how long clients may take to end.
const stopBound = time.Minute

// serveBound is how soon after a tool was killed one server takes writes, which
// is seven seconds at the most, on a busy machine too.
const serveBound = 30 * time.Second

// clients are a move's writers and, once both servers have the shop, a prober
// that asks each server directly whether it takes writes.
type clients struct {
	m       *move
	writers *workload.Writers
	prober  *workload.Prober
}

// write lets a few clients write through a connection string that names both
// servers.
func (m *move) write(t *testing.T) *clients {
	t.Helper()
	both, err := workload.Multihost(m.old.app, m.new.app)
	if err != nil {
		t.Fatal(err)
	}
	w, err := workload.Start(t.Context(), workload.Options{URL: both, Writers: 3, Rate: 30})
	if err != nil {
		t.Fatal(err)
	}
	c := &clients{m: m, writers: w}
	t.Cleanup(func() { c.stop(t) })
	return c
}

// probe begins to ask both servers. To be called after start: before, new does
// not refuse yet.
func (c *clients) probe(t *testing.T) {
	t.Helper()
	var err error
	c.prober, err = workload.StartProber(t.Context(), workload.ProberOptions{OldURL: c.m.old.app, NewURL: c.m.new.app, Every: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	c.expect(pg.Old)
}

// expect says which sides are to serve, in order.
func (c *clients) expect(sides ...pg.Side) {
	names := make([]string, len(sides))
	for i, s := range sides {
		names[i] = c.m.side(s).name
	}
	c.writers.Ledger().Expect(names...)
	if c.prober != nil {
		c.prober.Expect(sides...)
	}
}

func (m *move) side(s pg.Side) server {
	if s == pg.New {
		return m.new
	}
	return m.old
}

// stop ends writers and prober; more than once does no harm.
func (c *clients) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), stopBound)
	defer cancel()
	if err := c.writers.Stop(ctx); err != nil {
		t.Error(err)
	}
	if c.prober == nil {
		return
	}
	if err := c.prober.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// serves waits until a side has taken writes, of a client and of the prober,
// that began after since, and checks that no other has out of its turn.
func (c *clients) serves(t *testing.T, side pg.Side, since time.Time) {
	t.Helper()
	name := c.m.side(side).name
	until(t, fmt.Sprintf("writes on the %s server", side), serveBound, func() bool {
		return c.committed(name, since) && (c.prober == nil || c.accepted(side, since))
	}, c.state)
	c.inTurn(t)
}

func (c *clients) committed(server string, since time.Time) bool {
	for _, commit := range c.writers.Ledger().Commits() {
		if !commit.Unknown && commit.Server == server && commit.Began.After(since) {
			return true
		}
	}
	return false
}

func (c *clients) accepted(side pg.Side, since time.Time) bool {
	for _, a := range c.prober.Attempts() {
		if a.Side == side && a.Outcome == workload.Accepted && a.Began.After(since) {
			return true
		}
	}
	return false
}

// state tells what the servers answered last.
func (c *clients) state() string {
	text := fmt.Sprintf("clients saw %v", c.writers.Ledger().Stats().Errors)
	if c.prober == nil {
		return text
	}
	for _, side := range []pg.Side{pg.Old, pg.New} {
		if all := c.prober.Intervals(side); len(all) > 0 {
			last := all[len(all)-1]
			text += fmt.Sprintf("; %s: %s %s, %d attempts since %s", side, last.Outcome, last.Code, last.Attempts, last.From.Format("15:04:05.000"))
		}
	}
	return text
}

// inTurn checks that no server took a write out of its turn.
func (c *clients) inTurn(t *testing.T) {
	t.Helper()
	for _, s := range c.writers.Ledger().SplitBrain() {
		t.Errorf("split brain: %s", s)
	}
	if c.prober == nil {
		return
	}
	if err := c.prober.Err(); err != nil {
		t.Error(err)
	}
}

// prove stops the clients and compares all that they were told with the server
// that serves.
func (c *clients) prove(t *testing.T, side pg.Side) {
	t.Helper()
	c.stop(t)
	c.inTurn(t)
	conn := connect(t, c.m.side(side).app)
	p, err := workload.Prove(t.Context(), conn, c.writers.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(p)
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if p.Acknowledged == 0 || p.SequencesChecked == 0 || p.SequenceValuesChecked == 0 {
		t.Errorf("the proof compared nothing: %s", p)
	}
	if c.prober == nil {
		return
	}
	missing, err := c.prober.Missing(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range missing {
		t.Errorf("the row of probe %d, accepted by the %s server at %s, is not there", a.N, a.Side, a.Ended.Format("15:04:05.000000"))
	}
}
