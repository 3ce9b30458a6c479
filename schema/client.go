package schema

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// killDelay is what a client program gets, after it was told to end, to cancel
// its statement on the server.
const killDelay = 5 * time.Second

// tools are pg_dump and the pg_restore that reads its archives.
type tools struct {
	dump, restore string
	major         int
}

// oldestClient is the lowest major that can be used: programs before 12 send
// SET default_with_oids, which servers from 12 on refuse.
const oldestClient = 12

// findTools looks for the programs of the lowest major that can read old: the
// higher the major, the more its archives assume of the server that they are
// restored into. An archive is read by the same installation that wrote it,
// since older programs cannot.
func findTools(ctx context.Context, old *pg.Server) (tools, error) {
	dump, major, err := pgclient.FindClient(ctx, "pg_dump", max(old.Major(), oldestClient))
	if err != nil {
		return tools{}, fmt.Errorf("looking for pg_dump: %w", err)
	}
	beside := filepath.Join(filepath.Dir(dump), "pg_restore")
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return tools{dump: dump, restore: beside, major: major}, nil
	}
	restore, _, err := pgclient.FindClient(ctx, "pg_restore", major)
	if err != nil {
		return tools{}, fmt.Errorf("looking for pg_restore: %w", err)
	}
	return tools{dump: dump, restore: restore, major: major}, nil
}

// suits reports whether what the programs send is understood by new. From 17 on
// they send SET transaction_timeout, which earlier servers refuse.
func (t tools) suits(new *pg.Server) error {
	if t.major >= 17 && new.Major() < 17 {
		return hint.With(
			fmt.Errorf("%s of PostgreSQL %d cannot restore into the new server, which is %d", t.restore, t.major, new.Major()),
			fmt.Sprintf("install the client programs of PostgreSQL %d, or name their folder in %s", new.Major(), pgclient.BinVariable))
	}
	return nil
}

// clientError is the failure of a client program.
type clientError struct {
	program string
	stderr  string
	err     error
}

func (e *clientError) Error() string {
	if text := strings.TrimSpace(e.stderr); text != "" {
		return fmt.Sprintf("%s: %v: %s", e.program, e.err, text)
	}
	return fmt.Sprintf("%s: %v", e.program, e.err)
}

func (e *clientError) Unwrap() error { return e.err }

// invocation is one run of a client program.
type invocation struct {
	path string
	args []string
	env  []string // nil: nothing of libpq's
	// line, when not nil, gets each line of the standard error and says whether
	// it is progress, which an error does not repeat.
	line  func(string) (progress bool)
	grace time.Duration // 0: killDelay
}

// run executes i and returns its standard output. It ends with ctx: the program
// and its children are told to end, which cancels what they do on the server,
// and are killed a little later. The error is a *clientError.
func (i invocation) run(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, i.path, i.args...)
	cmd.Env = append(cleanEnviron(), i.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = cmp.Or(i.grace, killDelay)
	var stdout, stderr bytes.Buffer
	cmd.Stdout = &stdout
	log := &lineWriter{out: &stderr, line: i.line}
	cmd.Stderr = log
	err := cmd.Run()
	if cmd.Process != nil {
		//nolint:errcheck // what is left of the group; ESRCH is the rule
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	log.flush()
	if err == nil {
		return stdout.String(), nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return stdout.String(), &clientError{program: filepath.Base(i.path), stderr: stderr.String(), err: err}
}

// cleanEnviron is this process's environment without what would change where
// the program connects or in which language it reports.
func cleanEnviron() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "LANGUAGE"
	})
	return append(env, "LC_ALL=C")
}

// lineWriter passes each line to line and keeps those that are no progress.
type lineWriter struct {
	out     io.Writer
	line    func(string) bool
	partial []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.partial = append(w.partial, p...)
	for {
		advance, line, err := bufio.ScanLines(w.partial, false)
		if err != nil {
			return 0, err
		}
		if advance == 0 {
			return len(p), nil
		}
		w.emit(string(line))
		w.partial = w.partial[advance:]
	}
}

func (w *lineWriter) emit(line string) {
	if w.line != nil && w.line(line) {
		return
	}
	//nolint:errcheck // out is a buffer in memory
	io.WriteString(w.out, line+"\n")
}

func (w *lineWriter) flush() {
	if len(w.partial) > 0 {
		w.emit(string(w.partial))
		w.partial = nil
	}
}

// connection returns the environment and the --dbname argument by which a
// client program reaches s. The name is given as a connection string, because a
// bare name with "=" in it would be taken for one.
func connection(s *pg.Server, purpose string) (env []string, dbname string) {
	env = append(s.Environment(), "PGAPPNAME="+s.ApplicationName(purpose))
	return env, "--dbname=dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.Database()) + "'"
}

// errCancelled reports whether a program was ended by its context.
func errCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
