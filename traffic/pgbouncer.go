package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// PgBouncerOptions describe one pooler.
type PgBouncerOptions struct {
	// AdminURL leads to the admin console, as one of admin_users.
	AdminURL string
	// Databases are the pooler's names of the database, one or several.
	Databases []string
	// File holds their entries: pgbouncer.ini or a file that it includes.
	File string
	// ProbeURL is a connection string for clients of the pooler. Empty means
	// the host and port of AdminURL with each of Databases, and the user and
	// password of ClientURL.
	ProbeURL string
	// ClientURL is the tool's connection string of the old server.
	ClientURL string
	// Old and New are how the pooler reaches the servers. What is left empty is
	// taken from the connection string by which the tool reaches them.
	Old, New PoolerEndpoint
	// Shared tells that other drivers pause other databases of the same pooler at
	// the same time: their RELOADs take this one's settings back too early for
	// databases with min_pool_size, so that Ready refuses those.
	Shared bool
	// PauseTimeout is how long one PAUSE may hold up clients while it waits for
	// transactions to end.
	PauseTimeout time.Duration
	// PauseAttempts is how often PAUSE is tried. 0 means that clients are not
	// made to wait, as with session pooling, where a PAUSE ends with the last
	// client only.
	PauseAttempts int
}

// PoolerEndpoint is where an entry of a pooler leads to.
type PoolerEndpoint struct {
	Host     string
	Port     int
	Database string
}

// String writes the endpoint as the keys of an entry.
func (e PoolerEndpoint) String() string {
	var parts []string
	if e.Host != "" {
		parts = append(parts, "host="+e.Host)
	}
	return strings.Join(append(parts, "port="+strconv.Itoa(e.Port), "dbname="+e.Database), " ")
}

// PgBouncer is the driver for clients behind one PgBouncer, version 1.18 or
// newer. While the writes turn, its clients wait at the pooler without noticing
// more than a slow query; then the entry of their database leads to the server
// that serves.
//
// A pooler, unlike a lock, stays paused when the tool dies. Resume and Switch
// work from any process that reaches the admin console; only the rewriting of
// the file needs the file.
//
// Its methods may be called from several goroutines: one does its work after
// the other.
type PgBouncer struct {
	o PgBouncerOptions
	// mu keeps two commands of this process from meeting at the pooler: a RESUME
	// in the middle of a PAUSE leaves that without an answer
	// (https://github.com/pgbouncer/pgbouncer/issues/715).
	mu sync.Mutex
	// saved are settings of the running pooler that differ while it is paused,
	// with the values to put back. See pgbouncersettings.go.
	saved map[string]string
}

const (
	defaultPauseTimeout = time.Second
	// answerBound is how long an answer of the admin console may take; PAUSE has
	// a bound of its own.
	answerBound = 3 * time.Second
	// reachBound is how long a pooler that cannot be reached is tried.
	reachBound = 5 * time.Second
	// goneBound is how long one is tried where nobody listens.
	goneBound = 500 * time.Millisecond
	// tookBound is how long a RELOAD may take to show: it is done when it is
	// answered, or not at all.
	tookBound = 2 * time.Second
	// leftBound is how long clients may stay on a server that the entry no
	// longer leads to, and how long a probe is tried.
	leftBound = 10 * time.Second
	// readyBound is how long a probe is tried when nothing is going on.
	readyBound = 2 * time.Second
	pollEvery  = 5 * time.Millisecond
)

// NewPgBouncer returns the driver of one pooler.
func NewPgBouncer(o PgBouncerOptions) *PgBouncer {
	if o.PauseTimeout <= 0 {
		o.PauseTimeout = defaultPauseTimeout
	}
	return &PgBouncer{o: o}
}

// Name returns "pgbouncer" with the pooler's address and the databases.
func (d *PgBouncer) Name() string {
	address := "(unreadable admin_url)"
	if c, err := pgx.ParseConfig(d.o.AdminURL); err == nil {
		address = net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	}
	return "pgbouncer " + address + " (" + strings.Join(d.o.Databases, ", ") + ")"
}

// clean takes passwords out of an error. Who called says which driver it was.
func (d *PgBouncer) clean(err error) error {
	return pg.Redact(err, d.o.AdminURL, d.o.ProbeURL, d.o.ClientURL)
}

// inConsole is a hint to run commands in this pooler's admin console.
func (d *PgBouncer) inConsole(commands string) string {
	return "run in the admin console of " + d.Name() + ": " + commands
}

// endpoint is where the entries lead when a side serves.
func (d *PgBouncer) endpoint(to Target, side pg.Side) (PoolerEndpoint, error) {
	e, server := d.o.Old, to.Old
	if side == pg.New {
		e, server = d.o.New, to.New
	}
	if e.Host != "" && e.Port != 0 && e.Database != "" {
		return e, nil
	}
	if server == nil {
		return e, fmt.Errorf("the %s server's address is not known here", side)
	}
	host, port, database := server.Endpoint()
	if e.Host == "" {
		e.Host = host
	}
	if e.Port == 0 {
		e.Port = port
	}
	if e.Database == "" {
		e.Database = database
	}
	return e, nil
}

