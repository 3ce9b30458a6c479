package fence_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// newPreparing is a server that takes prepared transactions.
func newPreparing(t *testing.T, major int) *server {
	t.Helper()
	c := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{"max_prepared_transactions": "5"}})
	url := pgtest.Database(t, c)
	return install(t, pg.Old, url, url)
}

// A provider's extensions own tables that nobody else can fence. They are left
// out and named, and do not keep the rest from being closed.
func TestTablesOfExtensions(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			for _, s := range []*server{newServer(t, pg.Old, major), newServerAs(t, pg.Old, major)} {
				pgtest.Exec(t, s.url, `create table public.theirs (n integer)`, `alter extension plpgsql add table public.theirs`,
					`grant insert on public.theirs to public`)
				if _, err := s.Pool().Exec(t.Context(), `create table public.ours (n integer)`); err != nil {
					t.Fatal(err)
				}
				super := s.User() == "postgres"
				s.fenced(t)
				left, err := fence.LeftOut(t.Context(), s.Pool())
				if err != nil || super && len(left) != 0 ||
					!super && (len(left) != 1 || left[0] != fence.LeftOutTable{Schema: "public", Name: "theirs", Extension: "plpgsql", Owner: "postgres"}) {
					t.Errorf("superuser %t: left out %+v, %v", super, left, err)
				}
				if tables, err := fence.Tables(t.Context(), s.Pool(), s.Move()); err != nil || len(tables) != 2-len(left) {
					t.Errorf("superuser %t: %+v, %v", super, tables, err)
				}
				if err := fence.AllFenced(t.Context(), s.Pool(), s.Move()); err != nil {
					t.Error(err)
				}
				if n := s.triggers(t); n != 2-len(left) {
					t.Errorf("superuser %t: %d triggers", super, n)
				}
				s.closeAll(t, s.closing())
				if proof := s.prove(t, fence.ProveOptions{}); warned(proof, "tables of extensions cannot be fenced") == super || len(proof.Unfenced) != 0 || proof.LeftOut != len(left) {
					t.Errorf("superuser %t: %+v", super, proof)
				}
				if _, err := fence.Detach(t.Context(), s.Server, time.Minute, nil); err != nil {
					t.Error(err)
				}
				pgtest.Exec(t, s.url, readWrite, `alter extension plpgsql drop table public.theirs`)
			}
		})
	}
}

// A table of somebody else that is no extension's is an error that says what to
// do.
func TestAttachToTablesOfOthers(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newServerAs(t, pg.Old, major)
			pgtest.Exec(t, s.url, `create table public.theirs (n integer)`)
			_, err := fence.Attach(t.Context(), s.Server, time.Minute, nil)
			if pg.Code(err) != pg.InsufficientPrivilege || !strings.Contains(hint.Of(err), "GRANT the owning role") {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
		})
	}
}

// An autovacuum would keep the trigger from being made until deadlock_timeout
// has passed, which is long here.
func TestAttachSendsAutovacuumAway(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{
				"deadlock_timeout": "60s", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1",
				"autovacuum_vacuum_threshold": "10", "autovacuum_vacuum_scale_factor": "0",
			}})
			url := c.URL("postgres")
			s := install(t, pg.Old, url, url)
			pgtest.Exec(t, url, `create table public.t as select generate_series(1, 20000) as n`, `delete from public.t where n % 2 = 0`)
			until(t, "an autovacuum that has its lock", func() bool {
				return pgtest.Value[bool](t, url, `select exists (select 1 from pg_stat_activity join pg_locks l using (pid)
					where query like 'autovacuum: VACUUM%public.t%' and l.relation = 'public.t'::regclass and l.mode = 'ShareUpdateExclusiveLock' and l.granted)`)
			})
			changed, err := fence.AttachWith(t.Context(), s.Server, fence.Options{Bound: 20 * time.Second})
			if err != nil || changed.Tables != 1 || len(changed.Ended) == 0 || changed.Ended[0].How != "cancelled" || !strings.Contains(changed.Ended[0].Session, "autovacuum worker") {
				t.Errorf("%+v, %v", changed, err)
			}
		})
	}
}

func TestAttachEndsWhoIsInTheWay(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`, `create table public.u (n integer)`, `create table public.dropped (n integer)`)
		// One table goes away while it is waited for.
		dropping := begun(t, s.url, `drop table public.dropped`)
		holder := begun(t, s.url, `insert into public.t values (1)`)
		time.AfterFunc(200*time.Millisecond, func() { exec(t, dropping, `commit`) }) //nolint:errcheck // that it is gone shows it
		const after = 3 * time.Second                                                // long enough for the drop to be committed
		var said []string
		began := time.Now()
		changed, err := fence.AttachWith(t.Context(), s.Server, fence.Options{Bound: time.Minute, TerminateAfter: after, Progress: func(text string) { said = append(said, text) }})
		if err != nil || changed.Tables != 2 || len(changed.Ended) != 1 || changed.Ended[0].How != "terminated" || time.Since(began) < after {
			t.Errorf("%+v, %v after %s", changed, err, time.Since(began))
		}
		if err := exec(t, holder, `commit`); pg.Code(err) != pg.AdminShutdown {
			t.Errorf("the holder met %v", err)
		}
		text := strings.Join(said, "\n")
		who := fmt.Sprintf("session %d ", holder.PgConn().PID())
		for _, part := range []string{"making fence triggers: 1 of 3 tables, ", "the next by " + who, "making fence triggers: terminated " + who, "making fence triggers: all 3 tables"} {
			if !strings.Contains(text, part) {
				t.Errorf("%q was not said:\n%s", part, text)
			}
		}
	})
}
