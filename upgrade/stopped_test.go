package upgrade

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/subscriber"
)

const stoppedSQL = `
create table public.copied (id integer primary key, name text);
insert into public.copied select i, 'x' from generate_series(1, 20) i;
create table public.item (id integer primary key, name text unique);
create table public.lost (id integer primary key)`

// untilStatus waits until a status is as wanted.
func untilStatus(t *testing.T, m *Move, what string, wanted func(Status) bool) Status {
	t.Helper()
	var last Status
	err := pg.Wait(t.Context(), what, 200*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		var err error
		last, err = m.Status(t.Context())
		return err == nil && wanted(last), "", err
	})
	if err != nil {
		t.Fatalf("%v: %+v, %+v, worker %+v, lag %+v", err, last.Stopped, last.Drift, last.Worker, last.Lag)
	}
	return last
}

func wantStopped(t *testing.T, m *Move, table, operation, text, next string) {
	t.Helper()
	s := untilStatus(t, m, "apply to be stopped at "+table, func(s Status) bool {
		return s.Stopped != nil && len(s.Stopped.Reasons) > 0 && s.Stopped.Reasons[0].Table == table
	})
	r := s.Stopped.Reasons[0]
	if r.Operation != operation || !strings.Contains(r.Text, text) || !strings.Contains(s.Stopped.Next, next) {
		t.Errorf("stopped at %+v, next %q: want %s, %q, %q", r, s.Stopped.Next, operation, text, next)
	}
	var b strings.Builder
	if err := s.WriteText(&b); err != nil || !strings.Contains(b.String(), "apply is stopped") {
		t.Errorf("shown: %s, %v", b.String(), err)
	}
}

func wantGoesOn(t *testing.T, m *Move) {
	t.Helper()
	m.halted.at = time.Time{}
	untilStatus(t, m, "apply to go on", func(s Status) bool {
		m.halted.at = time.Time{}
		return s.Stopped == nil && s.Lag != nil && s.Lag.Connected
	})
}

// behind runs SQL on new as somebody who gets round the fence.
func behind(t *testing.T, m *Move, url, table, sql string) {
	t.Helper()
	pgtest.Exec(t, url, `set default_transaction_read_only = off`, `alter table `+table+` disable trigger pgcutover_`+m.Options.Name+`_fence`, sql,
		`alter table `+table+` enable always trigger pgcutover_`+m.Options.Name+`_fence`)
}

// What stops the stream is named by table, operation and reason, without a look
// into any log, and goes on when what the status says was done.
func TestStoppedIsNamed(t *testing.T) {
	eachMove(t, "stop", stoppedSQL, func(t *testing.T, m *Move, oldURL, newURL string) {
		if _, err := m.Start(t.Context(), t.Context(), "publish"); err != nil {
			t.Fatal(err)
		}
		behind(t, m, newURL, "public.copied", `insert into public.copied values (7, 'mine')`)
		if _, err := m.Start(t.Context(), t.Context(), "subscribe"); err != nil {
			t.Fatal(err)
		}
		wantStopped(t, m, "copied", "COPY", "has rows on the new server", "truncate only")
		behind(t, m, newURL, "public.copied", `truncate only public.copied`)
		m.startedForTest(t)
		if s, err := m.Status(t.Context()); err != nil || s.Stopped != nil || s.Drift == nil || len(s.Drift.Differences) > 0 {
			t.Errorf("right after start: %+v, %+v, %v", s.Stopped, s.Drift, err)
		}

		added := `alter table public.item add column more text default 'm'`
		if m.Old.Major() < 11 {
			added = `alter table public.item add column more text` // a default rewrites the table there
		}
		pgtest.Exec(t, oldURL, added, `insert into public.item values (1, 'one', 'more')`)
		wantStopped(t, m, "item", "INSERT", "no column \"more\"", "--sync-schema")
		m.sync(t)
		wantGoesOn(t, m)

		behind(t, m, newURL, "public.item", `insert into public.item values (50, 'taken', '')`)
		pgtest.Exec(t, oldURL, `insert into public.item values (51, 'fifty-one')`, `update public.item set name = 'taken' where id = 51`)
		wantStopped(t, m, "item", "UPDATE", "Key (name)=(taken) already exists", "disable trigger")
		if n := pgtest.Value[int](t, newURL, `select count(*) from pg_trigger where tgname ~ '_fence$' and tgenabled <> 'A'`); n != 0 {
			t.Errorf("looking has changed %d triggers", n)
		}
		behind(t, m, newURL, "public.item", `delete from public.item where id = 50`)
		wantGoesOn(t, m)

		pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `drop table public.lost`)
		pgtest.Exec(t, oldURL, `insert into public.lost values (1)`)
		wantStopped(t, m, "lost", "INSERT", "does not exist", "--sync-schema")
		m.sync(t)
		wantGoesOn(t, m)
		const rows = `select (select string_agg(i::text, ' ' order by id) from public.item i) || (select count(*) from public.lost) || (select count(*) from public.copied)`
		if old, new := pgtest.Value[string](t, oldURL, rows), pgtest.Value[string](t, newURL, rows); old != new {
			t.Errorf("old has %s, new %s", old, new)
		}
		if err := subscriber.SetEnabled(t.Context(), m.New, m.first(), false); err != nil {
			t.Fatal(err)
		}
		m.halted.at = time.Time{}
		s := untilStatus(t, m, "a disabled subscription to be seen", func(s Status) bool { return s.Stopped != nil })
		if !strings.Contains(s.Stopped.Text, "disabled") || !strings.Contains(s.Stopped.Next, "enable") {
			t.Errorf("a disabled subscription: %+v", s.Stopped)
		}
	})
}

func (m *Move) sync(t *testing.T) {
	t.Helper()
	if _, err := m.SyncSchema(t.Context(), silent); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}
