package schemas

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// entry is one object of a dump: the comment above it, and its statements.
type entry struct {
	title string // Name: orders; Type: TABLE; Schema: public; Owner: app
	body  string
}

func (e entry) String() string { return "-- " + e.title + "\n" + e.body + "\n" }

// dump is a database's schema, object by object.
type dump []entry

// text prints a dump, sorted: the order of objects that do not depend on each
// other is that of their making.
func (d dump) text() string {
	lines := make([]string, len(d))
	for i, e := range d {
		lines[i] = e.String()
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// dumped runs pg_dump.
func dumped(t *testing.T, url string) dump {
	t.Helper()
	return parseDump(t, client(t, "pg_dump", url, "--schema-only"))
}

// titleLine is what pg_dump writes above each object.
var titleLine = regexp.MustCompile(`(?m)^--\n-- (Name: .*; Type: .*; Schema: .*; Owner: .*)\n--\n\n`)

// epilogue ends a dump.
var epilogue = regexp.MustCompile(`\n--\n-- PostgreSQL database dump complete\n--\n\n(\\unrestrict \S+\n\n)?$`)

// attversion is a setting that Debian's servers write into the catalog of
// columns, which their own pg_dump leaves out and others print.
var attversion = regexp.MustCompile(`(?m)^ALTER TABLE (ONLY )?\S.* ALTER COLUMN \S.* SET \(pg_attver=\d+\);\n+`)

// session is a setting of pg_dump's session, which it writes where it changes.
var session = regexp.MustCompile(`(?m)^SET default_(tablespace|table_access_method) = .*;\n+`)

// parseDump takes a dump apart. What stands before the first object are the
// session's settings, with the versions of server and client.
func parseDump(t *testing.T, text string) dump {
	t.Helper()
	end := epilogue.FindStringIndex(text)
	if end == nil {
		t.Fatalf("the dump has no end:\n%s", text[max(0, len(text)-300):])
	}
	text = text[:end[0]]
	titles := titleLine.FindAllStringSubmatchIndex(text, -1)
	var out dump
	for i, at := range titles {
		stop := len(text)
		if i+1 < len(titles) {
			stop = titles[i+1][0]
		}
		body := attversion.ReplaceAllString(text[at[1]:stop], "")
		body = strings.TrimSpace(session.ReplaceAllString(body, ""))
		title := text[at[2]:at[3]]
		if strings.Contains(title, "; Type: DEFAULT ACL; ") {
			body = sortGrants(body)
		}
		if body != "" {
			out = append(out, entry{title: title, body: body})
		}
	}
	if len(out) == 0 {
		t.Fatal("the dump has no object")
	}
	return out
}

// sortGrants orders the grants of default privileges, which stand in the order in
// which they were given. Behind what they follow, a REVOKE, their order is of no
// matter.
func sortGrants(body string) string {
	lines := strings.Split(body, "\n")
	slices.SortStableFunc(lines, func(a, b string) int {
		grantA, grantB := strings.Contains(a, " GRANT "), strings.Contains(b, " GRANT ")
		switch {
		case grantA && grantB:
			return strings.Compare(a, b)
		case grantA:
			return 1
		case grantB:
			return -1
		}
		return 0
	})
	return strings.Join(lines, "\n")
}

// without returns the entries of a that b lacks, each as often as it does.
func (d dump) without(other dump) dump {
	count := map[entry]int{}
	for _, e := range other {
		count[e]++
	}
	var out dump
	for _, e := range d {
		if count[e] > 0 {
			count[e]--
			continue
		}
		out = append(out, e)
	}
	return out
}

// take removes the first entry with that title and returns it.
func (d *dump) take(title string) (entry, bool) {
	i := slices.IndexFunc(*d, func(e entry) bool { return e.title == title })
	if i < 0 {
		return entry{}, false
	}
	e := (*d)[i]
	*d = slices.Delete(*d, i, i+1)
	return e, true
}

// compareDumps reports what differs and is not explained, and what is explained
// and does not differ.
func compareDumps(t *testing.T, m *move, old, new dump) {
	t.Helper()
	t.Logf("%d objects", len(old))
	onlyOld, onlyNew := old.without(new), new.without(old)
	for _, x := range explained {
		if x.of != m.name || !slices.Contains(x.pairs, m.pair) {
			continue
		}
		if why := x.explain(t, m, &onlyOld, &onlyNew); why != "" {
			t.Errorf("the explanation of %q (%s): %s", x.title, x.reason, why)
		}
	}
	for _, e := range onlyOld {
		if other, ok := onlyNew.take(e.title); ok {
			t.Errorf("-- %s\n%s", e.title, pgtest.Diff(e.body, other.body))
			continue
		}
		t.Errorf("on the old server only:\n%s", e)
	}
	for _, e := range onlyNew {
		t.Errorf("on the new server only:\n%s", e)
	}
}
