package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// toolBound is how long one run of the tool may take, stopped times included.
const toolBound = 3 * time.Minute

// Exit statuses of the tool; `pgcutover --help` explains them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitBlocked = 3
	exitAborted = 4
)

// tool is one run of pgcutover.
type tool struct {
	args  []string
	cmd   *exec.Cmd
	out   bytes.Buffer // read after done
	words *words
	ear   *os.File // what it tells people is read from here
	done  chan struct{}
	code  int // exit status, or the negative number of the signal that ended it
	began time.Time
	ended time.Time
}

// words collects what the tool tells people and calls see for each line that is
// complete, at once.
type words struct {
	mu   sync.Mutex
	text bytes.Buffer
	rest string
	see  func(line string)
}

func (w *words) Write(p []byte) (int, error) {
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
		w.see(strings.Join(strings.Fields(line), " ") + " ")
	}
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// launch starts the tool in the move's folder; see, if not nil, is called with
// each line of its text, whose words are one space apart.
func (m *move) launch(see func(line string), args ...string) (*tool, error) {
	t := &tool{args: args, cmd: exec.Command(binary, args...), words: &words{see: see}, done: make(chan struct{}), began: time.Now()} //nolint:gosec // the binary under test
	t.cmd.Dir = m.dir
	// What a killed tool leaves in the folder for temporary files goes with the
	// move's.
	t.cmd.Env = append(os.Environ(), "TMPDIR="+m.dir)
	// A watchdog writes on where the tool has written, after that has ended, and
	// must not find the pipe broken.
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	t.cmd.Stdout, t.cmd.Stderr = &t.out, write
	t.cmd.WaitDelay = 5 * time.Second
	dieWithParent(t.cmd)
	err = t.cmd.Start()
	write.Close() // the tool has its own copy
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("running pgcutover %s: %w", args[0], err)
	}
	t.ear = read
	said := make(chan struct{})
	go func() {
		defer close(said)
		defer read.Close()
		io.Copy(t.words, read) //nolint:errcheck // words are always taken; a pipe ends
	}()
	if args[0] != "status" { // which is asked all the time, and shown where it says something wrong
		m.tools = append(m.tools, t)
	}
	go func() {
		defer close(t.done)
		err := t.cmd.Wait()
		t.ended = time.Now()
		select {
		case <-said:
		case <-time.After(300 * time.Millisecond): // a watchdog has more to say
		}
		t.code = t.cmd.ProcessState.ExitCode()
		if status, ok := t.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			t.code = -int(status.Signal())
		} else if err != nil && t.code == exitDone {
			t.code = exitFailed // its output could not be read
		}
	}()
	return t, nil
}

// signal sends the tool a signal, if it still runs.
func (t *tool) signal(s syscall.Signal) error {
	if err := t.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to pgcutover: %w", s, err)
	}
	return nil
}

// deafen ends the reading of what the tool tells people, as when its terminal or
// the program that its output was piped into is gone.
func (t *tool) deafen() error {
	if err := t.ear.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("closing the pipe of the tool's words: %w", err)
	}
	return nil
}

// running tells whether the tool has not ended yet.
func (t *tool) running() bool {
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// wait waits until the tool has ended. One that does not end is killed, which
// is an error.
func (t *tool) wait() (int, error) {
	timer := time.NewTimer(time.Until(t.began.Add(toolBound)))
	defer timer.Stop()
	select {
	case <-t.done:
		return t.code, nil
	case <-timer.C:
		err := fmt.Errorf("pgcutover %s did not end within %s", t.args[0], toolBound)
		if late := t.signal(syscall.SIGKILL); late != nil {
			return 0, errors.Join(err, late)
		}
		<-t.done
		return t.code, err
	}
}

// complaint is the error that the tool ended with and the advice, without what it
// said on the way: the names of its steps speak of transactions too.
func (t *tool) complaint() string {
	said := t.words.String()
	return said[max(strings.LastIndex("\n"+said, "\npgcutover: "), 0):]
}

// String is the run as it is kept and shown.
func (t *tool) String() string {
	how := "still running"
	if !t.running() {
		how = fmt.Sprintf("ended with %d after %s\n%s", t.code, t.ended.Sub(t.began).Round(time.Millisecond), t.out.String())
	}
	return fmt.Sprintf("%s pgcutover %s: %s\n%s", t.began.Format(clock), strings.Join(t.args, " "), how, t.words)
}

// clock is the precision at which events are compared.
const clock = "15:04:05.000"

// run runs the tool to its end.
func (m *move) run(args ...string) (*tool, error) {
	t, err := m.launch(nil, args...)
	if err != nil {
		return nil, err
	}
	_, err = t.wait()
	return t, err
}

// must is run for what has to succeed.
func (m *move) must(args ...string) (*tool, error) {
	t, err := m.run(args...)
	if err == nil && t.code != exitDone {
		err = fmt.Errorf("it should have succeeded: %s", t)
	}
	return t, err
}

// answer decodes the one JSON object that a command prints with --json.
func answer[T any](t *tool) (T, error) {
	var v T
	if err := json.Unmarshal(t.out.Bytes(), &v); err != nil {
		return v, fmt.Errorf("the answer is no JSON (%w): %s", err, t)
	}
	return v, nil
}
