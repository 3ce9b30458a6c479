package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// fileLock is an exclusive lock on a file. The operating system drops it when
// the process ends, however it ends, so that it is never stale.
type fileLock struct{ file *os.File }

// tryLock takes the lock on path, making the file; ok is false when another
// holder, in this process or another one, has it.
func tryLock(path string) (lock *fileLock, ok bool, err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, false, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &fileLock{file}, true, nil
	}
	file.Close() //nolint:errcheck // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("locking %s: %w", path, err)
}

// waitLock takes the lock on path, waiting for another holder as long as ctx
// lives; it calls waiting once when it has to wait.
func waitLock(ctx context.Context, path string, waiting func()) (*fileLock, error) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for told := false; ; {
		lock, ok, err := tryLock(path)
		if err != nil || ok {
			return lock, err
		}
		if !told {
			waiting()
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock on %s: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}

// isAt reports whether the locked file is still the one under the path.
func (l *fileLock) isAt(path string) bool {
	held, err := l.file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// unlock gives the lock back. The file stays: removing it would let a second
// holder in.
func (l *fileLock) unlock() {
	l.file.Close() //nolint:errcheck // nothing was written; the lock goes with the descriptor in any case
}
