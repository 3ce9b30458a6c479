package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// act lets the hook of an event do something for one database only.
func (m *move) act(t *testing.T, event, shell string) {
	t.Helper()
	m.script(t, event, shell)
	m.hook(t, event, "act")
}

// script says what the hook act does for this database.
func (m *move) script(t *testing.T, event, shell string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, event+"-"+m.name), []byte(shell+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reached waits until a hook of act runs.
func (m *move) reached(t *testing.T) {
	t.Helper()
	m.made(t, "reached")
}

// made waits until a hook has made a file in the move's folder.
func (m *move) made(t *testing.T, name string) {
	t.Helper()
	until(t, "the hook", time.Minute, func() bool {
		_, err := os.Stat(filepath.Join(m.dir, name))
		return err == nil
	}, nil)
}

// configure adds to the config file.
func (m *move) configure(t *testing.T, lines string) {
	t.Helper()
	path := filepath.Join(m.dir, "pgcutover.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, lines...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever keeps one database from deciding, after all of them are frozen, keeps
// all: nobody is left behind on the other server.
func TestDatabasesDecideTogether(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		more string // config
		come func(t *testing.T, d databases) (shell string)
	}{
		{"one is slower than max_pause", "cutover: { max_pause: 1500ms }\n", func(*testing.T, databases) string { return "sleep 3" }},
		{"a table is made in the freeze", "", func(t *testing.T, d databases) string {
			go func() {
				d[0].reached(t)
				pgtest.Exec(t, d[1].old.url, "create table made_in_the_freeze (id int)")
			}()
			return "sleep 4"
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			parallel(t)
			d := newDatabases(t, 2, 1)
			d[0].configure(t, test.more)
			d.run(t, exitDone, "start")
			writing := d.write(t, 1)
			d[1].act(t, "before-drain", test.come(t, d))
			since := time.Now()
			r := d.run(t, exitAborted, "cutover", "--yes")
			if strings.Contains(r.stderr, "ok   decide") {
				t.Errorf("one was decided:\n%s", r)
			}
			d.allOn(t, pg.Old)
			writing[0].serves(t, pg.Old, since)
			writing[0].prove(t, pg.Old)
		})
	}
}

// The others' clients do not wait for the undo of the one that failed, nor for a
// database that is slow to come while somebody's DDL waits for the lease.
func TestDatabasesLetEachOtherGo(t *testing.T) {
	t.Parallel()
	const soon = 8 * time.Second
	insert := func(t *testing.T, m *move) time.Duration {
		t.Helper()
		began := time.Now()
		pgtest.Exec(t, m.old.app, "insert into small (t) values ('w')")
		return time.Since(began)
	}
	t.Run("undo takes long", func(t *testing.T) {
		parallel(t)
		d := newDatabases(t, 2, 0)
		d.run(t, exitDone, "start")
		d[1].act(t, "after-freeze", "sleep 1; exit 1")
		reader := connect(t, d[1].old.url)
		p := d[0].launch(t, nil, "cutover", "--yes")
		d[0].reached(t)
		tx, err := reader.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The undo has to wait for this table.
		if _, err := tx.Exec(t.Context(), "select from small"); err != nil {
			t.Fatal(err)
		}
		if waited := insert(t, d[0]); waited > soon {
			t.Errorf("a writer of the other database waited %s", waited)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.wait()
	})
	t.Run("DDL waits", func(t *testing.T) {
		parallel(t)
		d := newDatabases(t, 2, 0)
		d.run(t, exitDone, "start")
		// By then a database has its lease, and nothing more to look at under it.
		for m, shell := range map[*move]string{d[0]: `: >"$dir/leased"`, d[1]: `: >"$dir/slow"; sleep 12`} {
			m.script(t, "before-pause", shell)
		}
		d[0].hook(t, "before-pause", "act")
		p := d[0].launch(t, nil, "cutover", "--yes")
		d[0].made(t, "leased")
		d[0].made(t, "slow")
		ddl := make(chan struct{})
		go func() {
			defer close(ddl)
			pgtest.Exec(t, d[0].old.app, "create index on small (t)")
		}()
		if waited := insert(t, d[0]); waited > soon {
			t.Errorf("a writer behind DDL behind the lease waited %s", waited)
		}
		<-ddl
		if r := p.wait(); r.code != exitAborted {
			t.Errorf("the cutover ended with %d:\n%s", r.code, r)
		}
	})
}

// A database whose cutover was decided and not finished does not pass for done.
func TestUnfinishedDatabaseIsNotPassedOver(t *testing.T) {
	parallel(t)
	d := newDatabases(t, 2, 0)
	d.run(t, exitDone, "start")
	d[0].hook(t, "before-switch", "kill")
	d.run(t, killed, "cutover", "--yes", "--database", d[0].name)
	d[0].unhook(t, "before-switch")
	d[0].gone(t)
	if r := d.run(t, exitFailed, "cutover", "--yes"); !strings.Contains(r.stderr, "pgcutover resume") {
		t.Errorf("resume is not advised:\n%s", r)
	}
	d.run(t, exitDone, "resume")
	d.allOn(t, pg.New)
	d.run(t, exitDone, "complete", "--yes")
}
