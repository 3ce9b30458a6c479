package preflight

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// serverTraps are the traps of the checks in list_servers.go.
var serverTraps = slices.Concat(
	inCommon(publisherTraps), inCommon(subscriberTraps), capacityTraps, inCommon(vacuumTraps), inCommon(standbyTraps),
	inCommon(peerTraps), inCommon(networkTraps), localeTraps, formatTraps, timeoutTraps)

// inCommon marks traps that leave the databases as they are.
func inCommon(traps []trap) []trap {
	for i := range traps {
		traps[i].shared = true
	}
	return traps
}

// atLeast picks pairs by the majors that they must have.
func atLeast(older, newer int) func(pgtest.Pair) bool {
	return func(p pgtest.Pair) bool { return p.Old >= older && p.New >= newer }
}

// reload lays settings that a server reads again without a restart.
func reload(side pg.Side, settings map[string]string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		_, url := w.cluster(side)
		for name, value := range settings {
			readAgain(t, url, fmt.Sprintf("alter system set %s = %s", name, literal(value)))
		}
		t.Cleanup(func() { readAgain(t, url, "alter system reset all") })
		w.connect(t)
	}
}

// readAgain runs a statement and has the server read its files again.
func readAgain(t *testing.T, url, statement string) {
	t.Helper()
	before := pgtest.Value[time.Time](t, url, `select pg_conf_load_time()`)
	pgtest.Exec(t, url, statement, `select pg_reload_conf()`)
	reloaded(t, url, before)
}

// configured changes what the tool is told to do.
func configured(change func(*Settings)) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { change(&w.Settings) }
}

func reconfigure(change func(*Settings)) func(*testing.T, *world, Finding) {
	return func(_ *testing.T, w *world, _ Finding) { change(&w.Settings) }
}

var publisherTraps = []trap{
	{finds: "publisher.wal-level", about: "wal_level", on: pg.New, newSettings: map[string]string{"wal_level": "replica"}},
	{
		finds: "publisher.slots", about: "max_replication_slots", oldSettings: map[string]string{"max_replication_slots": "1"},
		seed: configured(func(s *Settings) { s.Databases = 2 }),
		also: map[string]string{"subscriber.origins": "before 18 the slots bound them"},
	},
	{
		finds: "publisher.senders", about: "max_wal_senders", oldSettings: map[string]string{"max_wal_senders": "4"},
		seed: configured(func(s *Settings) { s.Databases = 4 }),
	},
	{finds: "publisher.slot-limit", about: "max_slot_wal_keep_size", when: atLeast(13, 13), seed: reload(pg.Old, map[string]string{"max_slot_wal_keep_size": "1GB"})},
	{finds: "publisher.slot-timeout", about: "idle_replication_slot_timeout", on: pg.New, when: atLeast(10, 18), seed: reload(pg.New, map[string]string{"idle_replication_slot_timeout": "1h"})},
	{finds: "publisher.sender-timeout", about: "wal_sender_timeout", seed: reload(pg.Old, map[string]string{"wal_sender_timeout": "5s"})},
	{finds: "publisher.sender-timeout", name: "never", about: "wal_sender_timeout", on: pg.New, seed: reload(pg.New, map[string]string{"wal_sender_timeout": "0"})},
}

var subscriberTraps = []trap{
	{finds: "subscriber.workers", about: "max_logical_replication_workers", on: pg.New, newSettings: map[string]string{"max_logical_replication_workers": "0"}},
	{finds: "subscriber.processes", about: "max_worker_processes", on: pg.New, newSettings: map[string]string{"max_worker_processes": "1"}},
	{
		finds: "subscriber.sync-workers", about: "max_sync_workers_per_subscription", on: pg.New,
		seed: func(t *testing.T, w *world) {
			reload(pg.New, map[string]string{"max_sync_workers_per_subscription": "0"})(t, w)
			w.Settings.SyncWorkers = 2
		},
	},
	{finds: "subscriber.origins", about: "max_active_replication_origins", on: pg.New, when: atLeast(10, 18), newSettings: map[string]string{"max_active_replication_origins": "0"}},
	{finds: "subscriber.receiver-timeout", about: "wal_receiver_timeout", on: pg.New, seed: reload(pg.New, map[string]string{"wal_receiver_timeout": "1s"})},
	{finds: "subscriber.retry-interval", about: "wal_retrieve_retry_interval", on: pg.New, seed: reload(pg.New, map[string]string{"wal_retrieve_retry_interval": "1min"})},
	{finds: "subscriber.status-interval", about: "wal_receiver_status_interval", on: pg.New, seed: reload(pg.New, map[string]string{"wal_receiver_status_interval": "0"})},
}

