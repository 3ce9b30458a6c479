package state_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// plain is a server as a role sees it that may not open replication connections.
func plain(t *testing.T, url string) *pg.Server {
	t.Helper()
	role := fmt.Sprintf("plain_%d", time.Now().UnixNano())
	pgtest.Exec(t, url, "create role "+role+" login")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop role "+role) })
	return open(t, pg.Old, pgtest.WithUser(t, url, role, ""), "m")
}

func identified(t *testing.T, s *pg.Server) state.Identity {
	t.Helper()
	id, err := state.Identify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Every role sees the same identity.
func TestIdentifyWithoutReplication(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		if got, want := identified(t, plain(t, p.oldURL)), identified(t, p.old); got != want || want.Timeline != 1 {
			t.Errorf("%+v, and to a superuser %+v", got, want)
		}
	})
}

// After a promotion the new timeline is seen at once, by every role, although the
// checkpoint that writes it to the control file takes its time.
func TestIdentifyAfterPromotion(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	for _, major := range []int{pair.Old, pair.New} {
		if major < 12 { // cannot be promoted by SQL
			continue
		}
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Cluster(t, pgserver.Options{Major: major})
			url := c.URL("postgres")
			before := identified(t, plain(t, url))
			pgtest.BecomeStandby(t, c)
			checkpointer, err := os.FindProcess(pgtest.Value[int](t, url, `select pid from pg_stat_activity where backend_type = 'checkpointer'`))
			if err != nil {
				t.Fatal(err)
			}
			signal := func(s syscall.Signal) {
				if err := checkpointer.Signal(s); err != nil {
					t.Error(err)
				}
			}
			signal(syscall.SIGSTOP)
			t.Cleanup(func() { signal(syscall.SIGCONT) })
			if !pgtest.Value[bool](t, url, `select pg_promote()`) {
				t.Fatal("not promoted")
			}
			if on := pgtest.Value[int](t, url, `select timeline_id from pg_control_checkpoint()`); on != 1 {
				t.Fatalf("the control file is on timeline %d already", on)
			}
			want := before
			want.Timeline = 2
			if now := identified(t, open(t, pg.Old, url, "m")); now != want {
				t.Errorf("to a superuser %+v, want %+v", now, want)
			}
			if now := identified(t, plain(t, url)); now != want {
				t.Errorf("%+v, want %+v", now, want)
			}
		})
	}
}
