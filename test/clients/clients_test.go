package clients

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// client writes rows until ctx ends; a row under way is finished.
type client func(ctx context.Context, a *account)

// breath is the time between two rows of a client.
const breath = 20 * time.Millisecond

func breathe(ctx context.Context) {
	timer := time.NewTimer(breath)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// fleet is all clients at work.
type fleet struct {
	t        *testing.T
	m        *move
	accounts []*account
	reader   reader
	prober   prober
	cancel   context.CancelFunc
	group    sync.WaitGroup
}

// launch starts the clients.
func launch(t *testing.T, m *move) *fleet {
	t.Helper()
	to := m.target(t)
	bench := program(t, "pgbench")
	clients := map[string]client{
		"psql":                    psql(t, program(t, "psql"), to),
		"pgbench":                 pgbench(t, bench, to),
		"pgbench -C":              pgbench(t, bench, to, "-C"),
		"pgx":                     session(t, to),
		"pgxpool":                 pool(t, to, false),
		"pgxpool, Reset on 25006": pool(t, to, true),
	}
	maps.Copy(clients, chosen(t, to))
	ctx, cancel := context.WithCancel(t.Context())
	f := &fleet{t: t, m: m, cancel: cancel}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		a := newAccount(name)
		f.accounts = append(f.accounts, a)
		f.group.Go(func() { clients[name](ctx, a) })
	}
	f.group.Go(func() { f.reader.run(ctx, t, to) })
	f.group.Go(func() { f.prober.run(ctx, t, m) })
	t.Cleanup(f.stop)
	return f
}

// stop lets every client finish its row.
func (f *fleet) stop() {
	f.cancel()
	f.group.Wait()
}

// tookSQL counts the rows that a server has taken itself from a client.
const tookSQL = `select count(*) from ledger where port = $1 and client = $2`

// write waits until every client has written further rows on a server, and the
// reader reads there.
func (f *fleet) write(c *pgserver.Cluster) {
	f.t.Helper()
	const rows = 5
	took := func(a *account) int { return pgtest.Value[int](f.t, c.URL(f.m.name), tookSQL, c.Port(), a.name) }
	before := map[*account]int{}
	for _, a := range f.accounts {
		before[a] = took(a)
	}
	for _, a := range f.accounts {
		until(f.t, fmt.Sprintf("rows of %s on port %d", a.name, c.Port()), func() (bool, string) {
			return took(a) >= before[a]+rows, a.String()
		})
	}
	until(f.t, fmt.Sprintf("reads on port %d", c.Port()), func() (bool, string) {
		port, text := f.reader.state()
		return port == c.Port(), text
	})
	until(f.t, fmt.Sprintf("a probe on port %d", c.Port()), func() (bool, string) {
		port, text := f.prober.state()
		return port == c.Port(), text
	})
}

// TestClientsFollow lets every client write through a connection string for both
// servers while the writes are turned to the new server, back, and there again.
func TestClientsFollow(t *testing.T) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(pair.String(), func(t *testing.T) {
			m := newMove(t, pair)
			f := launch(t, m)
			f.write(m.old)
			there := m.cutover(t)
			f.write(m.new)
			back := m.rollback(t)
			f.write(m.old)
			again := m.cutover(t)
			f.write(m.new)
			f.stop()
			turns := []turn{there, back, again}
			for _, a := range f.accounts {
				t.Logf("%s; without an answer for %s", a, a.gaps(turns))
			}
			f.prober.check(t, turns)
			prove(t, m.new.URL(m.name), f.accounts, turns...)
			m.complete(t)
		})
	}
}
