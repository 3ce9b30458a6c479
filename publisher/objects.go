package publisher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ObjectCatalogs are the catalogs that hold the large objects, as blocker.Find
// wants them.
var ObjectCatalogs = []string{"pg_catalog.pg_largeobject", "pg_catalog.pg_largeobject_metadata"}

// HoldObjectsSQL makes the writers of large objects wait. No trigger fires for
// what they write, so that the gate does not hold them. Every function that
// opens a large object, for reading too, takes ROW EXCLUSIVE on the catalog that
// has its pages.
const HoldObjectsSQL = `lock table pg_catalog.pg_largeobject_metadata, pg_catalog.pg_largeobject in share mode`

// ObjectHold is a session on the publisher that makes the writers of large
// objects wait, beside the lease that makes those of tables wait. While it
// watches, see Watch, its life is decided on the server: by the lease's. So it
// does not outlive a lease that came to nothing, and does outlive a tool that is
// killed after the decision, for as long as somebody waits for it.
//
// It is used by one goroutine at a time.
type ObjectHold struct {
	server *pg.Server
	conn   *pgx.Conn
	// Wait makes transactions be waited for that have written something and may
	// have made or unlinked a large object: of that no lock remains.
	Wait bool

	held   bool
	ended  chan struct{} // closed when the watching statement has ended; nil when there is none
	err    error         // of that statement
	cancel context.CancelFunc
}

// mayHoldObjectsSQL: before 17 nobody but a superuser can lock a catalog. LOCK
// TABLE in SHARE mode asks for MAINTAIN since 17, which pg_maintain has, for the
// catalogs too (measured on 17 and 18). Then the role must also see whose
// transactions have written, and be able to end them.
const mayHoldObjectsSQL = `select rolsuper from pg_roles where rolname = current_user`

const mayHoldObjects17SQL = `
select has_table_privilege('pg_catalog.pg_largeobject', 'maintain')
       and has_table_privilege('pg_catalog.pg_largeobject_metadata', 'maintain')
       and pg_has_role('pg_read_all_stats', 'usage') and pg_has_role('pg_signal_backend', 'usage')`

// MayHoldObjects tells whether the role may make writers of large objects wait.
func MayHoldObjects(ctx context.Context, s *pg.Server) (bool, error) {
	sql := mayHoldObjectsSQL
	if s.Major() >= 17 {
		sql = mayHoldObjects17SQL
	}
	var may bool
	if err := s.Pool().QueryRow(ctx, sql).Scan(&may); err != nil {
		return false, fmt.Errorf("looking whether large objects can be locked on the %s server: %w", s.Side(), err)
	}
	return may, nil
}

// OpenObjectHold opens the session; nothing is held yet. Release ends it.
func OpenObjectHold(ctx context.Context, s *pg.Server) (*ObjectHold, error) {
	conn, err := s.Connect(ctx, "objects", map[string]string{
		"statement_timeout":                   fmt.Sprint(leaseStatement.Milliseconds()),
		"lock_timeout":                        fmt.Sprint(leaseLock.Milliseconds()),
		"idle_in_transaction_session_timeout": fmt.Sprint(leaseIdle.Milliseconds()),
	})
	if err != nil {
		return nil, err
	}
	return &ObjectHold{server: s, conn: conn}, nil
}

// errObjectsBusy means that a transaction that may have written large objects
// did not end in time.
var errObjectsBusy = errors.New("large objects are being written")

// unfinishedSQL lists the client transactions of this database that have written
// something and neither wait for the gate nor for large objects. Making and
// unlinking a large object keeps no lock on the catalogs until the transaction's
// end (measured on 10 to 18), so that its end has to be waited for otherwise. $1
// are those that were there at first, as pid and transaction id; null: all.
const unfinishedSQL = `
select coalesce(array_agg(a.pid || ' ' || a.backend_xid), '{}')
  from pg_stat_activity a
 where a.datname = current_database() and a.backend_xid is not null and a.pid <> pg_backend_pid()
   and coalesce(a.application_name, '') not like 'pgcutover/%' and a.backend_type is distinct from 'autovacuum worker'
   and ($1::text[] is null or a.pid || ' ' || a.backend_xid = any ($1::text[]))
   and not exists (select 1 from pg_locks l
                    where l.pid = a.pid and not l.granted and l.locktype = 'relation'
                      and l.relation in ('pgcutover.gate'::regclass, 'pg_catalog.pg_largeobject'::regclass,
                                         'pg_catalog.pg_largeobject_metadata'::regclass))`

// unfinishedEvery is how often they are looked for.
const unfinishedEvery = 3 * time.Millisecond

// take makes the writers of large objects wait, or fails within about
// lockTimeout with nothing held. Large objects that are in the middle of being
// written are waited for that long.
func (h *ObjectHold) take(ctx context.Context, lockTimeout time.Duration) error {
	if h.ended != nil { // the gate is had once more
		return h.Alive()
	}
	limit, cancel := context.WithTimeout(ctx, leaseAnswer)
	defer cancel()
	began := time.Now()
	_, err := h.conn.Exec(limit, fmt.Sprintf("%s; set local lock_timeout = %d; %s; set local lock_timeout = 0", beginSQL, lockTimeout.Milliseconds(), HoldObjectsSQL))
	if err == nil && h.Wait {
		err = h.unfinished(limit, lockTimeout-time.Since(began))
	}
	if err != nil {
		h.give(ctx)
		return fmt.Errorf("holding the writers of large objects on the %s server: %w", h.server.Side(), err)
	}
	h.held = true
	return nil
}

