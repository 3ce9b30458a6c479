package state_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/journal/journaltest"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

func TestCreateAndDrop(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		ctx := t.Context()
		before := pgtest.Catalog(t, p.oldURL)
		if m, err := state.Load(ctx, p.old); m != nil || err != nil {
			t.Errorf("an empty database: %+v, %v", m, err)
		}
		if _, err := state.Verify(ctx, "m", p.old, p.new); !errors.Is(err, state.ErrNoMove) || hint.Of(err) == "" {
			t.Errorf("verifying before start: %v", err)
		}
		p.created(t)
		made := pgtest.Catalog(t, p.oldURL)
		p.created(t) // again
		if d := pgtest.Diff(made, pgtest.Catalog(t, p.oldURL)); d != "" {
			t.Errorf("made again it is another:\n%s", d)
		}
		for s, open := range map[*pg.Server]bool{p.old: true, p.new: false} {
			if turn, err := state.ReadTurn(ctx, s.Pool()); err != nil || turn.Open != open || turn.Armed || turn.Attempt == 0 {
				t.Errorf("the turn of the %s server is %+v, %v", s.Side(), turn, err)
			}
		}
		m, err := state.Verify(ctx, "m", p.old, p.new)
		if err != nil || m.Name != "m" || m.Old != p.move.Old || m.New != p.move.New {
			t.Errorf("%+v, %v, want %+v", m, err, p.move)
		}
		if left, err := state.Leftovers(ctx, p.old, nil); err != nil || fmt.Sprint(left) != "[schema pgcutover]" {
			t.Errorf("found %v, %v", left, err)
		}

		// Nothing of the application's may go with it.
		pgtest.Exec(t, p.oldURL, `create function pgcutover.fence() returns trigger language plpgsql as 'begin return null; end'`,
			`create table public.t (n integer)`, `create trigger pgcutover_m_fence before insert on public.t for each statement execute procedure pgcutover.fence()`)
		if err := state.Drop(ctx, p.old); err == nil || !strings.Contains(err.Error(), "1 fence triggers") {
			t.Errorf("dropping it under a trigger: %v", err)
		}
		if left, err := state.Leftovers(ctx, p.old, nil); err != nil || len(left) != 2 {
			t.Errorf("found %v, %v", left, err)
		}
		pgtest.Exec(t, p.oldURL, `drop table public.t`)
		for range 2 {
			if err := state.Drop(ctx, p.old); err != nil {
				t.Error(err)
			}
		}
		if d := pgtest.Diff(before, pgtest.Catalog(t, p.oldURL)); d != "" {
			t.Errorf("not as before:\n%s", d)
		}
	})
}

// Leftovers finds everything that bears the move's name, and nothing else.
func TestLeftovers(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		name := fmt.Sprintf("l%d", p.old.Major())
		s := open(t, pg.Old, p.oldURL, name)
		pgtest.Exec(t, p.oldURL,
			`create table public.t (n integer)`, `create function public.f() returns trigger language plpgsql as 'begin return null; end'`,
			`create trigger pgcutover_`+name+`_fence before insert on public.t for each statement execute procedure public.f()`,
			`create publication pgcutover_`+name, `create publication pgcutover_another`,
			`create subscription pgcutover_`+name+` connection 'dbname=nowhere' publication x with (connect = false)`,
			`create role pgcutover_`+name,
			`do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database());
			             execute format('alter role pgcutover_`+name+` in database %I set default_transaction_read_only = off', current_database()); end $$`)
		pgtest.Exec(t, p.oldURL, `select pg_create_logical_replication_slot('pgcutover_`+name+`', 'pgoutput')`)
		found, err := state.Leftovers(t.Context(), s, []uint32{pgtest.Value[uint32](t, p.oldURL, `select oid from pg_subscription where subname = 'pgcutover_`+name+`'`)})
		text := strings.Join(found, "\n")
		for _, want := range []string{
			"publication pgcutover_" + name, "subscription pgcutover_" + name, "replication slot pgcutover_" + name, "role pgcutover_" + name,
			"trigger pgcutover_" + name + "_fence on t", "database setting default_transaction_read_only=on",
			"role setting of pgcutover_" + name + ": default_transaction_read_only=off", "replication origin pg_",
		} {
			if !strings.Contains(text, want) && !strings.Contains(text, strings.Replace(want, " on t", " on public.t", 1)) {
				t.Errorf("%q was not found", want)
			}
		}
		if err != nil || len(found) != 8 {
			t.Errorf("%d found, %v:\n%s", len(found), err, text)
		}
		pgtest.Exec(t, p.oldURL, `set default_transaction_read_only = off`, `alter subscription pgcutover_`+name+` set (slot_name = none)`, `drop subscription pgcutover_`+name)
		pgtest.Exec(t, p.oldURL, `set default_transaction_read_only = off`,
			`do $$ begin execute format('alter role pgcutover_`+name+` in database %I reset all', current_database()); end $$`, `drop role pgcutover_`+name)
	})
}

