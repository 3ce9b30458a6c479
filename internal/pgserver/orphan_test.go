package pgserver

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childVariable makes the test binary start a cluster, tell its process id and
// folder, and wait to be killed.
const childVariable = "PGSERVER_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		c, err := Start(context.Background(), Options{Major: newestMajor, Name: "child"})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.Pid(), c.Dir())
		select {}
	}
	os.Exit(m.Run())
}

// TestKilledOwnerLeavesNothing kills a process that owns a cluster: the server
// ends with it, and the next cluster's start removes the folder.
func TestKilledOwnerLeavesNothing(t *testing.T) {
	t.Parallel()
	base := openFolder(t) // where no other test's sweep helps
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=1", "TMPDIR="+base)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	number, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, errPid := strconv.Atoi(number)
	if errKill := child.Process.Kill(); errKill != nil {
		t.Fatal(errKill)
	}
	child.Wait() //nolint:errcheck // it was killed: the error says just that
	if err != nil || errPid != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	t.Logf("server %d in %s", pid, dir)
	if runtime.GOOS == "linux" {
		// Without any help: the kernel tells the server.
		waitFor(t, "the end of the dead owner's server", func() bool { return !slices.Contains(orphans(filepath.Join(dir, dataFolder)), pid) })
	}
	waitFor(t, "the removal of the dead owner's folder", func() bool {
		sweep(t.Context(), base)
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
	if syscall.Kill(pid, 0) == nil && postmasterPid(filepath.Join(dir, dataFolder)) == pid {
		t.Errorf("the server %d outlived its owner and its folder", pid)
	}
	if _, err := os.Stat(dir + ".lock"); !os.IsNotExist(err) {
		t.Errorf("the lock file is still there: %v", err)
	}
}

// TestSweepEndsAnOrphan starts a server whose life is not tied to any owner's,
// as on systems that cannot do that, in a folder that nobody owns.
func TestSweepEndsAnOrphan(t *testing.T) {
	t.Parallel()
	c, err := Start(t.Context(), Options{Major: oldest, Name: "orphan"})
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Pid()
	c.scratch.lock.unlock() // as if the owner had died
	base := filepath.Dir(c.Dir())
	waitFor(t, "the sweep of the orphan", func() bool {
		sweep(t.Context(), base)
		_, err := os.Stat(c.Dir())
		return os.IsNotExist(err)
	})
	if syscall.Kill(pid, 0) == nil && c.Running() {
		t.Error("the orphan still runs")
	}
	c.Close() // only to give the port back: the folder is gone
}

// TestSweepSparesTheLiving sweeps beside a cluster with an owner.
func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	c := start(t, Options{Major: oldest, Name: "living"})
	sweep(t.Context(), filepath.Dir(c.Dir()))
	if !c.Running() {
		t.Error("the sweep ended a server that has an owner")
	}
	if _, err := os.Stat(c.DataDir()); err != nil {
		t.Error(err)
	}
}
