package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

const openWrite = `update "SHOP".stock set note = 'slow' where warehouse = 1`

const slowWrites = `select count(*) from "SHOP".stock where note = 'slow'`

// TestOpenTransaction freezes while a write transaction is open that has passed
// the gate. It must not be left behind: the cutover waits for it, in attempts
// that let the other clients breathe, and gives up when it does not end.
func TestOpenTransaction(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0], "cutover: { lock_timeout: 200ms, attempts: 10 }")
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	started := m.catalogs(t)
	m.hook(t, "after-lease", "stop")

	resumed := time.Now()
	p, tx := m.cutoverBeside(t, "FAIL freeze")
	gap := c.writers.Ledger().LongestGap(resumed, time.Now())
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := p.must(exitAborted)
	if !strings.Contains(r.stderr, "a write transaction stayed open") || !strings.Contains(r.stderr, appRole) {
		t.Errorf("the message does not say which transaction was in the way:\n%s", r)
	}
	t.Logf("the tool tried to freeze: no other client was answered for %s", gap.Round(time.Millisecond))
	if gap > 3*time.Second {
		t.Error("the other clients waited behind a lock that was not to be had")
	}
	m.unchanged(t, "before the cutover", started)
	c.serves(t, pg.Old, time.Now())

	c.expect(pg.Old, pg.New)
	p, tx = m.cutoverBeside(t, "freeze attempt 1")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.must(exitDone)
	c.serves(t, pg.New, time.Now())
	if n := pgtest.Value[int](t, m.new.app, slowWrites); n == 0 {
		t.Error("what the open transaction wrote is not on the new server")
	}
	c.prove(t, pg.New)
	m.complete(t, before)
}

// cutoverBeside runs a cutover that finds a write transaction when it freezes,
// and returns both when the tool has printed a line with such a beginning.
func (m *move) cutoverBeside(t *testing.T, beginning string) (*process, pgx.Tx) {
	t.Helper()
	seen := make(chan struct{})
	var once sync.Once // a freeze that gives way to others begins to count anew
	p := m.launch(t, func(_ *process, line string) {
		if begins(line, beginning) {
			once.Do(func() { close(seen) })
		}
	}, "cutover", "--yes")
	p.stopped()
	tx, err := connect(t, m.old.app).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), openWrite); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGCONT)
	select {
	case <-seen:
	case <-time.After(commandBound):
		t.Fatalf("the tool does not say %q", beginning)
	}
	if m.decided(t) {
		t.Error("decided while a write transaction is open")
	}
	return p, tx
}

// TestStuckStream cuts over while the stream stands still. The pause must end at
// its bound, with everything undone, and the message must name the wait.
func TestStuckStream(t *testing.T) {
	parallel(t)
	const maxPause = 2 * time.Second
	const bounds = "cutover: { max_pause: 2s }"
	m := newMove(t, pgtest.Pairs(t)[0], bounds)
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	started := m.catalogs(t)

	lock, err := connect(t, m.new.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), `lock table pgcutover.marker_forward in share mode`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := m.run(t, exitAborted, "cutover", "--yes")
	if !strings.Contains(r.stderr, "marker") {
		t.Errorf("the message does not name the wait that ran out:\n%s", r)
	}
	gap := c.writers.Ledger().LongestGap(began, time.Now())
	t.Logf("the stream stood still: no client was answered for %s", gap.Round(time.Millisecond))
	if gap < maxPause/2 || gap > maxPause+busy {
		t.Errorf("the clients waited %s with cutover.max_pause at %s", gap, maxPause)
	}
	c.serves(t, pg.Old, time.Now())
	if err := lock.Rollback(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	m.unchanged(t, "before the cutover", started)
	m.reconfigure(t, bounds, "") // a cutover that is to succeed has the usual ones
	m.turn(t, c)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// reconfigure replaces a line of the config file.
func (m *move) reconfigure(t *testing.T, line, by string) {
	t.Helper()
	path := filepath.Join(m.dir, "pgcutover.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), line) {
		t.Fatalf("the config has no line %q:\n%s", line, text)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), line, by, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
