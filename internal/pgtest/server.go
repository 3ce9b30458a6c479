package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// bootBound covers the fetching of server binaries on a bare machine.
const bootBound = 15 * time.Minute

// shared is the test binary's server of one major. Its lock is held while the
// server boots, so that other majors boot at the same time.
type shared struct {
	sync.Mutex
	cluster *pgserver.Cluster
	err     error // of the first boot; not tried again
}

var (
	inMain    atomic.Bool
	serversMu sync.Mutex
	servers   = map[int]*shared{}
)

// Main runs the tests of a package, closes the shared servers and exits. It is
// the whole body of TestMain.
func Main(m *testing.M) {
	inMain.Store(true)
	code := m.Run()
	if err := closeServers(); err != nil {
		fmt.Fprintln(os.Stderr, "closing the test servers:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func closeServers() error {
	serversMu.Lock()
	defer serversMu.Unlock()
	var first error
	for major, s := range servers {
		s.Lock()
		if s.cluster != nil {
			if err := s.cluster.Close(); err != nil && first == nil {
				first = err
			}
		}
		s.Unlock()
		delete(servers, major)
	}
	return first
}

// sharedSettings make the launcher of apply workers try again soon, since its
// default of 5 s between two starts would be most of a test's time, and leave
// room for many tests at once.
var sharedSettings = map[string]string{
	"wal_retrieve_retry_interval": "200ms",
	"max_connections":             "200",
	"max_prepared_transactions":   "20",
}

// Server returns the test binary's server of a major, booted at its first use.
// It is shared: a test must not stop it or change its settings, see [Cluster]
// for that. The superuser is postgres and every role is trusted.
func Server(t testing.TB, major int) *pgserver.Cluster {
	t.Helper()
	if !inMain.Load() {
		t.Fatal("pgtest.Server needs: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	serversMu.Lock()
	s := servers[major]
	if s == nil {
		s = &shared{}
		servers[major] = s
	}
	serversMu.Unlock()
	s.Lock()
	defer s.Unlock()
	if s.cluster == nil && s.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), bootBound)
		defer cancel()
		s.cluster, s.err = pgserver.Start(ctx, pgserver.Options{Major: major, Name: "test", Settings: sharedSettings})
	}
	if s.err != nil {
		fatal(t, s.err)
	}
	if !s.cluster.Running() {
		t.Fatalf("the shared server %d has ended; its last lines:\n%s", major, s.cluster.LogTail(30))
	}
	return s.cluster
}

// Cluster boots a cluster for one test, which may do with it what it likes. It
// is closed at the test's end; when the test failed, the end of its log is
// shown.
func Cluster(t testing.TB, o pgserver.Options) *pgserver.Cluster {
	t.Helper()
	if o.Name == "" {
		o.Name = strings.ToLower(t.Name())
	}
	if o.Progress == nil {
		o.Progress = func(line string) { t.Log(line) }
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootBound)
	defer cancel()
	c, err := pgserver.Start(ctx, o)
	if err != nil {
		fatal(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last lines of the server %d:\n%s", o.Major, c.LogTail(30))
		}
		if err := c.Close(); err != nil {
			t.Errorf("closing the cluster: %v", err)
		}
	})
	return c
}

// fatal ends the test with an error and what to do about it.
func fatal(t testing.TB, err error) {
	t.Helper()
	if advice := hint.Of(err); advice != "" {
		t.Fatalf("%v\n%s", err, advice)
	}
	t.Fatal(err)
}

// BecomeStandby restarts a cluster as a standby of nobody.
func BecomeStandby(t testing.TB, c *pgserver.Cluster) {
	t.Helper()
	name, content := "standby.signal", ""
	if c.Major() < 12 {
		name, content = "recovery.conf", "standby_mode = on\n"
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir(), name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
