package pgserver

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// dieWithParent lets the kernel stop the server at once when the thread that
// started it ends, see prctl(2), PR_SET_PDEATHSIG. SIGQUIT is the postmaster's
// immediate shutdown, which takes its children with it.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// worksIn reports whether the process is a server with that data folder.
func worksIn(_ context.Context, pid int, data string) bool {
	return slices.Contains(orphans(data), pid)
}

// orphans lists the processes that work in a data folder: what is left of a
// server whose postmaster was killed.
func orphans(data string) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	var pids []int
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && cwd == data {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
