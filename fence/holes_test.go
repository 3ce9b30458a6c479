package fence_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/preflight"
)

// What passes the gate and the closed fence, and what finds it instead. See
// docs/cutover.md, "What is not held back by the freeze?".

// neighbours runs the gate that looks for subscriptions of others.
func (s *server) neighbours(t *testing.T, target *server) []preflight.Finding {
	t.Helper()
	for _, c := range preflight.Gates() {
		if c.ID == "neighbours" {
			found, err := c.Run(t.Context(), &preflight.Pair{Old: s.Server, New: target.Server})
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
	}
	t.Fatal("there is no such gate")
	return nil
}

// Rows that another subscription's worker applies fire no trigger at all. So no
// cutover begins while there is one.
func TestHoleApplyWorkerOfOthers(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		cluster := pgtest.Server(t, s.Major())
		from := pgtest.Database(t, cluster)
		target := newServer(t, pg.New, s.Major())
		for _, url := range []string{from, s.url} {
			pgtest.Exec(t, url, `create table public.t (id integer primary key)`)
		}
		slot := "theirs_" + s.Move()
		pgtest.Exec(t, from, `create publication p for table public.t`, fmt.Sprintf(`select pg_create_logical_replication_slot('%s', 'pgoutput')`, slot))
		s.fenced(t)
		pgtest.Exec(t, s.url, fmt.Sprintf(
			`create subscription %[1]s connection 'host=127.0.0.1 port=%[2]d dbname=%[3]s user=postgres' publication p with (create_slot = false, slot_name = '%[1]s', copy_data = false)`,
			slot, cluster.Port(), pgtest.Value[string](t, from, `select current_database()::text`)))
		arrived := func(n int) func() bool {
			return func() bool { return pgtest.Value[int](t, s.url, `select count(*) from public.t`) == n }
		}
		found := s.neighbours(t, target)
		if len(found) != 1 || found[0].Severity != preflight.Blocker || !strings.Contains(found[0].Object, slot) || !strings.Contains(found[0].Seen, `"public"."t"`) {
			t.Errorf("the gate found %+v", found)
		}
		s.closeAll(t, s.closing())
		pgtest.Exec(t, from, `insert into public.t values (1)`)
		until(t, "the worker to write through the closed fence", arrived(1))
		if proof := s.prove(t, fence.ProveOptions{}); !warned(proof, `subscription "`+slot+`" is enabled`) {
			t.Errorf("%q", proof.Warnings)
		}

		// Disabled, as the gate advises, it writes no more and is only named.
		s.openAll(t)
		pgtest.Exec(t, s.url, strings.TrimPrefix(found[0].Fix, "before the cutover, on old: "))
		found = s.neighbours(t, target)
		if len(found) != 1 || found[0].Severity != preflight.Note || !strings.Contains(found[0].Seen, "disabled") {
			t.Errorf("the gate found %+v", found)
		}
		s.closeAll(t, s.closing())
		if proof := s.prove(t, fence.ProveOptions{}); len(proof.Warnings) != 0 {
			t.Errorf("%q", proof.Warnings)
		}
		until(t, "the worker to end", func() bool {
			return pgtest.Value[int](t, s.url, `select count(*) from pg_stat_subscription where subname = $1 and pid is not null`, slot) == 0
		})
		pgtest.Exec(t, from, `insert into public.t values (2)`)
		<-time.After(200 * time.Millisecond)
		if !arrived(1)() {
			t.Error("a disabled subscription writes")
		}
		pgtest.Exec(t, s.url, readWrite, fmt.Sprintf(`alter subscription %s set (slot_name = none)`, slot), `drop subscription `+slot)
		until(t, "the slot to be free", func() bool {
			return !pgtest.Value[bool](t, from, `select active from pg_replication_slots where slot_name = $1`, slot)
		})
		pgtest.Exec(t, from, fmt.Sprintf(`select pg_drop_replication_slot('%s')`, slot))
	})
}

