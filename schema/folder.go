package schema

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	folderPrefix = "pgcutover-schema-"
	lockName     = "lock"
	// unlockedAge is how old a folder without a lock has to be before it counts
	// as left behind: one that is being made has none for an instant.
	unlockedAge = time.Hour
)

// makeFolder makes a private folder in dir, or in the usual place of temporary
// files, and removes there what killed processes of this user have left. The
// lock says that the folder is in use: the kernel lets go of it when the process
// ends, however it ends. A process's number would not tell, since it means
// another one in another container, or after a while.
func makeFolder(dir string) (folder string, lock *os.File, err error) {
	if dir == "" {
		dir = os.TempDir()
	}
	removeStale(dir)
	folder, err = os.MkdirTemp(dir, folderPrefix) // mode 0700
	if err != nil {
		return "", nil, fmt.Errorf("making a temporary folder for the schema: %w", err)
	}
	lock, err = os.OpenFile(filepath.Join(folder, lockName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return folder, lock, nil
		}
		err = errors.Join(err, lock.Close())
	}
	return "", nil, errors.Join(fmt.Errorf("locking the schema's temporary folder: %w", err), os.RemoveAll(folder))
}

// removeStale removes the folders of processes that are gone. What cannot be
// removed, or looked at, stays: it is in nobody's way.
func removeStale(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), folderPrefix) {
			continue
		}
		info, err := e.Info()
		if err != nil || !mine(info) {
			continue
		}
		removeIfStale(filepath.Join(dir, e.Name()), time.Since(info.ModTime()))
	}
}

func mine(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}

func removeIfStale(folder string, age time.Duration) {
	lock, err := os.OpenFile(filepath.Join(folder, lockName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) && age > unlockedAge {
		os.RemoveAll(folder)
	}
	if err != nil {
		return
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return // in use
	}
	if age < time.Second {
		return // its maker may be about to lock it
	}
	os.RemoveAll(folder)
}
