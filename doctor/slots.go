package doctor

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// slotRow is a replication slot of the whole cluster.
type slotRow struct {
	Name     string
	Type     string
	Database string // empty for a physical one
	Here     bool   // it belongs to the database at hand
	Active   bool
	PID      int32    `db:"pid"` // who reads it, 0 for nobody
	Retained int64    // bytes of WAL from its restart position to the current one
	XIDs     int64    `db:"xids"` // age of the oldest transaction that it keeps visible, in transactions
	Status   string   // wal_status, from 13 on
	Invalid  string   // invalidation_reason, from 17 on
	Idle     *float64 // seconds since it became inactive, from 17 on
}

// slotsSQL10 reads slots on 10 to 12.
const slotsSQL10 = `
select s.slot_name::text as name, s.slot_type as type, coalesce(s.database::text, '') as database,
       coalesce(s.database = current_database(), false) as here, s.active, coalesce(s.active_pid, 0) as pid,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                                s.restart_lsn), 0)::bigint as retained,
       greatest(coalesce(age(s.xmin), 0), coalesce(age(s.catalog_xmin), 0))::bigint as xids,
       '' as status, '' as invalid, null::float8 as idle
  from pg_replication_slots s
 where not s.temporary
 order by s.slot_name`

// slotsSQL13 knows whether the WAL is still there.
const slotsSQL13 = `
select s.slot_name::text as name, s.slot_type as type, coalesce(s.database::text, '') as database,
       coalesce(s.database = current_database(), false) as here, s.active, coalesce(s.active_pid, 0) as pid,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                                s.restart_lsn), 0)::bigint as retained,
       greatest(coalesce(age(s.xmin), 0), coalesce(age(s.catalog_xmin), 0))::bigint as xids,
       coalesce(s.wal_status, '') as status, '' as invalid, null::float8 as idle
  from pg_replication_slots s
 where not s.temporary
 order by s.slot_name`

// slotsSQL17 also knows since when nobody reads it, and why it was given up.
// Slots that a standby keeps in step with its primary are the primary's.
const slotsSQL17 = `
select s.slot_name::text as name, s.slot_type as type, coalesce(s.database::text, '') as database,
       coalesce(s.database = current_database(), false) as here, s.active, coalesce(s.active_pid, 0) as pid,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                                s.restart_lsn), 0)::bigint as retained,
       greatest(coalesce(age(s.xmin), 0), coalesce(age(s.catalog_xmin), 0))::bigint as xids,
       coalesce(s.wal_status, '') as status, coalesce(s.invalidation_reason, '') as invalid,
       case when not s.active then extract(epoch from clock_timestamp() - s.inactive_since)::float8 end as idle
  from pg_replication_slots s
 where not s.temporary and not s.synced
 order by s.slot_name`

func lookSlots(ctx context.Context, s *server, _ Options) error {
	sql := slotsSQL17
	switch {
	case s.conn.Major() < 13:
		sql = slotsSQL10
	case s.conn.Major() < 17:
		sql = slotsSQL13
	}
	var err error
	s.slots, err = read[slotRow](ctx, s.conn, "reading replication slots", sql)
	return err
}

// slot finds a slot of the database by name.
func (s *server) slot(name string) *slotRow {
	for i := range s.slots {
		if s.slots[i].Name == name && s.slots[i].Here {
			return &s.slots[i]
		}
	}
	return nil
}

// lost tells that the WAL which the slot's reader needs is gone.
func (r slotRow) lost() bool { return r.Status == "lost" || r.Invalid != "" }

// text says what was seen of a slot.
func (r slotRow) text() string {
	var text string
	switch {
	case r.lost():
		text = "its WAL is gone"
		if r.Invalid != "" {
			text += " (" + r.Invalid + ")"
		}
		return text
	case r.Active:
		text = fmt.Sprintf("read by process %d", r.PID)
	case r.Idle != nil:
		text = "nobody reads it since " + ago(*r.Idle)
	default:
		text = "nobody reads it"
	}
	text += "; it keeps " + size(r.Retained) + " of WAL"
	if r.Status == "unreserved" {
		text += ", which the next checkpoint may remove (max_slot_wal_keep_size)"
	}
	if r.XIDs > 0 && !r.Active {
		text += fmt.Sprintf(", its oldest transaction is %d behind", r.XIDs)
	}
	return text
}

