package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// program finds a client program.
func program(t *testing.T, name string) string {
	t.Helper()
	path, version, err := pgclient.FindClient(t.Context(), name, 0)
	if err != nil {
		advice := hint.Of(err)
		if name == "pgbench" {
			advice = "Debian has it in the server's package, postgresql-15"
		}
		t.Fatalf("%v\n%s", err, advice)
	}
	t.Logf("%s %d", path, version)
	return path
}

// run runs a program until it ends, or until ctx does.
func run(ctx context.Context, path string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=5", "PGAPPNAME="+filepath.Base(path), "LC_ALL=C")
	dieWithParent(cmd)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// sqlstate matches what psql prints with VERBOSITY=sqlstate.
var sqlstate = regexp.MustCompile(`(?:ERROR|FATAL): +([0-9A-Z]{5})\b`)

// psql starts psql again and again, for one row each.
func psql(t *testing.T, path string, to target) client {
	t.Helper()
	return func(ctx context.Context, a *account) {
		for ctx.Err() == nil {
			n, began := a.next(), time.Now()
			sql := fmt.Sprintf(`insert into ledger (client, n) values ('%s', %d) returning port`, a.name, n)
			// Not cut off by ctx: each ends by itself, and soon.
			out, errs, err := run(context.WithoutCancel(ctx), path, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate", "-c", sql, to.conninfo)
			port, errPort := strconv.Atoi(strings.TrimSpace(out))
			state := sqlstate.FindStringSubmatch(errs)
			var failed *exec.ExitError
			switch {
			case err == nil && errPort == nil:
				a.ack(n, ack{port, began, time.Now()})
				continue
			case state != nil && state[1] == "25006":
				a.refuse(n, state[1])
			case errors.As(err, &failed) && failed.ExitCode() == 2 && strings.Contains(errs, "read-only"):
				a.refuse(n, "no host takes writes") // it could not connect
			default:
				a.doubt(n, fmt.Sprintf("%v: %.100s", err, oneLine(errs)))
			}
			breathe(ctx)
		}
	}
}

// processed matches the line of pgbench's report, whether it had to give up or
// not.
var processed = regexp.MustCompile(`number of transactions actually processed: (\d+)`)

// numbers are the rows that one run of pgbench may write.
const numbers = 1_000_000

// pgbench starts pgbench again and again, for at most a second each: its client
// gives up at the first error, whatever the options. A run numbers its rows from
// 1, and reports how many were committed.
func pgbench(t *testing.T, path string, to target, options ...string) client {
	t.Helper()
	return func(ctx context.Context, a *account) {
		script := filepath.Join(t.TempDir(), "script.sql")
		text := fmt.Sprintf("\\set n :n + 1\ninsert into ledger (client, n) values ('%s', :n);\n", a.name)
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Error(err)
			return
		}
		for runs := int64(1); ctx.Err() == nil; runs++ {
			base := runs * numbers
			args := append([]string{"-n", "-c", "1", "-T", "1", "--rate=40", "-D", fmt.Sprintf("n=%d", base), "-f", script}, options...)
			out, errs, err := run(context.WithoutCancel(ctx), path, append(args, to.conninfo)...)
			committed := int64(0)
			if found := processed.FindStringSubmatch(out); found != nil {
				if committed, err = strconv.ParseInt(found[1], 10, 64); err != nil {
					t.Error(err)
				}
				for n := base + 1; n <= base+committed; n++ {
					a.ack(n, ack{})
				}
			}
			if err != nil || strings.Contains(errs, "aborted") {
				a.doubt(base+committed+1, oneLine(pgbenchError(errs)))
				breathe(ctx)
			}
		}
	}
}

// pgbenchError is the beginning of a run's first complaint.
func pgbenchError(text string) string {
	for line := range strings.Lines(text) {
		if _, complaint, found := strings.Cut(line, "error: "); found {
			return fmt.Sprintf("%.80s", complaint)
		}
	}
	return text
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
