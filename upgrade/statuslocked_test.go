package upgrade

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// While somebody alters a table, a view or a sequence on either server, status says
// all that it can see, and what keeps it from the rest; later it sees that too.
func TestStatusWhileRelationsAreLocked(t *testing.T) {
	m, oldURL, newURL := opened(t, "locked")
	pgtest.Exec(t, oldURL, `create table public."D r" (id serial primary key, t text default 'x')`, `create view public.seen as select id from public."D r"`)
	m.startedForTest(t)
	m.hurry = 200 * time.Millisecond
	for _, test := range []struct {
		url, lock string
		sequences bool // are locked too
	}{
		{newURL, `lock table public."D r"`, false},
		{oldURL, `drop table public."D r" cascade`, true},
		{newURL, `drop table public."D r" cascade`, true},
	} {
		m.forget()
		release := held(t, test.url, test.lock)
		s, err := m.Status(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", test.lock, err)
		}
		warnings := strings.Join(s.Warnings, "\n")
		if s.Drift != nil || s.Verdict.CanCutOver || !strings.Contains(warnings, `"D r" is locked exclusively by session`) || !strings.Contains(warnings, "schemas were not compared") {
			t.Errorf("%s: drift %+v, %+v, warnings %q", test.lock, s.Drift, s.Verdict, s.Warnings)
		}
		if reasons := strings.Join(s.Verdict.Reasons, "\n"); !strings.Contains(reasons, "reading the schema of") {
			t.Errorf("%s: a cutover would be refused for %q", test.lock, s.Verdict.Reasons)
		}
		if got := strings.Contains(warnings, "sequences were not compared"); got != test.sequences || s.Condition == nil || len(s.Condition.Tables) != 2 {
			t.Errorf("%s: sequences not compared %t, %+v", test.lock, got, s.Condition)
		}
		release()
	}
	m.forget()
	m.hurry = 0
	if s, err := m.Status(t.Context()); err != nil || s.Drift == nil || len(s.Drift.Differences) > 0 || s.Sequences.Checked != 2 {
		t.Errorf("when no lock is left: %v, %+v", err, s)
	}
}

// held runs a statement in a transaction that stays open until release.
func held(t *testing.T, url, sql string) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"set default_transaction_read_only = off", "begin", sql} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			t.Error(err)
		}
		pg.Close(ctx, conn)
	}
}
