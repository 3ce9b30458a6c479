package chaos

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// appRole is an ordinary role: it owns the databases, and clients write as it.
const appRole = "shop_app"

// server is a cluster and the networks that lead to it.
type server struct {
	side    pg.Side
	cluster *pgserver.Cluster
	tool    *pgtest.Proxy // the tool reaches it through this one
	peer    *pgtest.Proxy // the other server does through this one
	disk    *disk         // where its data are
}

// world is what all rounds of a pair of majors share: two servers and the
// networks between them and the tool. Clients reach the servers directly.
type world struct {
	t        *testing.T
	pair     pgtest.Pair
	old, new *server
	moves    int
	first    *move // the one that was asked for the plan
}

// settings make the servers forget a dead process soon, and let a round's
// autovacuum begin at once.
var settings = map[string]string{
	"wal_retrieve_retry_interval": "500ms",
	"wal_sender_timeout":          "10s",
	"wal_receiver_timeout":        "10s",
	"autovacuum_naptime":          "1s",
	"max_connections":             "200",
	// Commits of the apply worker, which may be asynchronous, stay longer in
	// memory only: more is there to be lost in a crash.
	"wal_writer_delay":            "1s",
	"log_min_messages":            "log",
	"log_autovacuum_min_duration": "1s",
	// The tool refuses servers that may lose what they acknowledged. initdb's own
	// writes need no such care.
	"fsync":            "on",
	"full_page_writes": "on",
}

// newWorld boots both servers.
func newWorld(t *testing.T, pair pgtest.Pair) *world {
	t.Helper()
	w := &world{t: t, pair: pair, old: &server{side: pg.Old}, new: &server{side: pg.New}}
	w.new.disk = newDisk(t)
	boot, ctx := errgroup.WithContext(t.Context())
	for s, major := range map[*server]int{w.old: pair.Old, w.new: pair.New} {
		boot.Go(func() error { return s.boot(ctx, major) })
	}
	err := boot.Wait()
	for _, s := range []*server{w.old, w.new} {
		if s.cluster == nil {
			continue
		}
		t.Cleanup(func() {
			if err := s.cluster.Close(); err != nil {
				t.Errorf("closing the %s server: %v", s.side, err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server{w.old, w.new} {
		s.tool, s.peer = pgtest.NewProxy(t, s.cluster.Addr()), pgtest.NewProxy(t, s.cluster.Addr())
		pgtest.Exec(t, s.cluster.URL("postgres"), "create role "+appRole+" login")
	}
	return w
}

func (s *server) boot(ctx context.Context, major int) (err error) {
	o := pgserver.Options{Major: major, Name: "chaos-" + string(s.side), Settings: settings}
	if s.disk != nil {
		o.Dir = s.disk.dir
	}
	s.cluster, err = pgserver.Start(ctx, o)
	return err
}

// at returns one of the two servers.
func (w *world) at(side pg.Side) *server {
	if side == pg.New {
		return w.new
	}
	return w.old
}

// askBound is how long the harness waits for an answer of a server.
const askBound = 30 * time.Second

// workBound is how long statements may take that work on many rows.
const workBound = 2 * time.Minute

// ask runs a query on a server and returns the first column of its rows. It
// does not heed that the database is read-only.
func ask[T any](s *server, database, sql string, args ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	conn, err := s.connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("asking the %s server: %w", s.side, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		return nil, fmt.Errorf("asking the %s server: %w", s.side, err)
	}
	return out, nil
}

// one is ask for a query with one row.
func one[T any](s *server, database, sql string, args ...any) (T, error) {
	all, err := ask[T](s, database, sql, args...)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("asking the %s server: %d rows, want 1", s.side, len(all))
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return all[0], nil
}

// execute runs statements on a server, each by itself.
func (s *server) execute(database string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), workBound)
	defer cancel()
	conn, err := s.connect(ctx, database)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("running %q on the %s server: %w", sql, s.side, err)
		}
	}
	return nil
}

// connect opens a session of the harness's own, directly. The tool takes it for
// one of its own kind and does not end it.
func (s *server) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.cluster.URL(database))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = harnessName
	config.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the %s server: %w", s.side, err)
	}
	return conn, nil
}

// harnessName begins as the tool's sessions do.
const harnessName = pg.ApplicationNamePrefix + "chaos/harness"

// up waits until the server takes connections. It answers when a crash that it
// mends by itself is mended.
func (s *server) up() error {
	return until("the "+string(s.side)+" server to be back", 2*time.Minute, func() (bool, string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		conn, err := pgconn.Connect(ctx, s.cluster.URL("postgres"))
		if err != nil {
			return false, err.Error(), nil
		}
		return true, "", conn.Close(ctx)
	})
}

// until waits for a condition, with a bound.
func until(what string, bound time.Duration, met func() (bool, string, error)) error {
	return pg.Wait(context.Background(), what, 20*time.Millisecond, bound, nil,
		func(context.Context) (bool, string, error) { return met() })
}

// rest lets time pass: what is measured is what happens in it.
func rest(d time.Duration) { <-time.After(d) }

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
