package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// errStale means that a server which takes writes does not know a row that was
// acknowledged, or knows an older version of it.
var errStale = errors.New("acknowledged row not found")

// writer is one client: one connection, one transaction at a time. On any error
// it closes the connection and connects again, because a session that was
// opened while the database was read-only stays so.
type writer struct {
	index  int
	o      Options
	ledger *Ledger
	config *pgx.ConnConfig
	stop   <-chan struct{}
	rng    *rand.Rand

	conn   *pgx.Conn
	nonces uint64
	number int64
	rows   map[*table][]*record // own rows that are there, as far as it knows
	held   map[*sequence][]Draw // values drawn and not yet inserted
}

func newWriter(index int, o Options, ledger *Ledger, config *pgx.ConnConfig, stop <-chan struct{}) *writer {
	own := config.Copy()
	own.RuntimeParams["application_name"] = fmt.Sprintf("shop/%d", index)
	return &writer{
		index: index, o: o, ledger: ledger, config: own, stop: stop,
		rng:  rand.New(rand.NewPCG(o.Seed, uint64(index))), //nolint:gosec // choice of operations, no secret
		rows: map[*table][]*record{}, held: map[*sequence][]Draw{},
	}
}

// transaction is one attempt at a transaction.
type transaction struct {
	writer  int
	began   time.Time
	server  string
	changes []*change
	draws   []Draw
	used    []Draw // held values that it inserts
	// atStake says that the statement under way commits by itself, or is the
	// COMMIT: if its answer is lost, the outcome is unknown.
	atStake bool
}

func (t *transaction) commit(ended time.Time, unknown bool) *Commit {
	c := &Commit{Began: t.began, Ended: ended, Server: t.server, Unknown: unknown, Writer: t.writer, changes: t.changes}
	for _, ch := range t.changes {
		c.Writes = append(c.Writes, Write{
			Nonce: ch.nonce, Row: ch.record.nonce, Kind: ch.kind, Table: ch.record.table.name, ID: ch.record.id,
		})
	}
	return c
}

// touches says whether the transaction already changes r.
func (t *transaction) touches(r *record) bool {
	for _, c := range t.changes {
		if c.record == r {
			return true
		}
	}
	return false
}

func (w *writer) run(ctx context.Context) {
	tick := time.NewTicker(time.Second / time.Duration(w.o.Rate))
	defer tick.Stop()
	defer func() { w.disconnect(ctx) }()
	for {
		if w.stopped(ctx, tick.C) {
			return
		}
		if err := w.connect(ctx); err != nil {
			w.ledger.refuse(nil, errorCode(err))
			if w.backOff(ctx) {
				return
			}
			continue
		}
		if err := w.transact(ctx); err != nil {
			w.disconnect(ctx)
			if w.backOff(ctx) {
				return
			}
		}
	}
}

// stopped waits for the signal and reports whether the run is over.
func (w *writer) stopped(ctx context.Context, signal <-chan time.Time) bool {
	select { // the end first: select chooses at random among those ready
	case <-w.stop:
		return true
	case <-ctx.Done():
		return true
	default:
	}
	select {
	case <-w.stop:
		return true
	case <-ctx.Done():
		return true
	case <-signal:
		return false
	}
}

// backOff waits 10 to 20 ms, so that clients do not return in step.
func (w *writer) backOff(ctx context.Context) bool {
	timer := time.NewTimer(10*time.Millisecond + time.Duration(w.rng.Int64N(int64(10*time.Millisecond))))
	defer timer.Stop()
	return w.stopped(ctx, timer.C)
}

func (w *writer) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, w.config)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	w.conn = conn
	w.ledger.connected()
	return nil
}

func (w *writer) disconnect(ctx context.Context) {
	if w.conn != nil {
		closeConn(ctx, w.conn)
		w.conn = nil
	}
}