// A session in the replica role passes an ordinary trigger. So ours fires
// always, and one that does not any more is found in the pause.
func TestHoleReplicaRole(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (id integer)`)
		s.fenced(t)
		s.close(t, fence.Error)
		replica := connect(t, s.url)
		do(t, replica, `set session_replication_role = replica`)
		refused(t, "in the replica role", exec(t, replica, `insert into public.t values (1)`))
		// What pg_restore --disable-triggers leaves behind.
		pgtest.Exec(t, s.url, `alter table public.t disable trigger all`, `alter table public.t enable trigger all`)
		do(t, replica, `insert into public.t values (1)`)
		if err := fence.AllFenced(t.Context(), s.Pool(), s.Move()); err == nil {
			t.Error("it is not found in the pause")
		}
		if proof := s.prove(t, fence.ProveOptions{}); len(proof.Unfenced) != 1 {
			t.Errorf("it is not found afterwards: %+v", proof)
		}
	})
}

// A partition made since the triggers were has none: the lease makes it, and
// writers that wait there are refused like all others.
func TestHoleTableMadeSince(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.root (n integer) partition by list (n)`, `create table public.parent (n integer)`)
		s.fenced(t)
		pgtest.Exec(t, s.url, `create table public.made partition of public.root for values in (1)`,
			`create table public.part (n integer)`, `alter table public.root attach partition public.part for values in (2)`,
			`create table public.heir () inherits (public.parent)`)
		tables := []string{"made", "part", "heir"}
		var writers []*pgx.Conn
		for i, table := range tables {
			conn := connect(t, s.url)
			for range 6 { // warmed
				do(t, conn, `update public.`+table+` set n = n where n = $1`, -1)
			}
			if i == 0 { // one that has written, and is waited for
				do(t, conn, `begin; update public.made set n = n where false`)
			}
			writers = append(writers, conn)
		}
		// Who stays is named, and the lease's transaction stays usable.
		lease := begun(t, s.url, `lock table pgcutover.gate in exclusive mode`)
		_, err := fence.AttachMissing(t.Context(), lease, s.Server)
		who := fmt.Sprintf("session %d ", writers[0].PgConn().PID())
		if pg.Code(err) != pg.LockNotAvailable || !strings.Contains(err.Error(), who) || !strings.Contains(err.Error(), `"made"`) || hint.Of(err) == "" {
			t.Errorf("%v, hint %q; want it to name %s", err, hint.Of(err), who)
		}
		time.AfterFunc(150*time.Millisecond, func() { exec(t, writers[0], `commit`) })               //nolint:errcheck // the lease gets the table
		if made, err := fence.AttachMissing(t.Context(), lease, s.Server); err != nil || made != 2 { // the heir has its own already
			t.Fatalf("made %d, %v", made, err)
		}
		var timeout string
		if err := lease.QueryRow(t.Context(), `show lock_timeout`).Scan(&timeout); err != nil || timeout != "0" {
			t.Errorf("lock_timeout is left at %s, %v", timeout, err)
		}
		answers := make(chan error, len(writers))
		for i, conn := range writers {
			go func() {
				_, err := conn.Exec(context.WithoutCancel(t.Context()), `insert into public.`+tables[i]+` values ($1)`, min(i+1, 2))
				answers <- err
			}()
		}
		until(t, "all to wait", func() bool {
			return pgtest.Value[int](t, s.url, `select count(*) from pg_locks where not granted and database = (select oid from pg_database where datname = current_database())`) == len(writers)
		})
		for _, sql := range []string{fence.ClosedSQL(s.Server, fence.Error, s.oid, time.Now()), `commit`} {
			do(t, lease, sql)
		}
		for range writers {
			refused(t, "a writer on a new table", <-answers)
		}
		if err := fence.AllFenced(t.Context(), s.Pool(), s.Move()); err != nil {
			t.Error(err)
		}
	})
}

// A table made inside the pause is held back by nothing. It is found before the
// decision, or, if it is committed after the last look, by Prove.
func TestHoleTableMadeInThePause(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`)
		s.fenced(t)
		lease := begun(t, s.url, `lock table pgcutover.gate in exclusive mode`)
		maker := begun(t, s.url, `create table public.born as select 1 as n`)
		writers := writersNow(t, lease, s)
		if len(writers) != 1 || !writers[0].Stray() || !strings.Contains(writers[0].String(), "create table public.born") {
			t.Errorf("who writes in the pause: %v", writers)
		}
		if err := fence.AllFenced(t.Context(), lease, s.Move()); err != nil {
			t.Errorf("what is not committed is not seen: %v", err)
		}
		do(t, lease, fence.ClosedSQL(s.Server, fence.Error, s.oid, time.Now()))
		do(t, maker, `commit`)
		if err := fence.AllFenced(t.Context(), lease, s.Move()); err == nil {
			t.Error("it is not found in the pause")
		}
		do(t, lease, `commit`)
		if proof := s.prove(t, fence.ProveOptions{}); len(proof.Unfenced) != 1 || proof.Unfenced[0] != "public.born" {
			t.Errorf("it is not found afterwards: %+v", proof)
		}
	})
}

// SELECT FOR UPDATE passes, and changes nothing; the write that follows does not
// pass.
func TestHoleSelectForUpdate(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`, `insert into public.t values (1)`)
		s.fenced(t)
		lease := begun(t, s.url, `lock table pgcutover.gate in exclusive mode`)
		before := begun(t, s.url, `select * from public.t for update`)
		if writers := writersNow(t, lease, s); len(writers) != 1 || !writers[0].Stray() {
			t.Errorf("%v", writers)
		}
		do(t, lease, fence.ClosedSQL(s.Server, fence.Error, s.oid, time.Now()))
		do(t, lease, `commit`)
		refused(t, "the write after it", exec(t, before, `update public.t set n = 2`))
		do(t, before, `rollback`)
		do(t, begun(t, s.url), `select * from public.t for update`)
		if n := pgtest.Value[int](t, s.url, `select n from public.t`); n != 1 {
			t.Errorf("the row is %d", n)
		}
	})
}

// A prepared transaction that has written holds the gate, so that its COMMIT
// PREPARED cannot come after the decision. The gates refuse to wait for it.
func TestHolePreparedTransaction(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newPreparing(t, major)
			pgtest.Exec(t, s.url, `create table public.t (n integer)`)
			s.fenced(t)
			pgtest.Exec(t, s.url, `begin`, `insert into public.t values (1)`, `prepare transaction 'p'`)
			lease := begun(t, s.url, `set local lock_timeout = 50`)
			if err := exec(t, lease, `lock table pgcutover.gate in exclusive mode`); pg.Code(err) != pg.LockNotAvailable {
				t.Errorf("the gate beside a prepared transaction: %v", err)
			}
			pgtest.Exec(t, s.url, `commit prepared 'p'`)
			if n := pgtest.Value[int](t, s.url, `select count(*) from public.t`); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	}
}
