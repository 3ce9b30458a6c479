package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// doctor works with one URL, both, or a config file, and its exit status tells a
// monitor whether something is stuck.
func TestDoctor(t *testing.T) {
	old, new := servers(t)
	pgcutover(t, "doctor", "--old", old).expect(t, exitDone, "Nothing is stuck", "takes client writes")

	pgtest.Exec(t, old, `do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
	pgcutover(t, "doctor", "--old", old, "--new", new).expect(t, exitBlocked, "BLOCKER  read-only.database", "RESET default_transaction_read_only;", "checks found blockers: 1")
	r := pgcutover(t, "doctor", "--json", "--fix", "--old", old)
	var report doctor.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	if r.code != exitBlocked || report.Healthy || report.Blocking != 1 || len(report.Findings) != 1 || len(report.Mended) != 0 || report.Findings[0].Fix || report.Findings[0].Whose != doctor.Other {
		t.Errorf("exit status %d, %+v", r.code, report)
	}

	path := filepath.Join(t.TempDir(), "pgcutover.yaml")
	gone := "postgres://postgres@127.0.0.1:1/x?connect_timeout=1"
	text := fmt.Sprintf("name: shop\nold: { url: %q }\nnew: { url: %q }\ntraffic:\n  - pgbouncer: { admin_url: \"postgres://admin@127.0.0.1:1/pgbouncer\", database: shop, config: ./pgbouncer.ini }\n", new, gone)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pgcutover(t, "doctor", "--config", path).expect(t, exitBlocked, "server.unreachable  (on new", "pooler.unreachable", `Move "shop"`)
	pgcutover(t, "doctor", "--config", filepath.Join(t.TempDir(), "none.yaml")).expect(t, exitUsage)
	pgcutover(t, "doctor", "more").expect(t, exitUsage)
	pgcutover(t, "doctor", "--old", old, "--name", "No Name").expect(t, exitUsage, "cannot be the name of a move")
	if help := pgcutover(t, "doctor", "--help"); help.code != exitDone || !strings.Contains(help.out+help.err, "one server is enough") {
		t.Errorf("the help: %+v", help)
	}
}
