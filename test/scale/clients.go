package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// entry is one transaction as its client saw it.
type entry struct {
	token        int64
	pid          uint32   // of its session
	tables       []string // that it has written a row with its token into
	began, ended time.Time
	acked        bool
	unknown      bool   // nobody answered the commit
	code         string // SQLSTATE of its failure, or "broken"
}

// script makes one transaction: the statements between BEGIN and COMMIT, and the
// tables that get a row with the token.
type script func(token int64, client int, random *rand.Rand) (statements, tables []string)

// clients write until they are stopped.
type clients struct {
	stop   context.CancelFunc
	group  *errgroup.Group
	token  atomic.Int64
	ledger [][]entry // by client
}

// load says who writes.
type load struct {
	url     string // that finds the writable server
	clients int
	rate    int // transactions per second of all together; 0 for no pause between them
	script  script
}

// Bounds of a client.
const (
	connectBound     = 3 * time.Second
	transactionBound = 40 * time.Second
	backoffFirst     = 10 * time.Millisecond
	backoffMost      = 80 * time.Millisecond
)

// start connects the clients and lets them write.
func (l load) start(ctx context.Context) (*clients, error) {
	running, stop := context.WithCancel(ctx)
	c := &clients{stop: stop, group: &errgroup.Group{}, ledger: make([][]entry, l.clients)}
	conns := make([]*pgx.Conn, l.clients)
	for i := range conns {
		conn, err := connect(ctx, l.url)
		if err != nil {
			stop()
			return nil, fmt.Errorf("connecting client %d: %w", i, err)
		}
		conns[i] = conn
	}
	for i, conn := range conns {
		one := &client{load: l, all: c, number: i, conn: conn, backoff: backoffFirst, random: rand.New(rand.NewPCG(uint64(i), 7))} //nolint:gosec // test data
		c.group.Go(func() error { return one.run(running) })
	}
	return c, nil
}

// end stops the clients and returns what they were told, in order of time.
func (c *clients) end() (ledger, error) {
	c.stop()
	err := c.group.Wait()
	var all ledger
	for _, entries := range c.ledger {
		all = append(all, entries...)
	}
	slices.SortFunc(all, func(a, b entry) int { return a.ended.Compare(b.ended) })
	return all, err
}

type client struct {
	load
	all    *clients
	number int
	conn   *pgx.Conn
	random *rand.Rand
	// backoff is how long to wait after a connection that failed, as pools do:
	// clients that connect without a rest take the processors from the servers.
	backoff time.Duration
}

func connect(ctx context.Context, address string) (*pgx.Conn, error) {
	limit, cancel := context.WithTimeout(ctx, connectBound)
	defer cancel()
	return pgx.Connect(limit, address)
}

func (c *client) run(ctx context.Context) error {
	always := context.WithoutCancel(ctx)
	defer func() { c.drop(always) }()
	due := time.Now()
	for ctx.Err() == nil {
		if c.rate > 0 {
			due = due.Add(time.Second * time.Duration(c.clients) / time.Duration(c.rate))
			if late := time.Since(due); late > 0 {
				due = time.Now() // one that was held up does not make up for it
			}
			wait(ctx, time.Until(due))
		}
		e := entry{token: c.all.token.Add(1), began: time.Now()}
		err := c.transact(always, &e)
		e.ended = time.Now()
		c.judge(always, &e, err)
		c.all.ledger[c.number] = append(c.all.ledger[c.number], e)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// transact sends the whole transaction in one message.
func (c *client) transact(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, transactionBound)
	defer cancel()
	if c.conn == nil {
		conn, err := connect(ctx, c.url)
		if err != nil {
			wait(ctx, c.backoff/2+rand.N(c.backoff))
			c.backoff = min(2*c.backoff, backoffMost)
			return errConnect
		}
		c.conn, c.backoff = conn, backoffFirst
		e.began = time.Now() // what is timed is the transaction
	}
	e.pid = c.conn.PgConn().PID()
	statements, tables := c.script(e.token, c.number, c.random)
	e.tables = tables
	_, err := c.conn.PgConn().Exec(ctx, "begin; "+strings.Join(statements, "; ")+"; commit").ReadAll()
	return err
}

var errConnect = errors.New("connecting")

// judge says what became of the transaction, and gives up what does not work.
func (c *client) judge(ctx context.Context, e *entry, err error) {
	var answer *pgconn.PgError
	switch {
	case err == nil:
		e.acked = true
		return
	case errors.Is(err, errConnect):
		e.code, e.tables = "connect", nil
		return
	case errors.As(err, &answer):
		e.code = answer.Code
	default:
		e.code = "broken"
	}
	// A session that is ended in the middle of its commit may have committed.
	e.unknown = e.code == "broken" || e.code == pg.AdminShutdown
	if e.unknown || e.code == pg.ReadOnlyTransaction {
		c.drop(ctx)
		return
	}
	if _, err := c.conn.Exec(ctx, "rollback"); err != nil {
		c.drop(ctx)
	}
}

func (c *client) drop(ctx context.Context) {
	if c.conn != nil {
		pg.Close(ctx, c.conn)
		c.conn = nil
	}
}

// ledger is what all clients were told, in order of time.
type ledger []entry

// gap is the longest time between two acknowledgements that follow each other,
// of those between from and to.
func (l ledger) gap(from, to time.Time) time.Duration {
	last, longest := from, time.Duration(0)
	for _, e := range l {
		if e.acked && e.ended.After(from) && e.ended.Before(to) {
			longest, last = max(longest, e.ended.Sub(last)), e.ended
		}
	}
	return max(longest, to.Sub(last))
}

// beside returns the longest time between two acknowledgements and the longest
// transaction between began and ended of those that lie before held or after until.
func (l ledger) beside(began, ended, held, until time.Time) (gap, longest time.Duration) {
	apart := func(from, to time.Time) bool { return to.Before(held) || from.After(until) }
	last := began
	for _, e := range l {
		if !e.ended.After(began) || !e.ended.Before(ended) || !e.acked {
			continue
		}
		if apart(last, e.ended) {
			gap = max(gap, e.ended.Sub(last))
		}
		if apart(e.began, e.ended) {
			longest = max(longest, e.ended.Sub(e.began))
		}
		last = e.ended
	}
	return gap, longest
}

// counts sums up the transactions that ended between from and to.
type counts struct {
	Transactions int            `json:"transactions"`
	Acknowledged int            `json:"acknowledged"`
	Codes        map[string]int `json:"failures,omitempty"`
	LongestMS    float64        `json:"longest_ms"` // acknowledged ones and deadlocked ones
	P99MS        float64        `json:"p99_ms"`
}

func (l ledger) counts(from, to time.Time) counts {
	c := counts{Codes: map[string]int{}}
	var took []time.Duration
	for _, e := range l {
		if e.ended.Before(from) || e.ended.After(to) {
			continue
		}
		c.Transactions++
		if e.acked {
			c.Acknowledged++
		} else {
			c.Codes[e.code]++
		}
		if e.acked || e.code == pg.DeadlockDetected {
			took = append(took, e.ended.Sub(e.began))
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		c.LongestMS, c.P99MS = milliseconds(took[len(took)-1]), milliseconds(took[(len(took)-1)*99/100])
	}
	return c
}

// slowest is the longest transaction of those that counts looks at.
func (l ledger) slowest(from, to time.Time) entry {
	var slow entry
	for _, e := range l {
		if !e.ended.Before(from) && !e.ended.After(to) && (e.acked || e.code == pg.DeadlockDetected) && e.ended.Sub(e.began) > slow.ended.Sub(slow.began) {
			slow = e
		}
	}
	return slow
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
