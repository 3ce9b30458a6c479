package e2e

import (
	"io/fs"
	"os"
	"syscall"
)

// chownLike gives a file to the owner of another one.
func chownLike(path string, like fs.FileInfo) error {
	owner, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}
