package preflight

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestVersions(t *testing.T) {
	day := func(s string) time.Time {
		at, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, c := range []struct {
		older, newer int
		now          string
		want         string
	}{
		{15, 18, "2026-01-01", ""},
		{16, 16, "2026-01-01", ""},
		{18, 15, "2026-01-01", "versions.downgrade"},
		{9, 18, "2026-01-01", "versions.unsupported"},
		{17, 19, "2026-01-01", "versions.untested"},
		{13, 18, "2025-11-12", ""},
		{13, 18, "2025-11-13", "versions.end-of-life"},
		{10, 11, "2026-01-01", "versions.end-of-life versions.end-of-life"},
	} {
		var got []string
		for _, f := range versionFindings(c.older, c.newer, day(c.now)) {
			got = append(got, f.ID)
		}
		if ids := strings.Join(got, " "); ids != c.want {
			t.Errorf("%d to %d at %s: %q, want %q", c.older, c.newer, c.now, ids, c.want)
		}
	}
	for major := oldestMajor; major <= newestMajor; major++ {
		if _, err := time.Parse(time.DateOnly, endOfLife[major]); err != nil {
			t.Errorf("no end of life for %d: %v", major, err)
		}
	}
}

func TestDowngradeIsABlocker(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		if majors.Old == majors.New {
			none(t, check(t, "versions", p.Pair), "versions.downgrade")
			return
		}
		p.Old, p.New = open(t, pg.Old, p.newURL, ""), open(t, pg.New, p.oldURL, "")
		if f := only(t, check(t, "versions", p.Pair), "versions.downgrade", ""); f.Severity != Blocker {
			t.Errorf("a downgrade is a %s", f.Severity)
		}
	})
}

func TestSameServer(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	p.New = open(t, pg.New, p.oldURL, "")
	if f := only(t, check(t, "identity", p.Pair), "identity.same-database", ""); f.Severity != Blocker {
		t.Errorf("one database for both is a %s", f.Severity)
	}
	p.New = open(t, pg.New, pgtest.Database(t, p.oldServer), "")
	if f := only(t, check(t, "identity", p.Pair), "identity.same-cluster", ""); f.Severity != Warning {
		t.Errorf("one cluster for both is a %s", f.Severity)
	}
}

