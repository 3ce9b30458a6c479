package doctor_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// restored dumps a database and restores it into a new one on the same server.
func restored(t *testing.T, s *pg.Server, url string) (string, *pg.Server) {
	t.Helper()
	copyURL := pgtest.Database(t, pgtest.Server(t, s.Major()))
	c, err := pg.Open(t.Context(), pg.Options{Side: s.Side(), URL: copyURL, Move: s.Move()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	file := filepath.Join(t.TempDir(), "dump")
	for _, command := range []struct {
		name string
		on   *pg.Server
		args []string
	}{
		{"pg_dump", s, []string{"--format=custom", "--file=" + file}},
		{"pg_restore", c, []string{"--dbname=" + databaseName(copyURL), file}},
	} {
		path, _, err := pgclient.FindClient(t.Context(), command.name, s.Major())
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), path, command.args...)
		cmd.Env = append(cmd.Environ(), command.on.Environment()...)
		// A client newer than the server sets what the server does not know.
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "errors ignored on restore") {
			t.Fatalf("%s: %v\n%s", command.name, err, out)
		}
	}
	return copyURL, c
}

// closed makes, on the server that pg_dump is sure to know, what start makes on
// the new one.
func closed(t *testing.T, pair pgtest.Pair) (*move, *pg.Server, string) {
	t.Helper()
	m := databases(t, pair)
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.New, URL: m.oldURL, Move: m.name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	id, err := state.Identify(t.Context(), s)
	if err == nil {
		err = state.Create(t.Context(), s, state.Move{Name: m.name, Old: id, New: id})
	}
	if err == nil {
		err = fence.Install(t.Context(), s, fence.Error, id.Database)
	}
	if err == nil {
		_, err = fence.Attach(t.Context(), s, time.Minute, nil)
	}
	if err == nil {
		err = fence.SetReadOnly(t.Context(), s, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	asTool(t, m.oldURL, `create subscription pgcutover_`+m.name+` connection 'dbname=x' publication x with (connect = false)`)
	return m, s, m.oldURL
}

// A backup of a closed server carries fence, state and streams along. It is
// recognised by the identity that it records, and removed.
func TestRestoredDump(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m, s, url := closed(t, pair)
		copyURL, _ := restored(t, s, url)
		asTool(t, url, `alter subscription pgcutover_`+m.name+` set (slot_name = none)`, `drop subscription pgcutover_`+m.name)
		name := "pgcutover_" + m.name
		wants := []want{
			{"fence.restored-dump", "new", warning, doctor.Copy, true, "schema pgcutover", []string{
				fmt.Sprintf("it says that it is the new server of the move %q", m.name), "it does nothing here", "2 tables have its trigger",
			}},
			{"subscription.restored", "new", warning, doctor.Copy, true, name, nil},
		}
		expect(t, m.examined(t, doctor.Options{New: copyURL}), wants...)

		// Bound to this database, as by a chance of OIDs, it refuses writes.
		oid := pgtest.Value[uint32](t, copyURL, `select oid from pg_database where datname = current_database()`)
		was := pgtest.Value[string](t, copyURL, `select pg_get_functiondef('pgcutover.check()'::regprocedure)`)
		bound := pgtest.Value[string](t, copyURL, `select (identity #>> '{new,database}') from pgcutover.move`)
		pgtest.Exec(t, copyURL, strings.Replace(was, "<> "+bound, fmt.Sprintf("<> %d", oid), 1))
		if err := writable(t, copyURL); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Fatalf("a client's write on the copy: %v", err)
		}
		wants[0].severity, wants[0].fix, wants[0].seen = blocker, false, []string{"check() refuses writes here"}
		r := m.examined(t, doctor.Options{New: copyURL, Fix: true})
		expect(t, r, wants[0]) // what nobody uses is gone, and the fence is not
		if err := writable(t, copyURL); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Errorf("a client's write on the copy after --fix: %v", err)
		}
		pgtest.Exec(t, copyURL, was)
		if r = m.examined(t, doctor.Options{New: copyURL, Fix: true}); len(r.Mended) != 1 || len(r.Findings) != 0 {
			t.Errorf("after --fix:\n%s", text(t, r))
		}
		if err := writable(t, copyURL); err != nil {
			t.Errorf("a client's write on the mended copy: %v", err)
		}
		if err := writable(t, url); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Errorf("a client's write on the server that was dumped: %v", err)
		}
	})
}

// A copy of a server that has given its writes away may be all that is left of
// it: whether clients may write there is for people to say.
func TestRestoredDumpAfterTheDecision(t *testing.T) {
	t.Parallel()
	m := started(t, pgtest.Pairs(t)[0])
	m.turn(t, state.Forward)
	copyURL, c := restored(t, m.old, m.oldURL)
	oid := pgtest.Value[uint32](t, copyURL, `select oid from pg_database where datname = current_database()`)
	pgtest.Exec(t, copyURL, fence.ClosedSQL(c, fence.Disconnect, oid, time.Now()))
	r := m.examined(t, doctor.Options{Old: copyURL, New: m.newURL, Fix: true})
	found := of(r, "fence.restored-dump", "old")
	if len(found) != 1 || found[0].Fix || found[0].Severity != blocker || !strings.Contains(found[0].Why, "decision") {
		t.Fatalf("the report:\n%s", text(t, r))
	}
	if err := writable(t, copyURL); err == nil {
		t.Error("--fix has opened a copy behind a decision")
	}
	pgtest.Exec(t, copyURL, found[0].SQL...)
	if err := writable(t, copyURL); err != nil {
		t.Errorf("after the SQL: %v", err)
	}
}

// Without its rows a dumped schema pgcutover is known by what check() is bound
// to.
func TestRestoredDefinitions(t *testing.T) {
	t.Parallel()
	m, s, url := closed(t, pgtest.Pairs(t)[0])
	copyURL, _ := restored(t, s, url)
	pgtest.Exec(t, copyURL, `delete from pgcutover.move`, `delete from pgcutover.turn`)
	r := m.examined(t, doctor.Options{New: copyURL})
	found := of(r, "fence.restored-dump", "new")
	if len(found) != 1 || found[0].Whose != doctor.Copy || !found[0].Fix || !strings.Contains(found[0].Seen, "without its rows") {
		t.Errorf("the report:\n%s", text(t, r))
	}
}
