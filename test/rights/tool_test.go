package rights

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// commandBound is how long one run of a program may take.
const commandBound = 2 * time.Minute

// Exit statuses of the tool; `pgcutover --help` explains them.
const (
	exitDone     = 0
	exitBlockers = 3
)

// result is what a run of a program left.
type result struct {
	code           int
	stdout, stderr string
}

// String is what a failed test shows.
func (r result) String() string { return "stdout:\n" + r.stdout + "\nstderr:\n" + r.stderr }

// execute runs a program in a folder to its end, with input on its stdin.
func execute(t *testing.T, dir string, env []string, input, path string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	dieWithParent(cmd)
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatalf("running %s: %v", path, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// run runs the tool in the move's folder; it must end with the given status.
func (m *move) run(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := execute(t, m.dir, []string{"TMPDIR=" + m.dir}, "", binary, args...)
	if r.code != code {
		t.Fatalf("pgcutover %s ended with status %d, want %d\n%s", strings.Join(args, " "), r.code, code, r)
	}
	return r
}

// answer decodes the one JSON object that a command prints with --json.
func answer[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("the answer is no JSON: %v\n%s", err, r)
	}
	return v
}
