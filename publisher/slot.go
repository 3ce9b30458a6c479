package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Slot is a stream's replication slot as the publisher shows it.
type Slot struct {
	Name      string
	Plugin    string
	Active    bool
	PID       int32         // walsender that uses it, 0 when none
	Restart   pglogrepl.LSN // WAL is retained from here; 0 when lost
	Confirmed pglogrepl.LSN // the subscriber has confirmed up to here
	Current   pglogrepl.LSN // the publisher's current insert position
	WALStatus string        // reserved, extended, unreserved, lost; empty before 13
}

// Retained is how much WAL the slot keeps on the publisher's disk, in bytes.
func (s Slot) Retained() int64 {
	if s.Restart == 0 || s.Current < s.Restart {
		return 0
	}
	return int64(s.Current - s.Restart)
}

// slotSQL10 reads a slot on 10 to 12, which know no wal_status.
const slotSQL10 = `
select slot_name, coalesce(plugin, ''), active, coalesce(active_pid, 0),
       coalesce(restart_lsn, '0/0')::text, coalesce(confirmed_flush_lsn, '0/0')::text,
       pg_current_wal_insert_lsn()::text, ''
  from pg_replication_slots
 where slot_name = $1 and database = current_database()`

// slotSQL13 reads a slot on 13 and later.
const slotSQL13 = `
select slot_name, coalesce(plugin, ''), active, coalesce(active_pid, 0),
       coalesce(restart_lsn, '0/0')::text, coalesce(confirmed_flush_lsn, '0/0')::text,
       pg_current_wal_insert_lsn()::text, coalesce(wal_status, '')
  from pg_replication_slots
 where slot_name = $1 and database = current_database()`

// ReadSlot reads a stream's slot, or ErrNoSlot.
func ReadSlot(ctx context.Context, s *pg.Server, st state.Stream) (Slot, error) {
	sql := slotSQL13
	if s.Major() < 13 {
		sql = slotSQL10
	}
	var (
		slot                        Slot
		restart, confirmed, current string
	)
	err := s.Pool().QueryRow(ctx, sql, st.Name()).Scan(&slot.Name, &slot.Plugin, &slot.Active, &slot.PID,
		&restart, &confirmed, &current, &slot.WALStatus)
	if errors.Is(err, pgx.ErrNoRows) {
		return slot, fmt.Errorf("slot %q on the %s server: %w", st.Name(), s.Side(), ErrNoSlot)
	}
	if err != nil {
		return slot, fmt.Errorf("reading slot %q on the %s server: %w", st.Name(), s.Side(), err)
	}
	for _, p := range []struct {
		text string
		into *pglogrepl.LSN
	}{{restart, &slot.Restart}, {confirmed, &slot.Confirmed}, {current, &slot.Current}} {
		if *p.into, err = pglogrepl.ParseLSN(p.text); err != nil {
			return slot, fmt.Errorf("reading position %q of slot %q: %w", p.text, slot.Name, err)
		}
	}
	return slot, nil
}

// blockersSQL says what the creation of a slot waits for: every transaction
// that had an xid when it began, prepared ones included.
const blockersSQL = `
select coalesce(string_agg(format('session %s (%s, %s since %s): %s', b.pid, b.usename, b.state,
         to_char(b.xact_start, 'HH24:MI:SS'), left(b.query, 80)), '; '), 'none visible')
  from pg_stat_activity w
  cross join lateral unnest(pg_blocking_pids(w.pid)) as p(pid)
  join pg_stat_activity b on b.pid = p.pid
 where w.application_name = $1 and w.backend_type = 'walsender'`

const preparedSQL = `select count(*) from pg_prepared_xacts where database = current_database()`

// CreateSlotStatement is what CreateSlot sends over the replication protocol.
func CreateSlotStatement(st state.Stream) string {
	return "CREATE_REPLICATION_SLOT " + st.Name() + " LOGICAL pgoutput NOEXPORT_SNAPSHOT"
}

