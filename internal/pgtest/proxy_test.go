package pgtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
)

// through starts a proxy before the server of a test's database and returns
// both the way through it and the direct one.
func through(t *testing.T, major int) (p *Proxy, proxied, direct string) {
	t.Helper()
	c := Server(t, major)
	direct = Database(t, c)
	p = NewProxy(t, c.Addr())
	return p, p.URL(t, direct), direct
}

// open connects and closes at the test's end.
func open(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// eventually waits up to a minute.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s took too long", what)
		}
	}
}

func TestProxyForwards(t *testing.T) {
	for _, major := range allMajors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			p, proxied, direct := through(t, major)
			var messages atomic.Pointer[string]
			messages.Store(new(string))
			p.OnFrontend(func(conn int, message byte, _ []byte) Action {
				if conn == 1 {
					text := *messages.Load() + string(message)
					messages.Store(&text)
				}
				return Forward
			})
			// A client that would like encryption is told that there is none.
			conn := open(t, strings.Replace(proxied, "sslmode=disable", "sslmode=prefer&application_name=me", 1))
			if _, err := conn.Exec(t.Context(), "CREATE TABLE t AS SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) AS n"); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{int32(7)}, {int32(8)}})); err != nil {
				t.Fatal(err)
			}
			rows, err := column[int32](t.Context(), conn, "SELECT n FROM t WHERE n > $1", 0)
			if err != nil || len(rows) != 5002 {
				t.Errorf("%d rows, %v, want 5002", len(rows), err)
			}
			for _, part := range []string{"Q", "PDS", "BES", "dcP"} {
				if !strings.Contains(*messages.Load(), part) {
					t.Errorf("messages %q lack %q", *messages.Load(), part)
				}
			}
			if name := p.Parameters(1)["application_name"]; name != "me" {
				t.Errorf("application_name is %q, want me", name)
			}
			slot, err := pgconn.Connect(t.Context(), proxied+"&replication=database")
			if err != nil {
				t.Fatal(err)
			}
			defer slot.Close(t.Context())
			if _, err := slot.Exec(t.Context(), "CREATE_REPLICATION_SLOT proxied LOGICAL pgoutput").ReadAll(); err != nil {
				t.Fatal(err)
			}
			if n := Value[int](t, direct, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'proxied'"); n != 1 {
				t.Errorf("%d slots, want 1", n)
			}
		})
	}
}

func TestProxyForwardsCancelRequests(t *testing.T) {
	t.Parallel()
	_, proxied, direct := through(t, newest)
	conn := open(t, proxied)
	var group errgroup.Group
	group.Go(func() error {
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)")
		return err
	})
	eventually(t, "the sleeping statement", func() bool { return sleeping(t, direct) == 1 })
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	var failure *pgconn.PgError
	if err := group.Wait(); !errors.As(err, &failure) || failure.Code != "57014" {
		t.Errorf("error %v, want query_canceled", err)
	}
}

// sleeping counts the sessions in pg_sleep in a test's database.
func sleeping(t *testing.T, url string) int {
	t.Helper()
	return Value[int](t, url, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")
}

// TestProxyCutsAtCommit cuts before and after the message that commits, in the
// simple and in the extended protocol.
func TestProxyCutsAtCommit(t *testing.T) {
	for _, major := range allMajors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			p, proxied, direct := through(t, major)
			Exec(t, direct, "CREATE TABLE t (n int)")
			written := 0
			for _, c := range []struct {
				action Action
				mode   pgx.QueryExecMode
				at     byte
				want   int // rows that the cut transaction leaves
			}{
				{CutBefore, pgx.QueryExecModeSimpleProtocol, 'Q', 0},
				{CutAfter, pgx.QueryExecModeSimpleProtocol, 'Q', 1},
				{CutBefore, pgx.QueryExecModeExec, 'S', 0},
				{CutAfter, pgx.QueryExecModeExec, 'S', 1},
				{CutAfter, pgx.QueryExecModeExec, 'E', 0}, // no Sync follows
			} {
				var armed atomic.Bool
				p.OnFrontend(func(_ int, message byte, _ []byte) Action {
					if armed.Load() && message == c.at {
						return c.action
					}
					return Forward
				})
				conn := open(t, proxied)
				armed.Store(true)
				_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES ($1)", c.mode, 1)
				var failure *pgconn.PgError
				if err == nil || errors.As(err, &failure) {
					t.Errorf("%v at %c: error %v, want a lost connection", c.action, c.at, err)
				}
				p.OnFrontend(nil)
				eventually(t, "the end of the cut session", func() bool {
					return p.Connections() == 0 && Value[int](t, direct, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()") == 0
				})
				written += c.want
				if n := Value[int](t, direct, "SELECT count(*) FROM t"); n != written {
					t.Errorf("%v at %c: %d rows, want %d", c.action, c.at, n, written)
					written = n
				}
			}
		})
	}
}

