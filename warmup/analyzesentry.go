package warmup

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// sentryEvery is how often it is looked for sessions that wait for an ANALYZE.
const sentryEvery = 200 * time.Millisecond

// waitedForSQL returns those of the processes $1 that others wait for: for a lock
// that they hold or are before them in the queue for. pg_blocking_pids stops all
// locking for a moment, hence it is asked only about those who want what ours
// have or want, and not about everybody who waits for anything.
// Postgres manual: 9.27.1, pg_blocking_pids.
const waitedForSQL = `
with locks as (
    select l.pid, l.granted, l.locktype, l.database, l.relation, l.virtualxid, l.transactionid
      from pg_locks l
), waiting as (
    select distinct l.pid
      from locks l
      join locks ours on ours.pid = any($1::int[])
                     and ours.locktype = l.locktype
                     and (l.locktype = 'relation' and ours.database = l.database and ours.relation = l.relation
                       or l.locktype = 'virtualxid' and ours.virtualxid = l.virtualxid
                       or l.locktype = 'transactionid' and ours.transactionid = l.transactionid)
     where not l.granted
       and l.pid <> all($1::int[])
)
select distinct b.pid
  from waiting
 cross join lateral unnest(pg_blocking_pids(waiting.pid)) as b(pid)
 where b.pid = any($1::int[])`

// cancelSQL ends the statement of a process, not its session.
const cancelSQL = `select pg_cancel_backend($1)`

// watched lets ANALYZE give way, if it is to be gentle, as one by autovacuum does
// by itself: as long as it works, an ALTER TABLE of the application waits, and
// behind that everybody who wants the table. What it returns ends that.
func (a *analysis) watched(ctx context.Context, sessions *sessions) (end func() error, err error) {
	if !a.options.Gently || len(sessions.all) == 0 {
		return func() error { return nil }, nil
	}
	conn, err := a.server.Connect(ctx, "analyze", nil)
	if err != nil {
		return nil, fmt.Errorf("opening a session that looks for who waits: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.watch(ctx, conn, sessions) }()
	return func() error {
		cancel()
		err := <-ended
		endSession(ctx, conn)
		return err
	}, nil
}

// watch looks until ctx ends.
func (a *analysis) watch(ctx context.Context, conn *pgx.Conn, sessions *sessions) error {
	tick := time.NewTicker(sentryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := answered(ctx, a.server, a.options.Answer, func(ctx context.Context) error { return giveWay(ctx, conn, sessions) })
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// giveWay ends those ANALYZE that somebody waits for.
func giveWay(ctx context.Context, conn *pgx.Conn, sessions *sessions) error {
	var pids []int32
	owner := map[int32]*session{}
	for _, se := range sessions.all {
		for _, pid := range []int32{se.pid.Load(), se.holderPID.Load()} {
			if pid != 0 {
				pids = append(pids, pid)
				owner[pid] = se
			}
		}
	}
	rows, err := conn.Query(ctx, waitedForSQL, pids)
	if err != nil {
		return fmt.Errorf("looking for sessions that wait for ANALYZE: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return fmt.Errorf("looking for sessions that wait for ANALYZE: %w", err)
	}
	for _, pid := range found {
		se := owner[pid]
		se.gaveWay.Store(true)
		if _, err := conn.Exec(ctx, cancelSQL, se.pid.Load()); err != nil {
			return fmt.Errorf("ending an ANALYZE that somebody waits for: %w", err)
		}
	}
	return nil
}
