package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// Options say what kind of pooler [Start] starts.
type Options struct {
	// Dir is the folder for the files and the log. Empty means a temporary one
	// that Stop removes.
	Dir string
	// Databases are the entries of [databases], by the name that clients use.
	Databases map[string]Endpoint
	// PoolMode is pool_mode; empty means transaction.
	PoolMode string
	// PoolSize is default_pool_size; 0 means 20.
	PoolSize int
	// MaxClients is max_client_conn; 0 means 1000.
	MaxClients int
	// Settings are further settings of [pgbouncer]; they win over the defaults.
	Settings map[string]string
}

// Endpoint is where an entry of [databases] leads to.
type Endpoint struct {
	Host     string
	Port     int
	Database string
	// User is the role at the server; empty means postgres.
	User string
	// Password is that role's; empty means none.
	Password string
}

const (
	adminUser  = "admin"
	logName    = "pgbouncer.log"
	startBound = 20 * time.Second
	stopBound  = 5 * time.Second
)

// ErrStopped is returned by the methods of a stopped pooler.
var ErrStopped = errors.New("the pooler is stopped")

// Pooler is one PgBouncer process. Its methods may be called from several
// goroutines.
type Pooler struct {
	program   string
	options   Options
	folder    *pgserver.Folder
	port      *pgserver.Port
	main      string
	databases string

	mu    sync.Mutex // serialises starting and stopping
	child *pgserver.Child
	gone  bool
}

// Start starts a pooler and waits until its admin console answers. The caller
// stops it.
func Start(ctx context.Context, o Options) (*Pooler, error) {
	program, err := find()
	if err != nil {
		return nil, err
	}
	p := &Pooler{program: program, options: o}
	if err := p.boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting PgBouncer: %w", err), p.Stop())
	}
	return p, nil
}

// find looks for the program; Debian keeps it where only root's PATH leads.
func find() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", hint.With(errors.New("pgbouncer is not installed"), "run: apt-get install -y --no-install-recommends --no-upgrade pgbouncer")
}

// boot makes the files and starts the process, on another port when somebody
// who does not reserve ports took the first one.
func (p *Pooler) boot(ctx context.Context) error {
	folder, err := pgserver.MakeFolder(ctx, p.options.Dir, "pgbouncer")
	if err != nil {
		return err
	}
	p.folder = folder
	if p.databases, err = folder.Write("databases.ini", p.options.databasesFile()); err != nil {
		return fmt.Errorf("writing the databases' file: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for attempt := 1; ; attempt++ {
		if p.port != nil {
			p.port.Release()
		}
		if p.port, err = pgserver.ReservePort(); err != nil {
			return err
		}
		if p.main, err = folder.Write("pgbouncer.ini", p.options.mainFile(p.databases, p.port.Number)); err != nil {
			return fmt.Errorf("writing the main file: %w", err)
		}
		if err = p.launch(ctx); err == nil || !errors.Is(err, errEnded) || attempt == 3 {
			return err
		}
	}
}

// AdminURL is the connection string of the admin console. The console answers
// the simple query protocol only, which the URL says in pgx's words.
func (p *Pooler) AdminURL() string {
	return p.url(adminUser, "pgbouncer") + "&default_query_exec_mode=simple_protocol"
}

// URL is the connection string of a database of the pooler's, plain enough for
// every client. Prepared statements do not work through a transaction pooler
// before PgBouncer 1.21: with pgx set DefaultQueryExecMode to QueryExecModeExec.
func (p *Pooler) URL(database string) string { return p.url("postgres", database) }

func (p *Pooler) url(user, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Host: p.port.Addr(), Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// Port returns the TCP port, the same over restarts.
func (p *Pooler) Port() int { return p.port.Number }

// ConfigFile is the file with the entries of [databases], which the main file
// includes.
func (p *Pooler) ConfigFile() string { return p.databases }

// MainFile is the file that PgBouncer was started with.
func (p *Pooler) MainFile() string { return p.main }

// LogFile is the file that PgBouncer writes its log to.
func (p *Pooler) LogFile() string { return filepath.Join(p.folder.Path(), logName) }

// PID is the process id, of the last process started.
func (p *Pooler) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return 0
	}
	return p.child.PID()
}

// Kill ends the process with SIGKILL and returns when it has ended: clients and
// servers see their connections broken. Restart starts it again.
func (p *Pooler) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end(syscall.SIGKILL)
}

// Restart ends the process at once, when it runs, and starts it again on the
// same port with the files as they are; it returns when the admin console
// answers.
func (p *Pooler) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return fmt.Errorf("restarting PgBouncer: %w", ErrStopped)
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		return err
	}
	if err := p.launch(ctx); err != nil {
		return fmt.Errorf("restarting PgBouncer: %w", err)
	}
	return nil
}

// Stop ends the process at once, gives the port back and removes a temporary
// folder. Stopping twice does nothing.
func (p *Pooler) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	p.gone = true
	err := p.end(syscall.SIGTERM)
	if p.port != nil {
		p.port.Release()
	}
	if p.folder != nil {
		err = errors.Join(err, p.folder.Remove())
	}
	return err
}

// end ends the process, with SIGKILL when the signal does not.
func (p *Pooler) end(with syscall.Signal) error {
	if p.child == nil {
		return nil
	}
	if err := p.child.End(with, stopBound); err != nil {
		return errors.Join(err, p.child.End(syscall.SIGKILL, stopBound))
	}
	return nil
}

// errEnded says that the process ended before it answered.
var errEnded = errors.New("PgBouncer ended before it answered")

// launch starts the process and waits for the admin console. On an error no
// process is left.
func (p *Pooler) launch(ctx context.Context) error {
	log, err := os.OpenFile(p.LogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // nothing was written through it: the pooler has its own copy
	if p.child, err = pgserver.StartChild(p.program, []string{p.main}, p.folder.Path(), log); err != nil {
		return err
	}
	if err := p.waitReady(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w\nits log:\n%s", err, p.LogTail(15)), p.end(syscall.SIGTERM))
	}
	return nil
}

func (p *Pooler) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-p.child.Done():
			return fmt.Errorf("%w: %w", errEnded, p.child.Err())
		case <-ctx.Done():
			return fmt.Errorf("waiting for the admin console: %w (last attempt: %w)", ctx.Err(), last)
		case <-ticker.C:
		}
		if last = p.answers(ctx); last == nil {
			return nil
		}
	}
}

// answers asks the admin console for its version.
func (p *Pooler) answers(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, p.url(adminUser, "pgbouncer"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SHOW VERSION").ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// LogTail returns the last n lines of the log; empty when it cannot be read.
func (p *Pooler) LogTail(n int) string {
	text, err := os.ReadFile(p.LogFile())
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