// transact does one transaction and records what became of it.
func (w *writer) transact(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, w.o.Timeout)
	defer cancel()
	t := &transaction{writer: w.index, began: time.Now()}
	err := w.operation()(bounded, t)
	ended := time.Now()
	switch {
	case err == nil:
		w.ledger.acknowledge(t, ended)
		w.settle(t)
	case t.atStake && uncertain(err):
		w.ledger.doubt(t, ended, errorCode(err))
		w.forget(t)
	default:
		w.ledger.refuse(t, errorCode(err))
		w.examine(t, err)
		w.restore(t)
	}
	return err
}

// uncertain says whether a statement that failed with err may have been
// committed. An ERROR is the server's word that it was not; FATAL and PANIC
// end the session and may come in place of the answer, and a broken connection
// says nothing. Postgres manual: 53.8, Error and Notice Message Fields, V.
//
// pgconn.SafeToRetry must not be asked: when the connection breaks before the
// answer to a statement of the simple protocol, such as COMMIT, it says that
// nothing was sent (pgx 5.12: reading the next message finds the connection
// closed by the failed look ahead, and that error counts as "before use").
func uncertain(err error) bool {
	if errors.Is(err, errStale) {
		return false
	}
	var e *pgconn.PgError
	return !errors.As(err, &e) || e.SeverityUnlocalized != "ERROR"
}

// settle takes over the effects of an acknowledged transaction.
func (w *writer) settle(t *transaction) {
	for _, c := range t.changes {
		switch c.kind {
		case Insert:
			w.rows[c.record.table] = append(w.rows[c.record.table], c.record)
		case Delete:
			w.drop(c.record)
		case Update:
		}
	}
}

// forget leaves alone what a transaction of unknown outcome has touched. Values
// that it inserted are not used again.
func (w *writer) forget(t *transaction) {
	for _, c := range t.changes {
		w.drop(c.record)
		// A child of a row in doubt may still be written; a row below an
		// insert in doubt was never handed out.
	}
}

// restore gives back the held values that a refused transaction wanted to
// insert.
func (w *writer) restore(t *transaction) {
	for _, d := range t.used {
		for _, s := range sequences {
			if s.name == d.Sequence {
				w.held[s] = append(w.held[s], d)
			}
		}
	}
}

// foreignKeyViolation and uniqueViolation are of the SQLSTATEs that tell of a
// broken promise: a parent that was acknowledged is not there; a key that a
// sequence gave is taken. Postgres manual: Appendix A.
const (
	foreignKeyViolation = "23503"
	uniqueViolation     = "23505"
)

// examine looks whether an error is evidence against the server.
func (w *writer) examine(t *transaction, err error) {
	switch {
	case errors.Is(err, errStale), pg.IsCode(err, foreignKeyViolation):
		w.ledger.noteStale(fmt.Sprintf("%s on server %s: %v", t.began.Format(clock), w.serverName(t), err))
		for _, c := range t.changes {
			w.drop(c.record)
		}
	case pg.IsCode(err, uniqueViolation):
		var e *pgconn.PgError
		errors.As(err, &e)
		w.ledger.noteCollision(fmt.Sprintf("%s on server %s: %s: %s", t.began.Format(clock), w.serverName(t), e.Message, e.Detail))
		t.used = nil // taken by somebody else: of no use any more
	}
}

// serverName is the server that t spoke to, or the address if it did not come
// to say who it is.
func (w *writer) serverName(t *transaction) string {
	if t.server != "" {
		return t.server
	}
	return w.conn.PgConn().Conn().RemoteAddr().String()
}

// drop takes a row out of those that the writer goes on to change.
func (w *writer) drop(r *record) {
	rows := w.rows[r.table]
	if i := slices.Index(rows, r); i >= 0 {
		rows[i] = rows[len(rows)-1]
		w.rows[r.table] = rows[:len(rows)-1]
	}
}

func (w *writer) nonce() Nonce {
	w.nonces++
	return w.ledger.nonce(w.index, w.nonces)
}

// next returns a number below 1,000,003, each once before any comes again.
func (w *writer) next() int64 {
	w.number++
	return w.number * 7919 % 1_000_003
}
