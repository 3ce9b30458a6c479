package publisher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Lease is the session on the publisher that holds the one-tool lock and, once
// begun, the transaction under which writers wait. The locks live and die with
// this session: killed, stopped or cut off, the tool loses it within seconds
// and the writers go on.
//
// Its methods are safe for concurrent use; statements run one at a time.
type Lease struct {
	server *pg.Server
	mu     sync.Mutex
	conn   *pgx.Conn
	// deadlock is the server's deadlock_timeout, read by Begin.
	deadlock time.Duration
	expiry   *time.Timer
	ctx      context.Context //nolint:containedctx // the lease is a lifetime: its context ends with the session
	lose     context.CancelCauseFunc
	done     chan struct{}
}

// Bounds of the lease's session. Every statement is bounded, because a client
// killed in the middle of a statement keeps its session until the statement
// ends. An idle lease is kept alive by a heartbeat on this very session.
const (
	leaseStatement = 5 * time.Second
	leaseIdle      = 5 * time.Second
	leaseBeat      = time.Second
	// leaseAnswer is how long the tool waits for the answer to one statement: the
	// server's own bound, and the way there and back.
	leaseAnswer = leaseStatement + 2*time.Second
	// leaseLock is the lock_timeout of whatever the lease does besides freezing.
	leaseLock = 3 * time.Second
)

func leaseSettings(s *pg.Server) map[string]string {
	settings := map[string]string{
		"statement_timeout":                   fmt.Sprint(leaseStatement.Milliseconds()),
		"lock_timeout":                        fmt.Sprint(leaseLock.Milliseconds()),
		"idle_in_transaction_session_timeout": fmt.Sprint(leaseIdle.Milliseconds()),
		"synchronous_commit":                  "on",
		"tcp_keepalives_idle":                 "2",
		"tcp_keepalives_interval":             "1",
		"tcp_keepalives_count":                "3",
	}
	if s.Major() >= 14 {
		settings["client_connection_check_interval"] = "1s"
	}
	return settings
}

// ErrLeaseLost means that the session of the lease is gone: its transaction
// was rolled back, unless its COMMIT had been sent.
var ErrLeaseLost = errors.New("the lease's session is gone")

// TakeLock opens the lease's session and takes the one-tool lock in it,
// waiting up to bound for the session of a tool that has just died.
func TakeLock(ctx context.Context, s *pg.Server, bound time.Duration) (*Lease, error) {
	conn, err := s.Connect(ctx, "lease", leaseSettings(s))
	if err != nil {
		return nil, err
	}
	if err := pg.TryLock(ctx, conn, bound); err != nil {
		pg.Close(ctx, conn)
		return nil, fmt.Errorf("locking the %s server for this move: %w", s.Side(), err)
	}
	l := &Lease{server: s, conn: conn, done: make(chan struct{})}
	l.ctx, l.lose = context.WithCancelCause(context.WithoutCancel(ctx))
	go l.beat() //nolint:contextcheck // ends with the lease, not with the caller
	return l, nil
}

// command is the one that the lease is taken for: its server is the one that
// serves.
func (l *Lease) command() string { return state.DirectionFrom(l.server.Side()).Command() }

// PID is the session's process on the server.
func (l *Lease) PID() int32 { return int32(l.conn.PgConn().PID()) } //nolint:gosec // the server sends it as an int32

// Context ends, with the cause, when the session is lost or closed.
func (l *Lease) Context() context.Context { return l.ctx }

// OnLost calls f with the cause, in a goroutine of its own, when the session is
// lost or closed. stop takes that back, as context.AfterFunc's does.
func (l *Lease) OnLost(f func(cause error)) (stop func() bool) {
	return context.AfterFunc(l.ctx, func() { f(context.Cause(l.ctx)) })
}

// beat asks the session every second whether it lives, which also keeps the
// server's idle timeout away, unless a statement is running anyway.
func (l *Lease) beat() {
	defer close(l.done)
	tick := time.NewTicker(leaseBeat)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			if !l.mu.TryLock() {
				continue
			}
			err := l.ping()
			l.mu.Unlock()
			if err != nil {
				l.lose(fmt.Errorf("%w: %w", ErrLeaseLost, err))
				return
			}
		}
	}
}

func (l *Lease) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := l.conn.Exec(ctx, "select 1")
	return err
}

// Alive asks the session now whether it still holds the lock.
func (l *Lease) Alive() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if err := l.ping(); err != nil {
		err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
		l.lose(err)
		return err
	}
	return nil
}

