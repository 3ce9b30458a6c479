package fence_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// server is one side of a move, with the fence's functions.
type server struct {
	*pg.Server
	url string
	oid uint32
}

func eachMajor(t *testing.T, side pg.Side, test func(t *testing.T, s *server)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, newServer(t, side, major))
		})
	}
}

// newServer makes the state of a move, whose other side is nobody.
func newServer(t *testing.T, side pg.Side, major int) *server {
	t.Helper()
	url := pgtest.Database(t, pgtest.Server(t, major))
	return install(t, side, url, url)
}

// newServerAs is the same with a tool that is no superuser: its role owns the
// database and what is in it.
func newServerAs(t *testing.T, side pg.Side, major int) *server {
	t.Helper()
	url := pgtest.Database(t, pgtest.Server(t, major))
	role := fmt.Sprintf("tool%d", time.Now().UnixNano())
	database := pgtest.Value[string](t, url, `select current_database()::text`)
	pgtest.Exec(t, url, "create role "+role+" login replication", "alter database "+database+" owner to "+role)
	t.Cleanup(func() {
		pgtest.Exec(t, url, "set default_transaction_read_only = off", "reassign owned by "+role+" to postgres", "drop owned by "+role, "drop role "+role)
	})
	return install(t, side, url, pgtest.WithUser(t, url, role, ""))
}

// install makes the state as the role of toolURL; url is a superuser's.
func install(t *testing.T, side pg.Side, url, toolURL string) *server {
	t.Helper()
	s := &server{url: url}
	name := fmt.Sprintf("f%d", time.Now().UnixNano())
	var err error
	if s.Server, err = pg.Open(t.Context(), pg.Options{Side: side, URL: toolURL, Move: name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	id, err := state.Identify(t.Context(), s.Server)
	if err != nil {
		t.Fatal(err)
	}
	s.oid = id.Database
	if err := state.Create(t.Context(), s.Server, state.Move{Name: name, Old: id, New: id}); err != nil {
		t.Fatal(err)
	}
	// The tests count attempts from nought; a move does not.
	pgtest.Exec(t, s.url, `update pgcutover.turn set attempt = 0`)
	for range 2 { // the second time changes nothing
		if err := fence.Install(t.Context(), s.Server, fence.Error, s.oid); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// fenced makes the triggers on all tables.
func (s *server) fenced(t *testing.T) {
	t.Helper()
	if _, err := fence.Attach(t.Context(), s.Server, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
}

// unfence drops one table's trigger.
func (s *server) unfence(t *testing.T, table string) {
	t.Helper()
	pgtest.Exec(t, s.url, fence.DetachSQL(s.Move(), fence.Table{Schema: "public", Name: table}))
}

// closing is how the tests close a server altogether.
func (s *server) closing() fence.Closing {
	return fence.Closing{OnClosed: fence.Error, Database: s.oid, Since: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)}
}

// closeAll closes the server as the decision does.
func (s *server) closeAll(t *testing.T, c fence.Closing) []string {
	t.Helper()
	var notes []string
	err := state.Tx(t.Context(), s.Server, "5s", func(tx pgx.Tx) error {
		var err error
		if notes, err = fence.Close(t.Context(), tx, s.Server, c); err != nil {
			return err
		}
		_, err = tx.Exec(t.Context(), `update pgcutover.turn set open = false`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

// openAll opens it as the guard does.
func (s *server) openAll(t *testing.T) {
	t.Helper()
	err := state.Tx(t.Context(), s.Server, "5s", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), fence.OpenNowSQL)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readWrite is for sessions in a database whose default is read-only.
const readWrite = `set default_transaction_read_only = off`

// close closes the fence.
func (s *server) close(t *testing.T, onClosed fence.OnClosed) {
	t.Helper()
	pgtest.Exec(t, s.url, readWrite, fence.ClosedSQL(s.Server, onClosed, s.oid, time.Now()))
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

// begun is a session with a transaction.
func begun(t *testing.T, url string, sql ...string) *pgx.Conn {
	t.Helper()
	conn := connect(t, url)
	for _, sql := range append([]string{"begin"}, sql...) {
		do(t, conn, sql)
	}
	return conn
}

func do(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), what, 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