// open connects to the admin console, trying for a while; with restarting, also
// as long as a pooler may need to be restarted.
func (d *PgBouncer) open(ctx context.Context, restarting bool) (*console, error) {
	var c *console
	var last error
	began := time.Now()
	err := waitFor(ctx, "the admin console", 100*time.Millisecond, reachBound, func() (bool, string, error) {
		limit, cancel := context.WithTimeoutCause(ctx, answerBound, errNoAnswer)
		defer cancel()
		c, last = openConsole(limit, d.o.AdminURL)
		gone := isRefused(last) && !restarting && time.Since(began) > goneBound
		// What the pooler itself refuses, such as a password, stays refused.
		return last == nil || pg.Code(last) != "" || gone, "", nil
	})
	if isRefused(last) {
		return nil, fmt.Errorf("%w: %w", errNotRunning, last)
	}
	return c, errors.Join(err, last)
}

// waitFor is pg.Wait for questions that are not to be cut short when the bound
// passes, but only when ctx ends: a console is of no use after that, and the
// error would tell of the cutting instead of the cause. Each has a bound of its
// own, see answerBound.
func waitFor(ctx context.Context, name string, every, bound time.Duration, poll func() (done bool, detail string, err error)) error {
	return pg.Wait(ctx, name, every, bound, nil, func(context.Context) (bool, string, error) { return poll() })
}

// isRefused reports that nobody listens.
func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// errNotRunning says that nobody listens at the admin console. A pooler that
// does not run is not paused, nor will it be when it is started.
var errNotRunning = errors.New("the pooler does not run")

// errNoAnswer is the cause when the admin console did not answer in time.
var errNoAnswer = errors.New("no answer in time")

// ask sends a command with the usual bound.
func (d *PgBouncer) ask(ctx context.Context, c *console, command string) ([]row, error) {
	limit, cancel := context.WithTimeoutCause(ctx, answerBound, errNoAnswer)
	defer cancel()
	return c.query(limit, command)
}

// status is what SHOW DATABASES says of one database.
type status struct {
	endpoint    PoolerEndpoint
	paused      bool
	connections int // to the server, in use or not
	poolMode    string
	minPoolSize int
}

// show returns what the running pooler says of the databases.
func (d *PgBouncer) show(ctx context.Context, c *console) (map[string]status, error) {
	rows, err := d.ask(ctx, c, "SHOW DATABASES")
	if err != nil {
		return nil, err
	}
	found := map[string]status{}
	for _, r := range rows {
		s := status{
			endpoint: PoolerEndpoint{Host: r["host"], Database: r["database"]},
			paused:   r["paused"] == "1",
			poolMode: r["pool_mode"],
		}
		for text, into := range map[string]*int{r["port"]: &s.endpoint.Port, r["current_connections"]: &s.connections, r["min_pool_size"]: &s.minPoolSize} {
			if *into, err = strconv.Atoi(text); err != nil {
				return nil, fmt.Errorf("reading SHOW DATABASES: %w", err)
			}
		}
		found[r["name"]] = s
	}
	for _, name := range d.o.Databases {
		if _, ok := found[name]; !ok {
			return nil, hint.With(fmt.Errorf("the pooler has no database %s", name),
				fmt.Sprintf("give %s an entry of its own in %s (one that is made when a client comes, from an entry *, does not do) and RELOAD", name, d.o.File))
		}
	}
	return found, nil
}

// leads returns nil when the running pooler sends the clients of every
// database to the endpoint.
func (d *PgBouncer) leads(shown map[string]status, to PoolerEndpoint) error {
	for _, name := range d.o.Databases {
		if is := shown[name].endpoint; is != to {
			return fmt.Errorf("the pooler sends the clients of %s to %s instead of %s", name, is, to)
		}
	}
	return nil
}

// Switch rewrites the entries to lead to the server that serves, makes the
// pooler read them, proves that it did, and ends the pause. The clients of a
// pooler that cannot be switched stay paused: the error says what to do.
func (d *PgBouncer) Switch(ctx context.Context, to Target) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clean(d.lead(ctx, to, true, func(c *console) error { return d.resumeOn(ctx, c, false) }))
}

// Resume ends a pause. With to.Serving known the entries lead to that server
// afterwards; they do already unless somebody failed in the middle of Switch.
// A pooler that does not run is not paused, and not an error.
func (d *PgBouncer) Resume(ctx context.Context, to Target) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if to.Serving != "" {
		err = d.lead(ctx, to, false, func(*console) error { return nil })
	}
	// Wherever the entries lead: clients that wait for ever are served worst.
	if !errors.Is(err, errNotRunning) {
		err = errors.Join(err, d.resume(ctx))
	}
	if errors.Is(err, errNotRunning) {
		// On another host than the file's there is nothing to put back.
		var file *fileError
		if !errors.As(err, &file) || errors.Is(file.err, os.ErrNotExist) {
			return nil
		}
		err = file
	}
	return d.clean(err)
}