// finding begins a finding about a slot.
func (r slotRow) finding(s *server, whose Whose) Finding {
	kept := r.Retained
	f := Finding{
		Server: on(s.side), Object: r.Type + " replication slot " + quote(r.Name), Whose: whose,
		Seen: r.text(), Bytes: &kept, Age: r.Idle, order: orderSlot,
		SQL: []string{dropSlotSQL(r.Name)},
	}
	if r.Database != "" && !r.Here {
		f.Object += " of database " + quote(r.Database)
	}
	return f
}

func dropSlotSQL(name string) string {
	return fmt.Sprintf("SELECT pg_drop_replication_slot(%s)", literal(name))
}

// fillsDisk is why a slot that nobody reads matters.
const fillsDisk = "It keeps WAL, and dead rows of the catalogs, until this server's disk is full."

// slotFindings judges every slot of both clusters.
func (e *examination) slotFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.slots {
			var f *Finding
			attempt, ours := e.attemptOf(r.Name)
			switch sync := syncSlot.FindStringSubmatch(r.Name); {
			case ours && r.Here && s.kind(e.name) != copied:
				f = e.ourSlot(s, r, attempt)
			case sync != nil:
				f = e.syncFinding(s, r, sync)
			default:
				f = e.othersSlot(s, r)
			}
			if f != nil {
				found = append(found, *f)
			}
		}
	}
	return found
}

// ourSlot judges a slot of this move.
func (e *examination) ourSlot(s *server, r slotRow, attempt int64) *Finding {
	f := r.finding(s, This)
	current := e.live && r.Name == e.stream().Name() && s.side == e.pos.Serving()
	switch {
	case slices.Contains(e.inFlux(), r.Name) && r.Active:
		return nil // the cutover that was interrupted is reported
	case slices.Contains(e.inFlux(), r.Name):
		f.ID, f.Severity = "slot.unfinished", preflight.Warning
		f.Why = "It belongs to the cutover that was interrupted. " + fillsDisk
		f.Next, f.SQL = "run: pgcutover resume", nil
	case current && r.lost():
		f.ID, f.Severity = "slot.lost", preflight.Blocker
		f.Why = "The stream cannot go on: what the other server has not received is gone."
		f.Next, f.SQL = e.without(attempt), nil
	case current && !r.Active:
		f.ID, f.Severity = "slot.inactive", preflight.Blocker
		f.Why = fillsDisk + " The other server receives nothing meanwhile."
		f.Next = e.whyIdle(s, attempt)
	case current && r.Status == "unreserved":
		f.ID, f.Severity, f.SQL = "slot.at-risk", preflight.Blocker, []string{"ALTER SYSTEM SET max_slot_wal_keep_size = -1", "SELECT pg_reload_conf()"}
		f.Why = "It is behind by more than max_slot_wal_keep_size: at the next checkpoint the stream may be lost."
		f.Next = "raise the limit, if the disk has room, until the other server has caught up"
	case current && e.options.WALWarn > 0 && r.Retained > e.options.WALWarn:
		f.ID, f.Severity, f.SQL = "slot.behind", preflight.Warning, nil
		f.Why = "That is more than wal.warn (" + size(e.options.WALWarn) + "): its reader is slow, or applies a large transaction. The disk of this server must hold it."
		f.Next = "see pgcutover status --watch"
	case current:
		return nil
	default:
		f.ID, f.Severity = "slot.leftover", preflight.Blocker
		f.Why = "It is not the stream that the move goes on with. " + fillsDisk
		f.Mend = e.dropSlot(s, r)
		if f.Mend == nil {
			f.Next = "something still reads it, or a subscription on the other server still names it: that one first"
		}
	}
	return &f
}

// without says how to go on when the current stream is lost.
func (e *examination) without(attempt int64) string {
	if attempt == 0 {
		return "begin anew: pgcutover abort, then pgcutover start"
	}
	return "there is no way back any more: when you are content with the " + on(e.pos.Serving()) + " server, pgcutover complete"
}

