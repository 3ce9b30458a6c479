package publisher

import (
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// What the functions of this package run, for the plan, with values in place of
// parameters.

// LeaseSettings are what the lease's session sets at its beginning.
func LeaseSettings(s *pg.Server) map[string]string { return leaseSettings(s) }

// BeginSQL begins the lease's transaction.
const BeginSQL = beginSQL

// ProtectStatements are what Protect runs.
func ProtectStatements(tables []string) []string {
	var out []string
	for batch := range slices.Chunk(tables, protectBatch) {
		out = append(out, guardedScript("protect", protectFirst, protectSQL(batch)))
	}
	return out
}

func protectSQL(tables []string) string {
	return "lock table only " + strings.Join(tables, ", only ") + " in share update exclusive mode"
}

// FreezeScript is one attempt of Freeze.
func FreezeScript(lockTimeout time.Duration) string {
	return guardedScript("gate", lockTimeout, FreezeSQL)
}

// guardedScript is what guarded sends. When it is refused, ROLLBACK TO the
// savepoint leaves the transaction usable.
func guardedScript(savepoint string, lockTimeout time.Duration, statement string) string {
	return strings.Join(guardedStatements(savepoint, lockTimeout, statement), ";\n")
}

// MarkStatement is what Mark runs.
func MarkStatement(d state.Direction, attempt int64) string { return pg.Fill(MarkSQL(d), attempt) }

// slotActiveSQL counts the walsenders on a slot.
const slotActiveSQL = `
select count(*)
  from pg_replication_slots
 where slot_name = $1 and database = current_database() and active`

// SlotActiveSQL counts the walsenders that stream from a slot: 0 or 1.
func SlotActiveSQL(name string) string { return pg.Fill(slotActiveSQL, name) }

// slotExistsSQL counts the slots of that name.
const slotExistsSQL = `
select count(*)
  from pg_replication_slots
 where slot_name = $1 and database = current_database()`

// SlotExistsSQL answers 1 when the slot stands.
func SlotExistsSQL(name string) string { return pg.Fill(slotExistsSQL, name) }

// endWalsenderSQL ends what still streams from a slot.
const endWalsenderSQL = `
select pg_terminate_backend(active_pid)
  from pg_replication_slots
 where slot_name = $1 and active_pid is not null`

// EndWalsenderSQL ends the walsender that still uses a slot, if there is one.
func EndWalsenderSQL(name string) string { return pg.Fill(endWalsenderSQL, name) }

// DropSlotStatement is what DropSlot runs.
func DropSlotStatement(name string) string { return pg.Fill(DropSlotSQL, name) }

// WayBackStatement is what CreateWayBack runs.
func WayBackStatement(st state.Stream) string { return pg.Fill(CreateWayBackSQL, st.Name()) }

// behindSQL tells whether the subscriber of a slot is connected and at most that
// many bytes behind.
const behindSQL = `
select coalesce(bool_or(s.active
         and pg_wal_lsn_diff(pg_current_wal_insert_lsn(), greatest(s.confirmed_flush_lsn, r.replay_lsn)) <= $2), false)
  from pg_replication_slots s
  left join pg_stat_replication r on r.pid = s.active_pid
 where s.slot_name = $1 and s.database = current_database()`

// CloseBehindSQL answers t when the subscriber is at most that many bytes behind.
func CloseBehindSQL(st state.Stream, bytes int64) string { return pg.Fill(behindSQL, st.Name(), bytes) }

// writersSQL counts transactions that a slot would wait for.
const writersSQL = `
select count(*)
  from pg_stat_activity
 where backend_xid is not null and pid <> pg_backend_pid()
   and clock_timestamp() - xact_start >= interval '1 second'`

// WritersSQL counts the transactions that have been writing for a while.
func WritersSQL() string { return writersSQL }

// NamedStatements removes the publication of that name, and its slot.
func NamedStatements(name string) (slot []string, publication string) {
	return []string{EndWalsenderSQL(name), SlotActiveSQL(name), DropSlotStatement(name)}, dropPublicationSQL(name)
}