// Whoever is not the server that the move began with is refused by name.
func TestVerifyRefusesOthers(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		ctx := t.Context()
		p.created(t)
		swappedOld, swappedNew := open(t, pg.Old, p.newURL, "m"), open(t, pg.New, p.oldURL, "m")
		third := open(t, pg.New, pgtest.Database(t, pgtest.Server(t, p.old.Major())), "m")
		for _, test := range []struct {
			name     string
			move     string
			old, new *pg.Server
			want     string
		}{
			{"swapped", "m", swappedOld, swappedNew, "the server given as old is the new server of the move \"m\""},
			{"the same twice", "m", p.old, swappedNew, "same database"},
			{"another move", "n", p.old, p.new, "belongs to the move \"m\", not \"n\""},
			{"another database", "m", p.old, third, "is not the one that this move was started with"},
		} {
			_, err := state.Verify(ctx, test.move, test.old, test.new)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
			if test.name != "the same twice" && hint.Of(err) == "" {
				t.Errorf("%s: no hint", test.name)
			}
		}
		// Cleaning old alone is advised where old serves and new knows of no move.
		advised := func(new *pg.Server) bool {
			_, err := state.Verify(ctx, "m", p.old, new)
			return strings.Contains(hint.Of(err), "abort --old-only")
		}
		if !advised(third) {
			t.Error("no way out of a move whose new database was made anew")
		}
		pgtest.Exec(t, p.oldURL, `update pgcutover.turn set open = false`)
		if advised(third) {
			t.Error("advised to forget new, which may serve")
		}
		pgtest.Exec(t, p.oldURL, `update pgcutover.turn set open = true`)
		if err := state.Create(ctx, third, p.move); err != nil {
			t.Fatal(err)
		}
		if advised(third) {
			t.Error("advised to forget a new server that knows of a move")
		}

		another := p.move
		another.Name = "n"
		if err := state.Create(ctx, p.old, another); err == nil || hint.Of(err) == "" {
			t.Errorf("a second move in one database: %v", err)
		}

		// Of the identity, each part counts.
		for _, change := range []struct{ path, value, want string }{
			{"{old,system}", `"1"`, "system identifier"}, {"{old,timeline}", "99", "timeline"}, {"{new,database}", "1", "OID"},
		} {
			tamper := func(path, value string) {
				for _, url := range []string{p.oldURL, p.newURL} {
					pgtest.Exec(t, url, fmt.Sprintf(`update pgcutover.move set identity = jsonb_set(identity, '%s', '%s')`, path, value))
				}
			}
			was := pgtest.Value[string](t, p.oldURL, `select (identity #> $1::text[])::text from pgcutover.move`, change.path)
			tamper(change.path, change.value)
			if _, err := state.Verify(ctx, "m", p.old, p.new); err == nil || !strings.Contains(err.Error(), change.want) || hint.Of(err) == "" {
				t.Errorf("another %s: %v", change.path, err)
			}
			tamper(change.path, was)
		}
		pgtest.Exec(t, p.oldURL, `update pgcutover.move set format = 99`)
		if _, err := state.Verify(ctx, "m", p.old, p.new); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("the state of a newer tool: %v", err)
		}
		pgtest.Exec(t, p.oldURL, `drop schema pgcutover cascade`, `create schema pgcutover`)
		if _, err := state.Load(ctx, p.old); err == nil || hint.Of(err) == "" {
			t.Errorf("somebody else's schema pgcutover: %v", err)
		}
	})
}

func TestTurn(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		ctx := t.Context()
		p.created(t)
		at, err := state.Locate(ctx, p.old, p.new)
		if err != nil {
			t.Fatal(err)
		}
		first := at.Attempt
		// A later move's numbers lie beyond: they count from the clock.
		if since := time.Since(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); math.Abs(float64(first)-since.Seconds()) > 60 {
			t.Errorf("attempts count from %d, want about %.0f", first, since.Seconds())
		}
		pgtest.Exec(t, p.newURL, fmt.Sprintf(`update pgcutover.turn set attempt = %d`, first+5))
		for _, want := range []int64{first + 6, first + 7} { // past both
			if n, err := state.TakeAttempt(ctx, p.old, p.new); n != want || err != nil {
				t.Errorf("took %d, %v, want %d", n, err, want)
			}
			if at, err := state.Locate(ctx, p.old, p.new); at.Attempt != want || err != nil || at.Decided() {
				t.Errorf("located %+v, %v, want attempt %d, not decided", at, err, want)
			}
		}
		failure := errors.New("no")
		for _, asked := range []struct {
			sql string
			ask func() (bool, error)
		}{
			{`insert into pgcutover.marker_forward (attempt, stream) values (7, 0)`, func() (bool, error) { return state.Marked(ctx, p.old.Pool(), state.Forward, 7) }},
			{`insert into pgcutover.decision_forward (attempt, stream) values (7, 0)`, func() (bool, error) { return state.Decided(ctx, p.old.Pool(), state.Forward, 7) }},
			{`insert into pgcutover.marker_back (attempt, stream) values (7, 0)`, func() (bool, error) { return state.Marked(ctx, p.old.Pool(), state.Back, 7) }},
			{`insert into pgcutover.decision_back (attempt, stream) values (7, 0)`, func() (bool, error) { return state.Decided(ctx, p.old.Pool(), state.Back, 7) }},
		} {
			for _, result := range []error{failure, nil} {
				if there, err := asked.ask(); there || err != nil {
					t.Errorf("before %s: %t, %v", asked.sql, there, err)
				}
				err := state.Tx(ctx, p.old, "1s", func(tx pgx.Tx) error {
					var level, sync string
					if err := tx.QueryRow(ctx, `select current_setting('transaction_isolation'), current_setting('synchronous_commit')`).Scan(&level, &sync); err != nil {
						return err
					}
					if level != "read committed" || sync != "on" {
						t.Errorf("a transaction is %s, synchronous_commit %s", level, sync)
					}
					if _, err := tx.Exec(ctx, asked.sql); err != nil {
						return err
					}
					return result
				})
				if !errors.Is(err, result) {
					t.Errorf("%s: %v", asked.sql, err)
				}
			}
			if there, err := asked.ask(); !there || err != nil {
				t.Errorf("after %s: %t, %v", asked.sql, there, err)
			}
		}
		holder := connect(t, p.oldURL)
		if _, err := holder.Exec(ctx, "begin; "+state.TurnLockSQL); err != nil {
			t.Fatal(err)
		}
		err = state.Tx(ctx, p.old, "50ms", func(tx pgx.Tx) error {
			_, err := state.LockTurn(ctx, tx)
			return err
		})
		if pg.Code(err) != pg.LockNotAvailable {
			t.Errorf("a turn that is held: %v", err)
		}
	})
}

