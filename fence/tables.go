package fence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Table is an ordinary or partitioned table and what the fence looks like on
// it.
type Table struct {
	Schema, Name string
	Partitioned  bool
	Parent       bool // others inherit from it
	Fenced       bool // our trigger stands on it, enabled always
	Foreign      bool // a trigger of our name that is not ours, or not enabled always
}

// Identifier returns the table's name, quoted.
func (t Table) Identifier() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// tablesSQL lists every ordinary and partitioned table of the database,
// whether in scope or not: a write through an unfenced ancestor or partition
// would slip. Unlogged ones too; temporary ones belong to their sessions.
const tablesSQL = `
select n.nspname, c.relname, c.relkind = 'p', c.relhassubclass,
       coalesce(t.tgenabled = 'A' and p.proname = 'fence' and pn.nspname = 'pgcutover', false),
       t.oid is not null and not coalesce(t.tgenabled = 'A' and p.proname = 'fence' and pn.nspname = 'pgcutover', false)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_trigger t on t.tgrelid = c.oid and t.tgname = $1 and not t.tgisinternal
  left join pg_proc p on p.oid = t.tgfoid
  left join pg_namespace pn on pn.oid = p.pronamespace
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
 order by n.nspname, c.relname`

// TriggerName is what the fence's trigger is called on every table.
func TriggerName(move string) string { return "pgcutover_" + move + "_fence" }

