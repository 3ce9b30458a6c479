package publisher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
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
	expiry *time.Timer
	ctx    context.Context //nolint:containedctx // the lease is a lifetime: its context ends with the session
	lose   context.CancelCauseFunc
	done   chan struct{}
}

// Bounds of the lease's session. Every statement is bounded, because a client
// killed in the middle of a statement keeps its session until the statement
// ends. An idle lease is kept alive by a heartbeat on this very session.
const (
	leaseStatement = 5 * time.Second
	leaseIdle      = 5 * time.Second
	leaseBeat      = time.Second
)

func leaseSettings(s *pg.Server) map[string]string {
	settings := map[string]string{
		"statement_timeout":                   fmt.Sprint(leaseStatement.Milliseconds()),
		"lock_timeout":                        "3s",
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

// Begin starts the lease's transaction and takes the turn's row, which must
// belong to attempt: every undo elsewhere waits for it.
func (l *Lease) Begin(ctx context.Context, attempt int64) error {
	return l.session(func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, beginSQL); err != nil {
			return fmt.Errorf("beginning the lease: %w", err)
		}
		t, err := state.LockTurn(ctx, conn)
		if err != nil {
			return err
		}
		if t.Attempt != attempt || !t.Open {
			return fmt.Errorf("the turn on the %s server is with attempt %d (open: %t), not with attempt %d", l.server.Side(), t.Attempt, t.Open, attempt)
		}
		return nil
	})
}

// Protect takes SHARE UPDATE EXCLUSIVE on the given tables: writers go on; DDL,
// ATTACH PARTITION, new partitions and vacuums stay out. An autovacuum in the
// way gives up after deadlock_timeout; the session's lock_timeout is above
// that.
func (l *Lease) Protect(ctx context.Context, tables []string) error {
	const batch = 200
	return l.Transaction(func(conn state.Querier) error {
		for i := 0; i < len(tables); i += batch {
			sql := "lock table "
			for j, t := range tables[i:min(i+batch, len(tables))] {
				if j > 0 {
					sql += ", "
				}
				sql += "only " + t
			}
			if _, err := conn.Exec(ctx, sql+" in share update exclusive mode"); err != nil {
				return protectError(err)
			}
		}
		return nil
	})
}

func protectError(err error) error {
	err = fmt.Errorf("keeping DDL out during the cutover: %w", err)
	if pg.IsCode(err, pg.LockNotAvailable, pg.QueryCanceled) {
		return hint.With(err, "a vacuum, CREATE INDEX CONCURRENTLY or DDL statement holds a table: wait for it, then run: pgcutover cutover")
	}
	return err
}

const lockCapacitySQL = `
select current_setting('max_locks_per_transaction')::bigint
     * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)`

// LockCapacity is how many locks the server's lock table nominally holds.
func LockCapacity(ctx context.Context, s *pg.Server) (int64, error) {
	var n int64
	if err := s.Pool().QueryRow(ctx, lockCapacitySQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("reading the size of the lock table: %w", err)
	}
	return n, nil
}

// FreezeSQL makes writers wait at the gate: those in the middle of a
// transaction finish, others wait at their first write.
const FreezeSQL = `lock table pgcutover.gate in exclusive mode`

const deadlockTimeoutSQL = `select extract(epoch from current_setting('deadlock_timeout')::interval) * 1000`

// ErrNotFrozen means that the gate was not to be had: some write transaction
// stayed open through all attempts. Nothing has changed.
var ErrNotFrozen = errors.New("a write transaction stayed open")

// Freeze locks the gate. Each of the attempts waits lockTimeout at the most,
// and no longer than half of the server's deadlock_timeout; other writers wait
// behind it for that long and then go on. Between attempts it leaves them
// room.
func (l *Lease) Freeze(ctx context.Context, lockTimeout time.Duration, attempts int, progress func(string)) (tries int, err error) {
	lockTimeout, err = l.clamp(ctx, lockTimeout)
	if err != nil {
		return 0, err
	}
	for tries = 1; ; tries++ {
		err := l.tryFreeze(ctx, lockTimeout)
		if err == nil || !pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected) {
			return tries, err
		}
		holder := l.holder(ctx)
		if tries >= attempts {
			return tries, hint.With(fmt.Errorf("freezing writes on the %s server: %w through %d attempts of %s: %s", l.server.Side(), ErrNotFrozen, tries, lockTimeout, holder),
				"end or wait for that transaction, then run: pgcutover cutover")
		}
		if progress != nil {
			progress(fmt.Sprintf("attempt %d of %d: the gate is held by %s", tries, attempts, holder))
		}
		if err := rest(ctx, lockTimeout/2+rand.N(lockTimeout)); err != nil {
			return tries, err
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (l *Lease) clamp(ctx context.Context, lockTimeout time.Duration) (time.Duration, error) {
	var ms float64
	err := l.session(func(conn *pgx.Conn) error { return conn.QueryRow(ctx, deadlockTimeoutSQL).Scan(&ms) })
	if err != nil {
		return 0, fmt.Errorf("reading deadlock_timeout: %w", err)
	}
	return max(min(lockTimeout, time.Duration(ms/2)*time.Millisecond), 10*time.Millisecond), nil
}

func (l *Lease) tryFreeze(ctx context.Context, lockTimeout time.Duration) error {
	return l.Transaction(func(conn state.Querier) error {
		set := fmt.Sprintf("savepoint gate; set local lock_timeout = %d", lockTimeout.Milliseconds())
		if _, err := conn.Exec(ctx, set); err != nil {
			return fmt.Errorf("freezing writes: %w", err)
		}
		_, err := conn.Exec(ctx, FreezeSQL)
		if err == nil {
			return nil
		}
		if _, back := conn.Exec(ctx, "rollback to savepoint gate"); back != nil {
			return errors.Join(err, back)
		}
		return err
	})
}

// gateHolderSQL names the oldest write transaction that has passed the gate.
const gateHolderSQL = `
select a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8, left(coalesce(a.query, ''), 100)
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
 where l.relation = 'pgcutover.gate'::regclass and l.granted
 order by a.xact_start nulls last
 limit 1`

const gatePreparedSQL = `
select format('prepared transaction %L since %s', gid, prepared)
  from pg_prepared_xacts where database = current_database() order by prepared limit 1`

func (l *Lease) holder(ctx context.Context) string {
	var (
		pid                   int32
		user, app, what, text string
		seconds               float64
	)
	err := l.server.Pool().QueryRow(ctx, gateHolderSQL).Scan(&pid, &user, &app, &what, &seconds, &text)
	if err == nil {
		return fmt.Sprintf("session %d (%s, %s, %s, open for %.1f s): %s", pid, user, app, what, seconds, text)
	}
	var prepared string
	if err := l.server.Pool().QueryRow(ctx, gatePreparedSQL).Scan(&prepared); err == nil {
		return prepared
	}
	return "a transaction that has ended since"
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

// Transaction runs f inside the lease's transaction, and not at all when that
// has ended: a statement of the cutover must never run by itself.
func (l *Lease) Transaction(f func(state.Querier) error) error {
	return l.session(func(conn *pgx.Conn) error {
		if conn.PgConn().TxStatus() != inTransaction {
			return ErrExpired
		}
		return f(conn)
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
		tag, err := conn.Exec(ctx, "commit")
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
