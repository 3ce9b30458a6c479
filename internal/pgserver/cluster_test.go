package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"
)

// testMajors are those of PGCUTOVER_TEST_PAIRS, ascending; without it, all that
// every change must work on.
var testMajors = func() []int {
	majors := []int{10, 13, 15, 17, 18}
	if text := os.Getenv("PGCUTOVER_TEST_PAIRS"); text != "" {
		majors = nil
		for _, digits := range regexp.MustCompile(`\d+`).FindAllString(text, -1) {
			if major, err := strconv.Atoi(digits); err == nil {
				majors = append(majors, major)
			}
		}
		slices.Sort(majors)
	}
	return slices.Compact(majors)
}()

// oldest and newestMajor are for tests for which one major stands for all.
var (
	oldest      = testMajors[0]
	newestMajor = testMajors[len(testMajors)-1]
)

// forMajors runs a subtest for each of testMajors.
func forMajors(t *testing.T, test func(t *testing.T, major int)) {
	for _, major := range testMajors {
		t.Run(strconv.Itoa(major), func(t *testing.T) { test(t, major) })
	}
}

// start starts a cluster that is closed at the test's end.
func start(t *testing.T, o Options) *Cluster {
	t.Helper()
	o.Progress = func(line string) { t.Log(line) }
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// ask returns a query's one value as text.
func ask(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return ""
	}
	return string(last.Rows[0][0])
}

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %q, want %q", what, got, want)
	}
}

func TestClusterIsAsAsked(t *testing.T) {
	t.Parallel()
	forMajors(t, func(t *testing.T, major int) {
		c := start(t, Options{Major: major, Name: "As asked", Settings: map[string]string{"max_wal_senders": "7", "work_mem": "5MB"}})
		url := c.URL("postgres")
		for name, want := range map[string]string{
			"wal_level": "logical", "work_mem": "5MB", "cluster_name": "As asked", "server_encoding": "UTF8",
			"lc_messages": "C", "fsync": "off", "synchronous_commit": "on", "TimeZone": "UTC", "listen_addresses": "127.0.0.1",
			"max_replication_slots": "20", "max_logical_replication_workers": "16", "data_directory": c.DataDir(),
			"port": strconv.Itoa(c.Port()), "max_wal_senders": "7", "max_worker_processes": "24", "unix_socket_directories": "",
		} {
			check(t, name, ask(t, url, "SHOW "+name), want)
		}
		check(t, "major", strconv.Itoa(c.Major()), ask(t, url, "SELECT current_setting('server_version_num')::int / 10000"))
		check(t, "collation", ask(t, url, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"), "C")
		check(t, "user", ask(t, url, "SELECT current_user || rolsuper FROM pg_roles WHERE rolname = current_user"), "postgrestrue")
		// The binaries have what a move needs.
		ask(t, url, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
		ask(t, url, "CREATE EXTENSION pg_prewarm")
		ask(t, url, "DO $$ BEGIN PERFORM 1; END $$")
		check(t, "time zone", ask(t, url, "SELECT '2024-07-01 12:00 Europe/Berlin'::timestamptz = '2024-07-01 10:00+00'"), "t")
		// ALTER SYSTEM must win over the cluster's settings.
		ask(t, url, "ALTER SYSTEM SET work_mem = '6MB'")
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, "work_mem", ask(t, url, "SHOW work_mem"), "6MB")
	})
}

func TestDurableAndNotLogical(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: newestMajor, Durable: true, Settings: map[string]string{"wal_level": "replica"}})
	for name, want := range map[string]string{"fsync": "on", "full_page_writes": "on", "wal_level": "replica"} {
		check(t, name, ask(t, c.URL("postgres"), "SHOW "+name), want)
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	forMajors(t, func(t *testing.T, major int) {
		encryptions := []string{"scram-sha-256"}
		if major == oldest {
			encryptions = append(encryptions, "md5")
		}
		for _, encryption := range encryptions {
			password := "p'w \\%/?@:"
			c := start(t, Options{Major: major, Password: password, Settings: map[string]string{"password_encryption": encryption}})
			url := c.URL("postgres")
			check(t, "stored password", ask(t, url, "SELECT left(rolpassword, 3) FROM pg_authid WHERE rolname = 'postgres'"),
				map[string]string{"scram-sha-256": "SCR", "md5": "md5"}[encryption])
			config, err := pgx.ParseConfig(url)
			if err != nil {
				t.Fatal(err)
			}
			config.Password = "wrong"
			if conn, err := pgx.ConnectConfig(t.Context(), config); err == nil {
				conn.Close(t.Context())
				t.Errorf("%s: a wrong password was accepted", encryption)
			}
			if entries, _ := filepath.Glob(filepath.Join(c.Dir(), ".pass*")); len(entries) > 0 {
				t.Errorf("the password file is still there: %s", entries)
			}
		}
	})
}

func TestAccessLinesComeFirst(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: oldest, HBA: []string{"host all shut 127.0.0.1/32 reject"}})
	ask(t, c.URL("postgres"), "CREATE ROLE shut LOGIN; CREATE ROLE open LOGIN")
	for role, want := range map[string]bool{"shut": false, "open": true} {
		conn, err := pgx.Connect(t.Context(), strings.Replace(c.URL("postgres"), "postgres@", role+"@", 1))
		if err == nil {
			conn.Close(t.Context())
		}
		if (err == nil) != want {
			t.Errorf("role %s connects: %v (%v), want %v", role, err == nil, err, want)
		}
	}
}

