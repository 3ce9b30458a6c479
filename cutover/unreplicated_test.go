package cutover_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/unreplicated"
)

// unreplicatedThings are an unlogged table, documents that refer to large objects,
// some of these, and a view of a view.
func unreplicatedThings(role string) []string {
	return []string{
		"create unlogged table public.cache (id bigserial primary key, v text)",
		"insert into public.cache (v) select 'before ' || i from generate_series(1, 500) i",
		"create table public.docs (id bigserial primary key, object oid)",
		"select count(lo_from_bytea(0, ('before ' || i)::bytea)) from generate_series(1, 50) i",
		"grant all on public.cache, public.docs to " + role, "grant usage on sequence public.cache_id_seq, public.docs_id_seq to " + role,
		"create materialized view public.total as select count(*) as n from public.docs",
		"create unique index on public.total (n)",
		"create materialized view public.above as select n + 1 as n from public.total",
	}
}

// client makes a role without rights of its own on both servers, and returns it.
func client(t *testing.T, pair pgtest.Pair) string {
	t.Helper()
	role := fmt.Sprintf("client_%d_%d", pair.Old, moveCount.Add(1))
	for _, major := range []int{pair.Old, pair.New} {
		admin := pgtest.Server(t, major).URL("postgres")
		pgtest.Exec(t, admin, "create role "+role+" login")
		t.Cleanup(func() { pgtest.Exec(t, admin, "drop role "+role) })
	}
	return role
}

// looking looks around before a step.
type looking struct {
	step.Observer
	name string
	look func()
}

func (b looking) StepStarted(s step.Step, i, n int) {
	if s.Name == b.name {
		b.look()
	}
	b.Observer.StepStarted(s, i, n)
}

// Whatever was acknowledged by the server that served is on the one that serves
// afterwards, there and back, and nothing is accepted by the other one.
func TestUnreplicatedThereAndBack(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		role := client(t, pair)
		m := started(t, pair, unreplicatedThings(role)...)
		onOld, onNew := pgtest.WithUser(t, m.oldURL, role, ""), pgtest.WithUser(t, m.newURL, role, "")
		// What new has then, before anybody writes there.
		first := func(c *cutover.Cutover, url string) (objects, rows string) {
			t.Helper()
			c.Observer = looking{step.NopObserver{}, "open", func() {
				objects, rows = pgtest.Value[string](t, url, allObjectsSQL), pgtest.Value[string](t, url, allRowsSQL)
			}}
			if err := c.Run(t.Context(), t.Context()); err != nil {
				t.Fatalf("%v\n%s", err, hint.Of(err))
			}
			return objects, rows
		}
		h := hammered(t, onOld)
		h.writes(t)
		objects, rows := first(m.cutover(t), m.newURL)
		h.refuses(t)
		h.proved(t, m.oldURL, objects, rows)
		if got, want := pgtest.Value[int](t, m.newURL, `select n from public.above`), 2; got < want {
			t.Errorf("the materialized view above the other one has %d, which is from before the start", got)
		}

		h = hammered(t, onNew)
		h.writes(t)
		objects, rows = first(m.rollback(t, false), m.oldURL)
		h.refuses(t)
		h.proved(t, m.newURL, objects, rows)
		h = hammered(t, onOld)
		h.writes(t)
		h.stop()
		h.group.Wait()

		// What is gone from old does not come back with new, which has it still.
		left := func(url string) int {
			t.Helper()
			return pgtest.Value[int](t, url, `select (select count(*) from public.cache) + (select count(*) from pg_largeobject_metadata)`)
		}
		pgtest.Exec(t, m.oldURL, emptied...)
		if left(m.newURL) == 0 {
			t.Fatal("new has nothing that could come back")
		}
		first(m.cutover(t), m.newURL)
		if n := left(m.newURL); n != 0 {
			t.Errorf("%d rows and large objects that were removed on old came back on new", n)
		}
		// A rollback does not take for unlinked what never was on new.
		pgtest.Exec(t, m.oldURL, "set default_transaction_read_only = off", "select lo_create(0)")
		err := m.rollback(t, false).Ready(t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), "the only copy") || !strings.Contains(hint.Of(err), "large_objects: ignore") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
	})
}

// emptied is what clients do that need nothing of it any more.
var emptied = []string{"select count(lo_unlink(oid)) from pg_largeobject_metadata", "delete from public.cache"}

