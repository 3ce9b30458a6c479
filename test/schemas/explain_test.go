package schemas

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// explanation is one difference between the dumps of both sides that is as it
// should be. It holds for one object and one difference: with that put in, the
// old server's statements must be the new one's to the letter.
type explanation struct {
	of     string        // the case
	pairs  []pgtest.Pair // the moves in which it is seen
	title  string        // of the object: Name: a; Type: VIEW; Schema: b; Owner: c
	title2 string        // on the new server, where it is another; "-" when it has none
	// differ is what stands on the old server and what stands there on the new
	// one: old, new, old, new. Where the new server has no such object, it is all
	// of the old one's statements.
	differ []string
	// reread says that the new server writes a query in another way: it must read
	// the old server's text and write it as it has written its own.
	reread bool
	reason string
}

// explain takes the difference out of both lists. It returns why it cannot.
func (x explanation) explain(t *testing.T, m *move, onlyOld, onlyNew *dump) string {
	t.Helper()
	old, ok := onlyOld.take(x.title)
	if !ok {
		return "nothing of that title differs on the old server"
	}
	title := x.title
	switch x.title2 {
	case "":
	case "-":
		if len(x.differ) != 1 || old.body != x.differ[0] {
			return "it is something else:\n" + old.body
		}
		return ""
	default:
		title = x.title2
	}
	new, ok := onlyNew.take(title)
	if !ok {
		return "nothing of that title differs on the new server"
	}
	want := old.body
	if x.reread {
		want = reread(t, m.newURL, want)
	}
	for i := 0; i+1 < len(x.differ); i += 2 {
		if strings.Count(want, x.differ[i]) != 1 {
			return "this does not stand there once: " + x.differ[i] + "\n" + old.body
		}
		want = strings.Replace(want, x.differ[i], x.differ[i+1], 1)
	}
	if want != new.body {
		return "there is another difference:\n" + pgtest.Diff(want, new.body)
	}
	return ""
}

// reread has the new server read the query of a view's definition and write it.
func reread(t *testing.T, url, body string) string {
	t.Helper()
	head, rest, okHead := strings.Cut(body, " AS\n")
	query, tail, okTail := strings.Cut(rest, ";\n\n\n")
	if !okHead || !okTail {
		t.Errorf("this is no view:\n%s", body)
		return body
	}
	end := ""
	for _, clause := range []string{"\n  WITH NO DATA", "\n  WITH LOCAL CHECK OPTION", "\n  WITH CASCADED CHECK OPTION"} {
		if text, ok := strings.CutSuffix(query, clause); ok {
			query, end = text, clause
		}
	}
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), "set search_path = ''; begin; create temporary view reread as "+query); err != nil {
		t.Errorf("%v\n%s", err, body)
		return body
	}
	var written string
	if err := conn.QueryRow(t.Context(), "select pg_get_viewdef('pg_temp.reread'::regclass)").Scan(&written); err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
		t.Error(err)
	}
	return head + " AS\n" + strings.TrimSuffix(written, ";") + end + ";\n\n\n" + tail
}
