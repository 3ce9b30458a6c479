//go:build !linux

package pgserver

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dieWithParent does nothing: only Linux can tie a child's life to its
// parent's. What outlives its parent is stopped by the next sweep.
func dieWithParent(*syscall.SysProcAttr) {}

// orphans lists nothing: without /proc a server's children are not to be told
// from other processes. They end when they notice that the postmaster is gone.
func orphans(string) []int { return nil }

// worksIn reports whether the process is a server with that data folder, going
// by its command line.
func worksIn(ctx context.Context, pid int, data string) bool {
	line, err := command{
		path: "/bin/ps", args: []string{"-o", "command=", "-p", strconv.Itoa(pid)},
		bound: 10 * time.Second,
	}.run(ctx)
	return err == nil && strings.Contains(line, data)
}
