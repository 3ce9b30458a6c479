package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// errFileChanged says that somebody else wrote the file meanwhile.
var errFileChanged = errors.New("somebody else is changing the file")

// stagedFile is the new version of a file, written to disk beside it and not
// yet in its place. Only one process at a time has it.
type stagedFile struct {
	target string // the file, symbolic links resolved
	before []byte // what stands there
	file   *os.File
}

// stageBound is how long another process that replaces the same file is waited
// for; it takes a few milliseconds, and a dead one holds nothing.
const stageBound = 5 * time.Second

// stage writes a new version of the file at path, with the same owner, group
// and mode, and makes it durable.
func stage(ctx context.Context, path string, before, after []byte) (*stagedFile, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", target)
	}
	file, err := lockBeside(ctx, target)
	if err != nil {
		return nil, err
	}
	s := &stagedFile{target: target, before: before, file: file}
	if err := s.write(info, after); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return s, nil
}

// lockBeside opens the temporary file for target and locks it. The lock ends
// with the process, so that what a killed one left is used again.
func lockBeside(ctx context.Context, target string) (*os.File, error) {
	path := filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".pgcutover")
	var file *os.File
	err := pg.Wait(ctx, "another process that rewrites "+target, 10*time.Millisecond, stageBound, nil, func(context.Context) (bool, string, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return false, "", hint.With(fmt.Errorf("making a file beside %s: %w", target, err),
				"run pgcutover as a user who may write to the folder "+filepath.Dir(target)+", or give the entry a file of its own that pgbouncer.ini includes")
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return false, "", errors.Join(ignore(err, syscall.EWOULDBLOCK), f.Close())
		}
		// Whoever had the lock may have put this very file in target's place.
		held, errHeld := f.Stat()
		named, errNamed := os.Stat(path)
		if errors.Join(errHeld, errNamed) != nil || !os.SameFile(held, named) {
			return false, "", f.Close()
		}
		file = f
		return true, "", nil
	})
	return file, err
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// write fills the file and gives it the owner, group and mode of the one that
// it is to replace.
func (s *stagedFile) write(like fs.FileInfo, text []byte) error {
	if err := s.file.Truncate(0); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(text, 0); err != nil {
		return err
	}
	own, err := s.file.Stat()
	if err != nil {
		return err
	}
	theirs, okTheirs := like.Sys().(*syscall.Stat_t)
	ours, okOurs := own.Sys().(*syscall.Stat_t)
	if okTheirs && okOurs && (theirs.Uid != ours.Uid || theirs.Gid != ours.Gid) {
		if err := s.file.Chown(int(theirs.Uid), int(theirs.Gid)); err != nil {
			return hint.With(fmt.Errorf("keeping the owner of %s: %w", s.target, err),
				fmt.Sprintf("run pgcutover as root or as the owner of %s", s.target))
		}
	}
	if err := s.file.Chmod(like.Mode()); err != nil {
		return err
	}
	return s.file.Sync()
}

// replace puts the new version in the file's place, unless somebody else has
// changed the file: errFileChanged. syncFolderOf makes that durable.
func (s *stagedFile) replace() error {
	now, err := os.ReadFile(s.target)
	if err == nil && !bytes.Equal(now, s.before) {
		err = errFileChanged
	}
	if err == nil {
		err = os.Rename(s.file.Name(), s.target)
	}
	if err != nil {
		return errors.Join(err, s.discard())
	}
	return s.file.Close()
}

// discard removes the new version. Its lock is given back last.
func (s *stagedFile) discard() error { return errors.Join(os.Remove(s.file.Name()), s.file.Close()) }

// syncFolderOf makes the replacing of a file durable.
func syncFolderOf(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
