package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// killWhen returns a function for launch that kills the tool as soon as it
// prints a line with such a beginning.
func killWhen(beginning string) func(p *process, line string) {
	return func(p *process, line string) {
		if begins(line, beginning) {
			p.signal(syscall.SIGKILL)
		}
	}
}

// begins compares the words of a line, whatever stands between them.
func begins(line, beginning string) bool {
	return strings.HasPrefix(strings.Join(strings.Fields(line), " ")+" ", beginning+" ")
}

// killedAfterEach runs a command again and again, each time killed when one
// more of its steps is done, and at last to its end.
func (m *move) killedAfterEach(t *testing.T, entries []step.Entry, args ...string) {
	t.Helper()
	kills := 0
	for _, e := range entries[:len(entries)-1] {
		r := m.launch(t, killWhen("ok "+e.Name), args...).wait()
		switch r.code {
		case killed:
			kills++
		case exitDone: // what was left to do took less time than the signal
		default:
			t.Fatalf("pgcutover %s ended with status %d where it should have been killed after %s\n%s", args[0], r.code, e.Name, r)
		}
	}
	if kills == 0 { // how often is a matter of who is faster
		t.Errorf("%s was never killed", args[0])
	}
	t.Logf("%s was killed %d times", args[0], kills)
	m.run(t, exitDone, args...)
}

// TestKillStart kills start after each phase, and goes on each time with
// another one. The rest of the move is killed in the same way.
func TestKillStart(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	p := answer[planAnswer](t, m.run(t, exitDone, "plan", "--json"))
	m.killedAfterEach(t, p.Start, "start")
	m.identify(t)
	c.probe(t)
	m.ready(t)
	m.turn(t, c)
	c.prove(t, pg.New)
	m.killedAfterEach(t, p.Complete, "complete", "--yes")
	m.complete(t, before)
}

// TestKillAbort kills abort after each of its steps.
func TestKillAbort(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	p := answer[planAnswer](t, m.run(t, exitDone, "plan", "--json"))
	m.killedAfterEach(t, p.Abort, "abort", "--yes")
	m.unchanged(t, "before start", before)
	c.prove(t, pg.Old)
}
