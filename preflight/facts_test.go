package preflight

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMinorReleases(t *testing.T) {
	for _, c := range []struct {
		older, newer int
		want         string
	}{
		{150018, 180004, ""},
		{150014, 180000, ""}, // not far behind
		{150013, 180004, "old"},
		{100001, 170001, "old new"},
		{90624, 190000, ""}, // nothing is known of these
	} {
		var sides []string
		for _, f := range minorFindings(c.older, c.newer) {
			sides = append(sides, f.Server)
			if f.ID != "versions.minor" || f.FixKind != FixAction {
				t.Errorf("got %+v", f)
			}
		}
		if got := strings.Join(sides, " "); got != c.want {
			t.Errorf("%d to %d: %q, want %q", c.older, c.newer, got, c.want)
		}
	}
}

func TestOutputPlugins(t *testing.T) {
	for _, fine := range []string{"pgoutput", "pgoutput, test_decoding", ` test_decoding ,"pgoutput"`} {
		none(t, pluginFindings("old", fine))
	}
	f := only(t, pluginFindings("old", "wal2json"), "publisher.output-plugin", "")
	if f.Severity != Blocker || !strings.Contains(f.Fix, "'wal2json, pgoutput'") {
		t.Errorf("got %+v", f)
	}
	if f := pluginFindings("new", ""); len(f) != 1 || !strings.Contains(f[0].Fix, "'pgoutput'") {
		t.Errorf("got %+v", f)
	}
}

// The clocks of two machines, and what the way to them explains of a difference.
func TestClocks(t *testing.T) {
	ms := time.Millisecond
	none(t, skewFindings(reading{10 * ms, 900 * ms}, reading{10 * ms, -90 * ms}))
	none(t, skewFindings(reading{4000 * ms, 1900 * ms}, reading{10 * ms, 0})) // half of the round trip
	found := skewFindings(reading{10 * ms, 0}, reading{10 * ms, -90 * time.Second})
	both := only(t, found, "network.clock", "the new server and the old one")
	if both.Severity != Warning || both.Server != Both || !strings.Contains(both.Seen, "1m30s behind") {
		t.Errorf("got %+v", both)
	}
	if len(found) != 2 {
		t.Errorf("the new server's clock is behind this machine's too:\n%s", text(found))
	}
	p := newPair(t, pgtest.Pairs(t)[0]) // and those of one machine
	none(t, check(t, "network", p.Pair), "network.clock")
	here, err := readClock(t.Context(), p.Old)
	if err != nil {
		t.Fatal(err)
	}
	if here.Trip <= 0 || here.Offset.Abs() > here.Trip+ms {
		t.Errorf("the clock of this very machine is off by %s at a round trip of %s", here.Offset, here.Trip)
	}
}

// A busy machine makes some round trips long, a long way all of them.
func TestLatencyOfABusyMachine(t *testing.T) {
	asked := 0
	of := func(quickOne int) func() (reading, error) {
		asked = 0
		return func() (reading, error) {
			if asked++; asked == quickOne {
				return reading{Trip: time.Millisecond, Offset: time.Minute}, nil
			}
			return reading{Trip: 2 * slowTrip}, nil
		}
	}
	if r, err := best(of(20)); err != nil || r != (reading{time.Millisecond, time.Minute}) || asked != 20 {
		t.Errorf("got %+v, %v after %d questions", r, err, asked)
	}
	if r, err := best(of(1)); err != nil || r.Trip != time.Millisecond || asked != readings {
		t.Errorf("got %+v, %v after %d questions", r, err, asked)
	}
	began := time.Now()
	if r, err := best(of(-1)); err != nil || r.Trip != 2*slowTrip || time.Since(began) < patience {
		t.Errorf("got %+v, %v after %s", r, err, time.Since(began))
	}
	lost := errors.New("lost")
	if _, err := best(func() (reading, error) { return reading{}, lost }); !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}

func TestLatency(t *testing.T) {
	none(t, latencyFindings(pg.Old, time.Millisecond, time.Second))
	if f := latencyFindings(pg.Old, 10*time.Millisecond, 10*time.Second); len(f) != 1 || f[0].Severity != Note {
		t.Errorf("got %+v", f)
	}
	if f := latencyFindings(pg.New, 10*time.Millisecond, 150*time.Millisecond); len(f) != 1 || f[0].Severity != Warning {
		t.Errorf("got %+v", f)
	}
}

