package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/warmup"
)

// warm --plans and --queries, from the command line to the report.
func TestWarmPlans(t *testing.T) {
	old, new := servers(t)
	pgtest.Exec(t, old, `insert into item select n, 'item ' || n from generate_series(101, 5000) n`, `analyze`)
	pgtest.Exec(t, new, `create table item (id int, name text); insert into item select n, 'item ' || n from generate_series(1, 4999) n; analyze`)
	dir := t.TempDir()
	reads, kept := filepath.Join(dir, "reads.sql"), filepath.Join(dir, "plans.json")
	if err := os.WriteFile(reads, []byte("-- name: one item\n-- parameters: [3]\nselect name from item where id = $1;\nselect * from item;"), 0o600); err != nil {
		t.Fatal(err)
	}
	warm := func(args ...string) result {
		return pgcutover(t, append([]string{"warm", "--old", old, "--new", new}, args...)...)
	}
	warm("--plans").expect(t, exitFailed, "pg_stat_statements cannot be read", "CREATE EXTENSION pg_stat_statements;", "--queries FILE")
	warm("--plans", "--queries", reads).expect(t, exitDone, "WARN INDEX MISSING", "[one item]", "index public.item_pkey on item",
		"2 statements: 1 same, 0 changed and not dearer, 0 dearer, 1 lack an index, 0 not explained")
	warm("--plans", "--queries", reads, "--save", kept).expect(t, exitDone, "2 plans of ", " kept, 0 statements not explained")
	r := warm("--plans", "--against", kept, "--json")
	r.expect(t, exitDone)
	var report warmup.PlansReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatalf("%v in %s", err, r.out)
	}
	if report.Counts[warmup.PlanIndexMissing] != 1 || report.Statements[0].ID != "one item" || report.Statements[0].New.Root.Type != "Seq Scan" {
		t.Errorf("%+v", report)
	}
	warm("--queries", reads, "--times", "3").expect(t, exitDone, "one item", "6 runs on ", "0 failed")
	warm("--queries", reads, "--compare").expect(t, exitDone, "5000 / 4999", "index missing", "old ms")

	for _, wrong := range [][]string{
		{"--save", kept},
		{"--plans", "--save", kept, "--against", kept},
		{"--plans", "--against", kept, "--queries", reads},
		{"--compare"},
		{"--times", "3"},
		{"--plans", "--queries", reads, "--compare"},
		{"--plans", "--top", "0"},
		{"--queries", filepath.Join(dir, "none.sql")},
		{"--queries", kept},
		{"--plans", "--against", filepath.Join(dir, "none.json")},
	} {
		if r := warm(wrong...); r.code != exitUsage {
			t.Errorf("%v: exit status %d\n%s%s", wrong, r.code, r.out, r.err)
		}
	}
	warm("--plans", "--against", reads).expect(t, exitFailed, "reading kept plans")
}
