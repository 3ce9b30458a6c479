package methods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/test/bench/arena"
)

// Kind is how the clients find their server.
type Kind string

// The three kinds of clients.
const (
	// PgBouncer: through a transaction pooler with 20 server connections. A
	// failed transaction is not repeated.
	PgBouncer Kind = "pgbouncer"
	// Multihost: a connection string with both hosts and
	// target_session_attrs=read-write. After a failure a client connects again
	// and repeats the transaction.
	Multihost Kind = "multihost"
	// Direct: the address of one server, in a file that is read for every
	// connection (as a service file is, or a name in the DNS) and rewritten by a
	// command. After a failure a client connects again and repeats the
	// transaction, at the old address until the file says otherwise.
	Direct Kind = "direct"
)

// Kinds are all kinds of clients.
func Kinds() []Kind { return []Kind{PgBouncer, Multihost, Direct} }

// retryFor is how long the clients without a pooler repeat a transaction.
const retryFor = 15 * time.Second

// Clients are the clients of one pair of databases. Close them.
type Clients struct {
	Kind   Kind
	Pooler *pgbouncer.Pooler // of PgBouncer

	pair *arena.Pair
	dir  string // of Direct: files current, old and new
	both string // of Multihost: the connection string
}

// entry is the pooler's name for the database.
const entry = "bench"

// NewClients prepares what the clients need to reach old: a pooler, or a file.
func NewClients(ctx context.Context, kind Kind, pair *arena.Pair, dir string) (*Clients, error) {
	c := &Clients{Kind: kind, pair: pair, dir: dir}
	var err error
	switch kind {
	case PgBouncer:
		c.Pooler, err = pgbouncer.Start(ctx, pgbouncer.Options{
			PoolSize:  20,
			Databases: map[string]pgbouncer.Endpoint{entry: {Host: pgserver.Loopback, Port: pair.Old.Port(), Database: pair.Name, User: arena.AppRole}},
		})
	case Multihost:
		c.both, err = workload.Multihost(pair.AppOld(), pair.AppNew())
	case Direct:
		err = errors.Join(c.write("old", pair.AppOld()), c.write("new", pair.AppNew()), c.write("current", pair.AppOld()))
	default:
		err = fmt.Errorf("there are no clients %q: they are %v", kind, Kinds())
	}
	if err != nil {
		return nil, fmt.Errorf("preparing %s clients: %w", kind, err)
	}
	return c, nil
}

// Close stops the pooler.
func (c *Clients) Close() error {
	if c.Pooler != nil {
		return c.Pooler.Stop()
	}
	return nil
}

func (c *Clients) write(name, address string) error {
	return os.WriteFile(filepath.Join(c.dir, name), []byte(address), 0o600)
}

// Dial opens one client connection.
func (c *Clients) Dial(ctx context.Context) (*pgconn.PgConn, error) {
	switch c.Kind {
	case PgBouncer:
		return pgconn.Connect(ctx, c.Pooler.URL(entry))
	case Multihost:
		return pgconn.Connect(ctx, c.both)
	}
	address, err := os.ReadFile(filepath.Join(c.dir, "current"))
	if err != nil {
		return nil, err
	}
	return pgconn.Connect(ctx, string(address))
}

// RetryFor is how long a client repeats a transaction; 0 for a final failure.
func (c *Clients) RetryFor() time.Duration {
	if c.Kind == PgBouncer {
		return 0
	}
	return retryFor
}

// repointCommand is what an operator has for direct clients; the rename makes
// it one step for who reads.
func (c *Clients) repointCommand() []string {
	return []string{"sh", "-c", `cp "$0/new" "$0/next" && mv "$0/next" "$0/current"`, c.dir}
}

// sedCommand changes the port of the pooler's entry.
func (c *Clients) sedCommand() []string {
	change := fmt.Sprintf("/^%s /s/port=%d/port=%d/", entry, c.pair.Old.Port(), c.pair.New.Port())
	return []string{"sed", "-i", change, c.Pooler.ConfigFile()}
}

// rewrite sends new connections to new: the file of direct clients, or the
// pooler's entry, which the pooler has yet to read.
func (c *Clients) rewrite(ctx context.Context) error {
	var command []string
	switch c.Kind {
	case PgBouncer:
		command = c.sedCommand()
	case Direct:
		command = c.repointCommand()
	case Multihost:
		return nil
	}
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput() //nolint:gosec // the commands above
	if err != nil {
		return fmt.Errorf("running %s: %w: %s", command[0], err, out)
	}
	return nil
}

// console is a session of the pooler's admin console.
type console struct{ conn *pgx.Conn }

func (c *Clients) console(ctx context.Context) (*console, error) {
	conn, err := pgx.Connect(ctx, c.Pooler.AdminURL())
	if err != nil {
		return nil, fmt.Errorf("connecting to the pooler's admin console: %w", err)
	}
	return &console{conn}, nil
}

func (c *console) run(ctx context.Context, command string) error {
	if _, err := c.conn.Exec(ctx, command); err != nil {
		return fmt.Errorf("%s at the pooler: %w", command, err)
	}
	return nil
}

func (c *console) close(ctx context.Context) { pg.Close(ctx, c.conn) }

// Serving proves, through a new client connection, that clients reach the new
// server now.
func (c *Clients) Serving(ctx context.Context) error {
	conn, err := c.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way in it
	results, err := conn.Exec(ctx, "show server_version_num").ReadAll()
	if err != nil {
		return err
	}
	got, err := strconv.Atoi(string(results[0].Rows[0][0]))
	if err != nil {
		return err
	}
	if got/10000 != c.pair.New.Major() {
		return fmt.Errorf("%s clients reach PostgreSQL %d after the turn, not %d", c.Kind, got/10000, c.pair.New.Major())
	}
	return nil
}
