package fence_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func (s *server) prove(t *testing.T, o fence.ProveOptions) fence.Proof {
	t.Helper()
	if o.Within == 0 {
		o.Within = 100 * time.Millisecond
	}
	proof, err := fence.Prove(t.Context(), s.Server, o)
	if err != nil {
		t.Fatal(err)
	}
	proof.Writers = slices.DeleteFunc(proof.Writers, ofServer)
	return proof
}

// ofServer tells what may be seen writing at any time: autovacuum.
func ofServer(w fence.Writer) bool { return strings.HasPrefix(w.Kind, "autovacuum") }

// writersNow are those that write now.
func writersNow(t *testing.T, lease *pgx.Conn, s *server) []fence.Writer {
	t.Helper()
	writers, err := fence.Writers(t.Context(), lease, s.Move())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(writers, ofServer)
}

func warned(proof fence.Proof, part string) bool {
	return slices.ContainsFunc(proof.Warnings, func(w string) bool { return strings.Contains(w, part) })
}

// probedSQL is the zoo and what else makes a kind of its own.
var probedSQL = append(slices.Clone(zooSQL),
	`create table public.leafroot partition of public.root for values in (3) partition by list (n)`,
	`create rule gone as on delete to public.empty do instead nothing`) // probed elsewhere

func TestProve(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, probedSQL...)
		s.fenced(t)
		before := pgtest.Value[string](t, s.url, contentSQL)

		// Everything is wrong with an open server.
		proof := s.prove(t, fence.ProveOptions{})
		for _, part := range []string{"was not refused by the fence: it passed", "default_transaction_read_only is not set", "the turn says that the old server takes writes"} {
			if !warned(proof, part) {
				t.Errorf("no warning %q: %q", part, proof.Warnings)
			}
		}
		if after := pgtest.Value[string](t, s.url, contentSQL); after != before {
			t.Errorf("the probes wrote: %s, now %s", before, after)
		}

		s.closeAll(t, s.closing())
		proof = s.prove(t, fence.ProveOptions{})
		if len(proof.Warnings) != 0 || len(proof.Unfenced) != 0 || len(proof.Writers) != 0 {
			t.Errorf("%+v", proof)
		}
		var classes []string
		for _, p := range proof.Probes {
			classes = append(classes, p.Class)
			if !p.Refused || p.Answer != pg.ReadOnlyTransaction {
				t.Errorf("%+v", p)
			}
		}
		if want := "[inheritance parent inheriting table partition partition with partitions partitioned table table unlogged table]"; fmt.Sprint(classes) != want {
			t.Errorf("probed %v, want %s", classes, want)
		}

		// A refusal that is not ours does not count.
		pgtest.Exec(t, s.url, readWrite, fence.OpenSQL)
		if proof := s.prove(t, fence.ProveOptions{}); !warned(proof, "it passed") {
			t.Errorf("opened behind the tool's back: %q", proof.Warnings)
		}
		pgtest.Exec(t, s.url, readWrite, `create or replace function pgcutover.check() returns void language plpgsql as 'begin raise exception using errcode = ''25006'', message = ''else''; end'`)
		if proof := s.prove(t, fence.ProveOptions{}); !warned(proof, "was not refused by the fence: 25006 else") {
			t.Errorf("refused by something else: %q", proof.Warnings)
		}
		s.close(t, fence.Disconnect)
		proof = s.prove(t, fence.ProveOptions{OnClosed: fence.Disconnect})
		if len(proof.Warnings) != 0 || proof.Probes[0].Answer != pg.AdminShutdown {
			t.Errorf("%+v", proof)
		}
		if proof := s.prove(t, fence.ProveOptions{}); !warned(proof, "57P01") {
			t.Errorf("an unexpected end of the session: %q", proof.Warnings)
		}
	})
}

// Whatever takes the fence from a table after the decision is seen.
func TestProveSeesHoles(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer)`, `create table public.u (id integer)`,
			`create function public.f() returns trigger language plpgsql as 'begin return null; end'`)
		s.fenced(t)
		s.closeAll(t, s.closing())
		name := fence.TriggerName(s.Move())
		make := `create trigger ` + name + ` before insert or update or delete or truncate on public.t for each statement `
		for _, hole := range []struct{ sql, undo string }{
			{`create table public.since (id integer)`, `drop table public.since`},
			{`alter table public.t enable trigger ` + name, `alter table public.t enable always trigger ` + name},
			{`alter table public.t disable trigger ` + name, `alter table public.t enable always trigger ` + name},
			{`drop trigger ` + name + ` on public.t`, make + `execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name},
			{
				`drop trigger ` + name + ` on public.t; ` + make + `execute procedure public.f(); alter table public.t enable always trigger ` + name,
				`drop trigger ` + name + ` on public.t; ` + make + `execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name,
			},
			{
				`drop trigger ` + name + ` on public.t; create trigger ` + name + ` before insert or delete or truncate on public.t for each statement execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name,
				`drop trigger ` + name + ` on public.t; ` + make + `execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name,
			},
			{
				`drop trigger ` + name + ` on public.t; ` + make + `when (false) execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name,
				`drop trigger ` + name + ` on public.t; ` + make + `execute procedure pgcutover.fence(); alter table public.t enable always trigger ` + name,
			},
			{`create trigger second before insert on public.t for each statement execute procedure pgcutover.fence()`, `drop trigger second on public.t`},
		} {
			pgtest.Exec(t, s.url, readWrite, hole.sql)
			proof := s.prove(t, fence.ProveOptions{})
			if len(proof.Unfenced) != 1 || !warned(proof, "without one fence in order") {
				t.Errorf("%s: %+v", hole.sql, proof)
			}
			pgtest.Exec(t, s.url, readWrite, hole.undo)
			if proof := s.prove(t, fence.ProveOptions{}); len(proof.Warnings) != 0 {
				t.Errorf("%s: %q", hole.undo, proof.Warnings)
			}
		}
	})
}

