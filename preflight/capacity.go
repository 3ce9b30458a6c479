package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// publisherSQL reads what publishing needs and what of it others use. $1 is the
// common beginning of our own names, whose slots and senders do not count.
const publisherSQL = `
select current_setting('wal_level') as wal_level,
       current_setting('max_replication_slots')::int as max_slots,
       current_setting('max_wal_senders')::int as max_senders,
       (select count(*)::int from pg_replication_slots
         where slot_name <> $1 and left(slot_name, length($1) + 1) <> $1 || '_') as slots,
       (select count(*)::int from pg_stat_replication
         where coalesce(application_name, '') <> $1
           and left(coalesce(application_name, ''), length($1) + 1) <> $1 || '_'
           and coalesce(application_name, '') not like 'pgcutover/%') as senders,
       coalesce(current_setting('max_slot_wal_keep_size', true), '-1') as keep,
       coalesce(current_setting('idle_replication_slot_timeout', true), '0') as idle`

type publisherFacts struct {
	WalLevel   string
	MaxSlots   int
	MaxSenders int
	Slots      int
	Senders    int
	Keep       string
	Idle       string
}

// checkPublisher looks at the old server and, when a reverse stream is wanted,
// at the new one. Postgres manual: 29.12, Configuration Settings.
func checkPublisher(ctx context.Context, p *Pair) ([]Finding, error) {
	// Native copy opens one slot and one walsender for each table that it
	// copies; the tool's own replication connection takes a walsender too.
	slots := p.Settings.streams() + p.Settings.SyncWorkers
	found, err := publisherFindings(ctx, p.Old, slots, slots+1)
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := publisherFindings(ctx, p.New, p.Settings.streams(), p.Settings.streams()+1)
	return append(found, reverse...), err
}

func publisherFindings(ctx context.Context, s *pg.Server, slots, senders int) ([]Finding, error) {
	have, err := readOne[publisherFacts](ctx, s, "reading the replication settings", publisherSQL, streamName(s.Move()))
	if err != nil {
		return nil, err
	}
	side := string(s.Side())
	var found []Finding
	if have.WalLevel != "logical" {
		found = append(found, Finding{
			ID: "publisher.wal-level", Severity: Blocker, Server: side, Object: "wal_level",
			Seen: "wal_level is " + have.WalLevel,
			Why:  "Changes can only be decoded from WAL of level logical.",
			Fix:  setting("wal_level", "logical", true),
		})
	}
	if missing := have.Slots + slots - have.MaxSlots; missing > 0 {
		found = append(found, Finding{
			ID: "publisher.slots", Severity: Blocker, Server: side, Object: "max_replication_slots",
			Seen: fmt.Sprintf("max_replication_slots is %d, %d are taken, the move needs %d", have.MaxSlots, have.Slots, slots),
			Why:  "Without a free slot the stream cannot begin.",
			Fix:  setting("max_replication_slots", have.MaxSlots+missing, true),
		})
	}
	if missing := have.Senders + senders - have.MaxSenders; missing > 0 {
		found = append(found, Finding{
			ID: "publisher.senders", Severity: Blocker, Server: side, Object: "max_wal_senders",
			Seen: fmt.Sprintf("max_wal_senders is %d, %d are in use, the move needs %d", have.MaxSenders, have.Senders, senders),
			Why:  "Without a free walsender the stream cannot run.",
			Fix:  setting("max_wal_senders", have.MaxSenders+missing, true),
		})
	}
	return append(found, slotLimitFindings(side, have)...), nil
}

// slotLimitFindings names the settings by which a server gives a slot up.
func slotLimitFindings(side string, have publisherFacts) []Finding {
	var found []Finding
	if have.Keep != "-1" {
		found = append(found, Finding{
			ID: "publisher.slot-limit", Severity: Warning, Server: side, Object: "max_slot_wal_keep_size",
			Seen: "max_slot_wal_keep_size is " + have.Keep,
			Why:  "A stream that falls further behind loses its slot, and the move must begin anew.",
			Fix:  setting("max_slot_wal_keep_size", -1, false),
		})
	}
	if have.Idle != "0" {
		found = append(found, Finding{
			ID: "publisher.slot-timeout", Severity: Warning, Server: side, Object: "idle_replication_slot_timeout",
			Seen: "idle_replication_slot_timeout is " + have.Idle,
			Why:  "A slot that no stream reads for that long, as while tables are copied, is given up.",
			Fix:  setting("idle_replication_slot_timeout", 0, false),
		})
	}
	return found
}

