package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// errHookTimeout is the cause when a command ran past its time limit.
var errHookTimeout = errors.New("the time limit of the command passed")

// outputLimit is how much of a command's output goes into an error.
const outputLimit = 2000

// run runs a command of the operator's in a process group of its own, so that
// at the time limit its children end with it.
func run(ctx context.Context, bound time.Duration, command, env []string) error {
	if bound <= 0 {
		bound = time.Minute
	}
	limit, cancel := context.WithTimeoutCause(ctx, bound, errHookTimeout)
	defer cancel()
	cmd := exec.CommandContext(limit, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if cause := context.Cause(limit); cause != nil {
		err = cause
	}
	text := strings.TrimSpace(out.String())
	if len(text) > outputLimit {
		text = "..." + text[len(text)-outputLimit:]
	}
	if text == "" {
		return fmt.Errorf("running %s: %w", command[0], err)
	}
	return fmt.Errorf("running %s: %w: %s", command[0], err, text)
}
