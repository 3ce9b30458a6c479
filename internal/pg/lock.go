package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// ErrLockHeld means that another pgcutover works on this database.
var ErrLockHeld = errors.New("another pgcutover holds the one-tool lock")

// lockKey1 and lockKey2 make the advisory lock of the tool, one per database:
// advisory locks are local to the database. The first is "pgcu" in ASCII.
const tryLockSQL = `select pg_try_advisory_lock(1885823861, 1)`

const unlockSQL = `select pg_advisory_unlock(1885823861, 1)`

// lockHolderSQL names the session that holds the one-tool lock.
const lockHolderSQL = `
select a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'local'), a.backend_start
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted
   and l.classid = 1885823861 and l.objid = 1 and l.objsubid = 2
   and l.database = (select oid from pg_database where datname = current_database())`

// TryLock takes the one-tool lock in conn's session, or returns ErrLockHeld
// with the holder's name. It waits up to bound for a holder that is going
// away, since a killed tool's session takes a moment to end.
// The lock ends with the session. Postgres manual: 13.3.5, Advisory Locks.
func TryLock(ctx context.Context, conn *pgx.Conn, bound time.Duration) error {
	var held error
	err := Wait(ctx, "the one-tool lock", 50*time.Millisecond, bound, nil, func(ctx context.Context) (bool, string, error) {
		var ok bool
		if err := conn.QueryRow(ctx, tryLockSQL).Scan(&ok); err != nil {
			return false, "", err
		}
		if ok {
			return true, "", nil
		}
		held = describeHolder(ctx, conn)
		return false, held.Error(), nil
	})
	if errors.Is(err, ErrTimeout) && held != nil {
		return hint.With(held, "wait for it to end, or, if it hangs, end its session with pg_terminate_backend(pid); then run: pgcutover status")
	}
	return err
}

// holderBound is how long the server is asked who holds the lock.
const holderBound = 5 * time.Second

// describeHolder has a bound of its own: who waited in vain wants to know for whom.
func describeHolder(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holderBound)
	defer cancel()
	var (
		pid        int32
		app, host  string
		since      time.Time
		errNoOwner = conn.QueryRow(ctx, lockHolderSQL).Scan(&pid, &app, &host, &since)
	)
	if errNoOwner != nil {
		return ErrLockHeld
	}
	return fmt.Errorf("%w: session %d (%s from %s) since %s", ErrLockHeld, pid, app, host, since.Format(time.RFC3339))
}

// LockHolder says which session holds the one-tool lock on s; empty when none
// does.
func LockHolder(ctx context.Context, s *Server) (string, error) {
	var (
		pid       int32
		app, host string
		since     time.Time
	)
	err := s.pool.QueryRow(ctx, lockHolderSQL).Scan(&pid, &app, &host, &since)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for the holder of the one-tool lock on the %s server: %w", s.side, err)
	}
	return fmt.Sprintf("session %d (%s from %s)", pid, app, host), nil
}

const lockHolderPIDSQL = `
select l.pid
  from pg_locks l
 where l.locktype = 'advisory' and l.granted
   and l.classid = 1885823861 and l.objid = 1 and l.objsubid = 2
   and l.database = (select oid from pg_database where datname = current_database())`

// LockHolderPID returns the session that holds the one-tool lock on s, 0 when
// none does.
func LockHolderPID(ctx context.Context, s *Server) (int32, error) {
	var pid int32
	err := s.pool.QueryRow(ctx, lockHolderPIDSQL).Scan(&pid)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for the holder of the one-tool lock on the %s server: %w", s.side, err)
	}
	return pid, nil
}

// Unlock gives the one-tool lock back before the session ends.
func Unlock(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, unlockSQL); err != nil {
		return fmt.Errorf("releasing the one-tool lock: %w", err)
	}
	return nil
}

// lockSettings make the server notice within seconds that the tool's host has
// vanished: with the system's defaults its lock would stay for hours.
var lockSettings = map[string]string{
	"statement_timeout":       "5s",
	"tcp_keepalives_idle":     "2",
	"tcp_keepalives_interval": "1",
	"tcp_keepalives_count":    "3",
}

// HoldLock takes the one-tool lock on s in a session of its own and returns a
// context that is cancelled, with the cause, as soon as that session dies, and
// a function that gives the lock back.
func HoldLock(ctx context.Context, s *Server, purpose string, bound time.Duration) (context.Context, func(), error) {
	conn, err := s.Connect(ctx, purpose, lockSettings)
	if err != nil {
		return nil, nil, err
	}
	if err := TryLock(ctx, conn, bound); err != nil {
		closeConn(ctx, conn)
		return nil, nil, fmt.Errorf("locking the %s server for this move: %w", s.Side(), err)
	}
	held, cancel := context.WithCancelCause(ctx)
	stopped := make(chan struct{})
	go watchLock(held, conn, s, cancel, stopped)
	release := func() {
		cancel(nil)
		<-stopped
		closeConn(ctx, conn)
	}
	return held, release, nil
}

// watchLock asks the lock's session every second whether it still lives.
func watchLock(ctx context.Context, conn *pgx.Conn, s *Server, cancel context.CancelCauseFunc, stopped chan<- struct{}) {
	defer close(stopped)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			ping, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			_, err := conn.Exec(ping, "select 1")
			done()
			if err != nil {
				cancel(fmt.Errorf("losing the one-tool lock on the %s server: %w", s.Side(), err))
				return
			}
		}
	}
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	//nolint:errcheck // the session is given up either way; the server ends it when the socket closes
	conn.Close(end)
}

// Close ends conn's session, also when ctx is cancelled, within five seconds.
func Close(ctx context.Context, conn *pgx.Conn) {
	if conn != nil {
		closeConn(ctx, conn)
	}
}