// lead makes the entries lead to the server that serves, in the file and in the
// running pooler, and then calls and with the admin console. For restarting see
// open.
func (d *PgBouncer) lead(ctx context.Context, to Target, restarting bool, and func(*console) error) error {
	want, err := d.endpoint(to, to.Serving)
	if err != nil {
		return err
	}
	// The file first: a pooler that is being restarted then reads the new one. Its
	// clients wait meanwhile, so the console is opened beside the writing.
	file := make(chan struct{})
	var written bool
	var errFile error
	go func() {
		defer close(file)
		written, errFile = d.writeEntries(ctx, want)
	}()
	c, err := d.open(ctx, restarting)
	<-file
	if err != nil {
		if errFile == nil {
			err = hint.With(err, fmt.Sprintf("%s is written: the pooler leads to %s when it is started again; then run: pgcutover resume", d.o.File, want))
		}
		return errors.Join(errFile, err)
	}
	defer c.close()
	shown, err := d.show(ctx, c)
	if err != nil {
		return errors.Join(errFile, err)
	}
	wrong := d.leads(shown, want)
	switch {
	case wrong == nil && !written:
		// Done before; or on another host than the file's, which is not needed.
	case errFile != nil:
		return hint.With(errors.Join(wrong, errFile), fmt.Sprintf(
			"on the host of %s write %s into the entry of %s in %s, run RELOAD in its admin console, then: pgcutover resume",
			d.Name(), want, strings.Join(d.o.Databases, " and of "), d.o.File))
	default:
		if err := d.reload(ctx, c, want); err != nil {
			return err
		}
	}
	err = and(c)
	if written {
		// Durable for good; the clients go on already.
		err = errors.Join(err, syncFolderOf(d.o.File))
	}
	return err
}

// reload makes the pooler read its files and waits until that shows. A file
// that PgBouncer cannot read makes RELOAD fail since version 1.25; before, it
// says nothing and keeps some entries as they were.
func (d *PgBouncer) reload(ctx context.Context, c *console, to PoolerEndpoint) error {
	_, refused := d.ask(ctx, c, "RELOAD")
	if refused != nil && pg.Code(refused) == "" {
		return refused
	}
	err := waitFor(ctx, "the pooler to take the entry", pollEvery, tookBound, func() (bool, string, error) {
		shown, err := d.show(ctx, c)
		if err != nil {
			return false, "", err
		}
		wrong := d.leads(shown, to)
		if wrong == nil {
			return true, "", nil
		}
		return false, wrong.Error(), nil
	})
	if err != nil {
		return hint.With(errors.Join(err, refused), fmt.Sprintf(
			"the entry in %s is right: look into the pooler's log for a line that it cannot read, and whether it includes this file; then run: pgcutover resume", d.o.File))
	}
	return nil
}

// fileError is an error of the file with the entries, as opposed to one of the
// pooler.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return "rewriting " + e.path + ": " + e.err.Error() }
func (e *fileError) Unwrap() error { return e.err }

// writeEntries makes the entries in the file lead to an endpoint, and reports
// whether it had to change them. Its errors are fileErrors.
func (d *PgBouncer) writeEntries(ctx context.Context, to PoolerEndpoint) (bool, error) {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		written, err := d.writeOnce(ctx, to)
		if err == nil || !errors.Is(err, errFileChanged) || attempt == attempts {
			if err != nil {
				err = &fileError{d.o.File, err}
			}
			return written, err
		}
	}
}

func (d *PgBouncer) writeOnce(ctx context.Context, to PoolerEndpoint) (bool, error) {
	before, after, err := d.edited(to)
	if err != nil || bytes.Equal(before, after) {
		return false, err
	}
	staged, err := stage(ctx, d.o.File, before, after)
	if err != nil {
		return false, err
	}
	return true, staged.replace()
}

// Verify proves that the pooler sends its clients to the server that serves,
// and nobody elsewhere: by its own account, and by a probe that asks the server
// behind it who it is.
func (d *PgBouncer) Verify(ctx context.Context, to Target) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	want, err := d.endpoint(to, to.Serving)
	if err != nil {
		return d.clean(err)
	}
	c, err := d.open(ctx, false)
	if err != nil {
		return d.clean(err)
	}
	defer c.close()
	err = d.allLeft(ctx, c, want)
	if err == nil {
		err = d.probe(ctx, to, leftBound)
	}
	return d.clean(errors.Join(err, d.restoreSettings(ctx, c)))
}

// allLeft waits until no client has a connection to another server: those that
// the pooler opened before the RELOAD end with their transaction.
func (d *PgBouncer) allLeft(ctx context.Context, c *console, to PoolerEndpoint) error {
	return waitFor(ctx, "the clients to leave the other server", pollEvery, leftBound, func() (bool, string, error) {
		shown, err := d.show(ctx, c)
		if err == nil {
			err = d.leads(shown, to)
		}
		if err != nil {
			return false, "", err
		}
		for _, name := range d.o.Databases {
			if shown[name].paused {
				return false, "", fmt.Errorf("the clients of %s are still paused", name)
			}
		}
		stay, err := d.blockers(ctx, c, func(server row) bool { return server["close_needed"] == "1" })
		return len(stay) == 0, strings.Join(stay, "; "), err
	})
}