// whyIdle says what to do about a current slot that nobody reads.
func (e *examination) whyIdle(s *server, attempt int64) string {
	peer := e.other(s)
	switch {
	case !peer.reached():
		return fmt.Sprintf("see why the %s server does not read it. If that server is gone for good: pgcutover abort --old-only, or the SQL, which ends the stream", peer.side)
	case peer.subscription(e.stream().Name()) == nil && attempt == 0:
		return "its subscription does not exist: pgcutover start goes on, pgcutover abort takes all back"
	case peer.subscription(e.stream().Name()) == nil:
		return "its subscription does not exist: the way back is lost. pgcutover complete, or the SQL, which ends the stream"
	}
	return fmt.Sprintf("see the subscription on the %s server, and its log. The SQL ends the stream for good", peer.side)
}

// othersSlot judges a slot that no stream of this move uses.
func (e *examination) othersSlot(s *server, r slotRow) *Finding {
	f := r.finding(s, e.whose(r.Name, r.Here))
	f.Next = "if its reader is gone for good, drop it"
	if f.Whose == Another && !r.Here {
		f.Next = fmt.Sprintf("look at that move: pgcutover doctor with the URL of database %s", quote(r.Database))
	}
	if f.Whose == This { // in a copy there is no stream
		f.Whose = Another
	}
	switch {
	case r.lost():
		f.ID, f.Severity = "slot.lost", preflight.Warning
		f.Why = "Its reader cannot go on and must begin anew. It keeps nothing any more."
	case !r.Active:
		f.ID, f.Severity = "slot.inactive", preflight.Warning
		f.Why = fillsDisk
		if e.options.WALWarn > 0 && r.Retained > e.options.WALWarn {
			f.Severity = preflight.Blocker
			f.Why += " It is past wal.warn (" + size(e.options.WALWarn) + ")."
		}
	default:
		return nil
	}
	return &f
}

// syncSlot is a slot of Postgres' own table synchronization: subscription,
// table, and, from 14 on, the subscriber's system identifier.
var syncSlot = regexp.MustCompile(`^pg_([0-9]+)_sync_([0-9]+)(?:_([0-9]+))?$`)

// syncFinding judges a table synchronization slot: it is an orphan when its
// subscription does not exist any more on the cluster that it names.
func (e *examination) syncFinding(s *server, r slotRow, parts []string) *Finding {
	if r.Active {
		return nil
	}
	f := r.finding(s, Other)
	f.ID, f.Severity = "slot.table-sync", preflight.Warning
	f.Why = fillsDisk
	peer := e.other(s)
	if !peer.reached() || peer.id == nil || parts[3] != peer.id.System || peer.unreadable["subscriptions"] != nil {
		f.Seen += "; subscription " + parts[1] + " of cluster " + parts[3] + " would read it"
		f.Next = "if that subscription is gone for good, drop it"
		return &f
	}
	for _, sub := range peer.subs {
		if slices.ContainsFunc(sub.OIDs, func(oid int64) bool { return strconv.FormatInt(oid, 10) == parts[1] }) {
			return nil // it may go on copying
		}
	}
	f.Severity, f.Whose = preflight.Blocker, This
	f.Seen += fmt.Sprintf("; subscription %s of the %s server, which read it, is gone", parts[1], peer.side)
	f.Mend = e.dropSlot(s, r)
	if !r.Here {
		f.Whose, f.Mend = Another, nil
	}
	return &f
}

// streamFindings reports a stream of which both ends are gone: nothing that is
// there tells that it is missing.
func (e *examination) streamFindings() []Finding {
	if !e.certain() || !e.live || e.interrupted != "" || e.pos.Forward > 0 || e.pos.Back > 0 {
		return nil
	}
	name := state.FirstStream(e.name).Name()
	done, _ := e.phaseDone("subscribe")
	if !done || e.old.slot(name) != nil || e.new.subscription(name) != nil {
		return nil
	}
	return []Finding{{
		ID: "stream.missing", Severity: preflight.Blocker, Server: preflight.Both, Object: "stream " + quote(name), Whose: This,
		Seen: "neither its slot on old nor its subscription on new exists, though start made both",
		Why:  "New receives nothing, and what was written since cannot be had any more.",
		Next: e.without(0),
	}}
}
