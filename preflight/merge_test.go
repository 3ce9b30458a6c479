package preflight

import (
	"strings"
	"testing"
)

func TestIgnoredFindingsDoNotCount(t *testing.T) {
	r := newReport([]Result{{ID: "a"}}, []Finding{
		{ID: "versions.end-of-life", Severity: Blocker}, {ID: "target.not-empty", Severity: Warning}, {ID: "versions.end-of-life", Severity: Note},
	})
	r.Ignore([]string{"versions.end-of-life"})
	if r.Blocking != 0 || r.Warnings != 1 || r.Notes != 0 || len(r.Findings) != 1 || len(r.Ignored) != 2 {
		t.Errorf("after ignoring: %+v", r)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if want := "0 blockers, 1 warning, 0 notes; ignored: versions.end-of-life\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("the text does not end in %q:\n%s", want, b.String())
	}
	if err := Unknown([]string{"versions.end-of-life", "versions.could-not-run"}); err != nil {
		t.Error(err)
	}
	if err := Unknown([]string{"versions.end-of-live"}); err == nil || !strings.Contains(err.Error(), "versions.end-of-live") {
		t.Errorf("a misspelt ID: %v", err)
	}
}

// What all databases have is told once, the rest with its database.
func TestMerge(t *testing.T) {
	settings := Finding{ID: "publisher.wal-level", Severity: Blocker, Server: "old"}
	table := Finding{ID: "tables.replica-identity", Severity: Blocker, Server: "old", Object: "public.t"}
	one := newReport([]Result{{ID: "publisher", Ran: true, Findings: 1}}, []Finding{settings})
	two := newReport([]Result{{ID: "publisher", Ran: true, Findings: 2}}, []Finding{settings, table})
	m := Merge([]string{"shop", "billing"}, []Report{one, two})
	table.Database = "billing"
	if m.Blocking != 2 || len(m.Findings) != 2 || m.Findings[0] != settings || m.Findings[1] != table || m.Checks[0].Findings != 3 {
		t.Errorf("merged: %+v", m)
	}
	var b strings.Builder
	if err := m.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if want := `BLOCKER  tables.replica-identity  (old, database "billing")`; !strings.Contains(b.String(), want) {
		t.Errorf("the text lacks %q:\n%s", want, b.String())
	}
}
