package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// binaryVariable names the environment variable with the path of the binary to
// test; childVariable marks the process that runs the tests.
const (
	binaryVariable = "PGCUTOVER_CHAOS_BINARY"
	childVariable  = "PGCUTOVER_CHAOS_CHILD"
	mountsVariable = "PGCUTOVER_CHAOS_MOUNTS" // set when that process has mounts of its own
)

// TestMain builds the binary and runs the tests in a process of their own: that
// process exits within pgtest.Main and could not take the binary away, and it
// has mounts of its own where that is possible.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		binary = os.Getenv(binaryVariable)
		pgtest.Main(m) // does not return
	}
	code, err := withBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// binary is the path of the pgcutover under test.
var binary string

// withBinary runs this test binary again, with a freshly built pgcutover unless
// one is given, and returns its exit status.
func withBinary() (int, error) {
	path, err := filepath.Abs(os.Getenv(binaryVariable))
	if os.Getenv(binaryVariable) == "" {
		var dir string
		if dir, err = os.MkdirTemp("", "pgcutover-chaos-"); err != nil {
			return 0, fmt.Errorf("making a folder for the binary: %w", err)
		}
		defer os.RemoveAll(dir)
		path = filepath.Join(dir, "pgcutover")
		build := exec.Command("go", "build", "-o", path, "github.com/pgcutover/pgcutover/cmd/pgcutover")
		if text, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building pgcutover: %w\n%s", err, text)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("finding the binary to test: %w", err)
	}
	run := func(mounts bool) error {
		tests := exec.Command(os.Args[0], os.Args[1:]...) //nolint:gosec // this very program
		tests.Env = append(os.Environ(), binaryVariable+"="+path, childVariable+"=1")
		tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
		dieWithParent(tests)
		if mounts {
			ownMounts(tests.SysProcAttr)
			tests.Env = append(tests.Env, mountsVariable+"=1")
		}
		return tests.Run()
	}
	err = run(true)
	// In a chroot there is no mount at the root, and EINVAL.
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) {
		err = run(false)
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.Exited() {
		return failed.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("running the tests: %w", err)
	}
	return 0, nil
}
