package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// commandBound is how long one run of the tool may take: long enough for twenty
// databases on a machine that has other things to do.
const commandBound = 5 * time.Minute

// Exit statuses of the tool; `pgcutover --help` explains them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitAborted     = 4
	exitInterrupted = 130
	// killed stands for a process that SIGKILL ended.
	killed = -int(syscall.SIGKILL)
)

// process is one run of the tool.
type process struct {
	t      *testing.T
	args   []string
	cmd    *exec.Cmd
	out    bytes.Buffer
	err    *watcher
	once   sync.Once
	result result
}

// result is what a run of the tool left.
type result struct {
	code   int // exit status, or the negative number of the signal that ended it
	stdout string
	stderr string
}

// String is what a failed test shows.
func (r result) String() string { return "stdout:\n" + r.stdout + "\nstderr:\n" + r.stderr }

// watcher collects the tool's text and calls see for each line that is
// complete, at once.
type watcher struct {
	mu   sync.Mutex
	text bytes.Buffer
	rest string
	see  func(line string)
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.see == nil {
		return len(p), nil
	}
	w.rest += string(p)
	for {
		line, rest, complete := strings.Cut(w.rest, "\n")
		if !complete {
			return len(p), nil
		}
		w.rest = rest
		w.see(line)
	}
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// launch starts the tool in the move's folder; see, if not nil, is called with
// each line of its text. The test's end ends it.
func (m *move) launch(t *testing.T, see func(p *process, line string), args ...string) *process {
	t.Helper()
	p := &process{t: t, args: args, cmd: exec.Command(binary, args...), err: &watcher{}} //nolint:gosec // the binary under test
	if see != nil {
		p.err.see = func(line string) { see(p, line) }
	}
	p.cmd.Dir = m.dir
	// What a killed tool leaves in the folder for temporary files goes with the
	// test's.
	p.cmd.Env = append(os.Environ(), "TMPDIR="+m.dir)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.err
	p.cmd.WaitDelay = 5 * time.Second
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		p.wait()
	})
	return p
}

// signal sends the tool a signal, if it still runs.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("sending %s to pgcutover: %v", s, err)
	}
}

// wait waits until the tool has ended.
func (p *process) wait() result {
	p.t.Helper()
	p.once.Do(func() {
		late := time.AfterFunc(commandBound, func() {
			p.t.Errorf("pgcutover %v did not end within %s", p.args, commandBound)
			p.signal(syscall.SIGKILL)
		})
		defer late.Stop()
		err := p.cmd.Wait()
		if p.cmd.ProcessState == nil {
			p.t.Errorf("waiting for pgcutover: %v", err)
			return
		}
		p.result.code = p.cmd.ProcessState.ExitCode()
		if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			p.result.code = -int(status.Signal())
		}
		p.result.stdout, p.result.stderr = p.out.String(), p.err.String()
	})
	return p.result
}

// run runs the tool, which must end with the given status.
func (m *move) run(t *testing.T, code int, args ...string) result {
	t.Helper()
	return m.launch(t, nil, args...).must(code)
}

// must waits for the tool, which must end with the given status.
func (p *process) must(code int) result {
	p.t.Helper()
	r := p.wait()
	if r.code != code {
		p.t.Fatalf("pgcutover %s ended with status %d, want %d\n%s", strings.Join(p.args, " "), r.code, code, r)
	}
	return r
}

// answer decodes the one JSON object that a command prints with --json.
func answer[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(r.stdout))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("the answer is no JSON: %v\n%s", err, r)
	}
	if d.More() {
		t.Errorf("more than one JSON object on stdout:\n%s", r)
	}
	return v
}