func TestPlainConnection(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	here, err := readOne[tlsFacts](t.Context(), p.Old, "looking for TLS", tlsSQL)
	if err != nil || here.Client == "" || here.remote() {
		t.Errorf("got %+v, %v", here, err)
	}
	far := tlsFacts{Client: "10.1.2.3", Address: "10.1.2.4"}
	if f := plainFindings(p.Old, far); len(f) != 1 || f[0].ID != "tls.plain" || !strings.Contains(f[0].Fix, "turn ssl on") {
		t.Errorf("got %+v", f)
	}
	far.Offered = true
	if f := plainFindings(p.Old, far); len(f) != 1 || !strings.Contains(f[0].Fix, "sslmode=require") {
		t.Errorf("got %+v", f)
	}
	far.Used = true
	none(t, plainFindings(p.Old, far))
	if f := offFindings(tlsFacts{Offered: true, Clients: 2}, tlsFacts{}); len(f) != 1 || f[0].Severity != Warning {
		t.Errorf("got %+v", f)
	}
}

func TestMoney(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, `create table prices (id int primary key, amounts money[])`)
	types, err := readOne[typesInUse](t.Context(), p.Old, "looking for columns of XML and money", typesInUseSQL)
	if err != nil || !types.Money || types.XML {
		t.Errorf("got %+v, %v", types, err)
	}
	of := func(value string) map[string]settingFacts {
		return map[string]settingFacts{"lc_monetary": {Name: "lc_monetary", Setting: value, Source: "configuration file", Boot: "C"}}
	}
	f := only(t, formatFindings(p.New, of("de_DE.UTF-8"), of("C"), types), "settings.money", "")
	if f.Severity != Blocker || !strings.HasSuffix(f.Fix, "SET lc_monetary = 'de_DE.UTF-8';") {
		t.Errorf("got %+v", f)
	}
	none(t, formatFindings(p.New, of("de_DE.UTF-8"), of("de_DE.utf8"), types))
	none(t, formatFindings(p.New, of("C.UTF-8"), of("POSIX"), types))
	only(t, formatFindings(p.New, of("de_DE.UTF-8"), of("C"), typesInUse{}), "settings.differ", "")
}

// What is set on roles and the old database is carried over; the majors' own
// defaults may differ.
func TestSettingsThatDoNotDiffer(t *testing.T) {
	for _, c := range []struct {
		older, newer settingFacts
		want         bool
	}{
		{settingFacts{Setting: "a", Boot: "a"}, settingFacts{Setting: "b", Boot: "b"}, false},
		{settingFacts{Setting: "a", Source: "database"}, settingFacts{Setting: "b"}, false},
		{settingFacts{Setting: "a", Source: "database user"}, settingFacts{Setting: "b"}, false},
		{settingFacts{Setting: "a"}, settingFacts{Setting: "b", Source: "user"}, false},
		{settingFacts{Setting: "a"}, settingFacts{Setting: "b", Source: "database"}, true},
		{settingFacts{Setting: "a"}, settingFacts{Setting: "A"}, false},
	} {
		if got := differs(c.older, c.newer); got != c.want {
			t.Errorf("%+v and %+v: %t", c.older, c.newer, got)
		}
	}
}

func TestLibraryThatIsNotOffered(t *testing.T) {
	f := libraryFinding([]string{"one"}, []string{"two", "three"}, []string{"two"})
	if f.FixKind != FixAction || !strings.Contains(f.Fix, "that three is on") || !strings.Contains(f.Fix, "= 'one', 'two', 'three'") {
		t.Errorf("got %+v", f)
	}
	if got := nameList(`$libdir/a.so, "b" ,/opt/c`); strings.Join(got, " ") != "a b c" {
		t.Errorf("got %q", got)
	}
}