// Tables lists the database's tables and the state of the fence on each.
func Tables(ctx context.Context, q state.Querier, move string) ([]Table, error) {
	rows, err := q.Query(ctx, tablesSQL, TriggerName(move))
	if err != nil {
		return nil, fmt.Errorf("listing the tables to fence: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
		var t Table
		err := row.Scan(&t.Schema, &t.Name, &t.Partitioned, &t.Parent, &t.Fenced, &t.Foreign)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the tables to fence: %w", err)
	}
	return tables, nil
}

// AttachSQL makes the trigger on one table.
func AttachSQL(move string, t Table) string {
	name := pgx.Identifier{TriggerName(move)}.Sanitize()
	return fmt.Sprintf("create trigger %[1]s before insert or update or delete or truncate on %[2]s for each statement execute procedure pgcutover.fence();\nalter table %[2]s enable always trigger %[1]s",
		name, t.Identifier())
}

// DetachSQL drops the trigger from one table.
func DetachSQL(move string, t Table) string {
	return fmt.Sprintf("drop trigger if exists %s on %s", pgx.Identifier{TriggerName(move)}.Sanitize(), t.Identifier())
}

// How the triggers come and go under load: batches of 50 with a short
// lock_timeout, a refused batch split into single tables, SHARE UPDATE
// EXCLUSIVE first (it sends an autovacuum away after deadlock_timeout without
// holding writers up). Larger batches or a longer timeout stall clients.
const (
	batchSize    = 50
	batchTimeout = "100ms"
	oneTimeout   = "50ms"
	polite       = "2s" // SHARE UPDATE EXCLUSIVE holds no writer up
)

// Attach makes the missing triggers on a live server. It gives up, naming the
// table and who holds it, when bound has passed. Safe to call again.
func Attach(ctx context.Context, s *pg.Server, bound time.Duration, progress func(string)) (int, error) {
	return change(ctx, s, bound, progress, "making fence triggers", func(t Table) (string, error) {
		if t.Foreign {
			return "", hint.With(fmt.Errorf("table %s has a trigger %s that is not an enabled fence", t.Identifier(), TriggerName(s.Move())),
				"drop that trigger; pgcutover makes it anew")
		}
		if t.Fenced {
			return "", nil
		}
		return AttachSQL(s.Move(), t), nil
	})
}

// Detach drops the triggers on a live server, politely, as Attach makes them.
func Detach(ctx context.Context, s *pg.Server, bound time.Duration, progress func(string)) (int, error) {
	return change(ctx, s, bound, progress, "dropping fence triggers", func(t Table) (string, error) {
		if !t.Fenced && !t.Foreign {
			return "", nil
		}
		return DetachSQL(s.Move(), t), nil
	})
}

// unfencedSQL counts tables without our trigger, or with it not enabled always,
// or with one of its name that is not ours.
const unfencedSQL = `
select count(*)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_trigger t
                    where t.tgrelid = c.oid and t.tgname = $1 and t.tgenabled = 'A'
                      and t.tgfoid = to_regprocedure('pgcutover.fence()'))`

// ErrUnfenced means that a table has no fence, so that closing would not close
// it.
var ErrUnfenced = errors.New("tables without a fence")

// AllFenced returns ErrUnfenced when a table has no enabled fence: one made, or
// a trigger disabled, since Attach. It is cheap enough for the write pause.
func AllFenced(ctx context.Context, q state.Querier, move string) error {
	var n int
	if err := q.QueryRow(ctx, unfencedSQL, TriggerName(move)).Scan(&n); err != nil {
		return fmt.Errorf("looking for tables without a fence: %w", err)
	}
	if n > 0 {
		return hint.With(fmt.Errorf("%w: %d, made or altered while the cutover was under way", ErrUnfenced, n), "keep DDL away and run: pgcutover cutover")
	}
	return nil
}

// AttachMissing makes the triggers that are missing in the lease's own
// transaction: tables and partitions made since Attach. The lease holds SHARE
// UPDATE EXCLUSIVE on the tables, so no further partition can appear.
func AttachMissing(ctx context.Context, q state.Querier, move string) (int, error) {
	tables, err := Tables(ctx, q, move)
	if err != nil {
		return 0, err
	}
	made := 0
	for _, t := range tables {
		if t.Foreign {
			return made, fmt.Errorf("table %s has a trigger %s that is not an enabled fence", t.Identifier(), TriggerName(move))
		}
		if t.Fenced {
			continue
		}
		if _, err := q.Exec(ctx, AttachSQL(move, t)); err != nil {
			return made, fmt.Errorf("making the fence trigger on table %s: %w", t.Identifier(), err)
		}
		made++
	}
	return made, nil
}

type job struct {
	table Table
	sql   string
}

func change(ctx context.Context, s *pg.Server, bound time.Duration, progress func(string), doing string, sqlFor func(Table) (string, error)) (int, error) {
	tables, err := Tables(ctx, s.Pool(), s.Move())
	if err != nil {
		return 0, err
	}
	var jobs []job
	for _, t := range tables {
		sql, err := sqlFor(t)
		if err != nil {
			return 0, err
		}
		if sql != "" {
			jobs = append(jobs, job{t, sql})
		}
	}
	limit, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("%s on the %s server: %w after %s", doing, s.Side(), pg.ErrTimeout, bound))
	defer cancel()
	for done := 0; done < len(jobs); done += batchSize {
		batch := jobs[done:min(done+batchSize, len(jobs))]
		if err := changeBatch(limit, s, doing, batch); err != nil {
			return done, err
		}
		if progress != nil {
			progress(fmt.Sprintf("%s: %d of %d tables", doing, min(done+batchSize, len(jobs)), len(jobs)))
		}
	}
	return len(jobs), nil
}

// changeBatch tries the whole batch once, then each table until it succeeds.
func changeBatch(ctx context.Context, s *pg.Server, doing string, batch []job) error {
	err := changeTx(ctx, s, batchTimeout, batch)
	if err == nil || !(retryable(err) || vanished(err)) {
		return wrapChange(err, s, doing, batch)
	}
	for i := range batch {
		if err := changeOne(ctx, s, doing, batch[i]); err != nil {
			return err
		}
	}
	return nil
}

