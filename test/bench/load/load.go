package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// Options say who writes, where and how fast.
type Options struct {
	// Dial opens one client connection. It is called again whenever a client
	// gives its connection up, also concurrently.
	Dial func(context.Context) (*pgconn.PgConn, error)
	// Clients is the number of connections.
	Clients int
	// Rate is how many transactions arrive in a second.
	Rate int
	// RetryFor is how long a client repeats a transaction that failed, with a
	// new connection each time. 0 means that it does not: a failure is final.
	RetryFor time.Duration
	// Accounts, Tellers and Branches are the sizes of the tables; rows count
	// from 1.
	Accounts, Tellers, Branches int
}

// Bounds of a client. A transaction may wait as long as a cutover pauses.
const (
	dialBound        = 5 * time.Second
	transactionBound = 40 * time.Second
	backoffFirst     = 5 * time.Millisecond // and up to as much again, by chance
	backoffMost      = 100 * time.Millisecond
	queue            = 1 << 18
)

// Load is running clients. Stop them.
type Load struct {
	options Options
	arrive  context.CancelCauseFunc
	jobs    chan job
	clients []*client
	group   *errgroup.Group
	began   time.Time

	once   sync.Once
	ledger Ledger
	err    error
}

// job is one transaction that has arrived.
type job struct {
	token int64
	due   time.Time
}

var errStopped = errors.New("the load was stopped")

// Start connects all clients and then begins to write. A client that cannot
// connect is an error.
func Start(ctx context.Context, o Options) (*Load, error) {
	l := &Load{options: o, jobs: make(chan job, queue)}
	connect, dialing := errgroup.WithContext(ctx)
	for number := range o.Clients {
		c := &client{options: o, number: number}
		l.clients = append(l.clients, c)
		connect.Go(func() error { return c.connect(dialing) })
	}
	if err := connect.Wait(); err != nil {
		for _, c := range l.clients {
			c.drop(ctx)
		}
		return nil, fmt.Errorf("connecting the clients: %w", err)
	}
	arriving, stop := context.WithCancelCause(ctx)
	l.arrive = stop
	l.began = time.Now()
	l.group = &errgroup.Group{}
	l.group.Go(func() error {
		defer close(l.jobs)
		return l.schedule(arriving)
	})
	for _, c := range l.clients {
		l.group.Go(func() error {
			defer c.drop(ctx)
			c.run(context.WithoutCancel(ctx), l.jobs)
			return nil
		})
	}
	return l, nil
}

// schedule lets transactions arrive at equal distances until ctx ends. One that
// is late, because this process did not get the processor, keeps its due time.
func (l *Load) schedule(ctx context.Context) error {
	every := time.Second / time.Duration(l.options.Rate)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := int64(1); ctx.Err() == nil; n++ {
		due := l.began.Add(time.Duration(n) * every)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case l.jobs <- job{token: n, due: due}:
		default:
			return fmt.Errorf("more than %d transactions wait: the servers cannot follow the load", queue)
		}
	}
	return nil
}

// Stop ends the arrivals, waits until every transaction that has arrived is
// answered or given up, and returns what the clients were told. Calling it
// again returns the same.
func (l *Load) Stop() (Ledger, error) {
	l.once.Do(func() {
		l.arrive(errStopped)
		stopped := time.Now()
		l.err = l.group.Wait()
		l.ledger = merge(l.clients, l.began, stopped)
	})
	return l.ledger, l.err
}
