package preflight

import (
	"context"
	"fmt"
	"strings"

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
       coalesce(current_setting('idle_replication_slot_timeout', true), '0') as idle,
       (select setting::bigint from pg_settings where name = 'wal_sender_timeout') as timeout,
       coalesce((select setting from pg_settings where name = 'output_plugin_libraries'), 'pgoutput') as plugins`

type publisherFacts struct {
	WalLevel   string
	MaxSlots   int
	MaxSenders int
	Slots      int
	Senders    int
	Keep       string
	Idle       string
	Timeout    int64  // wal_sender_timeout, milliseconds
	Plugins    string // output_plugin_libraries, in minor releases that have it
}

// checkPublisher looks at the old server and, when a reverse stream is wanted,
// at the new one. Postgres manual: 29.12, Configuration Settings.
func checkPublisher(ctx context.Context, p *Pair) ([]Finding, error) {
	// Native copy opens one slot and one walsender for each table that it
	// copies; the tool's own replication connection takes a walsender too.
	slots := p.Settings.streams() + p.Settings.syncWorkers()
	found, err := publisherFindings(ctx, p, p.Old, slots, slots+1)
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := publisherFindings(ctx, p, p.New, p.Settings.streams(), p.Settings.streams()+1)
	return append(found, reverse...), err
}

func publisherFindings(ctx context.Context, p *Pair, s *pg.Server, slots, senders int) ([]Finding, error) {
	have, err := readOne[publisherFacts](ctx, s, "reading the replication settings", publisherSQL, p.ours(s))
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
		}.setTo("wal_level", "logical", true))
	}
	if missing := have.Slots + slots - have.MaxSlots; missing > 0 {
		found = append(found, Finding{
			ID: "publisher.slots", Severity: Blocker, Server: side, Object: "max_replication_slots",
			Seen: fmt.Sprintf("max_replication_slots is %d, %d are taken, the move needs %d", have.MaxSlots, have.Slots, slots),
			Why:  "Without a free slot the stream cannot begin.",
		}.setTo("max_replication_slots", have.MaxSlots+missing, true))
	}
	if missing := have.Senders + senders - have.MaxSenders; missing > 0 {
		found = append(found, Finding{
			ID: "publisher.senders", Severity: Blocker, Server: side, Object: "max_wal_senders",
			Seen: fmt.Sprintf("max_wal_senders is %d, %d are in use, the move needs %d", have.MaxSenders, have.Senders, senders),
			Why:  "Without a free walsender the stream cannot run.",
		}.setTo("max_wal_senders", have.MaxSenders+missing, true))
	}
	found = append(found, slotLimitFindings(side, have)...)
	found = append(found, timeoutFindings("publisher.sender-timeout", side, "wal_sender_timeout", have.Timeout)...)
	return append(found, pluginFindings(side, have.Plugins)...), nil
}

// pluginFindings looks for pgoutput among the output plugins that the server
// lets be used. The setting came with the minor releases 18.6, 17.11, 16.15 and
// their likes, where it names pgoutput by default.
// Postgres manual: 19.6.1, output_plugin_libraries.
func pluginFindings(side, plugins string) []Finding {
	for name := range strings.SplitSeq(plugins, ",") {
		if strings.Trim(strings.TrimSpace(name), `"`) == "pgoutput" {
			return nil
		}
	}
	return []Finding{Finding{
		ID: "publisher.output-plugin", Severity: Blocker, Server: side, Object: "output_plugin_libraries",
		Seen: fmt.Sprintf("output_plugin_libraries is %q", plugins),
		Why:  "The server refuses to decode for pgoutput, the plugin of logical replication: the slot cannot be made.",
	}.setTo("output_plugin_libraries", literal(strings.TrimLeft(plugins+", pgoutput", ", ")), false)}
}

// shortestTimeout is the least that a replication connection should wait, in
// milliseconds: an apply worker that waits for a lock does not answer meanwhile,
// and is cut off after it (measured, 15 to 18). Providers have 30 s.
const shortestTimeout = 30_000

// timeoutFindings judges wal_sender_timeout and wal_receiver_timeout.
func timeoutFindings(id, side, name string, ms int64) []Finding {
	f := Finding{ID: id, Severity: Warning, Server: side, Object: name, Seen: fmt.Sprintf("%s is %d ms", name, ms)}
	switch {
	case ms == 0:
		f.Severity = Note
		f.Seen = name + " is 0, which means never"
		f.Why = "A connection that died without a word is not noticed: the stream stands still until TCP gives up, which takes hours by default."
	case ms < shortestTimeout:
		f.Why = "An apply worker that waits longer than that, for a lock or a large transaction, is cut off and begins anew, again and again."
	default:
		return nil
	}
	return []Finding{f.setTo(name, "'60s'", false)}
}

// slotLimitFindings names the settings by which a server gives a slot up.
func slotLimitFindings(side string, have publisherFacts) []Finding {
	var found []Finding
	if have.Keep != "-1" {
		found = append(found, Finding{
			ID: "publisher.slot-limit", Severity: Warning, Server: side, Object: "max_slot_wal_keep_size",
			Seen: "max_slot_wal_keep_size is " + have.Keep,
			Why:  "A stream that falls further behind loses its slot, and the move must begin anew.",
		}.setTo("max_slot_wal_keep_size", -1, false))
	}
	if have.Idle != "0" {
		found = append(found, Finding{
			ID: "publisher.slot-timeout", Severity: Warning, Server: side, Object: "idle_replication_slot_timeout",
			Seen: "idle_replication_slot_timeout is " + have.Idle,
			Why:  "A slot that no stream reads for that long, as while tables are copied, is given up.",
		}.setTo("idle_replication_slot_timeout", 0, false))
	}
	return found
}