// becomeStandby restarts a cluster as a standby of nobody.
func becomeStandby(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	name, content := "standby.signal", ""
	if c.Major() < 12 {
		name, content = "recovery.conf", "standby_mode = on\n"
	}
	file := filepath.Join(c.DataDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestStandbyIsABlocker(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		c := pgtest.Cluster(t, pgserver.Options{Major: majors.Old})
		becomeStandby(t, c)
		p := pairOf(t, c.URL("postgres"), pgtest.Database(t, pgtest.Server(t, majors.New)))
		if f := only(t, check(t, "identity", p), "identity.standby", ""); f.Severity != Blocker || f.Server != "old" {
			t.Errorf("a standby as old is %+v", f)
		}
		// Nothing else may fail to run on a standby, or its findings hide this one.
		r, err := Run(t.Context(), p, Gates(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range r.Checks {
			if !res.Ran {
				t.Errorf("gate %s could not run on a standby:\n%s", res.ID, text(r.Findings))
			}
		}
	})
}

// A cluster that lacks everything which streams need, on either side.
var tightSettings = map[string]string{
	"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1",
	"max_logical_replication_workers": "0", "max_worker_processes": "1", "max_sync_workers_per_subscription": "0",
	"max_locks_per_transaction": "10", "max_connections": "20", "max_prepared_transactions": "0",
}

func tightPair(t *testing.T, majors pgtest.Pair) pair {
	t.Helper()
	oldSettings, newSettings := maps.Clone(tightSettings), maps.Clone(tightSettings)
	oldSettings["full_page_writes"] = "on"
	oldSettings["fsync"] = "on"
	if majors.New >= 13 {
		newSettings["max_slot_wal_keep_size"] = "1GB"
	}
	if majors.New >= 18 {
		newSettings["max_active_replication_origins"] = "0"
		newSettings["idle_replication_slot_timeout"] = "1h"
	}
	p := pair{
		oldServer: pgtest.Cluster(t, pgserver.Options{Major: majors.Old, Name: "tightold", Settings: oldSettings}),
		newServer: pgtest.Cluster(t, pgserver.Options{Major: majors.New, Name: "tightnew", Settings: newSettings}),
	}
	p.oldURL, p.newURL = p.oldServer.URL("postgres"), p.newServer.URL("postgres")
	p.reopen(t)
	return p
}

// reopen connects anew, as after a restart.
func (p *pair) reopen(t *testing.T) {
	t.Helper()
	p.Pair = pairOf(t, p.oldURL, p.newURL)
	p.Settings.SyncWorkers = 2
}

func TestTightServers(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := tightPair(t, majors)
		testOwnSlotsDoNotCount(t, p)
		pgtest.Exec(t, p.oldURL, `select pg_create_physical_replication_slot('taken')`)
		advice := testTightPublishers(t, p, majors)
		testTightSubscribers(t, p, majors)
		testDurability(t, p)
		advice = append(advice, testFullLockTable(t, p))

		// What is advised, and a restart, mends it.
		for _, f := range advice {
			mend(t, p.oldURL, f)
		}
		if err := p.oldServer.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.reopen(t)
		none(t, onSide(check(t, "publisher", p.Pair), "old"))
		none(t, check(t, "locks", p.Pair))

		// Without a reverse stream nothing is asked of the other roles.
		p.Settings.Rollback = false
		none(t, onSide(check(t, "publisher", p.Pair), "new"))
		none(t, onSide(check(t, "subscriber", p.Pair), "old"))
	})
}

// Our own slot, once the move runs, is not counted twice.
func testOwnSlotsDoNotCount(t *testing.T, p pair) {
	t.Helper()
	p.Settings.SyncWorkers = 0
	pgtest.Exec(t, p.oldURL, `select pg_create_physical_replication_slot('pgcutover_shop')`)
	none(t, onSide(check(t, "publisher", p.Pair), "old"), "publisher.slots")
	pgtest.Exec(t, p.oldURL, `select pg_drop_replication_slot('pgcutover_shop')`,
		`select pg_create_physical_replication_slot('pgcutover_shopping')`)
	only(t, onSide(check(t, "publisher", p.Pair), "old"), "publisher.slots", "")
	pgtest.Exec(t, p.oldURL, `select pg_drop_replication_slot('pgcutover_shopping')`)
	p.Settings.SyncWorkers = 2
}

func testTightPublishers(t *testing.T, p pair, majors pgtest.Pair) []Finding {
	t.Helper()
	found := check(t, "publisher", p.Pair)
	older, newer := onSide(found, "old"), onSide(found, "new")
	only(t, newer, "publisher.wal-level", "")
	only(t, newer, "publisher.senders", "")
	if majors.New >= 13 {
		only(t, newer, "publisher.slot-limit", "")
	}
	if majors.New >= 18 {
		only(t, newer, "publisher.slot-timeout", "")
	}
	slots := only(t, older, "publisher.slots", "")
	// One slot is taken, the stream and two workers need one each.
	if want := "ALTER SYSTEM SET max_replication_slots = 4; -- then restart the server"; slots.Fix != want {
		t.Errorf("fix %q, want %q", slots.Fix, want)
	}
	return []Finding{only(t, older, "publisher.wal-level", ""), slots, only(t, older, "publisher.senders", "")}
}

func testTightSubscribers(t *testing.T, p pair, majors pgtest.Pair) {
	t.Helper()
	found := check(t, "subscriber", p.Pair)
	for _, id := range []string{"subscriber.workers", "subscriber.processes", "subscriber.sync-workers"} {
		only(t, onSide(found, "new"), id, "")
	}
	only(t, onSide(found, "old"), "subscriber.workers", "")
	// Before 18 as many origins as slots are allowed: one, and three are needed.
	origins := "max_replication_slots"
	if majors.New >= 18 {
		origins = "max_active_replication_origins"
	}
	only(t, onSide(found, "new"), "subscriber.origins", origins)
}