// EnsureSlot makes a stream's logical slot over the replication
// protocol, or adopts the one that stands there whole. It returns the position
// from which it is consistent. Creation waits for every transaction that is
// writing; past bound it gives up, names what stood in the way, and leaves no
// half-made slot behind.
// Postgres manual: 53.4, CREATE_REPLICATION_SLOT.
func EnsureSlot(ctx context.Context, s *pg.Server, st state.Stream, bound time.Duration, progress func(string)) (pglogrepl.LSN, error) {
	have, err := ReadSlot(ctx, s, st)
	switch {
	case err == nil && have.Confirmed != 0 && have.Plugin == "pgoutput":
		return have.Confirmed, nil
	case err == nil:
		// Half made by a tool that died: its consistent point was never reached.
		if err := DropSlot(ctx, s, st, bound); err != nil {
			return 0, err
		}
	case !errors.Is(err, ErrNoSlot):
		return 0, err
	}
	lsn, err := createSlot(ctx, s, st, bound, progress)
	if err == nil {
		return lsn, nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return 0, errors.Join(err, DropSlot(clean, s, st, 10*time.Second))
}

func createSlot(ctx context.Context, s *pg.Server, st state.Stream, bound time.Duration, progress func(string)) (pglogrepl.LSN, error) {
	conn, err := s.Replication(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the slot is permanent; the session has done its work
	limit, cancel := context.WithTimeoutCause(ctx, bound, pg.ErrTimeout)
	defer cancel()

	type result struct {
		r   pglogrepl.CreateReplicationSlotResult
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := pglogrepl.CreateReplicationSlot(limit, conn, st.Name(), "pgoutput",
			pglogrepl.CreateReplicationSlotOptions{Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT"})
		done <- result{r, err}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var waitsFor string
	for {
		select {
		case res := <-done:
			if res.err != nil {
				return 0, slotError(s, st, res.err, limit, bound, waitsFor)
			}
			return pglogrepl.ParseLSN(res.r.ConsistentPoint)
		case <-tick.C:
			text := slotBlockers(limit, s)
			if text == "" {
				continue // not to be had; what was seen last goes into the error
			}
			waitsFor = text
			if progress != nil {
				progress("creating the slot waits for " + waitsFor)
			}
		}
	}
}

func slotBlockers(ctx context.Context, s *pg.Server) string {
	var text string
	var prepared int
	if err := s.Pool().QueryRow(ctx, blockersSQL, s.ApplicationName("replication")).Scan(&text); err != nil {
		return ""
	}
	if err := s.Pool().QueryRow(ctx, preparedSQL).Scan(&prepared); err == nil && prepared > 0 {
		text += fmt.Sprintf("; %d prepared transactions", prepared)
	}
	return text
}

func slotError(s *pg.Server, st state.Stream, err error, limit context.Context, bound time.Duration, waitsFor string) error {
	name := st.Name()
	if errors.Is(context.Cause(limit), pg.ErrTimeout) {
		return hint.With(fmt.Errorf("creating slot %q on the %s server: %w after %s, waiting for %s", name, s.Side(), pg.ErrTimeout, bound, waitsFor),
			"end or wait for these transactions, then run: pgcutover start")
	}
	err = fmt.Errorf("creating slot %q on the %s server: %w", name, s.Side(), s.Redacted(err))
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return hint.With(err, fmt.Sprintf("ALTER ROLE %s REPLICATION; (on the %s server, as superuser)", pgx.Identifier{s.User()}.Sanitize(), s.Side()))
	case pg.IsCode(err, pg.ConfigurationLimit):
		return hint.With(err, "all replication slots are in use: raise max_replication_slots (needs a restart) or drop an unused slot")
	case pg.IsCode(err, pg.ObjectNotInPrerequisite):
		return hint.With(err, "set wal_level = logical on the "+string(s.Side())+" server and restart it")
	}
	return err
}

const slotPIDSQL = `select active_pid from pg_replication_slots where slot_name = $1 and active_pid is not null`

const terminateSQL = `select pg_terminate_backend($1)`

// DropSlotSQL removes a slot by name.
const DropSlotSQL = `select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1`

// DropSlot removes a stream's slot, if it is there, waiting up to bound for a
// walsender that still uses it and ending it.
func DropSlot(ctx context.Context, s *pg.Server, st state.Stream, bound time.Duration) error {
	return dropSlot(ctx, s, st.Name(), bound, nil)
}

func dropSlot(ctx context.Context, s *pg.Server, name string, bound time.Duration, guard func(context.Context, pgx.Tx) error) error {
	return pg.Wait(ctx, fmt.Sprintf("slot %q to be dropped on the %s server", name, s.Side()), 100*time.Millisecond, bound, nil,
		func(ctx context.Context) (bool, string, error) {
			err := guarded(ctx, s, guard, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, DropSlotSQL, name)
				return err
			})
			if err == nil || pg.IsCode(err, pg.UndefinedObject) {
				return true, "", nil
			}
			if !pg.IsCode(err, pg.ObjectInUse) {
				return false, "", err
			}
			var pid int32
			if err := s.Pool().QueryRow(ctx, slotPIDSQL, name).Scan(&pid); err == nil {
				if _, err := s.Pool().Exec(ctx, terminateSQL, pid); err != nil {
					return false, "", fmt.Errorf("ending walsender %d: %w", pid, err)
				}
			}
			return false, fmt.Sprintf("in use by walsender %d", pid), nil
		})
}

// CreateWayBackSQL makes the slot of the way back: consistent from this moment,
// so that nothing of the other direction, which is all applied, goes back.
// Interrupted, it leaves nothing.
const CreateWayBackSQL = `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`

// CreateWayBack makes the slot of the way back on the target of a cutover. It
// is never adopted: one of that name is an error. Creation waits for every
// transaction that is writing, up to bound.
// Postgres manual: 9.28.6, Replication Management Functions.
func CreateWayBack(ctx context.Context, s *pg.Server, st state.Stream, bound time.Duration) (pglogrepl.LSN, error) {
	limit, cancel := context.WithTimeoutCause(ctx, bound, pg.ErrTimeout)
	defer cancel()
	var text string
	if err := s.Pool().QueryRow(limit, CreateWayBackSQL, st.Name()).Scan(&text); err != nil {
		if errors.Is(context.Cause(limit), pg.ErrTimeout) {
			return 0, hint.With(fmt.Errorf("creating slot %q on the %s server: %w after %s: %s", st.Name(), s.Side(), pg.ErrTimeout, bound, writing(ctx, s)),
				"a transaction was writing on the "+string(s.Side())+" server: find out which (vacuum, ANALYZE, maintenance), then run the command again")
		}
		return 0, slotError(s, st, err, limit, bound, "")
	}
	return pglogrepl.ParseLSN(text)
}

// writingSQL lists the transactions that have an xid: what a slot waits for.
// $1 is their least age in seconds.
const writingSQL = `
select coalesce(string_agg(format('session %s (%s, database %s, %s since %s): %s', pid, coalesce(usename, backend_type), datname, state,
         to_char(xact_start, 'HH24:MI:SS'), left(query, 80)), '; '), '')
  from pg_stat_activity
 where backend_xid is not null and pid <> pg_backend_pid()
   and coalesce(clock_timestamp() - xact_start, interval '0') >= $1 * interval '1 second'`

// LongWriting names the transactions that have been writing for at least age,
// in any database of the cluster; empty when there are none, or when this role
// may not see them.
func LongWriting(ctx context.Context, s *pg.Server, age time.Duration) (string, error) {
	var text string
	if err := s.Pool().QueryRow(ctx, writingSQL, age.Seconds()).Scan(&text); err != nil {
		return "", fmt.Errorf("looking for transactions that write on the %s server: %w", s.Side(), err)
	}
	return text, nil
}

func writing(ctx context.Context, s *pg.Server) string {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	text, err := LongWriting(limit, s, 0)
	switch {
	case err != nil:
		return err.Error()
	case text == "":
		return "none is left now"
	}
	return text
}

// Lag is how far the subscriber is behind, as the publisher sees it.
type Lag struct {
	Connected bool          `json:"connected"` // a walsender streams from the slot
	Bytes     int64         `json:"bytes"`     // current position minus what was replayed or confirmed
	Retained  int64         `json:"retained"`  // WAL kept by the slot, in bytes
	Current   pglogrepl.LSN `json:"current"`
	Replayed  pglogrepl.LSN `json:"replayed"`
	WALStatus string        `json:"wal_status,omitempty"`
}

// replaySQL is NULL for a role that may not see it: never "not connected".
const replaySQL = `select coalesce(replay_lsn, '0/0')::text from pg_stat_replication where pid = $1`

// ReadLag measures the lag: the publisher's current position minus what the
// subscriber has replayed; where rights hide that, minus what it confirmed.
func ReadLag(ctx context.Context, s *pg.Server, st state.Stream) (Lag, error) {
	slot, err := ReadSlot(ctx, s, st)
	if err != nil {
		return Lag{}, err
	}
	lag := Lag{Connected: slot.Active, Current: slot.Current, Replayed: slot.Confirmed, Retained: slot.Retained(), WALStatus: slot.WALStatus}
	if slot.Active {
		var text string
		if err := s.Pool().QueryRow(ctx, replaySQL, slot.PID).Scan(&text); err == nil {
			if replay, err := pglogrepl.ParseLSN(text); err == nil && replay > lag.Replayed {
				lag.Replayed = replay
			}
		}
	}
	if lag.Current > lag.Replayed {
		lag.Bytes = int64(lag.Current - lag.Replayed)
	}
	return lag, nil
}

// syncSlotsSQL lists what the table synchronization of subscriptions that do not
// exist any more has left on the publisher: $1 is the subscriber's system
// identifier, $2 the OIDs of its subscriptions. 14 and later call these slots
// pg_<subscription>_sync_<table>_<system identifier>; before, they are temporary.
const syncSlotsSQL = `
select slot_name::text, active
  from pg_replication_slots
 where database = current_database()
   and slot_name ~ ('^pg_[0-9]+_sync_[0-9]+_' || $1 || '$')
   and split_part(slot_name, '_', 2)::bigint <> all ($2::bigint[])`

// DropSyncSlots removes the table synchronization slots of subscriptions of the
// subscriber's cluster that are gone, whoever forgot their OIDs. alive are the
// OIDs of its subscriptions, in all databases: their slots are left alone.
// Walsenders that end just now are waited for up to bound.
func DropSyncSlots(ctx context.Context, s *pg.Server, system string, alive []int64, bound time.Duration) error {
	if system == "" {
		return nil
	}
	if alive == nil {
		alive = []int64{} // null would match nothing
	}
	type syncSlot struct {
		Name   string
		Active bool
	}
	return pg.Wait(ctx, fmt.Sprintf("table synchronization slots to be dropped on the %s server", s.Side()), 100*time.Millisecond, bound, nil,
		func(ctx context.Context) (bool, string, error) {
			rows, err := s.Pool().Query(ctx, syncSlotsSQL, system, alive)
			if err != nil {
				return false, "", err
			}
			slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[syncSlot])
			if err != nil {
				return false, "", err
			}
			left := 0
			for _, slot := range slots {
				if !slot.Active {
					_, err = s.Pool().Exec(ctx, DropSlotSQL, slot.Name)
				}
				if slot.Active || pg.IsCode(err, pg.ObjectInUse) {
					left++
				} else if err != nil && !pg.IsCode(err, pg.UndefinedObject) {
					return false, "", fmt.Errorf("dropping slot %q: %w", slot.Name, err)
				}
			}
			return left == 0, fmt.Sprintf("%d still in use", left), nil
		})
}
