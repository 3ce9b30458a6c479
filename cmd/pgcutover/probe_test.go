package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/probe"
)

// readOnly sets or resets the read-only default of a database.
func readOnly(t *testing.T, url string, on bool) {
	t.Helper()
	name := pgtest.Value[string](t, url, `select current_database()::text`)
	what := " reset default_transaction_read_only"
	if on {
		what = " set default_transaction_read_only = on"
	}
	pgtest.Exec(t, url, `set default_transaction_read_only = off`, `alter database `+name+what)
}

func TestProbe(t *testing.T) {
	old, new := servers(t)
	pgcutover(t, "probe", "--url", new, "--count", "2", "--every", "10ms").
		expect(t, exitDone, "ok ", "2 rounds", "0 failed", "server    system")
	r := pgcutover(t, "probe", "--old", old, "--new", new, "--expect", "new", "--count", "1", "--quiet", "--json")
	var report probe.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitDone || r.err != "" {
		t.Fatalf("%v: %+v", err, r)
	}
	if report.Rounds != 1 || len(report.Servers) != 1 || report.Servers[0].Server.Side != "new" {
		t.Errorf("report %+v", report)
	}
	pgcutover(t, "probe", "--old", old, "--new", new, "--url", old, "--expect", "new", "--count", "1").
		expect(t, exitFailed, "FAIL", "wrong-server", "reaches the old server", "next: ")

	readOnly(t, new, true)
	var told sync.WaitGroup
	told.Add(1)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Done() }))
	defer hook.Close()
	r = pgcutover(t, "probe", "--url", new, "--count", "3", "--every", "10ms", "--quiet", "--webhook", hook.URL)
	r.expect(t, exitFailed, "FAIL", "SQLSTATE 25006", "failing for", "(3 rounds)", "3 of 3 rounds, it still fails", "not over")
	told.Wait()
	if n := strings.Count(r.err, "next: "); n != 2 { // with the first round, and with the error at the end
		t.Errorf("the advice is given %d times:\n%s", n, r.err)
	}
}

func TestProbeUsage(t *testing.T) {
	old, new := servers(t)
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--url", new, "--expect", "newer"}, "old or new"},
		{[]string{"--url", new, "--timeout", "0"}, "--timeout"},
		{[]string{"--url", new, "--count", "-1"}, "--count"},
		{[]string{"--url", new, "--table", "a b"}, "not the name of a table"},
		{[]string{"--url", new, "--webhook", "hook"}, "webhook"},
		{[]string{"--url", "postgres://[/x"}, "connection string"},
		{[]string{"--config", filepath.Join(t.TempDir(), "nothing.yaml")}, "nothing.yaml"},
		{[]string{"--old", old}, "go together"},
	} {
		pgcutover(t, append([]string{"probe", "--count=1"}, test.args...)...).expect(t, exitUsage, test.says)
	}
}

// Without --url the config says where clients go.
func TestProbeByConfig(t *testing.T) {
	old, new := servers(t)
	dir := t.TempDir()
	probed := func(more string) string {
		t.Helper()
		path := filepath.Join(dir, "pgcutover.yaml")
		text := fmt.Sprintf("name: m\nold: { url: %q }\nnew: { url: %q }\n%s", old, new, more)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := pgcutover(t, "probe", "--config", path, "--count=1", "--json")
		var report probe.Report
		if err := json.Unmarshal([]byte(r.out), &report); err != nil {
			t.Fatalf("%v: %+v", err, r)
		}
		return report.URL
	}
	at := func(url string) string { return strings.TrimSuffix(url, "?sslmode=disable") }
	if got := probed(""); got != at(new) {
		t.Errorf("probed %s, want the new server", got)
	}
	if got := probed(fmt.Sprintf("probe: { url: %q }", old)); got != at(old) {
		t.Errorf("probed %s, want probe.url", got)
	}
	// With databases of one name: both.
	admin := strings.Replace(new, at(new)[strings.LastIndex(at(new), "/"):], "/postgres", 1)
	oldName := at(old)[strings.LastIndex(at(old), "/")+1:]
	pgtest.Exec(t, admin, "create database "+oldName)
	t.Cleanup(func() { pgtest.Exec(t, admin, "drop database "+oldName) })
	new = strings.Replace(new, at(new)[strings.LastIndex(at(new), "/"):], "/"+oldName, 1)
	if got := probed("traffic: [multihost: {}]"); strings.Count(got, ",") != 1 {
		t.Errorf("probed %s, want both", got)
	}
}

// shared is a buffer for text that is read while it is written.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// interrupted probes until it has said something, and then gets a SIGINT.
func interrupted(t *testing.T, says string, args ...string) result {
	t.Helper()
	var out, errs shared
	code := make(chan int, 1)
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	go func() { code <- run(&app{out: &out, err: &errs, in: nobody}, append([]string{"probe"}, args...)) }()
	deadline := time.After(time.Minute)
	for tick := time.NewTicker(5 * time.Millisecond); !strings.Contains(errs.String(), says); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it does not say %q:\n%s", says, errs.String())
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-code:
		return result{c, out.String(), errs.String()}
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	return result{}
}

// A probe is ended by a signal as a rule: that is no failure, and hides none.
func TestProbeInterrupted(t *testing.T) {
	_, new := servers(t)
	r := interrupted(t, "ok ", "--url", new, "--every", "20ms", "--json")
	var report probe.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.Rounds == 0 {
		t.Errorf("%v\n%s", err, r.out)
	}
	r.expect(t, exitDone)
	if pgtest.Value[bool](t, new, `select to_regclass('pgcutover_probe') is not null`) {
		t.Error("the table is left")
	}
	readOnly(t, new, true)
	interrupted(t, "failing for", "--url", new, "--every", "20ms").expect(t, exitFailed, "it still fails")
}