// Too much for its budget is refused before anything is frozen; too slow for it is
// undone.
func TestUnreplicatedOverBudget(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, unreplicatedThings("public")...)
		before := m.rest(t)
		c := m.cutover(t)
		c.Settings.Unreplicated.Budget = 20 * time.Millisecond
		err := c.Run(t.Context(), t.Context())
		if !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), "more than unreplicated.budget (20ms)") || !strings.Contains(err.Error(), "1 unlogged tables of ") ||
			!strings.Contains(hint.Of(err), "unlogged: empty") || !strings.Contains(hint.Of(err), "large_objects: ignore") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		if aborted := outcome[*step.Aborted](t, err); aborted.Step != "gates" {
			t.Errorf("stopped by %s", aborted.Step)
		}
		m.unchanged(t, before)

		blocker := connect(t, m.newURL)
		if _, err := blocker.Exec(t.Context(), "begin; lock table public.cache in access share mode"); err != nil {
			t.Fatal(err)
		}
		c = m.cutover(t)
		c.Settings.Unreplicated.Budget = 500 * time.Millisecond
		err = c.Run(t.Context(), t.Context())
		if aborted := outcome[*step.Aborted](t, err); aborted.Step != "unreplicated" || !aborted.Undone && aborted.UndoErr == nil {
			t.Errorf("%+v", aborted)
		}
		if !strings.Contains(err.Error(), cutover.ErrOverBudget.Error()) {
			t.Error(err)
		}
		pg.Close(t.Context(), blocker)
		m.writes(t, pg.Old)
		if _, err := m.cutover(t).Resume(t.Context(), t.Context()); err != nil && !errors.Is(err, cutover.ErrNothing) {
			t.Error(err)
		}
		m.unchanged(t, before)
		if n := pgtest.Value[int](t, m.newURL, `select (select count(*) from public.cache) + (select count(*) from pg_largeobject_metadata)`); n != 0 {
			t.Errorf("%d copies are left on new", n)
		}
		m.run(t)
		if n := pgtest.Value[int](t, m.newURL, `select count(*) from public.cache`); n != 500 {
			t.Errorf("%d rows", n)
		}
	})
}

// Who holds large objects is named, and everybody goes on.
func TestUnreplicatedObjectsInUse(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, unreplicatedThings("public")...)
		reader := connect(t, m.oldURL)
		if _, err := reader.Exec(t.Context(), "begin; select lo_get(oid) from pg_largeobject_metadata limit 1"); err != nil {
			t.Fatal(err)
		}
		m.Options.Cutover.LockTimeout, m.Options.Cutover.Attempts = 300*time.Millisecond, 4
		err := m.cutover(t).Run(t.Context(), t.Context())
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("session %d", reader.PgConn().PID())) || !strings.Contains(err.Error(), "RowExclusiveLock on pg_largeobject") {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		m.writes(t, pg.Old)
		if _, err := reader.Exec(t.Context(), "rollback; begin; select lo_create(0)"); err != nil {
			t.Fatal(err)
		}
		err = m.cutover(t).Run(t.Context(), t.Context())
		if err == nil || !strings.Contains(err.Error(), "large objects are being written") || !strings.Contains(err.Error(), fmt.Sprint(reader.PgConn().PID())) {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		m.writes(t, pg.Old)
		if _, err := reader.Exec(t.Context(), "commit"); err != nil {
			t.Error(err)
		}
		m.run(t)
		want := pgtest.Value[string](t, m.oldURL, allObjectsSQL)
		if d := pgtest.Diff(want, pgtest.Value[string](t, m.newURL, allObjectsSQL)); d != "" {
			t.Error(d)
		}
		// Those that are unlinked on new, all of them, go away on old with a rollback.
		pgtest.Exec(t, m.newURL, emptied...)
		m.back(t)
		if n := pgtest.Value[int](t, m.oldURL, `select (select count(*) from public.cache) + (select count(*) from pg_largeobject_metadata)`); n != 0 {
			t.Errorf("%d rows and large objects that were removed on new are back on old", n)
		}
	})
}

// A tool that dies right after the decision has a hold on old that ends whoever
// waits for a large object: what he writes would be lost.
func TestUnreplicatedWaitersAreEnded(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, unreplicatedThings("public")...)
		writer := connect(t, m.oldURL) // a superuser, whom nothing else would stop
		answer := make(chan error, 1)
		c := m.cutover(t)
		end, err := cutover.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		for _, s := range c.Steps() {
			if _, err := s.Do(t.Context()); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
			if s.Name == "drain" {
				go func() {
					_, err := writer.Exec(context.WithoutCancel(t.Context()), `select lo_from_bytea(4711, 'late')`)
					answer <- err
				}()
				until(t, "the writer to wait", func() (bool, error) {
					return pgtest.Value[bool](t, m.oldURL, `select exists (select 1 from pg_locks where not granted and relation = 'pg_largeobject_metadata'::regclass)`), nil
				})
			}
			if s.Final {
				break
			}
		}
		until(t, "new to be open", func() (bool, error) { return pgtest.Value[bool](t, m.newURL, `select open from pgcutover.turn`), nil })
		var ended *pgconn.PgError
		if err := <-answer; !errors.As(err, &ended) || ended.Code != pg.AdminShutdown {
			t.Errorf("the writer was answered %v", err)
		}
		if n := pgtest.Value[int](t, m.oldURL, `select count(*) from pg_largeobject_metadata where oid = 4711`); n != 0 {
			t.Error("old took a large object after the decision")
		}
	})
}