// subscriberSQL reads what subscribing needs and what of it others use. The
// processes are those that max_worker_processes counts; parallel workers come and
// go, and are left out. Before 18 the number of replication origins is bound by max_replication_slots.
const subscriberSQL = `
select current_setting('max_logical_replication_workers')::int as max_workers,
       current_setting('max_worker_processes')::int as max_processes,
       current_setting('max_sync_workers_per_subscription')::int as max_sync,
       coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int as max_origins,
       (select count(*)::int from pg_stat_subscription
         where pid is not null and subname <> $1 and left(subname, length($1) + 1) <> $1 || '_') as workers,
       (select count(*)::int from pg_stat_activity a
         where a.backend_type not in ('client backend', 'walsender', 'walreceiver', 'walwriter', 'walsummarizer', 'startup',
                                      'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer',
                                      'archiver', 'logger', 'io worker', 'slotsync worker', 'parallel worker')
           and not exists (select 1 from pg_stat_subscription s
                            where s.pid = a.pid
                              and (s.subname = $1 or left(s.subname, length($1) + 1) = $1 || '_'))) as processes,
       (select setting::bigint from pg_settings where name = 'wal_receiver_timeout') as timeout,
       (select setting::int from pg_settings where name = 'wal_receiver_status_interval') as status,
       (select setting::bigint from pg_settings where name = 'wal_retrieve_retry_interval') as retry,
       (select count(*)::int from pg_replication_origin
         where roname not in (select 'pg_' || subid from pg_stat_subscription
                               where subname = $1 or left(subname, length($1) + 1) = $1 || '_')) as origins`

type subscriberFacts struct {
	MaxWorkers   int
	MaxProcesses int
	MaxSync      int
	MaxOrigins   int
	Workers      int
	Processes    int   // background workers of all kinds, as far as the role may see them
	Timeout      int64 // wal_receiver_timeout, milliseconds
	Status       int   // wal_receiver_status_interval, seconds
	Retry        int64 // wal_retrieve_retry_interval, milliseconds
	Origins      int
}

// checkSubscriber looks at the new server and, when a reverse stream is wanted,
// at the old one. Postgres manual: 29.12, Configuration Settings.
func checkSubscriber(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := subscriberFindings(ctx, p, p.New, p.Settings.streams(), p.Settings.syncWorkers())
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := subscriberFindings(ctx, p, p.Old, p.Settings.streams(), 0)
	return append(found, reverse...), err
}

// longestRetry is twice the default of wal_retrieve_retry_interval, in
// milliseconds.
const longestRetry = 10_000

func subscriberFindings(ctx context.Context, p *Pair, s *pg.Server, streams, sync int) ([]Finding, error) {
	have, err := readOne[subscriberFacts](ctx, s, "reading the subscription settings", subscriberSQL, p.ours(s))
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
				Why:  why,
			}.setTo(name, limit+missing, true))
		}
	}
	origins := "max_replication_slots"
	if s.Major() >= 18 {
		origins = "max_active_replication_origins"
	}
	short("subscriber.workers", "max_logical_replication_workers", have.MaxWorkers, have.Workers, need,
		"Without a free worker the subscription never starts, and no error says so.")
	// The launcher is one of the processes; it starts the others.
	short("subscriber.processes", "max_worker_processes", have.MaxProcesses, max(have.Processes, have.Workers+1), need,
		"Without a free worker process the subscription never starts; parallel queries take theirs from the same number.")
	short("subscriber.origins", origins, have.MaxOrigins, have.Origins, need,
		"A subscription keeps its progress in a replication origin; without a free one it cannot start.")
	if sync > 0 && have.MaxSync < 1 {
		found = append(found, Finding{
			ID: "subscriber.sync-workers", Severity: Blocker, Server: string(s.Side()), Object: "max_sync_workers_per_subscription",
			Seen: "max_sync_workers_per_subscription is 0",
			Why:  "Postgres' own copy needs table synchronisation workers.",
		}.setTo("max_sync_workers_per_subscription", 2, false))
	}
	if have.Status == 0 {
		found = append(found, Finding{
			ID: "subscriber.status-interval", Severity: Note, Server: string(s.Side()), Object: "wal_receiver_status_interval",
			Seen: "wal_receiver_status_interval is 0",
			Why:  "The publisher is told how far the stream is only when it asks, after half of wal_sender_timeout: until then it keeps WAL that nobody needs, and status shows a lag that is none.",
		}.setTo("wal_receiver_status_interval", "'10s'", false))
	}
	if have.Retry > longestRetry {
		found = append(found, Finding{
			ID: "subscriber.retry-interval", Severity: Note, Server: string(s.Side()), Object: "wal_retrieve_retry_interval",
			Seen: fmt.Sprintf("wal_retrieve_retry_interval is %d ms", have.Retry),
			Why:  "A worker that ended, for a lock or a short break of the network, begins again only after that; before 16 all subscriptions of the server wait for each other so long.",
		}.setTo("wal_retrieve_retry_interval", "'5s'", false))
	}
	return append(found, timeoutFindings("subscriber.receiver-timeout", string(s.Side()), "wal_receiver_timeout", have.Timeout)...), nil
}
