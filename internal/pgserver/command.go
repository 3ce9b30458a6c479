package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command is one run of an external program.
type command struct {
	path  string
	args  []string
	dir   string              // working folder; "/" when empty
	env   []string            // nil: this process's environment
	user  *syscall.Credential // nil: as this process
	bound time.Duration       // how long it may take
}

// run executes c and returns what it wrote to its standard output. An error
// carries the end of its standard error.
func (c command) run(ctx context.Context) (string, error) {
	for attempt := 1; ; attempt++ {
		out, err := c.once(ctx)
		// A program that was just written cannot be run while a child of another
		// goroutine, between its fork and its exec, holds a copy of the file.
		if !errors.Is(err, syscall.ETXTBSY) || attempt == 10 {
			return out, err
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (c command) once(ctx context.Context) (string, error) {
	limited, cancel := context.WithTimeout(ctx, c.bound)
	defer cancel()
	cmd := exec.CommandContext(limited, c.path, c.args...)
	cmd.Dir = c.dir
	if cmd.Dir == "" {
		cmd.Dir = "/" // the caller's folder may be closed to the other user
	}
	cmd.Env = c.env
	// Its own process group, so that a timeout ends the children too and a
	// Ctrl-C in the terminal leaves the order of ending to this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: c.user}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("not finished after %s", c.bound)
	}
	err = fmt.Errorf("running %s: %w", strings.Join(append([]string{c.path}, c.args...), " "), err)
	if text := tail(stderr.String(), 20); text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return stdout.String(), err
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