// TestAcknowledgedWritesSurvive ends a server in each way and starts it again.
func TestAcknowledgedWritesSurvive(t *testing.T) {
	t.Parallel()
	forMajors(t, func(t *testing.T, major int) {
		c := start(t, Options{Major: major})
		url := c.URL("postgres")
		ask(t, url, "CREATE TABLE kept (n int)")
		ends := []struct {
			name string
			end  func() error
		}{
			{"stop", func() error { return c.Stop(t.Context()) }},
			{"crash", c.Crash},
			{"kill", c.Kill},
			{"nothing", func() error { return nil }},
		}
		for i, e := range ends {
			port := c.Port()
			ask(t, url, fmt.Sprintf("INSERT INTO kept VALUES (%d)", i))
			if err := e.end(); err != nil {
				t.Fatal(e.name, err)
			}
			if want := e.name == "nothing"; c.Running() != want {
				t.Errorf("after %s the server runs: %v", e.name, !want)
			}
			if err := c.Restart(t.Context()); err != nil {
				t.Fatal(e.name, err)
			}
			if c.Port() != port || c.URL("postgres") != url {
				t.Errorf("after %s the port is %d, was %d", e.name, c.Port(), port)
			}
			check(t, "rows after "+e.name, ask(t, url, "SELECT count(*) FROM kept"), strconv.Itoa(i+1))
		}
	})
}

// TestRestartOverABusyOrphan kills the postmaster under a session that does not
// notice, and which keeps the shared memory.
func TestRestartOverABusyOrphan(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: oldest}) // pg_sleep of 10 does not notice
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var group errgroup.Group
	group.Go(func() error {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), "SELECT pg_sleep(600)")
		if err == nil {
			return errors.New("the session outlived its server")
		}
		return nil
	})
	waitFor(t, "the sleeping session", func() bool {
		return ask(t, c.URL("postgres"), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
	})
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// waitFor waits up to a minute.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s took too long", what)
		}
	}
}

// TestStopEndsWithItsContext holds a fast shutdown up with a standby that
// confirms nothing: the server waits for it to have everything.
func TestStopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: newestMajor})
	standby, err := pgconn.Connect(t.Context(), c.URL("postgres")+"&replication=true")
	if err != nil {
		t.Fatal(err)
	}
	defer standby.Close(t.Context())
	standby.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION PHYSICAL " + ask(t, c.URL("postgres"), "SELECT pg_current_wal_lsn()")})
	if err := standby.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	if message, err := standby.ReceiveMessage(t.Context()); err != nil {
		t.Fatal(message, err)
	}
	// A walsender that has not begun to stream is not waited for.
	for late := time.After(time.Minute); ask(t, c.URL("postgres"), "SELECT coalesce(max(state), 'none') FROM pg_stat_replication") != "streaming"; {
		select {
		case <-late:
			t.Fatal("the walsender does not stream")
		case <-time.After(5 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want one about the context", err)
	}
	if c.Running() {
		t.Error("the server runs after Stop with an ended context")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	c, err := Start(t.Context(), Options{Major: newestMajor})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{c.Dir(), c.Dir() + ".lock"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	if err := c.Restart(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("restarting a closed cluster: %v", err)
	}
	p, err := reserve(c.Port())
	if err != nil {
		t.Fatalf("the port was not given back: %v", err)
	}
	p.Release()
}

// TestOwnFolder starts a cluster's data again, on another port.
func TestOwnFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openFolder(t), "it's here")
	first := start(t, Options{Major: oldest, Dir: dir})
	ask(t, first.URL("postgres"), "CREATE TABLE kept AS SELECT 7 AS n")
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("PostgreSQL %d, not %d", oldest, newestMajor)
	if _, err := Start(t.Context(), Options{Major: newestMajor, Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one about the majors", err)
	}
	second := start(t, Options{Major: oldest, Dir: dir, Port: first.Port()})
	check(t, "value", ask(t, second.URL("postgres"), "SELECT n FROM kept"), "7")
	check(t, "port", strconv.Itoa(second.Port()), strconv.Itoa(first.Port()))
}

func TestWrongSettingShowsTheLog(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{Major: oldest, Settings: map[string]string{"no_such_setting": "1"}})
	if !errors.Is(err, errExited) || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("error %v, want the server's own words", err)
	}
}

// TestTakenPort lets a stranger, who reserves nothing, take the port just
// before the server starts.
func TestTakenPort(t *testing.T) {
	t.Parallel()
	who, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	binaries, err := Find(t.Context(), oldest, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{options: Options{Major: oldest}, binaries: binaries, who: who}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := errors.Join(c.makeDir(t.Context()), c.initialize(t.Context()), c.choosePort()); err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Listen("tcp4", c.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	taken := c.Port()
	if err := c.launchSomewhere(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(t, "answer", ask(t, c.URL("postgres"), "SELECT 1"), "1")
	if c.Port() == taken {
		t.Error("the server is on the stranger's port")
	}
}

func TestPortsHaveOneHolder(t *testing.T) {
	t.Parallel()
	var numbers []int
	for range 50 {
		p, err := ReservePort()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Release()
		if slices.Contains(numbers, p.Number) {
			t.Errorf("port %d was given twice", p.Number)
		}
		numbers = append(numbers, p.Number)
		if again, err := reserve(p.Number); err == nil {
			again.Release()
			t.Errorf("port %d was reserved twice", p.Number)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	clusters := make([]*Cluster, 4)
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(3)
	for i := range clusters {
		group.Go(func() (err error) {
			clusters[i], err = Start(ctx, Options{Major: testMajors[i%len(testMajors)], Name: "many"})
			return err
		})
	}
	err := group.Wait()
	seen := map[string]bool{}
	for _, c := range clusters {
		if c == nil {
			continue
		}
		seen[c.Addr()+c.Dir()] = true
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err != nil || len(seen) != len(clusters) {
		t.Errorf("%d different clusters, %v, want %d", len(seen), err, len(clusters))
	}
}
