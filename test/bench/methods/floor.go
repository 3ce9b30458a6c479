package methods

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// floor is the least that must happen for the writes to move with nothing lost
// as long as nothing goes wrong. Behind a pooler: PAUSE, a marker row through
// the stream, entry, RELOAD, RESUME. Other clients have nobody who makes them
// wait: the application's role is read-only by default, its sessions end, the
// marker goes through the stream, new takes writes. Sequences are set before,
// with room.
type floor struct {
	stream
	admin *console
}

// floorMargin is how far ahead of old the sequences are set on new.
const floorMargin = 100_000

// Prepare copies, and opens the session of the admin console.
func (f *floor) Prepare(ctx context.Context, s *Scene) error {
	if err := f.copied(ctx, s); err != nil {
		return err
	}
	if s.Clients.Kind != PgBouncer {
		return f.hideNew(ctx, s)
	}
	var err error
	f.admin, err = s.Clients.console(ctx)
	return err
}

// Close ends the sessions.
func (f *floor) Close(ctx context.Context) {
	if f.admin != nil {
		f.admin.close(ctx)
	}
	f.stream.Close(ctx)
}

// Move turns the writes.
func (f *floor) Move(ctx context.Context, s *Scene) ([]Step, error) {
	watch := newStopwatch()
	if err := f.sequencesAhead(ctx); err != nil {
		return nil, err
	}
	watch.lap("ahead")
	if s.BeforeFreeze != nil {
		if err := s.BeforeFreeze(ctx); err != nil {
			return nil, err
		}
		watch = newStopwatch()
	}
	if s.Clients.Kind == PgBouncer {
		return f.pooled(ctx, s, watch)
	}
	return f.plain(ctx, s, watch)
}

// pooled resumes also after a failure: the clients would hang.
func (f *floor) pooled(ctx context.Context, s *Scene, watch *stopwatch) (steps []Step, err error) {
	defer func() {
		err = errors.Join(err, f.admin.run(ctx, "RESUME "+entry))
		watch.lap("resume")
		steps = watch.steps
	}()
	if err := f.admin.run(ctx, "PAUSE "+entry); err != nil {
		return nil, err
	}
	watch.lap("pause")
	if err := f.drain(ctx); err != nil {
		return nil, err
	}
	watch.lap("drain")
	if err := s.Clients.rewrite(ctx); err != nil {
		return nil, err
	}
	watch.lap("entry")
	if err := f.admin.run(ctx, "RELOAD"); err != nil {
		return nil, err
	}
	watch.lap("reload")
	return nil, nil
}

// endSQL ends the application's sessions; they are counted until none is left,
// because one that ends may still commit.
const endSQL = `
select count(pg_terminate_backend(a.pid))
  from pg_stat_activity as a
 where a.usename = 'bench_app'
   and a.backend_start < $1`

func (f *floor) plain(ctx context.Context, s *Scene, watch *stopwatch) ([]Step, error) {
	if err := run(ctx, f.old, readOnlySQL); err != nil {
		return nil, err
	}
	var frozen time.Time
	if err := f.old.QueryRow(ctx, "select clock_timestamp()").Scan(&frozen); err != nil {
		return nil, err
	}
	err := pg.Wait(ctx, "the sessions to end", time.Millisecond, 10*time.Second, nil, func(ctx context.Context) (bool, string, error) {
		var left int
		err := f.old.QueryRow(ctx, endSQL, frozen).Scan(&left)
		return left == 0, fmt.Sprintf("%d sessions", left), err
	})
	if err != nil {
		return nil, err
	}
	watch.lap("freeze")
	if err := f.drain(ctx); err != nil {
		return nil, err
	}
	watch.lap("drain")
	if err := f.repoint(ctx, s); err != nil {
		return nil, err
	}
	watch.lap("repoint")
	return watch.steps, nil
}

const (
	markSQL   = `insert into bench.marker (id) values (1)`
	markedSQL = `select exists (select from bench.marker where id = 1)`
)

// drain waits for the marker row on new. What was committed before it is there
// too; whether it would survive a crash there is not asked.
func (f *floor) drain(ctx context.Context) error {
	if err := run(ctx, f.old, markSQL); err != nil {
		return err
	}
	return pg.Wait(ctx, "the marker", time.Millisecond, 2*time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		var there bool
		err := f.new.QueryRow(ctx, markedSQL).Scan(&there)
		return there, "", err
	})
}

type sequence struct {
	Name  string
	Value int64
}

const sequencesSQL = `
select format('%I.%I', s.schemaname, s.sequencename), coalesce(s.last_value, s.start_value)
  from pg_sequences as s
 where s.schemaname = 'bench'`

const setSequencesSQL = `
select count(setval(u.name::regclass, u.value))
  from unnest($1::text[], $2::bigint[]) as u (name, value)`

func (f *floor) sequencesAhead(ctx context.Context) error {
	rows, err := f.old.Query(ctx, sequencesSQL)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sequence])
	if err != nil {
		return err
	}
	names, values := make([]string, len(all)), make([]int64, len(all))
	for i, s := range all {
		names[i], values[i] = s.Name, s.Value+floorMargin
	}
	_, err = f.new.Exec(ctx, setSequencesSQL, names, values)
	return err
}
