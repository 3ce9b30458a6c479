package pgbouncer_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// childVariable makes the test binary start a pooler, tell its process id and
// folder, and wait to be killed.
const childVariable = "PGBOUNCER_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		pgtest.Main(m)
	}
	p, err := pgbouncer.Start(context.Background(), pgbouncer.Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}

func TestPooler(t *testing.T) {
	c := pgtest.Server(t, pgtest.Majors(t)[0])
	url := pgtest.Database(t, c)
	name := pgtest.Value[string](t, url, `select current_database()::text`)
	p, err := pgbouncer.Start(t.Context(), pgbouncer.Options{Databases: map[string]pgbouncer.Endpoint{
		"shop":  {Host: pgserver.Loopback, Port: c.Port(), Database: name, Password: "it's"},
		"other": {Host: pgserver.Loopback, Port: c.Port(), Database: "postgres"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop() //nolint:errcheck // the test's own Stop is checked
	reach := func() {
		t.Helper()
		for database, want := range map[string]string{"shop": name, "other": "postgres"} {
			if got := pgtest.Value[string](t, p.URL(database)+"&default_query_exec_mode=exec", `select current_database()::text`); got != want {
				t.Errorf("%s leads to %s, not to %s", database, got, want)
			}
		}
		if mode := pgtest.Value[string](t, p.AdminURL(), "SHOW VERSION"); !strings.Contains(mode, "PgBouncer") {
			t.Errorf("the admin console said %q", mode)
		}
	}
	reach()
	before := p.PID()
	if err := errors.Join(p.Kill(), p.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	reach()
	if p.PID() == before {
		t.Error("the process is still the one that was killed")
	}
	// A restart reads the files as they are.
	text, err := os.ReadFile(p.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.ConfigFile(), []byte(strings.ReplaceAll(string(text), name, "template1")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Value[string](t, p.URL("shop")+"&default_query_exec_mode=exec", `select current_database()::text`); got != "template1" {
		t.Errorf("after the rewriting shop leads to %s", got)
	}
	folder := p.LogFile()
	if err := errors.Join(p.Stop(), p.Stop()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if err := p.Restart(t.Context()); !errors.Is(err, pgbouncer.ErrStopped) {
		t.Errorf("restarted after the end: %v", err)
	}
}

func TestPoolerThatCannotStart(t *testing.T) {
	_, err := pgbouncer.Start(t.Context(), pgbouncer.Options{Settings: map[string]string{"pool_mode": "nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v does not show the log", err)
	}
}

func TestPoolerDiesWithItsOwner(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, errRead := bufio.NewReader(out).ReadString('\n')
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait() //nolint:errcheck // it was killed: the error says just that
	var pid int
	if _, err := fmt.Sscan(line, &pid); errRead != nil || err != nil {
		t.Fatalf("the child said %q: %v", line, errors.Join(errRead, err))
	}
	err = pg.Wait(t.Context(), "the pooler to end", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		// Where nobody asks how an orphan ended it stays as a zombie.
		stat, errStat := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		zombie := errStat == nil && strings.Contains(string(stat), ") Z ")
		return zombie || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH), "", nil
	})
	if err != nil {
		t.Error(err)
	}
}
