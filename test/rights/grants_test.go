package rights

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// statement and script are what is read of the answer to check --grants --json.
type (
	statement struct{ SQL, Why string }
	script    struct {
		Provider   string
		Detected   bool
		Statements []statement
		Remarks    []string
		SQL        string
	}
	scripts struct{ Old, New script }
)

// grant has psql run, as admin, what check --grants prints for the tool's role,
// twice: the second time nothing changes.
func (m *move) grant(t *testing.T, oldAdmin, newAdmin string) scripts {
	t.Helper()
	got := answer[scripts](t, m.run(t, exitDone, "check", "--grants", "--config", "admin.yaml", "--role", tool, "--json"))
	for _, s := range []struct{ side, admin, database, sql string }{
		{"old", oldAdmin, m.old.admin, got.Old.SQL}, {"new", newAdmin, m.new.admin, got.New.SQL},
	} {
		printed := m.run(t, exitDone, "check", "--grants="+s.side, "--config", "admin.yaml", "--role", tool).stdout
		if printed != s.sql {
			t.Errorf("--grants=%s prints other text than --json has:\n%s", s.side, printed)
		}
		m.psql(t, s.admin, s.sql, "-v", "password="+password)
		before := pgtest.Catalog(t, s.database)
		m.psql(t, s.admin, s.sql)
		if diff := pgtest.Diff(before, pgtest.Catalog(t, s.database)); diff != "" {
			t.Errorf("the script of the %s server, run again, changes:\n%s", s.side, diff)
		}
	}
	return got
}

// psql runs a script as a person who pipes it into psql.
func (m *move) psql(t *testing.T, url, sql string, more ...string) {
	t.Helper()
	program, _, err := pgclient.FindClient(t.Context(), "psql", 11)
	if err != nil {
		t.Fatal(err)
	}
	if r := execute(t, m.dir, nil, sql, program, append([]string{"-X", "-q", "-d", url}, more...)...); r.code != 0 {
		t.Fatalf("psql ended with status %d\n%s\nthe script:\n%s", r.code, r, sql)
	}
}

type (
	finding struct {
		ID, Severity, Server, Object, Seen, Fix string
		FixOn                                   string `json:"fix_on"`
	}
	report struct{ Findings []finding }
)

// check returns what check finds, which must be no blocker when clean.
func (m *move) check(t *testing.T, code int) []finding {
	t.Helper()
	return answer[report](t, m.run(t, code, "check", "--json")).Findings
}

// aboutRights are those findings that a right is missing.
func aboutRights(found []finding) []finding {
	var out []finding
	for _, f := range found {
		for _, prefix := range []string{"rights.", "roles.", "row-security.", "peer.", "sequences.unreadable", "extensions.superuser", "objects.superuser"} {
			if strings.HasPrefix(f.ID, prefix) {
				out = append(out, f)
			}
		}
	}
	return out
}

// clean checks that no right is missing. On a provider's server nobody can let
// the tool keep its statements out of the log.
func (m *move) clean(t *testing.T) {
	t.Helper()
	for _, f := range aboutRights(m.check(t, exitDone)) {
		if m.hosted && f.ID == "peer.statement-log" && f.Severity == "note" {
			continue
		}
		t.Errorf("with all that --grants prints granted there still is %+v", f)
	}
}
