package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// pooled is a move whose clients reach the database through a pooler.
type pooled struct {
	*move
	pooler *pgbouncer.Pooler
}

func newPooled(t *testing.T) *pooled {
	t.Helper()
	return behindPooler(t, newMove(t, pgtest.Pairs(t)[0]))
}

// behindPooler puts a pooler in front of a move's servers.
func behindPooler(t *testing.T, m *move) *pooled {
	t.Helper()
	old, err := url.Parse(m.old.app)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(old.Port())
	if err != nil {
		t.Fatal(err)
	}
	pooler, err := pgbouncer.Start(t.Context(), pgbouncer.Options{Databases: map[string]pgbouncer.Endpoint{
		m.name: {Host: old.Hostname(), Port: port, Database: m.name, User: appRole},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Stop(); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(m.dir, "pgcutover.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("  - pgbouncer: { admin_url: %q, database: %s, config: %q }\n", pooler.AdminURL(), m.name, pooler.ConfigFile())
	if err := os.WriteFile(path, bytes.Replace(text, []byte("  - multihost: {}\n"), []byte(entry), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return &pooled{move: m, pooler: pooler}
}

// write lets clients write through the pooler.
func (p *pooled) write(t *testing.T) *clients {
	t.Helper()
	w, err := workload.Start(t.Context(), workload.Options{URL: p.pooler.URL(p.name), Pooled: true, Writers: 3, Rate: 30})
	if err != nil {
		t.Fatal(err)
	}
	c := &clients{m: p.move, writers: w}
	t.Cleanup(func() { c.stop(t) })
	return c
}

// paused asks the pooler whether it makes its clients wait.
func (p *pooled) paused(t *testing.T) bool {
	t.Helper()
	conn := connect(t, p.pooler.AdminURL())
	results, err := conn.PgConn().Exec(t.Context(), "SHOW DATABASES").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range results[0].Rows {
		paused := false
		for i, field := range results[0].FieldDescriptions {
			paused = paused || (field.Name == "paused" && string(row[i]) == "1")
		}
		if string(row[0]) == p.name {
			return paused
		}
	}
	t.Fatalf("the pooler has no database %s", p.name)
	return false
}

// TestPooler turns the writes of clients behind PgBouncer there and back: no
// transaction of theirs fails.
func TestPooler(t *testing.T) {
	parallel(t)
	m := newPooled(t)
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	began := time.Now()
	m.run(t, exitDone, "cutover", "--yes")
	c.expect(pg.Old, pg.New)
	c.serves(t, pg.New, time.Now())
	if s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json")); s.Phase != "cut over" || s.Serving != "new" {
		t.Errorf("after the cutover status says %+v", s)
	}
	m.run(t, exitDone, "rollback", "--yes")
	c.expect(pg.Old, pg.New, pg.Old)
	c.serves(t, pg.Old, time.Now())
	if s := m.canCutOver(t); s.Phase != "ready" || s.Serving != "old" || !s.Verdict.CanCutOver {
		t.Errorf("after the rollback status says %+v", s)
	}
	m.run(t, exitDone, "cutover", "--yes")
	c.expect(pg.Old, pg.New, pg.Old, pg.New)
	c.serves(t, pg.New, time.Now())
	t.Logf("no client was answered for %s", c.writers.Ledger().LongestGap(began, time.Now()))
	c.prove(t, pg.New)
	if errs := c.writers.Ledger().Stats().Errors; len(errs) > 0 {
		t.Errorf("clients behind the pooler saw %v", errs)
	}
	m.complete(t, before)
}

// TestPoolerKilled kills, or stops, the tool while the pooler is paused. The
// watchdog ends the pause: back before the decision, forward after it.
func TestPoolerKilled(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		event, hook string
		side        pg.Side
	}{
		{"after-pause", "kill", pg.Old},
		{"before-decide", "kill", pg.Old},
		{"after-freeze", "stop", pg.Old},
		{"after-decide", "kill", pg.New},
		{"after-open", "kill", pg.New},
		{"after-decide", "stop", pg.New},
	} {
		t.Run(test.hook+" "+test.event, func(t *testing.T) {
			parallel(t)
			m := newPooled(t)
			before := m.catalogs(t)
			c := m.write(t)
			m.start(t)
			m.hook(t, test.event, test.hook)
			if test.side == pg.New {
				c.expect(pg.Old, pg.New)
			}
			p := m.launch(t, nil, "cutover", "--yes")
			if test.hook == "stop" {
				p.stopped()
			} else {
				p.must(killed)
			}
			m.unhook(t, test.event)
			// Without anybody's help.
			c.serves(t, test.side, time.Now())
			if m.paused(t) {
				t.Error("the pooler is still paused")
			}
			if test.hook == "stop" {
				p.signal(syscall.SIGCONT)
				p.wait()
				c.serves(t, test.side, time.Now())
			} else {
				m.resumes(t, c, test.side)
			}
			c.prove(t, test.side)
			if test.side == pg.New {
				m.complete(t, before)
			}
		})
	}
}
