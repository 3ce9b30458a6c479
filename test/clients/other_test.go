package clients

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// othersVariable names the environment variable that lists further clients.
const othersVariable = "PGCUTOVER_TEST_CLIENTS"

// others are the clients that a machine may lack. Each program takes its name,
// libpq's connection string, the JDBC URL, hosts and database as arguments;
// writes "ack <n> <port>", "refused <n> <why>" or "doubt <n> <why>" for each row
// that it tried, and ends when its standard input does.
var others = map[string][]string{
	"psycopg2":       {"/usr/bin/python3", "psycopg2_client.py"},
	"psycopg":        {"/usr/bin/python3", "psycopg_client.py"},
	"jdbc":           {"java", "-cp", "/usr/share/java/postgresql.jar", "JdbcClient.java"},
	"jdbc-reconnect": {"java", "-Dreconnect=true", "-cp", "/usr/share/java/postgresql.jar", "JdbcClient.java"},
	"postgres.js":    {"node", "postgres_client.cjs"},
}

// chosen returns the further clients to test.
func chosen(t *testing.T, to target) map[string]client {
	t.Helper()
	out := map[string]client{}
	for name := range strings.FieldsFuncSeq(os.Getenv(othersVariable), func(r rune) bool { return r == ',' || r == ' ' }) {
		command, ok := others[name]
		if !ok {
			t.Fatalf("%s names %q, which is no client with a program in testdata", othersVariable, name)
		}
		out[name] = other(t, command, to)
	}
	return out
}

// other runs a program of testdata.
func other(t *testing.T, command []string, to target) client {
	t.Helper()
	return func(ctx context.Context, a *account) {
		args := append([]string(nil), command[1:]...)
		args[len(args)-1] = filepath.Join("testdata", args[len(args)-1])
		args = append(args, a.name, to.conninfo, to.jdbc, to.hosts, to.database)
		cmd := exec.Command(command[0], args...) //nolint:gosec // our own program
		dieWithParent(cmd)
		cmd.Stderr = os.Stderr
		in, errIn := cmd.StdinPipe()
		out, errOut := cmd.StdoutPipe()
		if errIn != nil || errOut != nil {
			t.Error(errIn, errOut)
			return
		}
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		stop := context.AfterFunc(ctx, func() {
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		})
		defer stop()
		lines := bufio.NewScanner(out)
		began := time.Now()
		for lines.Scan() {
			if err := a.read(lines.Text(), began); err != nil {
				t.Error(err)
			}
			began = time.Now()
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", a.name, err)
		}
	}
}

// read notes what a program says. A row began, at the earliest, when the last
// one had been told.
func (a *account) read(line string, began time.Time) error {
	word, rest, _ := strings.Cut(line, " ")
	number, what, _ := strings.Cut(rest, " ")
	var n int64
	if _, err := fmt.Sscan(number, &n); err != nil {
		return fmt.Errorf("%s said %q: %w", a.name, line, err)
	}
	switch word {
	case "ack":
		var port int
		if _, err := fmt.Sscan(what, &port); err != nil {
			return fmt.Errorf("%s said %q: %w", a.name, line, err)
		}
		a.ack(n, ack{port, began, time.Now()})
	case "refused":
		a.refuse(n, what)
	case "doubt":
		a.doubt(n, what)
	default:
		return fmt.Errorf("%s said %q", a.name, line)
	}
	return nil
}