func TestBulkSettings(t *testing.T) {
	const gb = 1 << 30
	none(t, bulkFindings(gb, 64<<20, 60*gb)) // the defaults
	only(t, bulkFindings(gb, gb, 100*gb), "bulk.max-wal-size", "")
	f := only(t, bulkFindings(64*gb, 64<<20, 100*gb), "bulk.maintenance-work-mem", "")
	if !strings.Contains(f.Fix, "'512MB'") {
		t.Errorf("got %+v", f)
	}
	for memory := int64(64 << 20); memory <= gb; memory *= 2 {
		for size := int64(gb); size < 1<<45; size *= 4 {
			if found := bulkFindings(1<<40, memory, size); len(found) > 0 {
				none(t, bulkFindings(1<<40, 512<<20, size)) // what is advised suffices
			}
		}
	}
}

func TestWALRate(t *testing.T) {
	const gb = 1 << 30
	none(t, walFindings(1<<20, "just now", 25*gb, 20*gb)) // 1,024 s
	f := only(t, walFindings(25<<20, "just now", 25*gb, 20*gb), "space.wal-rate", "")
	if !strings.Contains(f.Seen, "25.0 GiB of WAL by then, wal.warn is 20.0 GiB") {
		t.Errorf("got %+v", f)
	}
}

func TestSynchronousNames(t *testing.T) {
	for _, c := range []struct {
		names  string
		wanted int
		stream bool
	}{
		{"one", 1, false},
		{"*", 1, true},
		{`"PGCUTOVER_shop", one`, 1, true},
		{"FIRST 2 (one, two)", 2, false},
		{"any 3 (one, *)", 3, true},
		{"2 (one, pgcutover_shop)", 2, true},
	} {
		f := syncFacts{Names: c.names}
		if f.wanted() != c.wanted || f.named("pgcutover_shop") != c.stream {
			t.Errorf("%s: %d standbys, the stream is one: %t", c.names, f.wanted(), f.named("pgcutover_shop"))
		}
	}
	p := newPair(t, pgtest.Pairs(t)[0])
	f := applyFindings(p.Old, syncFacts{Names: "ANY 1 (*)", Standbys: []string{"a", `b"c`}})
	if len(f) != 1 || !strings.Contains(f[0].Fix, `'FIRST 1 ("a", "b""c")'`) {
		t.Errorf("got %+v", f)
	}
	only(t, syncFindings(p.Old, syncFacts{Names: "ANY 2 (a, b, c)", Synchronous: 1}, Warning), "standbys.sync-missing", "")
	none(t, syncFindings(p.Old, syncFacts{Names: "ANY 2 (a, b, c)", Synchronous: 2}, Warning))
}

// A role that is no superuser is bound by its own limit and the database's.
func TestConnectionLimits(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.oldURL, fmt.Sprintf("alter database %s connection limit 5", quote(p.Old.Database())))
	role(t, p.oldURL, "limited", "login connection limit 6")
	none(t, check(t, "connections", p.Pair), "connections.limit") // a superuser
	p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "limited", ""), "")
	found := check(t, "connections", p.Pair)
	for _, object := range []string{`role "limited"`, "database"} {
		f := only(t, found, "connections.limit", object)
		if f.Undo == "" {
			t.Errorf("the old limit is forgotten: %+v", f)
		}
		mend(t, p.oldURL, f)
	}
	none(t, check(t, "connections", p.Pair), "connections.limit")
}

// From 18 on clusters have checksums by default: what a move would lose is seen
// the other way round.
func TestChecksums(t *testing.T) {
	p := newPair(t, pgtest.Pair{Old: 18, New: 15})
	if f := only(t, check(t, "checksums", p.Pair), "checksums.off", ""); f.Severity != Note {
		t.Errorf("got %+v", f)
	}
	p.Old, p.New = open(t, pg.Old, p.newURL, ""), open(t, pg.New, p.oldURL, "")
	none(t, check(t, "checksums", p.Pair))
}

// The timeouts of another role, which the subscription connects as.
func TestTimeoutsOfAnotherRole(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	role(t, p.oldURL, "streamer", "login replication")
	p.Old = open(t, pg.Old, p.oldURL, pgtest.WithUser(t, p.oldURL, "streamer", "x"))
	none(t, check(t, "timeouts", p.Pair))
	pgtest.Exec(t, p.oldURL, `alter role streamer set statement_timeout = '5min'`)
	f := only(t, check(t, "timeouts", p.Pair), "timeouts.copy", "statement_timeout")
	if !strings.Contains(f.Seen, `is 5min for role "streamer"`) {
		t.Errorf("got %+v", f)
	}
	mend(t, p.oldURL, f)
	none(t, check(t, "timeouts", p.Pair))
}