// Whoever writes is seen and told apart.
func TestProveSeesWriters(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer)`)
		s.fenced(t)
		s.closeAll(t, s.closing())
		elsewhere := pgtest.Database(t, pgtest.Server(t, s.Major()))
		begun(t, elsewhere, `select txid_current()`)
		if proof := s.prove(t, fence.ProveOptions{}); len(proof.Warnings) != 0 || len(proof.Writers) != 1 || proof.Writers[0].Here {
			t.Errorf("a writer in another database: %+v", proof)
		}
		tool, err := s.Connect(t.Context(), "test", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer pg.Close(t.Context(), tool)
		do(t, tool, `begin; select txid_current()`)
		for what, sql := range map[string]string{
			"DDL":               `create table public.made (n integer)`,
			"a large object":    `select lo_from_bytea(0, 'x')`,
			"a temporary table": `create temporary table scratch (n integer)`,
			"FOR UPDATE":        `select * from public.one for update`,
		} {
			pgtest.Exec(t, s.url, readWrite, `create table if not exists public.one as select 1 as n`)
			if _, err := fence.Attach(t.Context(), s.Server, time.Minute, nil); err != nil {
				t.Fatal(err)
			}
			client := begun(t, s.url, `set transaction read write`, sql)
			proof := s.prove(t, fence.ProveOptions{})
			who := fmt.Sprintf("somebody writes: session %d (postgres, client backend, idle in transaction, superuser), transaction ", client.PgConn().PID())
			if !warned(proof, who) || len(proof.Warnings) != 1 {
				t.Errorf("%s: %q, want %s", what, proof.Warnings, who)
			}
			do(t, client, `rollback`)
			proof = s.prove(t, fence.ProveOptions{})
			if len(proof.Warnings) != 0 {
				t.Errorf("after %s: %q", what, proof.Warnings)
			}
		}
		// What is over between two looks still counts.
		quick := connect(t, s.url)
		watched := make(chan struct{})
		var beside errgroup.Group
		beside.Go(func() error {
			for {
				select {
				case <-watched:
					return nil
				case <-time.After(10 * time.Millisecond):
				}
				if err := exec(t, quick, `select txid_current()`); err != nil {
					return err
				}
			}
		})
		proof := s.prove(t, fence.ProveOptions{Within: time.Second})
		close(watched)
		if err := beside.Wait(); err != nil || proof.Assigned < 3 {
			t.Errorf("%d transaction ids were counted, %v", proof.Assigned, err)
		}
	})
}

// A role that sees nobody's transactions must not report that there are none.
func TestProveWithoutRights(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newServerAs(t, pg.Old, major)
			if _, err := s.Pool().Exec(t.Context(), `create table public.t (n integer); create table public.mute (n integer) partition by list (n)`); err != nil {
				t.Fatal(err)
			}
			s.fenced(t)
			pgtest.Exec(t, s.url, `revoke delete on public.mute from `+s.User())
			s.closeAll(t, s.closing())
			proof := s.prove(t, fence.ProveOptions{})
			role := pgx.Identifier{s.User()}.Sanitize()
			if len(proof.Warnings) != 2 || !warned(proof, "GRANT pg_monitor TO "+role) || !warned(proof, "no partitioned table could be probed") {
				t.Errorf("%q", proof.Warnings)
			}
			// A superuser's session cannot be ended by it, but here it is its own.
			s.close(t, fence.Disconnect)
			if proof := s.prove(t, fence.ProveOptions{OnClosed: fence.Disconnect}); len(proof.Warnings) != 2 {
				t.Errorf("%q", proof.Warnings)
			}
		})
	}
}

// By default it takes two seconds.
func TestProveIsBounded(t *testing.T) {
	s := newServer(t, pg.Old, pgtest.Majors(t)[0])
	began := time.Now()
	if _, err := fence.Prove(t.Context(), s.Server, fence.ProveOptions{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second || took > 12*time.Second {
		t.Errorf("it took %s", took)
	}
}
