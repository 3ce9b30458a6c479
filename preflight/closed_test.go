package preflight

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// From start on the new database is read-only by default: what a finding says has
// to run there all the same, and a role that start has yet to make is not altered.
func TestFixOnAClosedServer(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		if majors.New < 16 {
			return
		}
		fixOnAClosedServer(t, newPair(t, majors))
	})
}

func fixOnAClosedServer(t *testing.T, p pair) {
	t.Helper()
	role(t, p.oldURL, "forced", "nologin")
	pgtest.Exec(t, p.oldURL, `create table t (id int primary key)`, `alter table t owner to forced`,
		`alter table t enable row level security`, `alter table t force row level security`)
	t.Cleanup(func() { pgtest.Exec(t, p.oldURL, `drop table t`) })
	pgtest.Exec(t, p.newURL, `alter database `+quote(p.New.Database())+` set default_transaction_read_only = on`)

	look := func() []Finding {
		r, err := Run(t.Context(), p.Pair, tableChecks(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return r.Findings
	}
	f := only(t, look(), "row-security.apply", `"t"`)
	if f.FixKind != FixAction || !strings.Contains(f.Fix, "start --until roles") {
		t.Errorf("the role is not there, and the advice is %s: %s", f.FixKind, f.Fix)
	}
	pgtest.Exec(t, p.newURL, `set default_transaction_read_only = off`, `create role forced`)
	t.Cleanup(func() {
		pgtest.Exec(t, p.newURL, `set default_transaction_read_only = off`, `drop role forced`)
	})
	f = only(t, look(), "row-security.apply", `"t"`)
	if f.FixKind != FixSQL {
		t.Fatalf("the role is there, and the advice is %s: %s", f.FixKind, f.Fix)
	}
	psql(t, p.newURL, f.Fix)
	none(t, look())
}

// Findings of one kind are told together, whatever else their query found
// between them.
func TestKindsAreToldTogether(t *testing.T) {
	r := newReport(nil, []Finding{
		{ID: "a", Severity: Blocker, Group: Tables, Object: "t1"},
		{ID: "b", Severity: Blocker, Group: Tables, Object: "t2"},
		{ID: "a", Severity: Blocker, Group: Tables, Object: "t3"},
	})
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "BLOCKER  a") != 1 || strings.Index(b.String(), "t3") > strings.Index(b.String(), "t2") {
		t.Errorf("the text is\n%s", b.String())
	}
}
