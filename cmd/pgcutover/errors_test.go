package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// result is what a command did.
type result struct {
	code     int
	out, err string
}

// pgcutover runs one command as main does.
func pgcutover(t *testing.T, args ...string) result {
	t.Helper()
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	var out, errs bytes.Buffer
	code := run(&app{out: &out, err: &errs, in: nobody}, args)
	return result{code, out.String(), errs.String()}
}

// servers returns two empty databases of the first pair, with a table on old.
func servers(t *testing.T) (old, new string) {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	old = pgtest.Database(t, pgtest.Server(t, pair.Old))
	new = pgtest.Database(t, pgtest.Server(t, pair.New))
	pgtest.Exec(t, old, `create table item (id int primary key, name text); insert into item select n, 'item ' || n from generate_series(1, 100) n`)
	return old, new
}

// expect compares what a command said: every part must be in its output.
func (r result) expect(t *testing.T, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit status %d, want %d", r.code, code)
	}
	all := r.out + r.err
	for _, part := range parts {
		if !strings.Contains(all, part) {
			t.Errorf("the output does not say %q", part)
		}
	}
	if t.Failed() {
		t.Fatalf("output:\n%s\n%s", r.out, r.err)
	}
}

// A start that cannot succeed says why, on which object, and how to mend it,
// exits as documented, and leaves both databases as they were.
func TestStartRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, old, new *string)
		code  int
		says  []string
	}{
		{"table without replica identity", func(t *testing.T, old, _ *string) {
			pgtest.Exec(t, *old, `create table "No Key" (a int)`)
		}, exitBlocked, []string{"tables.replica-identity", `"No Key"`, "REPLICA IDENTITY"}},
		{"target not empty", func(t *testing.T, _, new *string) {
			pgtest.Exec(t, *new, `create table somebodys (a int primary key)`)
		}, exitBlocked, []string{"somebodys", "new"}},
		{"role without replication", func(t *testing.T, old, _ *string) {
			role, admin := roleName(t), *old
			pgtest.Exec(t, admin, "create role "+role+" login", "alter table item owner to "+role)
			t.Cleanup(func() { pgtest.Exec(t, admin, "reassign owned by "+role+" to postgres; drop owned by "+role) })
			*old = pgtest.WithUser(t, *old, role, "")
		}, exitBlocked, []string{"REPLICATION", "ALTER ROLE"}},
		{"unreachable host", func(_ *testing.T, old, _ *string) {
			*old = "postgres://postgres@127.0.0.1:1/shop?connect_timeout=2"
		}, exitFailed, []string{"old server", "127.0.0.1:1", "check that the old server runs"}},
		{"missing database", func(_ *testing.T, _, new *string) {
			*new = strings.Replace(*new, "?", "_absent?", 1)
		}, exitFailed, []string{"_absent", "create it first"}},
		{"old and new swapped for a downgrade", func(_ *testing.T, old, new *string) {
			*old, *new = *new, *old
		}, exitBlocked, []string{"BLOCKER"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, new := servers(t)
			adminOld, adminNew := old, new
			c.spoil(t, &old, &new)
			beforeOld, beforeNew := pgtest.Catalog(t, adminOld), pgtest.Catalog(t, adminNew)
			pgcutover(t, "start", "--old", old, "--new", new, "--name", "refused").expect(t, c.code, c.says...)
			if d := pgtest.Diff(beforeOld, pgtest.Catalog(t, adminOld)); d != "" {
				t.Errorf("left on old:\n%s", d)
			}
			if d := pgtest.Diff(beforeNew, pgtest.Catalog(t, adminNew)); d != "" {
				t.Errorf("left on new:\n%s", d)
			}
		})
	}
}

func roleName(t *testing.T) string {
	return fmt.Sprintf("role_%x", []byte(t.Name())[:4]) + fmt.Sprint(os.Getpid())
}

// A wrong password is named without being shown.
func TestWrongPassword(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	c := pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Password: "right-one"})
	_, new := servers(t)
	old := strings.Replace(c.URL("postgres"), "right-one", "Wrong-0ne", 1)
	r := pgcutover(t, "start", "--old", old, "--new", new)
	r.expect(t, exitFailed, "old server", "refused the password", `"postgres"`)
	if strings.Contains(r.out+r.err, "Wrong-0ne") {
		t.Errorf("the password is in the output:\n%s", r.err)
	}
}

// wal_level=replica is a blocker that says what to set.
func TestWALLevel(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	c := pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Settings: map[string]string{"wal_level": "replica"}})
	old := pgtest.Database(t, c)
	_, new := servers(t)
	pgtest.Exec(t, old, `create table item (id int primary key)`)
	pgcutover(t, "check", "--old", old, "--new", new).expect(t, exitBlocked, "wal_level", "logical", "restart")
	pgcutover(t, "start", "--old", old, "--new", new).expect(t, exitBlocked, "wal_level")
}

// Wrong usage and wrong config exit with 2 and say where.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("name: shop\nold: { url: \"postgres://a@h/d\" }\nnew: { url: \"postgres://a@i/d\" }\ncutovr: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgcutover(t, "check", "--config", bad).expect(t, exitUsage, "bad.yaml:4:1", "cutovr", "cutover")
	pgcutover(t, "check", "--config", filepath.Join(dir, "none.yaml")).expect(t, exitUsage, "none.yaml")
	pgcutover(t, "check", "--nonsense").expect(t, exitUsage, "nonsense")
	pgcutover(t, "check", "--old", "postgres://a@h/d").expect(t, exitUsage, "--new")
	pgcutover(t, "status", "extra").expect(t, exitUsage, "extra")
	pgcutover(t, "start", "--old", "postgres://a@h/d", "--new", "postgres://a@i/d", "--until", "nowhere").expect(t, exitFailed)
}

// init writes a file that every other command can read, and never a second
// time; the playground's config can be read too.
func TestInit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgcutover.yaml")
	old, new := servers(t)
	pgcutover(t, "init", "--config", path, "--old", old, "--new", new, "--name", "init").expect(t, exitDone, "check")
	pgcutover(t, "init", "--config", path, "--old", old, "--new", new).expect(t, exitFailed, path)
	pgcutover(t, "check", "--config", path).expect(t, exitDone, "0 blockers")
	t.Setenv("POSTGRES_PASSWORD", "x")
	a := &app{flags: globalFlags{config: "../../docker/pgcutover.yaml"}}
	if _, err := a.options(); err != nil {
		t.Error(err)
	}
}

// --json is one object on stdout, whatever else is said.
func TestJSON(t *testing.T) {
	old, new := servers(t)
	for _, command := range []string{"check", "plan", "status"} {
		r := pgcutover(t, command, "--json", "--old", old, "--new", new, "--name", "json")
		r.expect(t, exitDone)
		var v map[string]any
		if err := json.Unmarshal([]byte(r.out), &v); err != nil {
			t.Errorf("%s --json: %v\n%s", command, err, r.out)
		}
	}
}

// What changes a server asks, and without a terminal wants --yes.
func TestAsks(t *testing.T) {
	old, new := servers(t)
	pgcutover(t, "abort", "--old", old, "--new", new).expect(t, exitUsage, "--yes")
	pgcutover(t, "complete", "--old", old, "--new", new).expect(t, exitUsage, "--yes")
}
