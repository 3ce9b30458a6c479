package subscriber

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// TableState is how far one table of the subscription is.
// Postgres manual: 51.55, pg_subscription_rel.
type TableState struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	State  string `json:"state"` // i initialize, d copying, f finished copy, s synchronized, r ready
}

// statesSQL takes the subscription's OID from pg_stat_subscription, which every
// role may read (pg_subscription.oid not before 14); pg_subscription_rel is the
// database's own.
const statesSQL = `
select n.nspname, c.relname, r.srsubstate::text
  from (select distinct subid, subname from pg_stat_subscription) s
  join pg_subscription_rel r on r.srsubid = s.subid
  join pg_class c on c.oid = r.srrelid
  join pg_namespace n on n.oid = c.relnamespace
 where s.subname = $1
 order by n.nspname, c.relname`

// States lists the tables of the subscription, ours included.
func States(ctx context.Context, s *pg.Server, st state.Stream) ([]TableState, error) {
	rows, err := s.Pool().Query(ctx, statesSQL, st.Name())
	if err != nil {
		return nil, fmt.Errorf("reading the states of the subscription's tables: %w", err)
	}
	states, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TableState])
	if err != nil {
		return nil, fmt.Errorf("reading the states of the subscription's tables: %w", err)
	}
	return states, nil
}

// workerSQL reads the apply worker's own line, not those of table
// synchronization. Postgres manual: 27.2.8, pg_stat_subscription.
const workerSQL = `
select coalesce(pid, 0), coalesce(received_lsn, '0/0')::text, coalesce(latest_end_lsn, '0/0')::text,
       last_msg_receipt_time
  from pg_stat_subscription
 where subname = $1 and relid is null
 order by pid nulls last
 limit 1`

// errorsSQL counts failures, from 15 on.
const errorsSQL = `
select apply_error_count, sync_error_count
  from pg_stat_subscription_stats
 where subname = $1`

// Worker is what the apply worker says of itself.
type Worker struct {
	PID         int32      `json:"pid"` // 0: not running
	Received    string     `json:"received"`
	LatestEnd   string     `json:"latest_end"`
	LastMessage *time.Time `json:"last_message,omitempty"`
	ApplyErrors int64      `json:"apply_errors"` // since the subscription was made; 0 before 15, which does not count
	SyncErrors  int64      `json:"sync_errors"`
}

// ReadWorker reads the apply worker's position and error counts.
func ReadWorker(ctx context.Context, s *pg.Server, st state.Stream) (Worker, error) {
	var w Worker
	err := s.Pool().QueryRow(ctx, workerSQL, st.Name()).Scan(&w.PID, &w.Received, &w.LatestEnd, &w.LastMessage)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return w, fmt.Errorf("reading pg_stat_subscription: %w", err)
	}
	if s.Major() >= 15 {
		err := s.Pool().QueryRow(ctx, errorsSQL, st.Name()).Scan(&w.ApplyErrors, &w.SyncErrors)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return w, fmt.Errorf("reading pg_stat_subscription_stats: %w", err)
		}
	}
	return w, nil
}

// copyProgressSQL shows running table copies, from 14 on.
const copyProgressSQL = `
select n.nspname, c.relname, p.bytes_processed, p.tuples_processed
  from pg_stat_progress_copy p
  join pg_class c on c.oid = p.relid
  join pg_namespace n on n.oid = c.relnamespace
 where p.datname = current_database() and p.command = 'COPY FROM'`

// Copying is a table copy under way.
type Copying struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	Rows   int64  `json:"rows"`
}

// CopyProgress lists running table copies; nothing before 14, which does not
// show them.
func CopyProgress(ctx context.Context, s *pg.Server) ([]Copying, error) {
	if s.Major() < 14 {
		return nil, nil
	}
	rows, err := s.Pool().Query(ctx, copyProgressSQL)
	if err != nil {
		return nil, fmt.Errorf("reading pg_stat_progress_copy: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Copying])
}

// Ready counts the tables that are in state r.
func Ready(states []TableState) (ready int) {
	for _, t := range states {
		if t.State == "r" {
			ready++
		}
	}
	return ready
}

const markerForwardSQL = `select exists (select 1 from pgcutover.marker_forward where attempt = $1 and stream = 0)`

const markerBackSQL = `select exists (select 1 from pgcutover.marker_back where attempt = $1 and stream = 0)`

// WaitMarker waits until the marker of an attempt is visible: commits are
// applied in order, so everything committed before it is applied too.
func WaitMarker(ctx context.Context, s *pg.Server, d state.Direction, attempt int64, bound time.Duration, progress func(string)) error {
	sql := markerForwardSQL
	if d == state.Back {
		sql = markerBackSQL
	}
	err := pg.Wait(ctx, fmt.Sprintf("marker %d to arrive on the %s server", attempt, s.Side()), 500*time.Microsecond, bound, progress,
		func(ctx context.Context) (bool, string, error) {
			var here bool
			err := s.Pool().QueryRow(ctx, sql, attempt).Scan(&here)
			return here, "not yet", err
		})
	return hint.With(err, "see lag and apply errors with: pgcutover status; a large transaction may still be on its way")
}

// FlushForwardSQL is the synchronous write that makes what was applied durable:
// apply itself commits asynchronously, and a crash of the subscriber would
// lose rows that were visible a moment ago. It writes only if the marker is
// visible, so that it proves nothing on a server that has just lost it.
const FlushForwardSQL = `
insert into pgcutover.journal (list, run, seq, step, event)
select 'marker', attempt, 1, 'drain', 'succeeded'
  from pgcutover.marker_forward
 where attempt = $1 and stream = 0
on conflict (list, run, seq) do update set at = excluded.at`

// FlushBackSQL is the same for a rollback.
const FlushBackSQL = `
insert into pgcutover.journal (list, run, seq, step, event)
select 'marker', attempt, 1, 'drain', 'succeeded'
  from pgcutover.marker_back
 where attempt = $1 and stream = 0
on conflict (list, run, seq) do update set at = excluded.at`

// FlushSQL returns the one of a direction.
func FlushSQL(d state.Direction) string {
	if d == state.Back {
		return FlushBackSQL
	}
	return FlushForwardSQL
}

// ErrMarkerLost means that the marker was visible and is not any more: the
// server crashed in between.
var ErrMarkerLost = errors.New("the marker is not there any more")

// FlushMarker runs FlushSQL with a synchronous commit.
func FlushMarker(ctx context.Context, s *pg.Server, d state.Direction, attempt int64) error {
	tag, err := s.Pool().Exec(ctx, FlushSQL(d), attempt)
	if err != nil {
		return fmt.Errorf("making marker %d durable on the %s server: %w", attempt, s.Side(), err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("making marker %d durable on the %s server: %w", attempt, s.Side(), ErrMarkerLost)
	}
	return nil
}