var capacityTraps = []trap{
	{
		finds: "connections.room", about: "max_connections", on: pg.New, newSettings: map[string]string{"max_connections": "14"},
		also: map[string]string{"connections.fewer": "that is fewer than old's, too"},
	},
	{finds: "connections.fewer", about: "max_connections", on: pg.New, newSettings: map[string]string{"max_connections": "60"}},
	{
		finds: "locks.room", about: "max_locks_per_transaction",
		oldSettings: map[string]string{"max_locks_per_transaction": "10", "max_connections": "25", "max_wal_senders": "10"},
		old: []string{
			`do $$ begin for i in 1..110 loop execute format('create table t%s (a int primary key)', i); end loop; end $$`,
			`do $$ begin for i in 111..220 loop execute format('create table t%s (a int primary key)', i); end loop; end $$`,
		},
	},
	{
		finds: "preload.missing", about: "shared_preload_libraries", on: pg.New,
		oldSettings: map[string]string{"shared_preload_libraries": "$libdir/pg_stat_statements"},
		seed: func(t *testing.T, w *world) {
			t.Cleanup(func() {
				pgtest.Exec(t, w.newURL, `alter system reset all`)
				restart(t, w.newer)
			})
		},
	},
}

var vacuumTraps = []trap{
	{finds: "autovacuum.off", about: "autovacuum", on: pg.New, seed: reload(pg.New, map[string]string{"autovacuum": "off"})},
	{finds: "autovacuum.timid", about: "autovacuum_vacuum_cost_limit", on: pg.New, seed: reload(pg.New, map[string]string{"autovacuum_vacuum_cost_delay": "20ms"})},
	{finds: "autovacuum.rare", about: "autovacuum_naptime", on: pg.New, seed: reload(pg.New, map[string]string{"autovacuum_naptime": "1h"})},
	{finds: "autovacuum.rare", name: "scale", about: "autovacuum_vacuum_scale_factor", on: pg.New, seed: reload(pg.New, map[string]string{"autovacuum_vacuum_scale_factor": "0.9"})},
	{finds: "bulk.max-wal-size", about: "max_wal_size", on: pg.New, seed: reload(pg.New, map[string]string{"max_wal_size": "96MB"})},
	{finds: "bulk.maintenance-work-mem", about: "maintenance_work_mem", on: pg.New, seed: reload(pg.New, map[string]string{"maintenance_work_mem": "8MB"})},
	{finds: "durability.fsync", about: "fsync", seed: reload(pg.Old, map[string]string{"fsync": "off"})},
	{finds: "durability.full_page_writes", about: "full_page_writes", on: pg.New, seed: reload(pg.New, map[string]string{"full_page_writes": "off"})},
}

var standbyTraps = []trap{
	{
		finds: "standbys.unfenced", about: "standby",
		old: []string{`select pg_create_physical_replication_slot('standby')`}, tidyOld: []string{`select pg_drop_replication_slot('standby')`},
		when:   func(p pgtest.Pair) bool { return p.Old < 17 },
		also:   map[string]string{"neighbours.slot-inactive": "nobody reads it"},
		byHand: reconfigure(func(s *Settings) { s.FailoverPaused = true }),
	},
	{
		finds: "standbys.sync-missing", about: "synchronous_standby_names", seed: reload(pg.Old, map[string]string{"synchronous_standby_names": "ANY 1 (one, two)"}),
	},
	{
		finds: "standbys.sync-missing", name: "on new", about: "synchronous_standby_names", on: pg.New,
		seed: reload(pg.New, map[string]string{"synchronous_standby_names": "replica"}),
	},
	{
		finds: "standbys.sync-apply", about: "synchronous_standby_names", seed: reload(pg.Old, map[string]string{"synchronous_standby_names": "*"}),
		also: map[string]string{"standbys.sync-missing": "the stream is not there yet"},
	},
	{
		finds: "standbys.sync-apply", name: "on new", about: "synchronous_standby_names", on: pg.New,
		seed: reload(pg.New, map[string]string{"synchronous_standby_names": `FIRST 1 ("pgcutover_shop", other)`}),
		also: map[string]string{"standbys.sync-missing": "the stream is not there yet"},
	},
}

var timeoutTraps = []trap{
	{
		finds: "timeouts.copy", about: "statement_timeout",
		seed: func(t *testing.T, w *world) {
			pgtest.Exec(t, w.oldURL, fmt.Sprintf("alter database %s set statement_timeout = '5min'", quote(w.Old.Database())))
		},
	},
	{
		finds: "timeouts.apply", about: "lock_timeout", on: pg.New, when: atLeast(10, 16),
		seed: func(t *testing.T, w *world) {
			pgtest.Exec(t, w.newURL, fmt.Sprintf("alter database %s set lock_timeout = '3s'", quote(w.New.Database())))
		},
		also: map[string]string{"settings.differ": "clients get it too"},
	},
	{
		finds: "timeouts.apply", name: "transaction", about: "transaction_timeout", on: pg.New, when: atLeast(10, 17),
		seed: reload(pg.New, map[string]string{"transaction_timeout": "1min"}),
	},
}

// eventually waits for something that a server does by itself.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) { return met(), "", nil })
	if err != nil {
		t.Fatal(err)
	}
}
