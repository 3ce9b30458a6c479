package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Child is a program other than a server, such as a pooler, that is run the way
// servers are: not as root, and no longer than this process lives.
type Child struct{ p *process }

// StartChild starts the program as the user who runs servers, with this
// process's environment less what changes PostgreSQL programs; what it writes
// goes to log. The working folder is dir.
func StartChild(path string, args []string, dir string, log *os.File) (*Child, error) {
	who, err := serverUser()
	if err != nil {
		return nil, err
	}
	p, err := startProcess(path, args, serverEnviron(), dir, log, who)
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", path, err)
	}
	return &Child{p}, nil
}

// PID returns the process id.
func (c *Child) PID() int { return c.p.cmd.Process.Pid }

// Done is closed when the process has ended; then Err says how.
func (c *Child) Done() <-chan struct{} { return c.p.done }

// Err is how the process ended; read it after Done is closed.
func (c *Child) Err() error { return c.p.err }

// End sends the signal and waits until the process has ended, at most for
// bound. Ending what has ended does nothing.
func (c *Child) End(with syscall.Signal, bound time.Duration) error {
	if !c.p.running() {
		return nil
	}
	if err := c.p.cmd.Process.Signal(with); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to process %d: %w", with, c.PID(), err)
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c.p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("ending process %d: still there %s after %s", c.PID(), bound, with)
	}
}

// Folder is a folder that the user who runs servers can reach.
type Folder struct {
	path    string
	scratch *scratch // nil: the caller's own
}

// MakeFolder makes the folder dir, or with an empty dir a temporary one with
// name in its name, which Remove deletes, or, when this process is killed, the
// next owner of such a folder.
func MakeFolder(ctx context.Context, dir, name string) (*Folder, error) {
	who, err := serverUser()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		s, err := newScratch(ctx, who, name)
		if err != nil {
			return nil, err
		}
		return &Folder{path: s.dir, scratch: s}, nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := makeDirs(dir); err != nil {
		return nil, fmt.Errorf("making the folder: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("resolving the folder: %w", err)
	}
	if !reachable(ctx, who, dir) {
		return nil, fmt.Errorf("the user with id %d, who runs servers, cannot reach the folder %s: choose one outside of closed folders", who.Uid, dir)
	}
	return &Folder{path: dir}, nil
}

// Path returns the folder's absolute path.
func (f *Folder) Path() string { return f.path }

// Write writes a file of the folder, readable for nobody but the user who runs
// servers and that user's group, and returns its path.
func (f *Folder) Write(name, text string) (string, error) {
	path := filepath.Join(f.path, name)
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil { //nolint:gosec // as the packages of distributions do
		return "", err
	}
	who, err := serverUser()
	if err != nil || who == nil {
		return path, err
	}
	return path, os.Chown(path, int(who.Uid), int(who.Gid))
}

// Remove deletes a temporary folder; the caller's own stays.
func (f *Folder) Remove() error {
	if f.scratch == nil {
		return nil
	}
	return f.scratch.remove()
}