// A role without pg_monitor sees less, but every check comes to an end.
func TestChecksOfAPlainRole(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	role(t, p.oldURL, "humble_old", "login replication")
	role(t, p.newURL, "humble_new", "login replication")
	p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "humble_old", ""), "")
	p.New = open(t, pg.New, pgtest.WithUser(t, p.newURL, "humble_new", ""), "")
	p.Settings.WALWarn = 1
	r, err := Run(t.Context(), p.Pair, slices.Concat(serverChecks(), spaceChecks(), targetChecks()), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if !c.Ran {
			t.Errorf("check %s could not run:\n%s", c.ID, text(r.Findings))
		}
	}
	none(t, r.Findings, "subscriber.processes", "settings.differ", "preload.missing", "connections.room")
}

// defaultSettings are PostgreSQL's own, where the test servers have others.
var defaultSettings = map[string]string{
	"wal_level": "logical", "max_replication_slots": "10", "max_wal_senders": "10", "max_worker_processes": "8",
	"max_logical_replication_workers": "4", "shared_buffers": "128MB",
}

// Servers as initdb leaves them, but for wal_level, have nothing to be warned of
// as long as nothing is asked of them but one move.
func TestDefaultServers(t *testing.T) {
	majors := pgtest.Pairs(t)[0]
	fakeClients(t, max(majors.Old, majors.New), "pg_dump", "pg_restore", "pg_dumpall")
	boot := func(name string, major int) string {
		c := pgtest.Cluster(t, pgserver.Options{Major: major, Name: name, Durable: true, Settings: defaultSettings})
		return pgtest.Database(t, c)
	}
	oldURL := boot("defaultold", majors.Old)
	pgtest.Exec(t, oldURL, cleanTables)
	p := pairOf(t, oldURL, boot("defaultnew", majors.New))
	p.Settings = Settings{SyncWorkers: 2, Rollback: true, WALWarn: 20 << 30, Pause: 10 * time.Second}
	r, err := Run(t.Context(), p, All(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if !ofMajors[f.ID] && f.ID != "rights.shared-role" {
			t.Errorf("servers with default settings have\n%s", text([]Finding{f}))
		}
	}
	// Five databases at a time are more than the workers suffice for.
	p.Settings.Databases = 5
	only(t, onSide(check(t, "subscriber", p), "new"), "subscriber.workers", "")
	only(t, onSide(check(t, "publisher", p), "old"), "publisher.slots", "")
}

func TestAccessRules(t *testing.T) {
	rule := func(databases, users, address, mask, method string) accessRule {
		return accessRule{"host", strings.Fields(databases), strings.Fields(users), address, mask, method}
	}
	rules := []accessRule{
		{"local", []string{"all"}, []string{"all"}, "", "", "trust"},
		rule("shop", "app", "10.0.0.0", "255.0.0.0", "scram-sha-256"),
		rule("sameuser", "all", "all", "", "md5"),
		rule("all", "intruder", "10.0.0.0", "255.255.0.0", "reject"),
		rule("other shop", "reader +team", "fd00::", "ffff::", "cert"),
	}
	for _, c := range []struct{ role, address, want string }{
		{"app", "10.1.2.3", "scram-sha-256"},
		{"app", "11.1.2.3", ""},
		{"shop", "11.1.2.3", "md5"},
		{"intruder", "10.0.9.9", "reject"},
		{"reader", "fd00::7", "cert"},
		{"reader", "10.0.0.1", ""},
		{"anybody", "fd00::7", "cert"}, // may be in the group
		{"anybody", "fe00::7", ""},
	} {
		if r, _ := decisive(rules, "shop", comer{c.role, c.address}); r.Method != c.want {
			t.Errorf("%s from %s: %q, want %q", c.role, c.address, r.Method, c.want)
		}
	}
}
