package cutover_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

// waits are how long single-row writers on old had to wait.
type waits struct {
	mu      sync.Mutex
	longest time.Duration
	n       int
	cancel  context.CancelFunc
	group   errgroup.Group
}

const insertSingleSQL = `insert into public.single (text) values ('a row')`

// singles starts writers that commit a single row each time, on old only.
func (m *move) singles(t *testing.T) *waits {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &waits{cancel: cancel}
	for range 2 {
		conn := connect(t, m.oldURL)
		w.group.Go(func() error {
			for ctx.Err() == nil {
				began := time.Now()
				if _, err := conn.Exec(context.WithoutCancel(ctx), insertSingleSQL); err != nil {
					return err
				}
				w.note(time.Since(began))
				<-time.After(2 * time.Millisecond)
			}
			return nil
		})
	}
	t.Cleanup(func() {
		cancel()
		w.group.Wait() //nolint:errcheck // the test has looked at it, if it came that far
	})
	return w
}

func (w *waits) note(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.longest = max(w.longest, d)
	w.n++
}

// reset returns the longest wait and the number of writes since the last call.
func (w *waits) reset() (longest time.Duration, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest, n = w.longest, w.n
	w.longest, w.n = 0, 0
	return longest, n
}

// more waits for n more writes.
func (w *waits) more(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.n
	}
	before := count()
	until(t, "single-row writers", func() (bool, error) { return count() >= before+n, nil })
}

// end stops the writers; none must have met an error.
func (w *waits) end(t *testing.T) {
	t.Helper()
	w.cancel()
	if err := w.group.Wait(); err != nil {
		t.Errorf("a writer on old met an error: %v", err)
	}
}

// slack is what a loaded machine may add to a wait, beside what writers have to
// wait anyway.
const slack = 3 * time.Second

// holder is a session in the middle of a transaction.
type holder struct {
	conn *pgx.Conn
	pid  uint32
}

// hold begins a transaction with the given statement.
func hold(t *testing.T, url, sql string) *holder {
	t.Helper()
	conn := connect(t, url)
	for _, sql := range []string{"begin", sql} {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatal(err)
		}
	}
	return &holder{conn, conn.PgConn().PID()}
}

func (h *holder) end(t *testing.T) {
	t.Helper()
	if _, err := h.conn.Exec(context.WithoutCancel(t.Context()), "commit"); err != nil {
		t.Error(err)
	}
}

// A write transaction that stays open makes freezing give up and try again.
// Others wait no longer than one attempt; in the end nothing has happened.
func TestFreezeBehindALongTransaction(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.Options.Cutover.Attempts = 4
		before := m.rest(t)
		singles := m.singles(t)
		singles.more(t, 100)
		usual, _ := singles.reset()

		c := m.cutover(t)
		var (
			long    *holder
			longest time.Duration
			n       int
		)
		c.Observer = &onDone{
			step: "lease", call: func() {
				long = hold(t, m.oldURL, insertSingleSQL)
				singles.reset()
			},
			undo: "ahead", back: func() {
				longest, n = singles.reset()
				long.end(t) // its table's trigger cannot be dropped before
			},
		}
		err := c.Run(t.Context(), t.Context())
		aborted := outcome[*step.Aborted](t, err)
		if aborted.Step != "freeze" || !aborted.Undone || !errors.Is(err, publisher.ErrNotFrozen) {
			t.Errorf("%+v, want freeze to give up", aborted)
		}
		if want := fmt.Sprintf("session %d ", long.pid); !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("error %q, hint %q: want the session %s named", err, hint.Of(err), want)
		}
		bound := settings().LockTimeout + slack + usual
		if longest > bound || n < 4 {
			t.Errorf("%d writes waited up to %s, want more than none and at most %s", n, longest, bound)
		}
		t.Logf("usually %s, while freezing %s, %d writes", usual, longest, n)
		singles.more(t, 20)
		m.writes(t, pg.Old)
		m.unchanged(t, before)

		// It ends in time: the next attempt waits for it, and goes on.
		m.Options.Cutover.Attempts = 50
		c = m.cutover(t)
		ends := time.NewTimer(time.Hour)
		defer ends.Stop()
		c.Observer = &onDone{step: "lease", call: func() {
			long = hold(t, m.oldURL, insertSingleSQL)
			singles.end(t)
			ends.Reset(time.Second)
		}}
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context(), t.Context()) }()
		select {
		case err := <-done:
			t.Fatalf("frozen although a transaction was open: %v", err)
		case <-ends.C:
			long.end(t)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}

// The stream stands still in the pause: it ends at max_pause, and the writers
// go on at once.
func TestDrainThatDoesNotEnd(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.Options.Cutover.MaxPause = 2 * time.Second
		before := m.rest(t)
		singles := m.singles(t)
		for _, table := range []string{
			"public.single",            // the apply worker waits
			"pgcutover.marker_forward", // and so does the tool's own question
		} {
			singles.more(t, 50)
			usual, _ := singles.reset()
			c := m.cutover(t)
			var lock *holder
			c.Observer = &onDone{step: "lease", call: func() {
				lock = hold(t, m.newURL, "lock table "+table+" in access exclusive mode")
				singles.more(t, 1)
				singles.reset()
			}}
			err := c.Run(t.Context(), t.Context())
			singles.more(t, 1)
			longest, _ := singles.reset()
			aborted := outcome[*step.Aborted](t, err)
			if aborted.Step != "drain" || !aborted.Undone || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, pg.ErrTimeout) {
				t.Errorf("%s: %+v, want drain to run into its bound", table, aborted)
			}
			if most := m.Options.Cutover.MaxPause + settings().LockTimeout + slack + usual; longest > most || longest < m.Options.Cutover.MaxPause/2 {
				t.Errorf("%s: writers waited %s, want about max_pause and at most %s", table, longest, most)
			}
			t.Logf("%s: writers waited %s, then: %v", table, longest, err)
			m.writes(t, pg.Old)
			lock.end(t)
			m.unchanged(t, before)
		}
		singles.end(t)
		m.Options.Cutover = settings()
		m.run(t)
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}
