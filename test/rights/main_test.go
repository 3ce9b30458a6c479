package rights

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// binaryVariable names the environment variable with the path of the binary to
// test.
const binaryVariable = "PGCUTOVER_RIGHTS_BINARY"

// binary is the path of the pgcutover under test.
var binary string

// TestMain builds the binary and runs the tests in a process of their own,
// because that process exits within pgtest.Main and could not take the binary
// away.
func TestMain(m *testing.M) {
	if path := os.Getenv(binaryVariable); path != "" {
		var err error
		if binary, err = filepath.Abs(path); err != nil {
			panic(err)
		}
		pgtest.Main(m) // does not return
	}
	code, err := withBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withBinary runs this test binary again, with a freshly built pgcutover, and
// returns its exit status.
func withBinary() (int, error) {
	dir, err := os.MkdirTemp("", "pgcutover-rights-")
	if err != nil {
		return 0, fmt.Errorf("making a folder for the binary: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "pgcutover")
	build := exec.Command("go", "build", "-o", path, "github.com/pgcutover/pgcutover/cmd/pgcutover")
	if text, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building pgcutover: %w\n%s", err, text)
	}
	tests := exec.Command(os.Args[0], os.Args[1:]...) //nolint:gosec // this very program
	tests.Env = append(os.Environ(), binaryVariable+"="+path)
	tests.Stdin, tests.Stdout, tests.Stderr = os.Stdin, os.Stdout, os.Stderr
	dieWithParent(tests)
	err = tests.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.Exited() {
		return failed.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("running the tests: %w", err)
	}
	return 0, nil
}
