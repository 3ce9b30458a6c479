package plan

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/upgrade"
)

// follower is one server's script and how far it has been run.
type follower struct {
	server string
	lines  []string
	window string          // the session of the next statement
	rows   string          // the server on which the rows of the next statement are to be run
	come   map[string]bool // marks that this script has come to
}

var (
	scriptSession = regexp.MustCompile(`^-- Session (old|new)(?:, session (\w+))?: `)
	scriptWindow  = regexp.MustCompile(`^-- ---- in the window of (old|new)(?:, session (\w+))?$`)
	scriptSync    = regexp.MustCompile(`^-- (>>>|<<<) (\d+): `)
	scriptRows    = regexp.MustCompile(`^-- run each row that it answers on (old|new)$`)
)

// TestScripts runs the scripts of both servers beside each other, each in its
// windows, with nothing to hold them together but their numbers.
func TestScripts(t *testing.T) {
	m := newMove(t, pgtest.Pairs(t)[0])
	h := newHand(t, m, "")
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"start", "cutover"} {
		var both []*follower
		for _, server := range []string{"old", "new"} {
			var b bytes.Buffer
			if err := plan.Runbook().Only([]string{part}).WriteSQL(&b, server); err != nil {
				t.Fatal(err)
			}
			both = append(both, h.follow(server, b.String()))
		}
		for moved := true; moved; {
			moved = h.run(both[0], both[1])
			moved = h.run(both[1], both[0]) || moved
		}
		for _, f := range both {
			if len(f.lines) > 0 {
				t.Fatalf("the script of %s for %s stands at %q", f.server, part, f.lines[0])
			}
		}
		h.close()
	}
	var status upgrade.Status
	h.until("old to be connected to the way back", func(ctx context.Context) (bool, error) {
		status, err = m.Status(ctx)
		return err == nil && status.Lag != nil && status.Lag.Connected, err
	})
	if status.Serving != "new" || status.Phase != "cut over" || !strings.HasPrefix(status.Verdict.CanGoBack, "yes") {
		t.Errorf("status says %+v", status.Verdict)
	}
	if want, got := contents(t, m, m.oldURL), contents(t, m, m.newURL); want != got {
		t.Errorf("the rows differ:\n%s", pgtest.Diff(want, got))
	}
	if err := m.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// contents are the rows of the application, without sequences.
func contents(t *testing.T, m *move, url string) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^(pgcutover\.|shop\.(\w+_seq|numbers):).*\n`).ReplaceAllString(rows(t, m, url), "")
}

// follow reads the head of a script, which says how to open the windows.
func (h *hand) follow(server, text string) *follower {
	h.t.Helper()
	f := &follower{server: server, come: map[string]bool{}}
	head, body, found := strings.Cut(text, "\n-- ########")
	if !found {
		h.t.Fatalf("the script of %s has no part:\n%.1000s", server, text)
	}
	var at *window
	for line := range strings.Lines(head) {
		line = strings.TrimRight(line, "\n")
		if found := scriptSession.FindStringSubmatch(line); found != nil {
			at = &window{}
			h.book.windows[[2]string{found[1], found[2]}] = at
		} else if code, ok := strings.CutPrefix(line, "--   "); ok && strings.HasPrefix(code, "psql ") {
			at.connect = code
		} else if ok {
			at.setup += code + "\n"
		}
	}
	f.lines = strings.Split("-- "+body, "\n")
	return f
}

// run types the script until it has to wait for the other, and tells whether
// anything was done.
func (h *hand) run(f, other *follower) bool {
	h.t.Helper()
	moved, dump := false, false // within what pg_restore has written
	var statement []string
	say := func() {
		text := strings.Join(statement, "\n")
		statement = nil
		if strings.TrimSpace(text) == "" {
			return
		}
		answer := h.say(h.window(f.server, f.window), text)
		if f.rows != "" {
			for _, row := range answer {
				h.say(h.window(f.rows, ""), row+";")
			}
			f.rows = ""
		}
	}
	for ; len(f.lines) > 0; f.lines = f.lines[1:] {
		line := f.lines[0]
		dump = (dump || strings.HasPrefix(line, `\restrict `)) && !strings.HasPrefix(line, `\unrestrict `)
		if dump {
			statement = append(statement, line)
			continue
		}
		if strings.HasPrefix(line, "-- ") {
			say()
		}
		if found := scriptSync.FindStringSubmatch(line); found != nil {
			if found[1] == "<<<" && !other.come[found[2]] {
				return moved
			}
			f.come[found[2]] = f.come[found[2]] || found[1] == ">>>"
		} else if found := scriptWindow.FindStringSubmatch(line); found != nil {
			f.window = found[2]
		} else if found := scriptRows.FindStringSubmatch(line); found != nil {
			f.rows = found[1]
		} else if !strings.HasPrefix(line, "-- ") {
			statement = append(statement, line)
		}
		moved = true
	}
	say()
	return moved
}
