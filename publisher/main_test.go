package publisher_test

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
	"github.com/pgcutover/pgcutover/publisher"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// server is the old server of a move, with one fenced table.
type server struct {
	*pg.Server
	url   string
	proxy *pgtest.Proxy // the tool's way
}

const attempt = 1

func eachMajor(t *testing.T, test func(t *testing.T, s *server)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, newServer(t, major))
		})
	}
}

func newServer(t *testing.T, major int) *server { return newServerOn(t, pg.Old, major) }

// newServerOn is the server that serves: old, or new after a cutover.
func newServerOn(t *testing.T, side pg.Side, major int) *server {
	t.Helper()
	cluster := pgtest.Server(t, major)
	s := &server{url: pgtest.Database(t, cluster), proxy: pgtest.NewProxy(t, cluster.Addr())}
	pgtest.Exec(t, s.url, "create table public.t (id serial primary key, n integer)")
	var err error
	// The move's name makes the slot's, and slots are the cluster's.
	name := fmt.Sprintf("p%d", time.Now().UnixNano())
	if s.Server, err = pg.Open(t.Context(), pg.Options{Side: side, URL: s.proxy.URL(t, s.url), Move: name}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	id, err := state.Identify(t.Context(), s.Server)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Create(t.Context(), s.Server, state.Move{Name: name, Old: id, New: id}); err != nil {
		t.Fatal(err)
	}
	if err := fence.Install(t.Context(), s.Server, fence.Error, id.Database); err != nil {
		t.Fatal(err)
	}
	if _, err := fence.Attach(t.Context(), s.Server, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.url, fmt.Sprintf("update pgcutover.turn set attempt = %d, open = true", attempt))
	return s
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

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), what, 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// leased takes the lock.
func (s *server) leased(t *testing.T) *publisher.Lease {
	t.Helper()
	l, err := publisher.TakeLock(t.Context(), s.Server, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(context.WithoutCancel(t.Context())) })
	return l
}

// frozen is a lease under which writers wait.
func (s *server) frozen(t *testing.T) *publisher.Lease {
	t.Helper()
	l := s.leased(t)
	if err := l.Begin(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	if err := protect(t, l); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Freeze(t.Context(), publisher.FreezeOptions{LockTimeout: 300 * time.Millisecond, Attempts: 5}); err != nil {
		t.Fatal(err)
	}
	return l
}

func protect(t *testing.T, l *publisher.Lease) error {
	t.Helper()
	_, err := l.Protect(t.Context(), []string{"public.t"}, publisher.ProtectOptions{})
	return err
}

const insertSQL = `insert into public.t (n) values (1)`

const waitingSQL = `
select count(*) from pg_locks
 where relation = 'pgcutover.gate'::regclass and not granted`

// waiting starts a writer and waits until it stands at the gate.
func (s *server) waiting(t *testing.T) <-chan error {
	t.Helper()
	conn := connect(t, s.url)
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), insertSQL)
		done <- err
	}()
	until(t, "a writer at the gate", func() bool { return pgtest.Value[int](t, s.url, waitingSQL) == 1 })
	return done
}

// goesOn waits for a writer that must not fail; one that is held up for good
// would wait for ever.
func goesOn(t *testing.T, writer <-chan error) {
	t.Helper()
	const within = time.Minute
	select {
	case err := <-writer:
		if err != nil {
			t.Errorf("the waiting writer met an error: %v", err)
		}
	case <-time.After(within):
		t.Errorf("the writer still waits after %s", within)
	}
}

// forward is the stream that start makes for the server's move.
func forward(s *pg.Server) state.Stream { return state.FirstStream(s.Move()) }