// Locate puts together what either server knows.
func TestLocate(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		ctx := t.Context()
		p.created(t)
		pgtest.Exec(t, p.oldURL, `update pgcutover.turn set attempt = 10000001`)
		pgtest.Exec(t, p.newURL, `update pgcutover.turn set attempt = 10000000`)
		for _, step := range []struct {
			url, sql string
			want     state.Position
			decided  bool
			serving  pg.Side
			way      state.Direction
			stream   string // that the next attempt drains
		}{
			{p.oldURL, `select 1`, state.Position{Attempt: 10000001}, false, pg.Old, state.Forward, "pgcutover_m"},
			{p.oldURL, `insert into pgcutover.decision_forward values (10000001, 0)`, state.Position{Attempt: 10000001, Forward: 10000001}, true, pg.New, state.Forward, "pgcutover_m"},
			{p.newURL, `update pgcutover.turn set attempt = 10000002`, state.Position{Attempt: 10000002, Forward: 10000001}, false, pg.New, state.Back, "pgcutover_m_10000001"},
			{p.newURL, `insert into pgcutover.decision_back values (10000002, 0)`, state.Position{Attempt: 10000002, Forward: 10000001, Back: 10000002}, true, pg.Old, state.Back, "pgcutover_m_10000001"},
			{p.newURL, `update pgcutover.turn set attempt = 10000003`, state.Position{Attempt: 10000003, Forward: 10000001, Back: 10000002}, false, pg.Old, state.Forward, "pgcutover_m_10000002"},
		} {
			pgtest.Exec(t, step.url, step.sql)
			at, err := state.Locate(ctx, p.old, p.new)
			if err != nil {
				t.Fatal(err)
			}
			step.want.Move = "m"
			if at != step.want || at.Decided() != step.decided || at.Serving() != step.serving || at.Direction() != step.way {
				t.Errorf("%s: %+v, decided %t, %s serves, %s; want %+v, %t, %s, %s",
					step.sql, at, at.Decided(), at.Serving(), at.Direction(), step.want, step.decided, step.serving, step.way)
			}
			if name := at.Stream(at.Direction()).Name(); name != step.stream {
				t.Errorf("%s: the stream is %s, want %s", step.sql, name, step.stream)
			}
		}
	})
}

func TestBefore(t *testing.T) {
	eachMajor(t, func(t *testing.T, p *pair) {
		type before struct{ N int }
		var got before
		if found, err := state.Before(t.Context(), p.new, &got); found || err != nil {
			t.Errorf("without state: %t, %v", found, err)
		}
		p.created(t)
		if found, err := state.Before(t.Context(), p.new, &got); found || err != nil {
			t.Errorf("nothing stored: %t, %v", found, err)
		}
		for _, n := range []int{1, 2} { // the first one counts
			if err := state.SetBefore(t.Context(), p.new, before{n}); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := state.Before(t.Context(), p.new, &got); !found || err != nil || got.N != 1 {
			t.Errorf("%t, %v, %+v", found, err, got)
		}
	})
}

func TestJournal(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			cluster := pgtest.Server(t, major)
			journaltest.Run(t, func(tb testing.TB) journal.Store {
				url := pgtest.Database(tb, cluster)
				s, err := pg.Open(tb.Context(), pg.Options{Side: pg.New, URL: url, Move: "m"})
				if err != nil {
					tb.Fatal(err)
				}
				tb.Cleanup(s.Close)
				if err := state.Create(tb.Context(), s, state.Move{Name: "m"}); err != nil {
					tb.Fatal(err)
				}
				return state.Journal{Server: s}
			})
		})
	}
}
