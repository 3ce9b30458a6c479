package methods

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// poll is the sequence of pg_easy_replicate's switchover, statement by
// statement (lib/pg_easy_replicate/orchestrate.rb and stats.rb; README,
// "Performing switchover"). Where this differs, it is to that tool's advantage:
//
//   - the 10 seconds and more that it waits before the freeze are left out;
//   - it keeps its sessions, where the tool connects for every statement;
//   - it waits for sent_lsn - replay_lsn only, where the tool waits for the
//     flush position too, which moves every 200 ms at best;
//   - the subscription belongs to another role than the application's, so that
//     the tool does not terminate its own walsender;
//   - for multihost clients the new server is read-only for the application
//     until the end, which the tool does not do: they would write on it at once.
//
// The operator's part follows: the pooler's entry rewritten by sed and RELOAD,
// or the file of direct clients rewritten.
type poll struct {
	stream
	vacuum bool
}

// DEFAULT_LAG of the tool, in bytes, and how often it looks after the freeze.
const (
	pollLag   = 200_000
	pollEvery = 200 * time.Millisecond
)

// Prepare copies.
func (p *poll) Prepare(ctx context.Context, s *Scene) error {
	if err := p.copied(ctx, s); err != nil {
		return err
	}
	return p.hideNew(ctx, s)
}

const pollTerminateSQL = `
select count(pg_terminate_backend(a.pid))
  from pg_stat_activity as a
 where a.usename = 'bench_app'`

// Move freezes, polls, sets sequences, drops the subscription, and sends the
// clients on.
func (p *poll) Move(ctx context.Context, s *Scene) ([]Step, error) {
	if err := p.caughtUp(ctx, pollLag, 50*time.Millisecond); err != nil {
		return nil, err
	}
	if s.BeforeFreeze != nil {
		if err := s.BeforeFreeze(ctx); err != nil {
			return nil, err
		}
	}
	watch := newStopwatch()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"freeze", p.freeze},
		{"poll", func(ctx context.Context) error { return p.caughtUp(ctx, 0, pollEvery) }},
		{"sequences", p.sequences},
		{"drop", func(ctx context.Context) error { return run(ctx, p.new, "drop subscription if exists "+p.name) }},
		{"vacuum", p.vacuumAnalyze},
		{"repoint", func(ctx context.Context) error { return p.repoint(ctx, s) }},
	} {
		if err := step.do(ctx); err != nil {
			return watch.steps, fmt.Errorf("step %s: %w", step.name, err)
		}
		watch.lap(step.name)
	}
	return watch.steps, nil
}

func (p *poll) freeze(ctx context.Context) error {
	if err := run(ctx, p.old, readOnlySQL); err != nil {
		return err
	}
	return run(ctx, p.old, pollTerminateSQL)
}

// lagSQL is the tool's question; it asks for the write and the flush position
// too.
const lagSQL = `
select pg_wal_lsn_diff(r.sent_lsn, r.replay_lsn)::bigint
  from pg_stat_replication as r
 where r.application_name = $1`

// caughtUp sleeps, then looks, as the tool does.
func (p *poll) caughtUp(ctx context.Context, most int64, every time.Duration) error {
	limit, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-limit.Done():
			return fmt.Errorf("waiting for the lag to be %d bytes: %w", most, limit.Err())
		case <-tick.C:
		}
		var unready int
		if err := p.new.QueryRow(limit, unreadySQL, p.name).Scan(&unready); err != nil {
			return err
		}
		var lag *int64
		if err := p.old.QueryRow(limit, lagSQL, p.name).Scan(&lag); err != nil {
			return fmt.Errorf("reading the lag: %w", err)
		}
		if unready == 0 && lag != nil && *lag <= most {
			return nil
		}
	}
}

// refreshSQL is the tool's: setval(max(column)) of each sequence that a column
// owns, one after the other. Sequences without an owner are left alone.
const refreshSQL = `
do $$
declare
  i text;
begin
  for i in (
    select 'select setval(' || quote_literal(quote_ident(pgt.schemaname) || '.' || quote_ident(s.relname))
           || ', coalesce(max(' || quote_ident(c.attname) || '), 1)) from '
           || quote_ident(pgt.schemaname) || '.' || quote_ident(t.relname) || ';'
      from pg_class as s, pg_depend as d, pg_class as t, pg_attribute as c, pg_tables as pgt
     where s.relkind = 'S'
       and s.oid = d.objid
       and d.refobjid = t.oid
       and d.refobjid = c.attrelid
       and d.refobjsubid = c.attnum
       and t.relname = pgt.tablename
  ) loop
    execute i;
  end loop;
end $$`

func (p *poll) sequences(ctx context.Context) error { return run(ctx, p.new, refreshSQL) }

const benchTablesSQL = `
select format('%I.%I', t.schemaname, t.tablename)
  from pg_tables as t
 where t.schemaname = 'bench'
 order by 1`

func (p *poll) vacuumAnalyze(ctx context.Context) error {
	if !p.vacuum {
		return nil
	}
	rows, err := p.new.Query(ctx, benchTablesSQL)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := run(ctx, p.new, "vacuum verbose analyze "+table); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(ctx, sql)
	return err
}