func changeOne(ctx context.Context, s *pg.Server, doing string, j job) error {
	var last error
	for {
		last = changeTx(ctx, s, oneTimeout, []job{j})
		if vanished(last) {
			return nil
		}
		if last != nil && ctx.Err() != nil {
			return blocked(ctx, s, j.table, last) // the bound passed while the server was waiting for the table
		}
		if last == nil || !retryable(last) {
			return wrapChange(last, s, doing, []job{j})
		}
		pause := time.NewTimer(20*time.Millisecond + rand.N(80*time.Millisecond))
		select {
		case <-ctx.Done():
			pause.Stop()
			return blocked(ctx, s, j.table, last)
		case <-pause.C:
		}
	}
}

func changeTx(ctx context.Context, s *pg.Server, timeout string, batch []job) error {
	return state.Tx(ctx, s, polite, func(tx pgx.Tx) error {
		for _, j := range batch {
			if _, err := tx.Exec(ctx, "lock table only "+j.table.Identifier()+" in share update exclusive mode"); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "set local lock_timeout = "+literal(timeout)); err != nil {
			return err
		}
		for _, j := range batch {
			if _, err := tx.Exec(ctx, j.sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// retryable tells a refused lock from a failure.
func retryable(err error) bool {
	return pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected)
}

// vanished tells that a table was dropped since it was listed: nothing is left
// to do there, but a batch that named it has to be taken apart.
func vanished(err error) bool { return pg.IsCode(err, pg.UndefinedTable) }

func wrapChange(err error, s *pg.Server, doing string, batch []job) error {
	if err == nil {
		return nil
	}
	if len(batch) == 1 {
		err = fmt.Errorf("%s on table %s of the %s server: %w", doing, batch[0].table.Identifier(), s.Side(), err)
	} else {
		err = fmt.Errorf("%s on %d tables of the %s server: %w", doing, len(batch), s.Side(), err)
	}
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return hint.With(err, fmt.Sprintf("only a table's owner may do that: GRANT the owning role to %s, or connect as the owner", pgx.Identifier{s.User()}.Sanitize()))
	}
	return err
}

// holdersSQL names the session or prepared transaction that holds locks on a
// table; never the tool's own, which only waits for it.
const holdersSQL = `
select coalesce(a.pid, 0), coalesce(a.usename, x.owner, ''),
       case when x.gid is not null then format('prepared transaction %L', x.gid) else coalesce(a.state, '') end,
       coalesce(a.xact_start, x.prepared), left(coalesce(a.query, ''), 120)
  from pg_locks l
  left join pg_stat_activity a on a.pid = l.pid
  left join pg_locks own on l.pid is null and own.virtualtransaction = l.virtualtransaction
                        and own.pid is null and own.locktype = 'transactionid'
  left join pg_prepared_xacts x on x.transaction = own.transactionid
 where l.relation = to_regclass($1) and l.granted and l.pid is distinct from pg_backend_pid()
   and coalesce(a.application_name, '') not like 'pgcutover/%'
   and (a.pid is not null or x.gid is not null)
 order by 4 nulls last
 limit 1`

// blocked turns a deadline on one table into an error that names the holder.
func blocked(ctx context.Context, s *pg.Server, t Table, last error) error {
	cause := context.Cause(ctx)
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	var (
		pid               int32
		user, what, query string
		since             *time.Time
	)
	if err := s.Pool().QueryRow(look, holdersSQL, t.Identifier()).Scan(&pid, &user, &what, &since, &query); err != nil {
		return errors.Join(cause, fmt.Errorf("table %s could not be locked: %w", t.Identifier(), last))
	}
	if pid == 0 {
		return hint.With(fmt.Errorf("table %s is held by a %s of %s: %w", t.Identifier(), what, user, cause),
			"end it: COMMIT PREPARED or ROLLBACK PREPARED")
	}
	return hint.With(fmt.Errorf("table %s is held by session %d (%s, %s): %s: %w", t.Identifier(), pid, user, what, query, cause),
		fmt.Sprintf("wait for that transaction, or end it: select pg_terminate_backend(%d);", pid))
}