// subscriberSQL reads what subscribing needs and what of it others use. Before
// 18 the number of replication origins is bound by max_replication_slots.
const subscriberSQL = `
select current_setting('max_logical_replication_workers')::int as max_workers,
       current_setting('max_worker_processes')::int as max_processes,
       current_setting('max_sync_workers_per_subscription')::int as max_sync,
       coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int as max_origins,
       (select count(*)::int from pg_stat_subscription
         where pid is not null and subname <> $1 and left(subname, length($1) + 1) <> $1 || '_') as workers,
       (select count(*)::int from pg_replication_origin
         where roname not in (select 'pg_' || subid from pg_stat_subscription
                               where subname = $1 or left(subname, length($1) + 1) = $1 || '_')) as origins`

type subscriberFacts struct {
	MaxWorkers   int
	MaxProcesses int
	MaxSync      int
	MaxOrigins   int
	Workers      int
	Origins      int
}

// checkSubscriber looks at the new server and, when a reverse stream is wanted,
// at the old one. Postgres manual: 29.12, Configuration Settings.
func checkSubscriber(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := subscriberFindings(ctx, p.New, p.Settings.streams(), p.Settings.SyncWorkers)
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := subscriberFindings(ctx, p.Old, p.Settings.streams(), 0)
	return append(found, reverse...), err
}

func subscriberFindings(ctx context.Context, s *pg.Server, streams, sync int) ([]Finding, error) {
	have, err := readOne[subscriberFacts](ctx, s, "reading the subscription settings", subscriberSQL, streamName(s.Move()))
	if err != nil {
		return nil, err
	}
	need := streams + sync
	var found []Finding
	short := func(id, name string, limit, used, needed int, why string) {
		if missing := used + needed - limit; missing > 0 {
			found = append(found, Finding{
				ID: id, Severity: Blocker, Server: string(s.Side()), Object: name,
				Seen: fmt.Sprintf("%s is %d, %d are in use, the move needs %d", name, limit, used, needed),
				Why:  why, Fix: setting(name, limit+missing, true),
			})
		}
	}
	origins := "max_replication_slots"
	if s.Major() >= 18 {
		origins = "max_active_replication_origins"
	}
	short("subscriber.workers", "max_logical_replication_workers", have.MaxWorkers, have.Workers, need,
		"Without a free worker the subscription never starts, and no error says so.")
	// The launcher is one of the processes; it starts the others.
	short("subscriber.processes", "max_worker_processes", have.MaxProcesses, have.Workers+1, need,
		"Without a free worker process the subscription never starts; parallel queries take theirs from the same number.")
	short("subscriber.origins", origins, have.MaxOrigins, have.Origins, need,
		"A subscription keeps its progress in a replication origin; without a free one it cannot start.")
	if sync > 0 && have.MaxSync < 1 {
		found = append(found, Finding{
			ID: "subscriber.sync-workers", Severity: Blocker, Server: string(s.Side()), Object: "max_sync_workers_per_subscription",
			Seen: "max_sync_workers_per_subscription is 0",
			Why:  "Postgres' own copy needs table synchronisation workers.",
			Fix:  setting("max_sync_workers_per_subscription", sync, false),
		})
	}
	return found, nil
}

// locksSQL compares the lock table's nominal size, per_transaction times
// sessions, with the number of tables. Postgres manual: 19.12, Lock Management.
const locksSQL = `
select current_setting('max_locks_per_transaction')::bigint as per_transaction,
       current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint as sessions,
       (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
           and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')) as tables`

type lockFacts struct {
	PerTransaction int64
	Sessions       int64
	Tables         int64
}

// checkLocks looks for room for one lock on every table: pg_dump takes one, and
// so does the cutover. Other sessions want some too, so four fifths of the
// nominal number are taken as all there is.
func checkLocks(ctx context.Context, p *Pair) ([]Finding, error) {
	have, err := readOne[lockFacts](ctx, p.Old, "counting tables and locks", locksSQL)
	if err != nil || have.Tables*5 <= have.PerTransaction*have.Sessions*4 {
		return nil, err
	}
	needed := have.Tables*5/4/have.Sessions + 1
	return []Finding{{
		ID: "locks.room", Severity: Warning, Server: string(pg.Old), Object: "max_locks_per_transaction",
		Seen: fmt.Sprintf("%d tables, room for about %d locks in all sessions together", have.Tables, have.PerTransaction*have.Sessions),
		Why:  "pg_dump locks every table at once; when the lock table is full, it and other sessions fail with 53200.",
		Fix:  setting("max_locks_per_transaction", needed, true),
	}}, nil
}