func testDurability(t *testing.T, p pair) {
	t.Helper()
	found := check(t, "durability", p.Pair)
	none(t, onSide(found, "old"))
	if f := only(t, onSide(found, "new"), "durability.fsync", ""); f.Severity != Warning {
		t.Errorf("fsync off is a %s before the cutover", f.Severity)
	}
	found = gate(t, "durability", p.Pair)
	if f := only(t, onSide(found, "new"), "durability.full_page_writes", ""); f.Severity != Blocker {
		t.Errorf("full_page_writes off is a %s at the cutover", f.Severity)
	}
}

func testFullLockTable(t *testing.T, p pair) Finding {
	t.Helper()
	none(t, check(t, "locks", p.Pair))
	manyTables(t, p.oldURL, 180)
	return only(t, check(t, "locks", p.Pair), "locks.room", "")
}

func onSide(found []Finding, side string) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Server != side })
}

func TestLocale(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		none(t, check(t, "locale", p.Pair))
		latin := fmt.Sprintf("latin%d", majors.Old)
		admin := p.newServer.URL("postgres")
		pgtest.Exec(t, admin, fmt.Sprintf(`create database %s template template0 encoding 'LATIN1' lc_collate 'POSIX' lc_ctype 'POSIX'`, latin))
		t.Cleanup(func() { pgtest.Exec(t, admin, "drop database "+latin) })
		p.New = open(t, pg.New, p.newServer.URL(latin), "")
		t.Cleanup(p.New.Close)
		found := check(t, "locale", p.Pair)
		if f := only(t, found, "locale.encoding", ""); f.Severity != Blocker || !strings.Contains(f.Seen, "UTF8 on old, LATIN1 on new") {
			t.Errorf("another encoding is %+v", f)
		}
		none(t, found, "locale.collation")
	})
}

func TestLocaleFindings(t *testing.T) {
	libc := func(c string) localeFacts { return localeFacts{"UTF8", c, c, "c", ""} }
	icu := localeFacts{"UTF8", "en_US.UTF-8", "en_US.UTF-8", "i", "en-US"}
	none(t, localeFindings(libc("en_US.UTF-8"), libc("en_US.utf8")))
	none(t, localeFindings(libc("C"), libc("POSIX")))
	none(t, localeFindings(icu, icu))
	for _, f := range []Finding{
		only(t, localeFindings(libc("C"), libc("en_US.UTF-8")), "locale.collation", ""),
		only(t, localeFindings(libc("en_US.UTF-8"), icu), "locale.collation", ""),
		only(t, localeFindings(icu, localeFacts{"UTF8", "C", "C", "b", "C.UTF-8"}), "locale.collation", ""),
	} {
		if !strings.Contains(f.Fix, "CREATE DATABASE") {
			t.Errorf("fix %q", f.Fix)
		}
	}
}

// fakeClients puts programs that claim a version before all others.
func fakeClients(t *testing.T, major int, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %d.1'\n", name, major)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(pgclient.BinVariable, dir)
}

func TestClients(t *testing.T) {
	const beyond = 99 // a major that no machine has
	found, err := clientFindings(t.Context(), beyond)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pg_dump", "pg_restore"} {
		if f := only(t, found, "clients.missing", name); f.Severity != Blocker || f.Fix == "" {
			t.Errorf("a missing %s is %+v", name, f)
		}
	}
	fakeClients(t, beyond, "pg_dump")
	if found, err = clientFindings(t.Context(), beyond); err != nil {
		t.Fatal(err)
	}
	only(t, found, "clients.missing", "pg_restore")
	fakeClients(t, beyond, "pg_dump", "pg_restore")
	p := newPair(t, pgtest.Pairs(t)[0])
	none(t, check(t, "clients", p.Pair))
}
