package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/traffic"
)

func open(t *testing.T, side pg.Side, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: side, URL: url, Move: "m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// target is two databases of one server, of which new serves.
func target(t *testing.T) (to traffic.Target, oldURL, newURL string) {
	t.Helper()
	cluster := pgtest.Server(t, pgtest.Majors(t)[0])
	oldURL, newURL = pgtest.Database(t, cluster), pgtest.Database(t, cluster)
	withPassword := pgtest.WithUser(t, oldURL, "postgres", "s3cr3t") // trusted all the same
	return traffic.Target{Move: "m", Attempt: 7, Old: open(t, pg.Old, withPassword), New: open(t, pg.New, newURL), Serving: pg.New}, oldURL, newURL
}

// script writes an executable and returns its path.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return path
}

func TestHookIsTold(t *testing.T) {
	to, _, _ := target(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	hooks := traffic.Hooks{Dir: dir, Bound: time.Minute}
	script(t, dir, "before-drain", `env | grep ^PGCUTOVER_ > `+out)
	if err := hooks.Run(t.Context(), "before-drain", "drain", to); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	host, port, database := to.Old.Endpoint()
	for _, want := range []string{
		"EVENT=before-drain", "STEP=drain", "MOVE=m", "ATTEMPT=7", "SERVING=new", fmt.Sprintf("PID=%d", os.Getpid()),
		"OLD_HOST=" + host, fmt.Sprintf("OLD_PORT=%d", port), "OLD_DATABASE=" + database, "NEW_DATABASE=" + to.New.Database(),
	} {
		if !strings.Contains(string(text), "PGCUTOVER_"+want+"\n") {
			t.Errorf("the hook's environment lacks %s:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "s3cr3t") {
		t.Error("the hook was told a password")
	}
	driver := traffic.Hook{Command: []string{script(t, dir, "move", `echo "$PGCUTOVER_EVENT $1" > `+out), "argument"}, Bound: time.Minute}
	if err := errors.Join(driver.Switch(t.Context(), to), driver.Verify(t.Context(), to)); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(out); err != nil || string(text) != "switch argument\n" || driver.Name() != "hook move" {
		t.Errorf("%s said %q, %v", driver.Name(), text, err)
	}
}

func TestHookThatIsMissingOrWrong(t *testing.T) {
	to, _, _ := target(t)
	dir := t.TempDir()
	for _, hooks := range []traffic.Hooks{{}, {Dir: dir}, {Dir: filepath.Join(dir, "nowhere")}} {
		if err := hooks.Run(t.Context(), "before-drain", "drain", to); err != nil {
			t.Errorf("a missing hook: %v", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "before-drain"), []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "after-drain"), 0o700); err != nil {
		t.Fatal(err)
	}
	hooks := traffic.Hooks{Dir: dir}
	for _, event := range []string{"before-drain", "after-drain"} {
		if err := hooks.Run(t.Context(), event, "drain", to); err == nil || !strings.Contains(err.Error(), "not executable") {
			t.Errorf("%s: %v", event, err)
		}
	}
	driver := traffic.Hook{Command: []string{filepath.Join(dir, "nothing")}}
	if err := driver.Switch(t.Context(), to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a command that is not there: %v", err)
	}
}

func TestHookThatFails(t *testing.T) {
	to, _, _ := target(t)
	dir := t.TempDir()
	script(t, dir, "before-drain", `echo said; echo complained >&2; exit 3`)
	err := traffic.Hooks{Dir: dir}.Run(t.Context(), "before-drain", "drain", to)
	if err == nil {
		t.Fatal("a hook that failed vetoes nothing")
	}
	for _, want := range []string{"said", "complained", "exit status 3", filepath.Join(dir, "before-drain")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not tell %q", err, want)
		}
	}
	script(t, dir, "after-drain", `i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo the end; exit 1`)
	err = traffic.Hooks{Dir: dir}.Run(t.Context(), "after-drain", "drain", to)
	if err == nil || len(err.Error()) > 3000 || !strings.HasSuffix(err.Error(), "the end") {
		t.Errorf("a talkative hook: %d bytes", len(fmt.Sprint(err)))
	}
}

// At the time limit the command ends with all that it has started.
func TestHookThatHangs(t *testing.T) {
	to, _, _ := target(t)
	dir := t.TempDir()
	pids := filepath.Join(dir, "pids")
	script(t, dir, "before-drain", `sleep 600 & echo $! $$ > `+pids+`; echo waiting; wait`)
	began := time.Now()
	err := traffic.Hooks{Dir: dir, Bound: 2 * time.Second}.Run(t.Context(), "before-drain", "drain", to)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	if err == nil || !strings.Contains(err.Error(), "time limit") || !strings.Contains(err.Error(), "waiting") {
		t.Errorf("error %v", err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		err = pg.Wait(t.Context(), "process "+field+" to end", 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid), "", nil
		})
		if err != nil {
			t.Error(err)
		}
	}

	stop := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(200*time.Millisecond, func() { cancel(stop) })
	if err := (traffic.Hooks{Dir: dir, Bound: time.Minute}).Run(ctx, "before-drain", "drain", to); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
}

// zombie tells a process that has ended and whose parent, on a machine without
// init, does not ask for it.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}

func TestMultihostVerify(t *testing.T) {
	to, oldURL, newURL := target(t)
	driver := traffic.Multihost{}
	readOnly := func(url string, on bool) {
		t.Helper()
		name := pgtest.Value[string](t, url, `select current_database()::text`)
		what := "reset default_transaction_read_only"
		if on {
			what = "set default_transaction_read_only = on"
		}
		pgtest.Exec(t, url, `set default_transaction_read_only = off`, `alter database `+name+` `+what)
	}
	for _, test := range []struct{ old, new, right bool }{{true, false, true}, {false, false, false}, {true, true, false}, {false, true, false}} {
		readOnly(oldURL, test.old)
		readOnly(newURL, test.new)
		if err := errors.Join(driver.Switch(t.Context(), to)); err != nil {
			t.Error(err)
		}
		if err := driver.Verify(t.Context(), to); (err == nil) != test.right {
			t.Errorf("read-only default on old %t, on new %t, new serves: %v", test.old, test.new, err)
		}
		back := to
		back.Serving = pg.Old
		if err := driver.Verify(t.Context(), back); (err == nil) != (!test.old && test.new) {
			t.Errorf("read-only default on old %t, on new %t, old serves: %v", test.old, test.new, err)
		}
	}
}
