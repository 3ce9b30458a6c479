package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// diskSize has room for a cluster and what a run of rounds writes.
const diskSize = 640 << 20

// disk is a small file system in memory, with a ballast file that fills it.
type disk struct {
	dir     string
	ballast string
	stop    chan struct{}
	filling sync.WaitGroup
}

// ownMounts gives a process mounts of its own: what it mounts goes with it.
func ownMounts(attr *syscall.SysProcAttr) { attr.Unshareflags |= syscall.CLONE_NEWNS }

// newDisk mounts the file system; nil where this process may not, as in most
// containers.
func newDisk(t *testing.T) *disk {
	t.Helper()
	if os.Getenv(mountsVariable) == "" { // killed, it would leave one behind
		say("no disk to fill on the new server: this process has no mounts of its own")
		return nil
	}
	dir, err := os.MkdirTemp("", "pgcutover-chaos-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize)); err != nil {
		say("no disk to fill on the new server: mounting one: %v", err)
		return nil
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return &disk{dir: dir, ballast: filepath.Join(dir, "ballast")}
}

// fill takes all the room that is left, and what becomes free afterwards, until
// empty.
func (d *disk) fill() error {
	if err := d.take(); err != nil {
		return err
	}
	d.stop = make(chan struct{})
	d.filling.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-d.stop:
				return
			case <-tick.C:
				d.take() //nolint:errcheck // as much as there is; the next tick tries again
			}
		}
	})
	return nil
}

// take lets the ballast grow by all the room that there is.
func (d *disk) take() error {
	file, err := os.OpenFile(d.ballast, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("filling the disk: %w", err)
	}
	defer file.Close()
	var room syscall.Statfs_t
	for {
		info, err := file.Stat()
		if err != nil {
			return fmt.Errorf("filling the disk: %w", err)
		}
		if err := syscall.Fstatfs(int(file.Fd()), &room); err != nil {
			return fmt.Errorf("filling the disk: %w", err)
		}
		if room.Bavail == 0 {
			return nil
		}
		err = syscall.Fallocate(int(file.Fd()), 0, info.Size(), int64(room.Bavail)*room.Bsize) //nolint:gosec // the size is ours
		if errors.Is(err, syscall.ENOSPC) {
			return nil // somebody was faster
		}
		if err != nil {
			return fmt.Errorf("filling the disk: %w", err)
		}
	}
}

// empty gives the room back.
func (d *disk) empty() error {
	if d.stop != nil {
		close(d.stop)
		d.filling.Wait()
		d.stop = nil
	}
	if err := os.Remove(d.ballast); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("emptying the disk: %w", err)
	}
	return nil
}

// limitFiles lets no process of a server write to files any more: every write
// fails with EFBIG. It needs no rights but the server's own, and is what a disk
// that fails is to a server: it ends.
func (s *server) limitFiles() error { return s.limit("0:") }

// unlimitFiles takes that back, and starts a server that has ended.
func (s *server) unlimitFiles() error {
	if err := s.limit("unlimited:"); err != nil {
		return err
	}
	return s.revive()
}

// limit sets the soft limit for the size of files of all processes of a server
// that there are; new ones get their parent's. See prlimit(1).
func (s *server) limit(fsize string) error {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return err
	}
	for _, link := range links {
		if cwd, err := os.Readlink(link); err != nil || cwd != s.cluster.DataDir() {
			continue
		}
		process := filepath.Dir(link)
		info, err := os.Stat(process)
		if err != nil {
			continue // it has ended
		}
		owner := info.Sys().(*syscall.Stat_t)
		prlimit := exec.Command("prlimit", "--pid", filepath.Base(process), "--fsize="+fsize) //nolint:gosec // a process of our own
		if os.Geteuid() == 0 {
			prlimit.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		text, err := prlimit.CombinedOutput()
		if _, gone := os.Stat(process); err != nil && gone == nil {
			return fmt.Errorf("limiting the files of a server: %w: %s", err, text)
		}
	}
	return nil
}
