package preflight

import (
	"fmt"
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
		{13, 15, "2026-11-10", "versions.end-of-life"},
		{13, 15, "2026-11-12", "versions.end-of-life versions.end-of-life"},
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

func TestStandbyIsABlocker(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		c := pgtest.Cluster(t, pgserver.Options{Major: majors.Old})
		pgtest.BecomeStandby(t, c)
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

// Our own slot, once the move runs, is not counted twice, and without a reverse
// stream nothing is asked of the other roles.
func TestWhatStreamsNeed(t *testing.T) {
	majors := pgtest.Pairs(t)[0]
	p := newPair(t, majors)
	tight := pgtest.Cluster(t, pgserver.Options{Major: majors.Old, Name: "tight", Settings: map[string]string{"max_replication_slots": "1", "max_logical_replication_workers": "0"}})
	p.oldURL = tight.URL("postgres")
	p.Old = open(t, pg.Old, p.oldURL, "")
	pgtest.Exec(t, p.oldURL, `select pg_create_physical_replication_slot('pgcutover_shop')`)
	none(t, onSide(check(t, "publisher", p.Pair), "old"), "publisher.slots")
	pgtest.Exec(t, p.oldURL, `select pg_drop_replication_slot('pgcutover_shop')`,
		`select pg_create_physical_replication_slot('pgcutover_shopping')`)
	slots := only(t, onSide(check(t, "publisher", p.Pair), "old"), "publisher.slots", "")
	if want := "ALTER SYSTEM SET max_replication_slots = 2; -- then restart the server"; slots.Fix != want {
		t.Errorf("fix %q, want %q", slots.Fix, want)
	}
	p.Settings.SyncWorkers, p.Settings.Databases = 2, 3
	slots = only(t, onSide(check(t, "publisher", p.Pair), "old"), "publisher.slots", "")
	if !strings.Contains(slots.Seen, "1 are taken, the move needs 9") { // in each database one stream and two copies
		t.Errorf("got %+v", slots)
	}
	only(t, onSide(check(t, "subscriber", p.Pair), "old"), "subscriber.workers", "")
	p.Settings.Rollback = false
	none(t, onSide(check(t, "subscriber", p.Pair), "old"))
}

// What is a warning while there is time blocks a cutover.
func TestDurabilityGate(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0]) // the test servers run without fsync
	if f := only(t, onSide(gate(t, "durability", p.Pair), "old"), "durability.fsync", ""); f.Severity != Blocker {
		t.Errorf("fsync off is a %s at the cutover", f.Severity)
	}
}

func onSide(found []Finding, side string) []Finding {
	return slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Server != side })
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
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		found := check(t, "clients", newPair(t, majors).Pair)
		if majors.New >= 17 {
			none(t, found)
			return
		}
		// Programs of 17 and later cannot restore into an earlier server.
		if f := only(t, found, "clients.missing", "pg_dump"); f.Severity != Blocker || !strings.Contains(f.Fix, pgclient.BinVariable) {
			t.Errorf("got %+v", f)
		}
	})
}
