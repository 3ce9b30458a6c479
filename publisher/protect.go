package publisher

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ProtectOptions say how Protect deals with who stands in the way.
type ProtectOptions struct {
	// TerminateAfter is how long a client's session may hold a table that is to
	// be protected before it is ended; 0 means that none is ended.
	TerminateAfter time.Duration
	// Yield makes Protect return a *HoldsUpError when who is in its way waits, in
	// turn, for what it has locked already.
	Yield    bool
	Progress func(string) // may be nil
}

const (
	// protectBatch is how many tables one LOCK statement names.
	protectBatch = 200
	// protectFirst is how long the first try waits: then whoever is in the way is
	// looked for, and autovacuums are sent away.
	protectFirst = 200 * time.Millisecond
)

// Protect takes SHARE UPDATE EXCLUSIVE on the given tables (quoted names):
// writers go on; DDL, ATTACH PARTITION, new partitions and heirs, and vacuums
// stay out. An autovacuum in the way is cancelled; where the role may not do
// that, it gives way by itself after deadlock_timeout. It returns the sessions
// that were ended.
func (l *Lease) Protect(ctx context.Context, tables []string, o ProtectOptions) ([]blocker.Ended, error) {
	watch := &blocker.Watch{
		Server: l.server, Mode: blocker.ShareUpdateExclusive, TerminateAfter: o.TerminateAfter,
		Progress: o.Progress, Doing: l.keepingOut(),
	}
	for batch := range slices.Chunk(tables, protectBatch) {
		if err := l.protectBatch(ctx, watch, batch, o.Yield); err != nil {
			return watch.Ended(), err
		}
	}
	if len(tables) == 0 {
		return nil, l.Transaction(func(state.Querier) error { return nil })
	}
	return watch.Ended(), nil
}

func (l *Lease) protectBatch(ctx context.Context, watch *blocker.Watch, tables []string, yield bool) error {
	began, lockTimeout := time.Now(), protectFirst
	patience := min(max(leaseLock, l.deadlock+500*time.Millisecond), leaseStatement-500*time.Millisecond)
	for {
		err := l.tryProtect(ctx, tables, lockTimeout)
		// Many tables that are each waited for add up to the bound of a statement.
		if err == nil || !pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled) {
			return l.wrapProtect(err)
		}
		found, looked := watch.Look(ctx, tables...)
		if looked != nil && ctx.Err() == nil {
			return looked
		}
		if yield {
			if err := l.yield(ctx, found); err != nil {
				return err
			}
		}
		// The last try waited long enough for an autovacuum to give way.
		if lockTimeout == patience && (!watch.Hopeful(found) || time.Since(began) > watch.TerminateAfter+2*patience) || ctx.Err() != nil {
			return l.protectError(err, found)
		}
		if watch.Progress != nil {
			watch.Progress(fmt.Sprintf("%s: waiting for %s", watch.Doing, blocker.Describe(found)))
		}
		lockTimeout = patience
	}
}

// yield returns a *HoldsUpError when one of those found waits for the lease.
func (l *Lease) yield(ctx context.Context, found []blocker.Session) error {
	who := make([]int32, len(found))
	for i, s := range found {
		who[i] = s.PID
	}
	if tables, err := l.HoldsUp(ctx, false, who...); err == nil && len(tables) > 0 {
		return &HoldsUpError{tables}
	}
	return nil // also when it cannot be seen
}

// tryProtect is one round trip, and one more when it is refused.
func (l *Lease) tryProtect(ctx context.Context, tables []string, lockTimeout time.Duration) error {
	return l.guarded(ctx, "protect", lockTimeout, protectSQL(tables))
}

// guarded runs a locking statement under a lock_timeout of its own, in one
// message, so that a refusal leaves the transaction usable.
func (l *Lease) guarded(ctx context.Context, savepoint string, lockTimeout time.Duration, statement string) error {
	return l.Transaction(func(q state.Querier) error {
		_, err := q.Exec(ctx, guardedSQL(savepoint, lockTimeout, statement))
		if err == nil || pg.Lost(err) {
			return err
		}
		if _, back := q.Exec(ctx, fmt.Sprintf("rollback to savepoint %[1]s; release savepoint %[1]s", savepoint)); back != nil {
			return fmt.Errorf("%w; and taking that back: %w", err, back)
		}
		return err
	})
}

// guardedSQL is the message that guarded sends.
func guardedSQL(savepoint string, lockTimeout time.Duration, statement string) string {
	return strings.Join(guardedStatements(savepoint, lockTimeout, statement), "; ")
}

func guardedStatements(savepoint string, lockTimeout time.Duration, statement string) []string {
	return []string{
		"savepoint " + savepoint, fmt.Sprintf("set local lock_timeout = %d", lockTimeout.Milliseconds()), statement,
		fmt.Sprintf("set local lock_timeout = %d", leaseLock.Milliseconds()), "release savepoint " + savepoint,
	}
}

// guardedWith is guarded in which the lock is kept only if then succeeds.
func (l *Lease) guardedWith(ctx context.Context, savepoint string, lockTimeout time.Duration, statement string, then func() error) error {
	return l.Transaction(func(q state.Querier) error {
		_, err := q.Exec(ctx, fmt.Sprintf("savepoint %s; set local lock_timeout = %d; %s; set local lock_timeout = %d",
			savepoint, lockTimeout.Milliseconds(), statement, leaseLock.Milliseconds()))
		if err == nil {
			if err = then(); err == nil {
				_, err = q.Exec(ctx, "release savepoint "+savepoint)
				return err
			}
		} else if pg.Lost(err) {
			return err
		}
		if _, back := q.Exec(ctx, fmt.Sprintf("rollback to savepoint %[1]s; release savepoint %[1]s", savepoint)); back != nil {
			return fmt.Errorf("%w; and taking that back: %w", err, back)
		}
		return err
	})
}

func (l *Lease) keepingOut() string { return "keeping DDL out during the " + l.command() }

func (l *Lease) wrapProtect(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", l.keepingOut(), err)
}

func (l *Lease) protectError(err error, found []blocker.Session) error {
	err = fmt.Errorf("%s: %s: %w", l.keepingOut(), blocker.Describe(found), err)
	advice := blocker.Advice(found)
	if advice == "" {
		advice = "a vacuum, CREATE INDEX CONCURRENTLY or DDL statement held a table"
	}
	return hint.With(err, advice+"\nthen run: pgcutover "+l.command())
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
