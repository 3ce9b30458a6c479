package preflight

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// move is the name of the move that the checks are made for.
const move = "shop"

// eachPair runs f for every pair of majors.
func eachPair(t *testing.T, f func(t *testing.T, p pgtest.Pair)) {
	t.Helper()
	for _, p := range pgtest.Pairs(t) {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

// open connects as the tool does.
func open(t *testing.T, side pg.Side, url, peerURL string) *pg.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := pg.Open(ctx, pg.Options{Side: side, URL: url, PeerURL: peerURL, Move: move})
	if err != nil {
		t.Fatalf("opening the %s server: %v", side, err)
	}
	t.Cleanup(s.Close)
	return s
}

// pair is two fresh databases on the shared servers.
type pair struct {
	*Pair
	oldURL, newURL       string
	oldServer, newServer *pgserver.Cluster
}

func newPair(t *testing.T, p pgtest.Pair) pair {
	t.Helper()
	older, newer := pgtest.Server(t, p.Old), pgtest.Server(t, p.New)
	out := pair{oldServer: older, newServer: newer, oldURL: pgtest.Database(t, older), newURL: pgtest.Database(t, newer)}
	out.Pair = pairOf(t, out.oldURL, out.newURL)
	return out
}

// pairOf is what the checks look at, with a reverse stream wanted.
func pairOf(t *testing.T, oldURL, newURL string) *Pair {
	t.Helper()
	return &Pair{
		Old: open(t, pg.Old, oldURL, ""), New: open(t, pg.New, newURL, ""),
		Settings: Settings{Rollback: true, PeerTimeout: 10 * time.Second, Sample: 10 * time.Millisecond},
	}
}

// run makes one check of a list and fails the test when it could not be made.
func run(t *testing.T, checks []Check, id string, p *Pair) []Finding {
	t.Helper()
	for _, c := range checks {
		if c.ID != id {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		found, err := c.Run(ctx, p)
		if err != nil {
			t.Fatalf("check %s could not run: %v", id, err)
		}
		for _, f := range found {
			if f.ID == "" || f.Severity == "" || f.Server == "" || f.Seen == "" || f.Why == "" {
				t.Errorf("check %s returned an incomplete finding: %+v", id, f)
			}
		}
		return found
	}
	t.Fatalf("there is no check %q", id)
	return nil
}

func check(t *testing.T, id string, p *Pair) []Finding { t.Helper(); return run(t, All(), id, p) }
func gate(t *testing.T, id string, p *Pair) []Finding  { t.Helper(); return run(t, Gates(), id, p) }

// only returns the one finding with the id whose object contains about, and
// fails the test when there is none or more.
func only(t *testing.T, found []Finding, id, about string) Finding {
	t.Helper()
	var out []Finding
	for _, f := range found {
		if f.ID == id && strings.Contains(f.Object, about) {
			out = append(out, f)
		}
	}
	if len(out) != 1 {
		t.Fatalf("found %d findings %s about %q, want 1; all of them:\n%s", len(out), id, about, text(found))
	}
	return out[0]
}

// none fails the test when there is a finding with one of the ids, or any when
// no id is given.
func none(t *testing.T, found []Finding, ids ...string) {
	t.Helper()
	for _, f := range found {
		match := len(ids) == 0
		for _, id := range ids {
			match = match || f.ID == id
		}
		if match {
			t.Errorf("unexpected finding:\n%s", text([]Finding{f}))
		}
	}
}

func text(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s %s (%s) %s\n  seen: %s\n  fix: %s\n", f.Severity, f.ID, f.Server, f.Object, f.Seen, f.Fix)
	}
	return b.String()
}

// mend runs what a finding advises, as superuser, and fails the test when the
// server refuses it.
func mend(t *testing.T, url string, f Finding) {
	t.Helper()
	if f.Fix == "" {
		t.Fatalf("finding %s has no fix", f.ID)
	}
	pgtest.Exec(t, url, f.Fix)
}

// role makes a role on the server of url and removes it with all that it owns
// in that database at the test's end.
func role(t *testing.T, url, name, attributes string) {
	t.Helper()
	pgtest.Exec(t, url, fmt.Sprintf("create role %s %s", quote(name), attributes))
	t.Cleanup(func() {
		pgtest.Exec(t, url,
			fmt.Sprintf("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", literal(name)),
			fmt.Sprintf("reassign owned by %s to postgres", quote(name)),
			fmt.Sprintf("drop owned by %s", quote(name)),
			fmt.Sprintf("drop role %s", quote(name)))
	})
}
