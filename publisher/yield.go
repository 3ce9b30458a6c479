package publisher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// heldUpSQL names the tables whose lock the session $1 has and others wait for,
// if one of those others, or somebody who waits behind them, has passed the gate
// or is among $2: such a transaction cannot end before that lock goes, and what it
// has itself cannot be had before it ends. With $3 whoever waits counts.
// Postgres manual: 9.27.1, pg_blocking_pids.
const heldUpSQL = `
with recursive locks as (
  select l.pid, l.relation, l.granted
    from pg_locks l
   where l.locktype = 'relation' and l.database = (select oid from pg_database where datname = current_database())
), chain (pid) as (
  select l.pid
    from locks l
   where l.pid <> $1 and (l.pid = any ($2::int[]) or $3::bool and not l.granted or l.granted and l.relation = 'pgcutover.gate'::regclass)
  union
  select b.pid
    from chain c
   cross join lateral unnest(pg_blocking_pids(c.pid)) as b (pid)
   where c.pid <> $1
)
select distinct format('%I.%I', n.nspname, k.relname)
  from chain c
  join locks waits on waits.pid = c.pid and not waits.granted
  join locks has on has.pid = $1 and has.granted and has.relation = waits.relation
  join pg_class k on k.oid = waits.relation
  join pg_namespace n on n.oid = k.relnamespace
 where exists (select 1 from chain x where x.pid = $1) and n.nspname <> 'pgcutover'`

// HoldsUp returns the tables, as quoted names, through whose locks the lease
// holds up a transaction that has passed the gate, or one of the sessions who;
// anybody, with everybody. Applications that LOCK TABLE meet the lease's SHARE
// UPDATE EXCLUSIVE.
func (l *Lease) HoldsUp(ctx context.Context, everybody bool, who ...int32) ([]string, error) {
	if who == nil {
		who = []int32{}
	}
	rows, err := l.server.Pool().Query(ctx, heldUpSQL, l.PID(), who, everybody)
	if err != nil {
		return nil, fmt.Errorf("looking for whom the lease holds up: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking for whom the lease holds up: %w", err)
	}
	return tables, nil
}

// HoldsUpError says that clients wait for the lease's locks on these tables, as
// quoted names.
type HoldsUpError struct{ Tables []string }

func (e *HoldsUpError) Error() string {
	return "clients wait for the lock that keeps DDL away from " + strings.Join(e.Tables, ", ")
}

// yieldEvery is how often Yielding looks.
const yieldEvery = 50 * time.Millisecond

// Yielding runs f and looks meanwhile whether the lease holds anybody up; see
// HoldsUp. Then it cancels f and returns a *HoldsUpError, unless f has done its
// work nevertheless. f must leave the lease's session alone: a statement that is
// cancelled would cost it. Not to be able to look is no error.
func (l *Lease) Yielding(ctx context.Context, everybody bool, f func(context.Context) error) error {
	watched, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		tick := time.NewTicker(yieldEvery)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return nil
			case <-watched.Done():
				return nil
			case <-tick.C:
			}
			if tables, err := l.HoldsUp(watched, everybody); err == nil && len(tables) > 0 {
				held := &HoldsUpError{tables}
				cancel(held)
				return held
			}
		}
	})
	err := f(watched)
	close(over)
	held := group.Wait()
	if err != nil && held != nil {
		return errors.Join(held, err)
	}
	return err
}
