package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestRunKeepsOrderAndGoesOnAfterAFailure(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	release := make(chan struct{})
	var together, most atomic.Int32
	finding := func(id string, s Severity) Finding {
		return Finding{ID: id, Severity: s, Server: "old", Seen: "seen", Why: "why"}
	}
	checks := []Check{
		{"slow", Servers, "slow", nil, func(context.Context, *Pair) ([]Finding, error) {
			<-release // ends last, and is reported first
			return []Finding{finding("slow.one", Warning)}, nil
		}},
		{"broken", Servers, "all is well", nil, func(context.Context, *Pair) ([]Finding, error) {
			return []Finding{finding("broken.half", Note)}, hint.With(errors.New("the cause"), "the way out")
		}},
		{"last", Servers, "last", nil, func(context.Context, *Pair) ([]Finding, error) {
			close(release)
			return []Finding{finding("last.one", Blocker), finding("last.two", Note)}, nil
		}},
	}
	for i := range checks {
		inner := checks[i].Run
		checks[i].Run = func(ctx context.Context, p *Pair) ([]Finding, error) {
			most.Store(max(most.Load(), together.Add(1)))
			defer together.Add(-1)
			return inner(ctx, p)
		}
	}
	r, err := Run(t.Context(), p.Pair, checks, 2)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, f := range r.Findings {
		ids = append(ids, f.ID)
	}
	if got, want := strings.Join(ids, " "), "slow.one broken.half broken.could-not-run last.one last.two"; got != want {
		t.Errorf("findings %s, want %s", got, want)
	}
	if most.Load() > 2 {
		t.Errorf("%d checks at a time, want at most 2", most.Load())
	}
	if r.Blocking != 2 || r.Warnings != 1 || r.Notes != 2 || len(r.Blockers()) != 2 {
		t.Errorf("counted %d blockers (%d listed), %d warnings, %d notes", r.Blocking, len(r.Blockers()), r.Warnings, r.Notes)
	}
	f := only(t, r.Findings, "broken.could-not-run", "broken")
	if f.Severity != Blocker || f.Seen != "the cause" || f.Fix != "the way out" {
		t.Errorf("a check that could not run became %+v", f)
	}
	if r.Checks[1].Ran || !r.Checks[0].Ran || r.Checks[2].Findings != 2 {
		t.Errorf("results: %+v", r.Checks)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, p.Pair, All(), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Run under a cancelled context returned %v", err)
	}
}

// A server that has gone makes blockers, not an empty report.
func TestRunNamesAServerThatIsGone(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	p.New.Close()
	r, err := Run(t.Context(), p.Pair, All(), 0)
	if err != nil {
		t.Fatal(err)
	}
	f := only(t, r.Findings, "roles.could-not-run", "roles")
	if !strings.Contains(f.Seen, "new server") {
		t.Errorf("the cause does not name the server: %s", f.Seen)
	}
}

func TestReportText(t *testing.T) {
	var many []Finding
	for range 15 {
		many = append(many, Finding{
			ID: "tables.replica-identity", Severity: Blocker, Server: "old", Object: `"s"."t"`,
			Seen: "no primary key", Why: "UPDATE fails.", Fix: "ALTER TABLE;\n-- or not",
		})
	}
	findings := append([]Finding{{ID: "a.note", Severity: Note, Server: "both", Seen: "seen", Why: "Because."}}, many...)
	r := newReport([]Result{{ID: "a"}, {ID: "b"}}, findings)
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	if !strings.HasPrefix(got, "BLOCKER  tables.replica-identity  (old)\n  UPDATE fails.\n  - \"s\".\"t\": no primary key\n      ALTER TABLE;\n      -- or not\n") {
		t.Errorf("the text begins\n%s", got)
	}
	if n := strings.Count(got, "no primary key"); n != shownPerKind {
		t.Errorf("%d findings of a kind shown, want %d", n, shownPerKind)
	}
	for _, want := range []string{"- and 3 more; all of them with --json\n", "NOTE  a.note  (both)\n  Because.\n  - seen\n", "2 checks: 15 blockers, 0 warnings, 1 note\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the text lacks %q:\n%s", want, got)
		}
	}
	if err := r.WriteText(failingWriter{}); !errors.Is(err, errFull) {
		t.Errorf("a failing writer returned %v", err)
	}
}

var errFull = errors.New("disk full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestReportJSON(t *testing.T) {
	data, err := json.Marshal(newReport([]Result{{ID: "a", Group: Servers, About: "b", Ran: true, Took: 5}}, nil))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"checks":[{"id":"a","group":"servers","about":"b","ran":true,"findings":0,"took_ns":5}],"findings":[],"blockers":0,"warnings":0,"notes":0}`
	if string(data) != want {
		t.Errorf("JSON\n%s, want\n%s", data, want)
	}
}

func TestChecksAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All() {
		if c.ID == "" || c.About == "" || c.Run == nil || seen[c.ID] {
			t.Errorf("check %q is incomplete or twice there", c.ID)
		}
		seen[c.ID] = true
	}
	for _, c := range Gates() {
		if !seen[c.ID] {
			t.Errorf("gate %q is no check", c.ID)
		}
	}
}

func TestScope(t *testing.T) {
	for _, c := range []struct {
		scope         Scope
		schema, table string
		want          bool
	}{
		{Scope{}, "public", "t", true},
		{Scope{Include: []string{"*.*"}}, "public", "t", true},
		{Scope{Include: []string{"*.*"}, Exclude: []string{"audit.*"}}, "audit", "log", false},
		{Scope{Include: []string{"*.*"}, Exclude: []string{"audit.*"}}, "audits", "log", true},
		{Scope{Include: []string{"public.a*z"}}, "public", "abcz", true},
		{Scope{Include: []string{"public.a*z"}}, "public", "abc", false},
		{Scope{Include: []string{"public.a*z"}}, "public", "az", true},
		{Scope{Include: []string{"public.aa*aa"}}, "public", "aaa", false},
		{Scope{Include: []string{"t"}}, "any", "t", true},
		{Scope{Include: []string{"a.b.c"}}, "a", "b.c", true},
		{Scope{Exclude: []string{"public.t"}}, "public", "T", true},
		{Scope{Include: []string{"x.*"}, Exclude: []string{"x.t"}}, "x", "t", false},
	} {
		if got := c.scope.Match(c.schema, c.table); got != c.want {
			t.Errorf("%+v on %s.%s: %v", c.scope, c.schema, c.table, got)
		}
	}
}

// The patterns mean what the same regular expressions mean.
func TestScopeMatchesLikeARegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{0,7}`).Draw(t, "pattern")
		name := rapid.StringMatching(`[ab]{0,9}`).Draw(t, "name")
		re := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", ".*") + "$")
		if got, want := matchName(pattern, name), re.MatchString(name); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, name, got, want)
		}
	})
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 kiB", 1536 << 20: "1.5 GiB", 1 << 60: "1024.0 PiB"} {
		if got := bytes(n); got != want {
			t.Errorf("bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

// Whatever is returned when a server cannot be asked must not show a password.
func TestFailuresHideThePassword(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	url := pgtest.WithUser(t, p.oldURL, "postgres", "s3cr3t")
	p.Old = open(t, pg.Old, url, "")
	failing := []Check{{"x", Servers, "x", nil, func(context.Context, *Pair) ([]Finding, error) { return nil, errors.New("no route with s3cr3t") }}}
	r, err := Run(t.Context(), p.Pair, failing, 1)
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Findings[0]; strings.Contains(f.Seen, "s3cr3t") {
		t.Errorf("the password is in %q", f.Seen)
	}
}
