package schemas

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// newest is the major of the client programs used on both sides.
const newest = 18

// clientBound is how long one run of a client program may take.
const clientBound = 3 * time.Minute

// client runs a client program against a database and returns what it prints.
func client(t *testing.T, program, url string, args ...string) string {
	t.Helper()
	path, _, err := pgclient.FindClient(t.Context(), program, newest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), clientBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append(args, "--no-password", "--dbname="+url)...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "PGTZ=UTC", "PGOPTIONS=-c client_min_messages=warning")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s of %s: %v\n%s", program, config.Database, err, stderr.String())
	}
	return stdout.String()
}

// psql runs a file. Its transactions are those that the file says.
func psql(t *testing.T, url, file string) {
	t.Helper()
	client(t, "psql", url, "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--file="+file)
}
