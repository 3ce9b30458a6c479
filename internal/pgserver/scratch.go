package pgserver

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scratchPrefix starts the names of the temporary folders of clusters. Beside
// each folder lies a file <folder>.lock, locked by the process that owns it.
const scratchPrefix = "pgcutover-pg-"

// scratch is a temporary folder that is removed when its owner is done, or by
// the next owner of such a folder when the process was killed.
type scratch struct {
	dir  string
	lock *fileLock
}

// newScratch makes an empty temporary folder that the user who runs servers can
// reach; name becomes part of its name.
func newScratch(ctx context.Context, who *syscall.Credential, name string) (*scratch, error) {
	base, err := openTempDir(ctx, who)
	if err != nil {
		return nil, err
	}
	sweep(ctx, base)
	for range 100 {
		dir := filepath.Join(base, fmt.Sprintf("%s%s-%08x", scratchPrefix, name, rand.Uint32()))
		s, ok, err := claim(dir)
		if err != nil {
			return nil, fmt.Errorf("making a temporary folder: %w", err)
		}
		if ok {
			return s, nil
		}
	}
	return nil, fmt.Errorf("making a temporary folder in %s: every name was taken", base)
}

// openTempDir returns a folder for temporary files that the user who runs the
// servers can reach.
func openTempDir(ctx context.Context, who *syscall.Credential) (string, error) {
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if info, err := os.Stat(dir); err == nil && info.IsDir() && reachable(ctx, who, dir) {
			return filepath.EvalSymlinks(dir)
		}
	}
	return "", fmt.Errorf("no temporary folder that the user who runs the servers can reach: tried %s, /tmp and /var/tmp", os.TempDir())
}

// claim makes dir and locks it. The lock comes first: whatever a sweep finds
// unlocked has no owner.
func claim(dir string) (*scratch, bool, error) {
	path := dir + ".lock"
	if _, err := os.Lstat(path); err == nil {
		return nil, false, nil
	}
	lock, ok, err := tryLock(path)
	if err != nil || !ok {
		return nil, false, err
	}
	// A sweep may have removed the file between the opening and the locking.
	if !lock.isAt(path) {
		lock.unlock()
		return nil, false, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		os.Remove(path)
		lock.unlock()
		if os.IsExist(err) {
			return nil, false, nil
		}
		return nil, false, err
	}
	return &scratch{dir: dir, lock: lock}, true, os.Chmod(dir, 0o755)
}

// remove deletes the folder. Processes of a killed server may still be writing
// there, so that it tries for a few seconds.
func (s *scratch) remove() error {
	err := os.RemoveAll(s.dir)
	for deadline := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
		err = os.RemoveAll(s.dir)
	}
	os.Remove(s.dir + ".lock")
	s.lock.unlock()
	return err
}

// sweep removes the folders in base whose owner died. It never fails: what it
// cannot remove, of another user for instance, stays.
func sweep(ctx context.Context, base string) {
	locks, _ := filepath.Glob(filepath.Join(base, scratchPrefix+"*.lock"))
	for _, path := range locks {
		lock, ok, err := tryLock(path)
		if err != nil || !ok {
			continue
		}
		dir := strings.TrimSuffix(path, ".lock")
		if endOrphan(ctx, dir) {
			lock.unlock() // it is still ending: a later sweep removes the folder
			continue
		}
		if err := os.RemoveAll(dir); err == nil {
			os.Remove(path)
		}
		lock.unlock()
	}
}

// endOrphan tells a server that outlived its owner to stop at once, as happens
// where the operating system cannot tie its life to the owner's; it reports
// whether there was one.
func endOrphan(ctx context.Context, dir string) bool {
	data := filepath.Join(dir, dataFolder)
	pid := postmasterPid(data)
	// The number may have gone to another program since.
	if pid == 0 || !worksIn(ctx, pid, data) {
		return len(orphans(data)) > 0
	}
	return syscall.Kill(pid, syscall.SIGQUIT) == nil
}

// postmasterPid reads the process id from a data folder's postmaster.pid; zero
// when no server has it open.
func postmasterPid(data string) int {
	file, err := os.Open(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	defer file.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(file)
	if !lines.Scan() {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(lines.Text()))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}