// session runs f on the lease's session. A lost session ends the lease.
func (l *Lease) session(f func(*pgx.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	err := f(l.conn)
	if err != nil && l.conn.IsClosed() {
		err = fmt.Errorf("%w: %w", ErrLeaseLost, err)
		l.lose(err)
	}
	return err
}

const beginSQL = `begin isolation level read committed read write`

// deadlockTimeoutSQL is in milliseconds.
const deadlockTimeoutSQL = `select extract(epoch from current_setting('deadlock_timeout')::interval)::float8 * 1000`

// Begin starts the lease's transaction and takes the turn's row, which must
// belong to attempt: every undo elsewhere waits for it.
func (l *Lease) Begin(ctx context.Context, attempt int64) error {
	return l.session(func(conn *pgx.Conn) error {
		q := bounded{conn}
		if _, err := q.Exec(ctx, beginSQL); err != nil {
			return fmt.Errorf("beginning the lease: %w", err)
		}
		t, err := state.LockTurn(ctx, q)
		if err != nil {
			return err
		}
		var ms float64
		if err := q.QueryRow(ctx, deadlockTimeoutSQL).Scan(&ms); err != nil {
			return fmt.Errorf("reading deadlock_timeout: %w", err)
		}
		l.deadlock = time.Duration(ms * float64(time.Millisecond))
		if t.Attempt != attempt || !t.Open {
			return fmt.Errorf("the turn on the %s server is with attempt %d (open: %t), not with attempt %d", l.server.Side(), t.Attempt, t.Open, attempt)
		}
		return nil
	})
}

// ErrExpired means that the pause reached its bound and was ended: the lease's
// transaction was rolled back and its writers went on.
var ErrExpired = errors.New("the write pause reached its bound (max_pause) and was ended")

// ExpireAfter ends the transaction by itself after d, whatever else hangs, and
// lets the writers go on. Commit stops the clock.
func (l *Lease) ExpireAfter(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.expiry = time.AfterFunc(d, func() { l.Rollback(context.Background()) })
}

// transaction states of a session as the protocol reports them.
const (
	inTransaction       = 'T'
	inFailedTransaction = 'E'
)

// bounded gives up a session that does not answer a statement within
// leaseAnswer, although the server would have ended it by then: the network is
// gone, and who waits for it holds others up.
type bounded struct{ conn *pgx.Conn }

func answer(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeoutCause(ctx, leaseAnswer, errNoAnswer)
	// Rows are read after the call that sent the statement.
	time.AfterFunc(leaseAnswer, cancel)
	return ctx
}

var errNoAnswer = fmt.Errorf("no answer within %s", leaseAnswer)

func (b bounded) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return b.conn.Exec(answer(ctx), sql, args...)
}

func (b bounded) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return b.conn.Query(answer(ctx), sql, args...)
}

func (b bounded) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return b.conn.QueryRow(answer(ctx), sql, args...)
}

// Transaction runs f inside the lease's transaction, and not at all when that
// has ended: a statement of the cutover must never run by itself. Each of its
// statements gets seven seconds.
func (l *Lease) Transaction(f func(state.Querier) error) error {
	return l.session(func(conn *pgx.Conn) error {
		if conn.PgConn().TxStatus() != inTransaction {
			return ErrExpired
		}
		return f(bounded{conn})
	})
}

// CopyTo runs COPY ... TO STDOUT in the lease's transaction, for at most within:
// a session that holds a table already does not stand in line behind those who
// wait for it.
func (l *Lease) CopyTo(ctx context.Context, w io.Writer, sql string, within time.Duration) error {
	return l.session(func(conn *pgx.Conn) error {
		if conn.PgConn().TxStatus() != inTransaction {
			return ErrExpired
		}
		if _, err := conn.Exec(answer(ctx), fmt.Sprintf("set local statement_timeout = %d", within.Milliseconds())); err != nil {
			return err
		}
		if _, err := conn.PgConn().CopyTo(ctx, w, sql); err != nil {
			return err
		}
		_, err := conn.Exec(answer(ctx), fmt.Sprintf("set local statement_timeout = %d", leaseStatement.Milliseconds()))
		return err
	})
}

// Rollback ends the lease's transaction, if one is open: waiting writers go on
// as if nothing had happened. The one-tool lock stays. A server that does not
// answer within five seconds ends the session instead, and ctx only gives
// values: nobody may be kept waiting because the tool was told to stop.
func (l *Lease) Rollback(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rollback(ctx)
}

func (l *Lease) rollback(ctx context.Context) {
	if l.expiry != nil {
		l.expiry.Stop()
	}
	if l.conn.IsClosed() || l.ctx.Err() != nil {
		return // a lost session is rolled back by the server
	}
	if s := l.conn.PgConn().TxStatus(); s != inTransaction && s != inFailedTransaction {
		return
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseStatement)
	defer cancel()
	if _, err := l.conn.Exec(limit, "rollback"); err != nil {
		// Without an answer the surest end is the session's own.
		pg.Close(ctx, l.conn)
		l.lose(fmt.Errorf("%w: %w", ErrLeaseLost, err))
	}
}

// Commit ends the lease's transaction for good. pg.Lost(err) means that nobody
// knows yet whether it was committed; ErrExpired and every answer of the
// server mean that it was not.
func (l *Lease) Commit(ctx context.Context) error {
	return l.session(func(conn *pgx.Conn) error {
		if conn.PgConn().TxStatus() != inTransaction {
			return &notCommitted{ErrExpired}
		}
		if l.expiry != nil {
			l.expiry.Stop()
		}
		tag, err := bounded{conn}.Exec(ctx, "commit")
		if err != nil {
			return err
		}
		// COMMIT of a failed transaction answers ROLLBACK without an error.
		if tag.String() != "COMMIT" {
			return &notCommitted{fmt.Errorf("the lease's transaction had failed: the server answered %s", tag)}
		}
		return nil
	})
}

// notCommitted is an error of Commit that is a definitive no.
type notCommitted struct{ err error }

func (n *notCommitted) Error() string { return n.err.Error() }
func (n *notCommitted) Unwrap() error { return n.err }

// Refused reports whether an error of Commit is a definitive no.
func Refused(err error) bool {
	var n *notCommitted
	return errors.As(err, &n) || !pg.Lost(err)
}

// Close gives the lock back by ending the session.
func (l *Lease) Close(ctx context.Context) {
	l.lose(ErrLeaseLost)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expiry != nil {
		l.expiry.Stop()
	}
	pg.Close(ctx, l.conn)
}
