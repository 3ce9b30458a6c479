package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// failOver makes a server what a promoted standby is: the same cluster at the
// same address on another timeline, with whatever had reached it.
func failOver(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The server's user reads it.
	if err := os.WriteFile(filepath.Join(c.DataDir(), "standby.signal"), nil, 0o644); err != nil { //nolint:gosec // empty
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(c.DataDir(), "PG_VERSION")); err != nil {
		t.Fatal(err)
	} else if err := chownLike(filepath.Join(c.DataDir(), "standby.signal"), info); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, c.LogTail(20))
	}
	admin := c.URL("postgres")
	if !pgtest.Value[bool](t, admin, "select pg_promote()") {
		t.Fatalf("not promoted:\n%s", c.LogTail(20))
	}
	until(t, "the promoted server to take writes", time.Minute, func() bool {
		return !pgtest.Value[bool](t, admin, "select pg_is_in_recovery()")
	}, nil)
}

// TestFailedOver promotes a server in the middle of a move. What was recorded at
// start does not hold for it any more, and every command says so by name.
func TestFailedOver(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"old", "new"} {
		t.Run(side, func(t *testing.T) {
			parallel(t)
			pair := pgtest.Pairs(t)[0]
			own := map[string]*pgserver.Cluster{}
			for name, major := range map[string]int{"old": pair.Old, "new": pair.New} {
				own[name] = pgtest.Server(t, major)
				if name == side {
					own[name] = pgtest.Cluster(t, pgserver.Options{Major: major, Durable: true})
				}
			}
			m := newMoveBetween(t, own["old"], own["new"])
			m.run(t, exitDone, "start")
			failOver(t, own[side])
			for _, args := range [][]string{{"status"}, {"start"}, {"cutover", "--yes"}, {"rollback", "--yes"}, {"resume"}} {
				r := m.run(t, exitFailed, args...)
				if want := "the " + side + " server is on timeline 2"; !strings.Contains(r.stderr, want) {
					t.Errorf("%v after a failover of %s does not say %q:\n%s", args, side, want, r)
				}
			}
			// The way out.
			m.run(t, exitDone, "abort", "--yes")
		})
	}
}
