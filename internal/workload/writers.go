package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Options say how a run writes. Zero values mean the defaults.
type Options struct {
	// URL is what the clients connect with: libpq URL or keywords, naming
	// both hosts with target_session_attrs=read-write (see Multihost), or a
	// pooler, or one server.
	URL     string
	Writers int // clients; default 4
	// Rate bounds the transactions of each writer per second; default 50.
	Rate int
	// Timeout bounds one transaction, waiting included; default 30 s. One
	// that runs into it during COMMIT is of unknown outcome.
	Timeout time.Duration
	// ConnectTimeout bounds one attempt to reach one host; default 2 s.
	ConnectTimeout time.Duration
	// Pooled keeps to what works through a transaction pooler: no named
	// prepared statements.
	Pooled bool
	// Seed makes the order of operations repeatable; 0 chooses one.
	Seed uint64
}

func (o Options) withDefaults() Options {
	if o.Writers <= 0 {
		o.Writers = 4
	}
	if o.Rate <= 0 {
		o.Rate = 50
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 2 * time.Second
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return o
}

// Writers are the clients of one run. Start makes them; Stop ends them.
type Writers struct {
	ledger *Ledger
	config *pgx.ConnConfig
	cancel context.CancelFunc
	stop   chan struct{}
	once   sync.Once
	done   chan struct{}
}

// Start reads what is there (rows loaded, values handed out) and lets the
// writers go. It needs a shop, see Create, and a writable server within the
// connection's timeouts. The writers go on until Stop or until ctx is
// cancelled; in either case Stop must be called.
func Start(ctx context.Context, o Options) (*Writers, error) {
	o = o.withDefaults()
	config, err := clientConfig(o)
	if err != nil {
		return nil, err
	}
	ledger, err := newLedger()
	if err != nil {
		return nil, err
	}
	if err := ledger.readBaseline(ctx, config); err != nil {
		return nil, fmt.Errorf("starting the writers: %w", pg.Redact(err, o.URL))
	}
	running, cancel := context.WithCancel(ctx)
	w := &Writers{ledger: ledger, config: config, cancel: cancel, stop: make(chan struct{}), done: make(chan struct{})}
	var group sync.WaitGroup
	for i := range o.Writers {
		one := newWriter(i, o, ledger, config, w.stop)
		group.Go(func() { one.run(running) })
	}
	go func() {
		defer close(w.done)
		group.Wait()
		ledger.close()
	}()
	return w, nil
}

func clientConfig(o Options) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the writers' connection string: %w", pg.Redact(err, o.URL))
	}
	config.ConnectTimeout = o.ConnectTimeout
	if o.Pooled {
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	return config, nil
}

// Ledger returns the run's ledger, which may be read while the writers write.
func (w *Writers) Ledger() *Ledger { return w.ledger }

// Stop lets every writer finish its transaction and waits until all have
// ended. When ctx ends first, it breaks the connections, waits for the writers
// all the same (they then end at once), and returns an error; the transactions
// under way are of unknown outcome. It may be called more than once.
func (w *Writers) Stop(ctx context.Context) error {
	w.once.Do(func() { close(w.stop) })
	defer w.cancel()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		w.cancel()
		<-w.done
		return fmt.Errorf("stopping the writers: %w", context.Cause(ctx))
	}
}

// readBaseline notes the number of loaded rows of each table and the last value
// of each sequence before the run.
func (l *Ledger) readBaseline(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer closeConn(ctx, conn)
	for _, t := range tables {
		var n int64
		if err := conn.QueryRow(ctx, t.loaded).Scan(&n); err != nil {
			return fmt.Errorf("counting the rows of %s: %w", t.name, err)
		}
		l.base[t.name] = n
	}
	for _, s := range sequences {
		last, called, err := readSequence(ctx, conn, s)
		if err != nil {
			return err
		}
		if called {
			l.given[s.name] = last
		}
	}
	return nil
}

func readSequence(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, s *sequence,
) (last int64, called bool, err error) {
	if err := conn.QueryRow(ctx, s.read).Scan(&last, &called); err != nil {
		return 0, false, fmt.Errorf("reading sequence %s: %w", s.name, err)
	}
	return last, called, nil
}

const identifySQL = `select "SHOP".server()`

// Identify returns the name by which ledgers call the server that conn
// reaches: system identifier and port. It needs the shop.
func Identify(ctx context.Context, conn *pgx.Conn) (string, error) {
	var server string
	if err := conn.QueryRow(ctx, identifySQL).Scan(&server); err != nil {
		return "", fmt.Errorf("identifying the server: %w", err)
	}
	return server, nil
}

// closeBound is how long a session may take to end. It is short because the
// server may be stopped or gone; the socket is closed in any case.
const closeBound = 500 * time.Millisecond

// closeConn ends conn's session and waits for pgx's own goroutine, if a broken
// connection left one behind.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBound)
	defer cancel()
	//nolint:errcheck // the session is given up either way
	conn.Close(end)
	select {
	case <-conn.PgConn().CleanupDone():
	case <-end.Done():
	}
}

// errorCode is the SQLSTATE under which an error is counted, or "connection".
func errorCode(err error) string {
	if c := pg.Code(err); c != "" {
		return c
	}
	if errors.Is(err, errStale) {
		return "stale"
	}
	return "connection"
}
