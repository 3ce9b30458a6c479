package cutover_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// watchedTable has an index by which ANALYZE tells what its session is set to: it
// counts when it pauses. Autovacuum, whose pauses have a setting of their own,
// leaves the table alone.
var watchedTable = []string{
	"create sequence public.gentle",
	`create function public.watching(n bigint) returns bigint language plpgsql immutable as $$ begin
		if current_setting('vacuum_cost_delay') = '10ms' then perform nextval('public.gentle'); end if;
		return n;
	end $$`,
	"create table public.watched (id bigint primary key, kind int) with (autovacuum_enabled = false)",
	"create index on public.watched (public.watching(id))",
	"insert into public.watched select g, g % 5 from generate_series(1, 100) g",
}

// TestStatistics: a cutover waits for extended statistics, and one that is done
// analyzes what has changed, in sessions that let clients come first.
func TestStatistics(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, watchedTable...)
		pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off", "create statistics public.both on id, text from public.single",
			"create statistics public.more on id, kind from public.watched")
		locked := lockTable(t, m.newURL, "public.watched")
		err := m.cutover(t).Run(t.Context(), t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), `"public"."watched" (no extended statistics public.more)`) ||
			strings.Contains(err.Error(), "single") || !strings.Contains(hint.Of(err), "pgcutover analyze") {
			t.Fatalf("without extended statistics: %v, hint %q", err, hint.Of(err))
		}
		hasty := m.cutover(t)
		hasty.Hasty = true
		locked()
		var seen error
		until(t, "a look to find nothing, since a cutover makes what is missing by itself", func() (bool, error) {
			now := hasty.Ready(t.Context()) // it does not wait for what passes, such as a slow transaction of the stream
			if now != nil && (seen == nil || now.Error() != seen.Error()) {
				t.Log(now)
			}
			seen = now
			return now == nil, nil
		})
		if n := pgtest.Value[int](t, m.newURL, "select count(*) from pg_statistic_ext_data d join pg_statistic_ext e on e.oid = d.stxoid where e.stxname = 'more' and d.stxdndistinct is not null"); n != 0 {
			t.Error("a look made statistics")
		}
		if err := m.cutover(t).Ready(t.Context()); err != nil { // makes them itself
			t.Fatalf("%v, hint %q", err, hint.Of(err))
		}

		pgtest.Exec(t, m.oldURL, "insert into public.watched select g, g % 5 from generate_series(101, 300) g")
		until(t, "the rows to arrive", func() (bool, error) {
			return pgtest.Value[int](t, m.newURL, "select n_mod_since_analyze from pg_stat_all_tables where relid = 'public.watched'::regclass") >= 200, nil
		})
		before := pgtest.Value[int64](t, m.newURL, "select last_value from public.gentle")
		m.run(t)
		// The cutover itself sets the sequence ahead by the margin of 100.
		if after := pgtest.Value[int64](t, m.newURL, "select last_value from public.gentle"); after < before+100+250 {
			t.Errorf("the sequence moved by %d, so that ANALYZE after the cutover paused for fewer than 250 rows", after-before)
		}
		until(t, "the count of changes", func() (bool, error) {
			return pgtest.Value[int](t, m.newURL, "select n_mod_since_analyze from pg_stat_all_tables where relid = 'public.watched'::regclass") == 0, nil
		})
	})
}

// meanwhile does something once, while the gates make statistics.
type meanwhile struct {
	step.NopObserver
	do func()
}

func (m *meanwhile) Progress(_, text string) {
	if strings.HasPrefix(text, "statistics were missing") && m.do != nil {
		do := m.do
		m.do = nil
		do()
	}
}

// TestFirstRowsMeanwhile: a table that gets its first rows while the gates make the
// statistics of another one is no reason to send anybody away.
func TestFirstRowsMeanwhile(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, "create table public.early (id int primary key) with (autovacuum_enabled = false)",
			"create table public.late (id int primary key) with (autovacuum_enabled = false)")
		first := func(table string) { // more than autovacuum would mind
			pgtest.Exec(t, m.oldURL, "insert into "+table+" select generate_series(1, 200)")
			until(t, "the rows of "+table, func() (bool, error) {
				return pgtest.Value[int](t, m.newURL, "select pg_stat_get_live_tuples($1::text::regclass)", table) == 200, nil
			})
		}
		first("public.early")
		c := m.cutover(t)
		seen := &meanwhile{do: func() { first("public.late") }}
		c.Observer = seen
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v, hint %q", err, hint.Of(err))
		}
		if seen.do != nil {
			t.Error("the gates made no statistics")
		}
	})
}

// lockTable keeps ANALYZE and DDL away from a table until the returned function is
// called.
func lockTable(t *testing.T, url, table string) func() {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	unlock := sync.OnceFunc(func() { pg.Close(t.Context(), conn) })
	t.Cleanup(unlock)
	if _, err := conn.Exec(t.Context(), "begin read write; lock table "+table+" in share update exclusive mode"); err != nil {
		t.Fatal(err)
	}
	return unlock
}
