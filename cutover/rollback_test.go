package cutover_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// rollback prepares one, with the gates of the cutover itself only.
func (m *move) rollback(t *testing.T, leaveBehind bool) *cutover.Cutover {
	t.Helper()
	c, err := m.NewRollback(t.Context(), leaveBehind)
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	return c
}

// served tells the ledger who was to serve, in order.
func (m *move) served(t *testing.T, sides ...pg.Side) {
	t.Helper()
	names := make([]string, len(sides))
	for i, side := range sides {
		url := m.oldURL
		if side == pg.New {
			url = m.newURL
		}
		name, err := workload.Identify(t.Context(), connect(t, url))
		if err != nil {
			t.Fatal(err)
		}
		names[i] = name
	}
	m.writers.Ledger().Expect(names...)
}

func (m *move) back(t *testing.T) {
	t.Helper()
	if err := m.rollback(t, false).Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

const oursSQL = `
select coalesce(string_agg(name, ', ' order by name), '')
  from (select 'publication ' || pubname from pg_publication where pubname like 'pgcutover%'
        union all select 'subscription ' || subname from pg_subscription where subname like 'pgcutover%'
           and subdbid = (select oid from pg_database where datname = current_database())
        union all select 'slot ' || slot_name from pg_replication_slots
          where slot_name like 'pgcutover%' and database = current_database()) as x(name)`

// There and back and there and back, with writers all along: nothing is lost,
// nothing goes round, and each time the streams of earlier attempts are gone.
func TestThereAndBack(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		if err := m.rollback(t, false).Run(t.Context(), t.Context()); !errors.Is(err, cutover.ErrNotCutOver) {
			t.Errorf("a rollback before the cutover: %v", err)
		}
		for round := range 2 {
			m.writes(t, pg.Old)
			m.run(t)
			m.writes(t, pg.New)
			if err := m.cutover(t).Run(t.Context(), t.Context()); !errors.Is(err, cutover.ErrAlreadyDone) {
				t.Errorf("round %d: a cutover after the cutover: %v", round, err)
			}
			m.streams(t, pg.New, pg.Old)
			m.back(t)
			m.writes(t, pg.Old)
			m.streams(t, pg.Old, pg.New)
		}
		m.served(t, pg.Old, pg.New, pg.Old, pg.New, pg.Old)
		m.proved(t, pg.Old)
	})
}

// streams proves that exactly one stream of ours is left, in one direction.
func (m *move) streams(t *testing.T, from, to pg.Side) {
	t.Helper()
	urls := map[pg.Side]string{pg.Old: m.oldURL, pg.New: m.newURL}
	publishes, subscribes := pgtest.Value[string](t, urls[from], oursSQL), pgtest.Value[string](t, urls[to], oursSQL)
	if n := strings.Count(publishes, ","); n != 1 || !strings.Contains(publishes, "publication") || !strings.Contains(publishes, "slot") {
		t.Errorf("%s should publish one stream, and has: %s", from, publishes)
	}
	if strings.Contains(subscribes, ",") || !strings.HasPrefix(subscribes, "subscription") {
		t.Errorf("%s should subscribe to one stream, and has: %s", to, subscribes)
	}
}

// A rollback that fails before its decision leaves new serving and the way back
// as it was; then it goes.
func TestRollbackThatFails(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.writes(t, pg.Old)
		m.run(t)
		for _, s := range m.rollback(t, false).Steps() {
			if s.Final {
				break
			}
			c := m.rollback(t, false)
			c.Hooks = failing(t, "after-"+s.Name)
			aborted := outcome[*step.Aborted](t, c.Run(t.Context(), t.Context()))
			if aborted.Step != s.Name || !aborted.Undone || aborted.UndoErr != nil {
				t.Errorf("after %s: %+v", s.Name, aborted)
			}
			m.writes(t, pg.New)
			m.streams(t, pg.New, pg.Old)
		}
		m.back(t)
		m.writes(t, pg.Old)
		m.served(t, pg.Old, pg.New, pg.Old)
		m.proved(t, pg.Old)
	})
}

// What was made on new since the cutover does not go back: the rollback says so
// and refuses, unless told to leave it behind.
func TestRollbackLeavesBehind(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, "create sequence public.narrow as integer")
		m.writes(t, pg.Old)
		// Without a stream back, as after a cutover that keeps no way back, it is all
		// tables, in one line.
		stays, err := m.NotGoingBack(t.Context())
		if text := strings.Join(stays, "\n"); err != nil || !strings.Contains(text, "there is no stream back to old") || strings.Contains(text, "made on new since") {
			t.Errorf("without a stream back: %q, %v", stays, err)
		}
		m.run(t)
		pgtest.Exec(t, m.newURL, "create table public.later (id integer primary key)", "insert into public.later values (1)")
		stays, err = m.NotGoingBack(t.Context())
		if err != nil || !strings.Contains(strings.Join(stays, "\n"), "public.later") {
			t.Errorf("what stays on new: %q, %v", stays, err)
		}
		err = m.rollback(t, false).Run(t.Context(), t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), "public.later") || !strings.Contains(hint.Of(err), "--leave-behind") {
			t.Fatalf("error %v, hint %q", err, hint.Of(err))
		}
		// A hole in old's fence is no reason to destroy the way back.
		trigger := func(enable string) {
			pgtest.Exec(t, m.oldURL, "set default_transaction_read_only = off", "alter table public.single "+enable+" trigger "+fence.TriggerName(m.name))
		}
		trigger("disable")
		err = m.rollback(t, true).Run(t.Context(), t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(hint.Of(err), "pgcutover rollback") || strings.Contains(hint.Of(err), "abort") {
			t.Fatalf("error %v, hint %q", err, hint.Of(err))
		}
		trigger("enable always")
		// Neither is a sequence that old cannot be set to go on from.
		pgtest.Exec(t, m.newURL, "alter sequence public.narrow as bigint")
		err = m.rollback(t, true).Run(t.Context(), t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(hint.Of(err), `ALTER SEQUENCE "public"."narrow" AS bigint`) {
			t.Fatalf("error %v, hint %q", err, hint.Of(err))
		}
		pgtest.Exec(t, m.oldURL, "set default_transaction_read_only = off", "alter sequence public.narrow as bigint")
		if err := m.rollback(t, true).Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		m.writes(t, pg.Old)
		m.served(t, pg.Old, pg.New, pg.Old)
		m.proved(t, pg.Old)
	})
}
