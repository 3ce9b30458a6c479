package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/subscriber"
)

// The order of mending: what needs another thing goes before it.
const (
	orderFirst = iota // fences, turns, defaults
	orderSubscription
	orderSlot
	orderPublication
	orderRole
)

// mendBound is how long one act of mending may wait for what somebody holds.
const mendBound = 10 * time.Second

// mendAll is how long one mending may take in all: the triggers of 30,000 tables
// come and go within a minute or two, with rests for the clients.
const mendAll = 5 * time.Minute

// run runs one statement.
func run(ctx context.Context, s *server, sql string) error {
	if _, err := s.conn.Pool().Exec(ctx, sql); err != nil {
		return fmt.Errorf("running %q on the %s server: %w", sql, s.side, s.conn.Redacted(err))
	}
	return nil
}

// underTurn runs f in a transaction that holds the turn's row, if clients may
// not write there: nothing here may touch a server that serves.
func underTurn(ctx context.Context, s *server, f func(pgx.Tx) error) error {
	return state.Tx(ctx, s.conn, "5s", func(tx pgx.Tx) error {
		turn, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if turn.Open {
			return fmt.Errorf("the %s server takes client writes by now", s.side)
		}
		return f(tx)
	})
}

// closeFence makes check() refuse on a server that has given its writes away.
func closeFence(ctx context.Context, s *server) error {
	return underTurn(ctx, s, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.conn.Quiet(fence.ClosedSQL(s.conn, fence.Error, uint32(s.base.OID), time.Now()))) //nolint:gosec // an OID
		return err
	})
}

// setReadOnly sets the default that multihost clients look at.
func setReadOnly(ctx context.Context, s *server) error {
	return underTurn(ctx, s, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, fence.ReadOnlySQL(s.conn.Database(), true))
		return err
	})
}

// attach makes the missing triggers behind a closed fence.
func attach(ctx context.Context, s *server) error {
	_, err := fence.Attach(ctx, s.conn, mendBound, nil)
	return err
}

// notAlwaysSQL lists the tables whose fence trigger $1 is not enabled always.
const notAlwaysSQL = `
select n.nspname::text as schema, c.relname::text as name
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where t.tgname = $1 and t.tgenabled <> 'A' and not t.tgisinternal
   and pn.nspname = 'pgcutover' and p.proname = 'fence'
 order by n.nspname, c.relname`

// allTriggersSQL lists the tables that have any trigger of the fence.
const allTriggersSQL = `
select n.nspname::text as schema, c.relname::text as name, t.tgname::text as trigger
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where not t.tgisinternal and n.nspname <> 'pgcutover'
   and pn.nspname = 'pgcutover' and p.proname = 'fence'
 order by n.nspname, c.relname`

type tableRow struct{ Schema, Name string }

func (t tableRow) identifier() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// enableAlways closes the gap that a trigger leaves which is not always enabled.
func enableAlways(ctx context.Context, s *server, t triggerRow) error {
	tables, err := read[tableRow](ctx, s.conn, "listing fence triggers", notAlwaysSQL, t.Name)
	if err != nil {
		return err
	}
	for _, table := range tables {
		sql := fmt.Sprintf("alter table %s enable always trigger %s", table.identifier(), quote(t.Name))
		err := politely(ctx, table.identifier(), func(ctx context.Context) error {
			return underTurn(ctx, s, func(tx pgx.Tx) error { return patiently(ctx, tx, sql) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// patiently runs DDL on a table without holding up those who use it for long.
func patiently(ctx context.Context, tx pgx.Tx, sql string) error {
	if _, err := tx.Exec(ctx, "set local lock_timeout = '100ms'"); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, sql)
	return err
}

// politely tries again while somebody uses the table.
func politely(ctx context.Context, table string, f func(context.Context) error) error {
	return pg.Wait(ctx, "table "+table+" to be free", 100*time.Millisecond, mendBound, nil, func(ctx context.Context) (bool, string, error) {
		err := f(ctx)
		if pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected) {
			return false, err.Error(), nil
		}
		return err == nil, "", err
	})
}

// detach drops the open triggers that an undone cutover left behind. It is
// checked with every batch that no attempt was taken meanwhile.
func (e *examination) detach(ctx context.Context, s *server) error {
	return fence.DetachForUndo(ctx, s.conn, state.DirectionTo(s.side.Other()), s.turn.Attempt, mendBound, nil)
}

// disarm takes the guard's permission back. The caller holds the one-tool lock
// on both servers, so that a missing decision on the source is a definitive no.
func (e *examination) disarm(ctx context.Context, s *server, attempt int64) error {
	decided, err := state.Decided(ctx, e.other(s).conn.Pool(), state.DirectionTo(s.side), attempt)
	if err != nil {
		return err
	}
	if decided {
		return fmt.Errorf("disarming the guard of attempt %d: %w", attempt, fence.ErrDecided)
	}
	return fence.Disarm(ctx, s.conn, attempt)
}

// dropSubscription detaches a subscription of this move, or of a copy, unless it
// streams; nil when it does.
func (e *examination) dropSubscription(s *server, r subscriptionRow, attempt int64) func(context.Context) error {
	if r.streams() {
		return nil
	}
	return func(ctx context.Context) error {
		_, err := subscriber.Drop(ctx, s.conn, e.streamOf(attempt))
		return err
	}
}

// idleSlotSQL drops a slot that nobody reads.
const idleSlotSQL = `
select count(pg_drop_replication_slot(slot_name))
  from pg_replication_slots
 where slot_name = $1 and not active`

// dropSlot drops a slot that nobody reads and no subscription needs; nil when
// that is not so.
func (e *examination) dropSlot(s *server, r slotRow) func(context.Context) error {
	peer := e.other(s)
	if r.Active || !r.Here || !e.certain() {
		return nil
	}
	for _, sub := range peer.subs {
		attempt, ours := e.attemptOf(sub.Name)
		if sub.Slot == r.Name && (!ours || e.dropSubscription(peer, sub, attempt) == nil) {
			return nil
		}
	}
	return func(ctx context.Context) error {
		var n int
		if err := s.conn.Pool().QueryRow(ctx, idleSlotSQL, r.Name).Scan(&n); err != nil {
			return fmt.Errorf("dropping slot %q on the %s server: %w", r.Name, s.side, err)
		}
		if n == 0 {
			return fmt.Errorf("slot %q on the %s server is read by somebody now, or gone", r.Name, s.side)
		}
		return nil
	}
}

func (e *examination) dropPublication(ctx context.Context, s *server, name string) error {
	return run(ctx, s, "drop publication if exists "+quote(name))
}

func dropRole(ctx context.Context, s *server, name string) error {
	return run(ctx, s, "drop role "+quote(name))
}

type triggerOn struct{ Schema, Name, Trigger string }

// dropCopy removes a schema pgcutover that came with a dump and refuses nothing:
// the triggers table by table, since clients may be at work, then the schema.
func dropCopy(ctx context.Context, s *server) error {
	triggers, err := read[triggerOn](ctx, s.conn, "listing fence triggers", allTriggersSQL)
	if err != nil {
		return err
	}
	for _, t := range triggers {
		table := tableRow{t.Schema, t.Name}.identifier()
		err := politely(ctx, table, func(ctx context.Context) error {
			return state.Tx(ctx, s.conn, "5s", func(tx pgx.Tx) error {
				return patiently(ctx, tx, fmt.Sprintf("drop trigger if exists %s on %s", quote(t.Trigger), table))
			})
		})
		if err != nil {
			return err
		}
	}
	return state.Drop(ctx, s.conn)
}