// unfinished waits for the transactions that were there when the lock was had.
func (h *ObjectHold) unfinished(ctx context.Context, bound time.Duration) error {
	var first, now []string
	if err := h.conn.QueryRow(ctx, unfinishedSQL, nil).Scan(&first); err != nil || len(first) == 0 {
		return err
	}
	for began := time.Now(); ; {
		if err := h.conn.QueryRow(ctx, unfinishedSQL, first).Scan(&now); err != nil || len(now) == 0 {
			return err
		}
		if time.Since(began) >= bound {
			return fmt.Errorf("%w: transactions that may have are open (session and transaction id): %s", errObjectsBusy, strings.Join(now, ", "))
		}
		if err := pg.Pause(ctx, unfinishedEvery); err != nil {
			return err
		}
	}
}

// give lets the writers of large objects go on, if Watch does not run.
func (h *ObjectHold) give(ctx context.Context) {
	if h.ended != nil || h.conn.IsClosed() {
		return
	}
	h.held = false
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseStatement)
	defer cancel()
	if _, err := h.conn.Exec(limit, "rollback"); err != nil {
		pg.Close(ctx, h.conn) // the surest end
	}
}

// watchForwardSQL waits, like a client, for the gate that the lease has. When
// the lease is gone without a decision it ends, and the locks with it. With a
// decision it ends whoever waits for a large object: what they write would be
// taken by a server that does not serve any more. It ends when nobody has waited
// for three seconds. The arguments are the attempt and the most turns.
const watchForwardSQL = `
do $pgcutover$
declare
  who integer;
  alone integer := 0;
begin
  perform 1 from pgcutover.gate for key share;
  if not exists (select 1 from pgcutover.decision_forward where attempt = %d) then
    return;
  end if;
  for i in 1..%d loop
    for who in
      select l.pid
        from pg_locks l
       where not l.granted and l.locktype = 'relation' and l.pid <> pg_backend_pid()
         and l.database = (select d.oid from pg_database d where d.datname = current_database())
         and l.relation in ('pg_catalog.pg_largeobject'::regclass, 'pg_catalog.pg_largeobject_metadata'::regclass)
    loop
      alone := 0;
      begin
        perform pg_terminate_backend(who);
      exception when insufficient_privilege then
        null; -- a superuser, who waits on
      end;
    end loop;
    alone := alone + 1;
    exit when alone > 300;
    perform pg_sleep(0.01);
  end loop;
end
$pgcutover$`

// watchBackSQL is the same for a rollback.
const watchBackSQL = `
do $pgcutover$
declare
  who integer;
  alone integer := 0;
begin
  perform 1 from pgcutover.gate for key share;
  if not exists (select 1 from pgcutover.decision_back where attempt = %d) then
    return;
  end if;
  for i in 1..%d loop
    for who in
      select l.pid
        from pg_locks l
       where not l.granted and l.locktype = 'relation' and l.pid <> pg_backend_pid()
         and l.database = (select d.oid from pg_database d where d.datname = current_database())
         and l.relation in ('pg_catalog.pg_largeobject'::regclass, 'pg_catalog.pg_largeobject_metadata'::regclass)
    loop
      alone := 0;
      begin
        perform pg_terminate_backend(who);
      exception when insufficient_privilege then
        null; -- a superuser, who waits on
      end;
    end loop;
    alone := alone + 1;
    exit when alone > 300;
    perform pg_sleep(0.01);
  end loop;
end
$pgcutover$`

// watchTurns is how often those who wait are looked for after a decision at the
// most, every 10 ms: longer than the tool needs to end every session.
const watchTurns = 2000

// WatchObjectsSQL is what Watch runs.
func WatchObjectsSQL(d state.Direction, attempt int64) string {
	if d == state.Back {
		return fmt.Sprintf(watchBackSQL, attempt, watchTurns)
	}
	return fmt.Sprintf(watchForwardSQL, attempt, watchTurns)
}

// Watch ties the hold's life to that of the lease, which must have the gate, in
// a statement that runs until then. pause bounds the wait. A second call does
// nothing.
func (h *ObjectHold) Watch(ctx context.Context, d state.Direction, attempt int64, pause time.Duration) {
	if h.ended != nil {
		return
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel, h.ended = cancel, make(chan struct{})
	bound := pause + watchTurns*15*time.Millisecond
	go func() {
		defer close(h.ended)
		_, h.err = h.conn.Exec(running, fmt.Sprintf("set local statement_timeout = %d; %s; rollback", bound.Milliseconds(), WatchObjectsSQL(d, attempt)))
	}()
}

// ErrObjectsFree means that writers of large objects are not held any more.
var ErrObjectsFree = errors.New("the session that holds the writers of large objects is gone")

// Alive tells whether the hold still stands, without asking the server.
func (h *ObjectHold) Alive() error {
	if h == nil {
		return nil
	}
	if h.ended != nil {
		select {
		case <-h.ended:
			return errors.Join(ErrObjectsFree, h.err)
		default:
			return nil
		}
	}
	if !h.held || h.conn.IsClosed() {
		return ErrObjectsFree
	}
	return nil
}

// Release ends the session: the writers go on, if anybody still waits. It may be
// called on nil, and again.
func (h *ObjectHold) Release(ctx context.Context) {
	if h == nil {
		return
	}
	h.held = false
	if h.ended != nil {
		// Closing the connection alone would let the statement run on.
		limit, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		_ = h.conn.PgConn().CancelRequest(limit) // what cannot be told ends with the lease, or within watchTurns
		select {
		case <-h.ended:
		case <-limit.Done():
		}
		done()
		h.cancel()
		<-h.ended
		h.ended = nil
	}
	pg.Close(ctx, h.conn)
}
