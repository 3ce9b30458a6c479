package plan

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/upgrade"
)

// TestPlanChangesNothingAndTellsNoSecret prints every form of the plan, before
// start and after, for roles with a password.
func TestPlanChangesNothingAndTellsNoSecret(t *testing.T) {
	const password = "geheim-wort"
	m := newMove(t, pgtest.Pairs(t)[0])
	m.Close()
	o := m.Options
	o.Old.URL, o.New.URL = pgtest.WithUser(t, m.oldURL, "postgres", password), pgtest.WithUser(t, m.newURL, "postgres", password)
	var err error
	if m.Move, err = upgrade.Open(t.Context(), o, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	for _, when := range []string{"before start", "after start"} {
		before := m.everything(t)
		plan, err := m.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		book := plan.Runbook()
		for _, err := range []error{book.WriteText(&out), book.WriteMarkdown(&out), book.WriteSQL(&out, ""), json.NewEncoder(&out).Encode(plan)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(out.String(), password) {
			t.Errorf("%s the plan shows the password", when)
		}
		if n := strings.Count(out.String(), ":'old_conninfo'"); n < 4 {
			t.Errorf("%s the plan has %d places for the connection string", when, n)
		}
		if diff := pgtest.Diff(before, m.everything(t)); diff != "" {
			t.Errorf("%s, plan has changed something:\n%s", when, diff)
		}
		if when == "before start" {
			m.start(t)
		}
	}
}

// everything is what there is on both servers.
func (m *move) everything(t *testing.T) string {
	t.Helper()
	return catalog(t, m, m.oldURL) + rows(t, m, m.oldURL) + catalog(t, m, m.newURL) + rows(t, m, m.newURL)
}