// TestProxyCutAfterLeavesTheServerAtWork cuts under a statement that waits for
// a lock until the client has long gone.
func TestProxyCutAfterLeavesTheServerAtWork(t *testing.T) {
	t.Parallel()
	p, proxied, direct := through(t, newest)
	Exec(t, direct, "CREATE TABLE t (n int)")
	holder := open(t, direct)
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	if newest >= 14 { // a server that looks for lost clients must not see one either
		proxied += "&client_connection_check_interval=20ms"
	}
	conn := open(t, proxied)
	p.OnFrontend(func(_ int, message byte, payload []byte) Action {
		if message == 'Q' && strings.Contains(string(payload), "pg_advisory_lock") {
			return CutAfter
		}
		return Forward
	})
	if _, err := conn.Exec(t.Context(), "INSERT INTO t SELECT 1 FROM pg_advisory_lock(1)", pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Error("the answer was delivered")
	}
	const waiting = `
SELECT count(*)
FROM pg_locks AS l
JOIN pg_database AS d ON d.oid = l.database
WHERE l.locktype = 'advisory'
  AND NOT l.granted
  AND d.datname = current_database()`
	eventually(t, "the waiting statement", func() bool { return Value[int](t, direct, waiting) == 1 })
	Exec(t, direct, "SELECT pg_sleep(0.2)") // some looks for lost clients
	if n := Value[int](t, direct, waiting); n != 1 {
		t.Fatal("the server does not go on")
	}
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(1)"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server's work", func() bool { return Value[int](t, direct, "SELECT count(*) FROM t") == 1 })
	eventually(t, "the end of its session", func() bool { return p.Connections() == 0 })
}

func TestProxyCutAndRestore(t *testing.T) {
	t.Parallel()
	p, proxied, direct := through(t, newest)
	conn := open(t, proxied)
	addr := p.Addr()
	for range 2 {
		p.Cut() // the second time it is cut already
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the connection outlived the cut")
	}
	if _, err := pgx.Connect(t.Context(), proxied); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v, want a refused connection", err)
	}
	eventually(t, "the end of the session", func() bool {
		return Value[int](t, direct, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()") == 0
	})
	for range 2 {
		p.Restore(t)
	}
	if p.Addr() != addr || Value[int](t, proxied, "SELECT 1") != 1 {
		t.Errorf("no way through after the restoring, at %s, before %s", p.Addr(), addr)
	}
}

func TestProxyStall(t *testing.T) {
	t.Parallel()
	p, proxied, direct := through(t, newest)
	Exec(t, direct, "CREATE TABLE t (n int)")
	conn, silent := open(t, proxied), open(t, proxied)
	p.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := silent.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want a timeout", err)
	}
	var group errgroup.Group
	var returned atomic.Bool
	group.Go(func() error {
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)")
		returned.Store(true)
		return err
	})
	const sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
	if n := Value[int](t, direct, sessions); n != 2 || returned.Load() {
		t.Errorf("%d sessions, want 2, one of whose clients is gone; an answer came: %v", n, returned.Load())
	}
	p.Restore(t)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if n := Value[int](t, direct, "SELECT n FROM t"); n != 1 {
		t.Errorf("%d, want 1", n)
	}
	eventually(t, "the end of the silent session", func() bool { return p.Connections() == 1 })
}

func TestProxyHandlerMayCut(t *testing.T) {
	t.Parallel()
	p, proxied, _ := through(t, newest)
	conn := open(t, proxied)
	p.OnFrontend(func(int, byte, []byte) Action {
		p.Cut()
		return Forward
	})
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the connection outlived the cut")
	}
}

func TestProxyLeavesNoGoroutine(t *testing.T) {
	Server(t, newest)
	before := goleak.IgnoreCurrent()
	t.Run("use", func(t *testing.T) {
		p, proxied, _ := through(t, newest)
		open(t, proxied)
		p.Stall()
	})
	goleak.VerifyNone(t, before)
}

func TestParametersAreRead(t *testing.T) {
	got := parseParameters([]byte("user\x00me\x00database\x00\x00options\x00a b\x00\x00"))
	keys := []string{}
	for k := range got {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if !slices.Equal(keys, []string{"database", "options", "user"}) || got["user"] != "me" || got["database"] != "" || got["options"] != "a b" {
		t.Errorf("parameters %q", got)
	}
}