// A role that may not lock the catalog is told so, and what can be done.
func TestUnreplicatedRights(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		role := client(t, pair)
		m := started(t, pair, append(unreplicatedThings(role), "grant usage on schema public to "+role)...)
		pgtest.Exec(t, m.oldURL, "grant usage on schema pgcutover to "+role, "grant select on all tables in schema pgcutover to "+role)
		limited, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: pgtest.WithUser(t, m.oldURL, role, ""), Move: m.name})
		if err != nil {
			t.Fatal(err)
		}
		defer limited.Close()
		c := m.cutover(t)
		c.Old = limited
		err = c.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "cannot hold the writers of large objects") || !strings.Contains(err.Error(), "cannot read large objects") {
			t.Error(err)
		}
		c.Settings.Unreplicated.Objects = unreplicated.IdleObjects
		if err := c.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "cannot hold the writers") || !strings.Contains(err.Error(), "cannot read large objects") {
			t.Error(err)
		}
		c.Settings.Unreplicated.Objects = unreplicated.IgnoreObjects
		if err := c.Ready(t.Context()); err != nil && strings.Contains(err.Error(), "large objects") {
			t.Error(err)
		}

		// Removing those that only new has takes rights there, and that old had them once.
		pgtest.Exec(t, m.oldURL, emptied...)
		pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off", "select lo_create(0)",
			"grant usage on schema pgcutover to "+role, "grant select on all tables in schema pgcutover to "+role)
		limitedNew, err := pg.Open(t.Context(), pg.Options{Side: pg.New, URL: pgtest.WithUser(t, m.newURL, role, ""), Move: m.name})
		if err != nil {
			t.Fatal(err)
		}
		defer limitedNew.Close()
		c = m.cutover(t)
		c.New = limitedNew
		err = c.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no member of: postgres") || !strings.Contains(err.Error(), "never on the old server") || !strings.Contains(hint.Of(err), "TO \""+role) {
			t.Errorf("%v, hint %q", err, hint.Of(err))
		}
		pgtest.Exec(t, m.oldURL, "drop owned by "+role)
		pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off", "drop owned by "+role)
	})
}

// A tool that slept in the middle finds that the turn has moved on, and leaves the
// rows of clients alone.
func TestUnreplicatedByAStaleTool(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, unreplicatedThings("public")...)
		c := m.cutover(t)
		end, err := cutover.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer end()
		for _, s := range c.Steps() {
			if s.Name == "unreplicated" {
				pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off", "update pgcutover.turn set attempt = attempt + 1")
			}
			_, err := s.Do(t.Context())
			if s.Name == "unreplicated" {
				if !errors.Is(err, fence.ErrNotMine) {
					t.Errorf("%v, want %v", err, fence.ErrNotMine)
				}
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
		if n := pgtest.Value[int](t, m.newURL, `select (select count(*) from public.cache) + (select count(*) from pg_largeobject_metadata)`); n != 0 {
			t.Errorf("%d were copied", n)
		}
	})
}

// What is to happen is in the plan and in the status, and refreshing has a bound.
func TestUnreplicatedIsSaidBefore(t *testing.T) {
	firstPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair, unreplicatedThings("public")...)
		m.Options.Cutover.RefreshWithin = time.Minute
		status, err := m.Status(t.Context())
		if err != nil || status.Views == nil || status.Views.Filled < 2 || !status.Views.Again || status.Views.At.IsZero() {
			t.Errorf("%+v, %v", status.Views, err)
		}
		var said []string
		for _, s := range m.cutover(t).Steps() {
			if s.Name != "ahead" && s.Name != "freeze" && s.Name != "unreplicated" {
				continue
			}
			statements, err := s.Statements(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range statements {
				said = append(said, one.Server+": "+one.SQL)
			}
		}
		for _, want := range []string{
			"new: refresh materialized view concurrently public.total", "new: refresh materialized view public.above",
			"old: lock table pg_catalog.pg_largeobject_metadata", `old: -- copy "public"."cache" ("id", "v") to stdout`, `new: -- copy "public"."cache" ("id", "v") from stdin`, "new: -- lo_unlink",
		} {
			if !strings.Contains(strings.Join(said, "\n"), want) {
				t.Errorf("the plan does not say %q", want)
			}
		}
		c := m.cutover(t)
		c.Settings.RefreshWithin = time.Nanosecond
		err = c.Run(t.Context(), t.Context())
		if aborted := outcome[*step.Aborted](t, err); aborted.Step != "ahead" || !aborted.Undone || !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(err.Error(), cutover.ErrNotRefreshed.Error()) {
			t.Error(err)
		}
	})
}
