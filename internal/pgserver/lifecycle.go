package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// errExited says that the postmaster ended before it accepted connections.
var errExited = errors.New("the server ended before it accepted connections")

// ErrClosed is returned by the methods of a closed cluster.
var ErrClosed = errors.New("the cluster is closed")

// Running reports whether the server runs.
func (c *Cluster) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server.running()
}

// Pid returns the postmaster's process id, of the last server started.
func (c *Cluster) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return 0
	}
	return c.server.cmd.Process.Pid
}

// Stop is a fast shutdown (SIGINT): transactions are rolled back, sessions
// ended, and a checkpoint written. When the server has not ended after a
// minute, or when ctx ends, it is stopped like Crash does, and Stop returns an
// error. Stopping a stopped server does nothing.
// https://www.postgresql.org/docs/current/server-shutdown.html
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop(ctx)
}

// Crash is an immediate shutdown (SIGQUIT): the next start recovers from the
// write-ahead log. It returns when the server has ended.
func (c *Cluster) Crash() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crash()
}

// Kill ends the postmaster with SIGKILL and returns when it has ended. Its
// children notice that later, on their own: until then a running statement goes
// on and may commit. The next start waits for them.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end(syscall.SIGKILL, crashBound)
}

// Restart stops the server like Stop, when it runs, and starts it again with
// the same port and data; it returns when the server accepts connections.
func (c *Cluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return fmt.Errorf("restarting PostgreSQL %d: %w", c.binaries.Major, ErrClosed)
	}
	if err := c.stop(ctx); err != nil {
		return err
	}
	c.endOrphans()
	if err := c.launch(ctx); err != nil {
		return fmt.Errorf("restarting PostgreSQL %d: %w", c.binaries.Major, err)
	}
	return nil
}

// Close stops the server at once, gives the port back and removes a temporary
// folder; a folder from Options.Dir stays, with data that needs recovery unless
// the server was stopped before. Closing twice does nothing.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil
	}
	c.gone = true
	err := c.crash()
	if c.dir != "" {
		c.endOrphans()
	}
	if c.port != nil {
		c.port.Release()
	}
	if c.scratch != nil {
		if errRemove := c.scratch.remove(); errRemove != nil {
			err = errors.Join(err, fmt.Errorf("removing the cluster's folder: %w", errRemove))
		}
	}
	return err
}

func (c *Cluster) stop(ctx context.Context) error {
	if !c.server.running() {
		return nil
	}
	if err := c.signal(syscall.SIGINT); err != nil {
		return err
	}
	timer := time.NewTimer(stopBound)
	defer timer.Stop()
	var err error
	select {
	case <-c.server.done:
		return nil
	case <-timer.C:
		err = fmt.Errorf("stopping PostgreSQL %d: no fast shutdown within %s, so that it was stopped at once", c.binaries.Major, stopBound)
	case <-ctx.Done():
		err = fmt.Errorf("stopping PostgreSQL %d: %w: it was stopped at once", c.binaries.Major, ctx.Err())
	}
	return errors.Join(err, c.crash())
}

func (c *Cluster) crash() error {
	err := c.end(syscall.SIGQUIT, crashBound)
	if err != nil {
		err = errors.Join(err, c.end(syscall.SIGKILL, crashBound))
	}
	return err
}

// end sends the signal and waits for the postmaster's end.
func (c *Cluster) end(with syscall.Signal, bound time.Duration) error {
	if !c.server.running() {
		return nil
	}
	if err := c.signal(with); err != nil {
		return err
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c.server.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("ending PostgreSQL %d: still there %s after %s", c.binaries.Major, bound, with)
	}
}

func (c *Cluster) signal(s syscall.Signal) error {
	err := c.server.cmd.Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to PostgreSQL %d: %w", s, c.binaries.Major, err)
	}
	return nil
}

// endOrphans waits for the children of a killed postmaster, which hold on to
// the shared memory, and after two seconds kills those that have not noticed.
func (c *Cluster) endOrphans() {
	const grace, bound = 2 * time.Second, 10 * time.Second
	began := time.Now()
	for pids := orphans(c.DataDir()); len(pids) > 0 && time.Since(began) < bound; pids = orphans(c.DataDir()) {
		if time.Since(began) > grace {
			for _, pid := range pids {
				//nolint:errcheck // it may have ended meanwhile
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		<-time.After(20 * time.Millisecond)
	}
}

// launch starts the postmaster and waits until it accepts connections. On an
// error no server is left.
func (c *Cluster) launch(ctx context.Context) error {
	log, err := os.OpenFile(c.LogPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() //nolint:errcheck // nothing was written through it: the server has its own copy
	c.server, err = startProcess(c.binaries.Postgres, []string{"-D", c.DataDir()}, serverEnviron(), c.dir, log, c.who)
	if err != nil {
		return fmt.Errorf("running %s: %w", c.binaries.Postgres, err)
	}
	if err := c.waitReady(ctx); err != nil {
		if end := c.crash(); end != nil {
			err = errors.Join(err, end)
		}
		return fmt.Errorf("%w\nlast lines of %s:\n%s", err, c.LogPath(), c.LogTail(15))
	}
	return nil
}

// waitReady waits until the server answers a query.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-c.server.done:
			return fmt.Errorf("%w: %w", errExited, c.server.err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server to accept connections: %w (last attempt: %w)", ctx.Err(), last)
		case <-ticker.C:
		}
		if last = c.answers(ctx); last == nil {
			return nil
		}
	}
}

// showDataDirectory tells this server from a stranger on the same port.
const showDataDirectory = `SHOW data_directory`

// answers checks that the server on the port is this one and takes queries.
func (c *Cluster) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing was changed through it
	var data string
	if err := conn.QueryRow(ctx, showDataDirectory).Scan(&data); err != nil {
		return err
	}
	if data != c.DataDir() {
		return fmt.Errorf("the server on port %d works in %s, not in %s", c.port.Number, data, c.DataDir())
	}
	return nil
}
