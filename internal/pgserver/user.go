package pgserver

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// serverUser returns the user that servers run as: nil for "as this process",
// unless this process is root, whom PostgreSQL refuses. Then it is the user
// postgres when the machine has one, else nobody.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if errUID != nil || errGID != nil || uid == 0 {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("running as root, and this machine has neither a user postgres nor nobody to run servers as")
}

// reachable reports whether the user who runs servers can enter and list dir.
// It asks by doing it: mode bits alone miss access lists and mount options.
func reachable(ctx context.Context, who *syscall.Credential, dir string) bool {
	if who == nil {
		return true
	}
	_, err := command{
		path:  "/bin/sh",
		args:  []string{"-c", `cd "$1" && ls . >/dev/null`, "sh", dir},
		env:   []string{"PATH=/usr/bin:/bin"},
		user:  who,
		bound: 10 * time.Second,
	}.run(ctx)
	return err == nil
}

// nearestExisting returns the deepest folder on the way to path that exists.
func nearestExisting(path string) string {
	for {
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return path
		}
		path = parent
	}
}

// makeDirs makes path and its missing parents readable for everyone, whatever
// the umask is.
func makeDirs(path string) error {
	have := nearestExisting(path)
	if have == path {
		return nil
	}
	if err := makeDirs(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		if os.IsExist(err) { // another process was faster
			return nil
		}
		return err
	}
	return os.Chmod(path, 0o755)
}
