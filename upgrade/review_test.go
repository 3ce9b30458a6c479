package upgrade

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/warmup"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const itemSQL = `create table public.item (id bigserial primary key, name text)`

// opened makes two databases, the old one with a table, and opens a move of
// them. Its role and stream are removed with it.
func opened(t *testing.T, name string) (m *Move, oldURL, newURL string) {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	oldURL, newURL = pgtest.Database(t, pgtest.Server(t, pair.Old)), pgtest.Database(t, pgtest.Server(t, pair.New))
	pgtest.Exec(t, oldURL, itemSQL, `insert into public.item (name) select 'x' from generate_series(1, 50)`)
	return reopened(t, name, oldURL, newURL), oldURL, newURL
}

func reopened(t *testing.T, name, oldURL, newURL string) *Move {
	t.Helper()
	m, err := Open(t.Context(), Options{
		Name: name, Old: Endpoint{URL: oldURL}, New: Endpoint{URL: newURL}, Margin: 100, IndexJobs: 1,
		Analyze: warmup.AnalyzeOptions{Stages: []warmup.Stage{1}, Jobs: 1}, Warm: warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: cutover.Settings{MaxLag: 16 << 20, MaxPause: time.Minute, LockTimeout: 300 * time.Millisecond, Attempts: 20, OnClosed: fence.Error, WayBack: true, ProveWithin: 100 * time.Millisecond},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func (m *Move) startedForTest(t *testing.T) {
	t.Helper()
	if report, err := m.Start(t.Context(), t.Context(), ""); err != nil {
		t.Fatalf("%v\n%s\n%+v", err, hint.Of(err), report.Blockers())
	}
}

// An old server that knows nothing of the move, because its URL is wrong or its
// state is gone, must not make abort empty a new server that serves.
func TestAbortNeverEmptiesWhatServes(t *testing.T) {
	m, oldURL, newURL := opened(t, "rev1")
	m.startedForTest(t)
	elsewhere := pgtest.Database(t, pgtest.Server(t, pgtest.Pairs(t)[0].Old))
	pgtest.Exec(t, elsewhere, itemSQL)
	wrong := reopened(t, "rev1", elsewhere, newURL)
	if err := wrong.Abort(t.Context(), t.Context(), RemoveOptions{}); err == nil {
		t.Error("abort with another old database did not refuse before the cutover")
	}
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := wrong.Complete(t.Context(), t.Context(), RemoveOptions{}); err == nil {
		t.Error("complete with another old database did not refuse")
	}
	if err := wrong.Abort(t.Context(), t.Context(), RemoveOptions{}); err == nil {
		t.Error("abort with another old database did not refuse after the cutover")
	}
	if n := pgtest.Value[int](t, newURL, `select count(*) from public.item`); n != 50 {
		t.Errorf("new has %d rows", n)
	}
	// From here abort would be refused: nobody is told to run it.
	pgtest.Exec(t, newURL, `alter table public.item add column later integer`)
	err = m.schemaGate(t.Context(), state.Back)
	if advice := hint.Of(err); !errors.Is(err, cutover.ErrBlocked) || !strings.Contains(advice, "pgcutover rollback --leave-behind") || strings.Contains(advice, "abort") {
		t.Errorf("the gate of the schemas before a rollback: %v, hint %q", err, advice)
	}
	pgtest.Exec(t, newURL, `alter table public.item drop column later`)
	// The same with the right old server, whose state is gone.
	pgtest.Exec(t, oldURL, `set default_transaction_read_only = off`, `alter schema pgcutover rename to hidden`)
	err = m.Abort(t.Context(), t.Context(), RemoveOptions{Force: true})
	pgtest.Exec(t, oldURL, `set default_transaction_read_only = off`, `alter schema hidden rename to pgcutover`)
	if !errors.Is(err, ErrCutOver) {
		t.Errorf("abort without old's state: %v", err)
	}
	if err := m.Complete(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("complete: %v", err)
	}
}

// A start that died before it had recorded what new was like must not leave the
// copied schema on new after the next start and abort.
func TestAbortAfterStartThatDiedEarly(t *testing.T) {
	m, _, newURL := opened(t, "rev2")
	before := pgtest.Catalog(t, newURL)
	now, err := state.Observe(t.Context(), "rev2", m.Old, m.New)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*pg.Server{m.Old, m.New} {
		if err := state.Create(t.Context(), s, *now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Start(t.Context(), t.Context(), "schema"); err != nil {
		t.Fatal(err)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := pgtest.Diff(before, pgtest.Catalog(t, newURL)); d != "" {
		t.Errorf("new is not as before:\n%s", d)
	}
}

// A tool that is stopped in the middle of a transaction that holds a table's
// lock is rid of it within seconds.
func TestStoppedInsideTransaction(t *testing.T) {
	m, oldURL, _ := opened(t, "rev3")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	locked, stop := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- state.Tx(ctx, m.Old, "5s", func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `lock table public.item in share row exclusive mode`); err != nil {
				return err
			}
			close(locked)
			<-stop // as a stopped process does
			return nil
		})
	}()
	<-locked
	began := time.Now()
	pgtest.Exec(t, oldURL, `insert into public.item (name) values ('waited')`)
	took := time.Since(began)
	close(stop)
	if err := <-done; err == nil {
		t.Error("the stopped transaction committed")
	}
	if took > 30*time.Second {
		t.Errorf("the writer waited %s", took)
	}
}

// An abort that slept while another tool cut over, and whose lock somebody
// ended, wakes up in the middle of its list: it must neither empty new nor open
// old.
func TestStaleAbort(t *testing.T) {
	m, oldURL, newURL := opened(t, "rev4")
	m.startedForTest(t)
	r := newRemover(m, RemoveOptions{})
	if err := r.mayAbort(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if _, err := r.emptyNew(t.Context()); !errors.Is(err, ErrCutOver) {
		t.Errorf("emptying new: %v", err)
	}
	if _, err := r.dropFences(t.Context()); !errors.Is(err, fence.ErrNotMine) && !errors.Is(err, fence.ErrDecided) {
		t.Errorf("opening old: %v", err)
	}
	if n := pgtest.Value[int](t, newURL, `select count(*) from public.item`); n != 50 {
		t.Errorf("new has %d rows", n)
	}
	if n := pgtest.Value[int](t, oldURL, `select count(*) from pg_trigger where tgname = 'pgcutover_rev4_fence' and tgenabled = 'A'`); n != 1 {
		t.Errorf("%d fence triggers on old", n)
	}
	if err := m.Complete(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("complete: %v", err)
	}
}
