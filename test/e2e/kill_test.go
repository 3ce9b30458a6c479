package e2e

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// moment is an instant at which hooks run: when the intent to do a step is in
// the journal, or when the step is done and its success is not.
type moment struct {
	event string // before-<step> or after-<step>
	side  pg.Side
}

// moments returns those of every step of the cutover, with the side that has to
// serve when the tool dies there.
func moments(t *testing.T) (back, forward []moment) {
	t.Helper()
	all := steps(t)
	last := final(all)
	for i, s := range all {
		for after, prefix := range []string{"before-", "after-"} {
			if i+after > last {
				forward = append(forward, moment{prefix + s.Name, pg.New})
			} else {
				back = append(back, moment{prefix + s.Name, pg.Old})
			}
		}
	}
	return back, forward
}

// TestKill kills the tool at every moment of the cutover, with live writers and
// a prober on both servers. Exactly one server must take writes soon: the new
// one if the decision was made, opened by the guard since nobody else is there,
// otherwise the old one. Then resume finishes, forward or back.
func TestKill(t *testing.T) {
	t.Parallel()
	back, forward := moments(t)
	// Undone cutovers can be tried again: two moves have room for all of them.
	half := len(back) / 2
	for i, some := range [][]moment{back[:half], back[half:]} {
		t.Run(fmt.Sprintf("back%d", i+1), func(t *testing.T) {
			parallel(t)
			killBack(t, some)
		})
	}
	for _, at := range forward {
		t.Run("forward/"+at.event, func(t *testing.T) {
			parallel(t)
			killForward(t, at)
		})
	}
}

// killBack kills one cutover after the other, each at another moment before the
// decision, and lets the last one pass.
func killBack(t *testing.T, at []moment) {
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	started := m.catalogs(t)
	for _, k := range at {
		ok := t.Run(k.event, func(t *testing.T) {
			m.killedAt(t, c, k)
			m.resumes(t, c, k.side)
			m.unchanged(t, "before the cutover", started)
		})
		if !ok {
			t.FailNow()
		}
	}
	m.turn(t, c)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// killForward kills a cutover after its decision.
func killForward(t *testing.T, at moment) {
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	c.expect(pg.Old, pg.New)
	m.killedAt(t, c, at)
	m.resumes(t, c, at.side)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// killedAt runs a cutover that is killed at a moment, and waits until the right
// server takes writes.
func (m *move) killedAt(t *testing.T, c *clients, at moment) {
	t.Helper()
	m.hook(t, at.event, "kill")
	m.run(t, killed, "cutover", "--yes")
	dead := time.Now()
	m.unhook(t, at.event)
	if side := m.serving(t); side != at.side {
		t.Fatalf("killed %s, the %s server has to serve, want the %s one", at.event, side, at.side)
	}
	c.serves(t, at.side, dead)
	t.Logf("killed %s: no client was answered for %s", at.event, c.writers.Ledger().LongestGap(dead.Add(-time.Second), time.Now()).Round(time.Millisecond))
	s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json"))
	if s.Serving != string(at.side) || s.Phase != "cutover interrupted" || s.Verdict.CanCutOver {
		t.Errorf("killed %s, status says %+v", at.event, s)
	}
	m.run(t, exitFailed, "cutover", "--yes")
}

// serving waits until nothing that a killed tool sent can happen any more and
// returns the side that has to serve by what is written on old.
func (m *move) serving(t *testing.T) pg.Side {
	t.Helper()
	m.gone(t)
	if m.decided(t) {
		return pg.New
	}
	return pg.Old
}

// resumes finishes what was interrupted, and waits for the clients to write on.
func (m *move) resumes(t *testing.T, c *clients, side pg.Side) {
	t.Helper()
	got := answer[cutoverAnswer](t, m.run(t, exitDone, "resume", "--json"))
	want := cutoverAnswer{Serving: "old", Direction: "back"}
	if side == pg.New {
		want = cutoverAnswer{Serving: "new", Direction: "forward"}
	}
	if got != want {
		t.Errorf("resume says %+v, want %+v", got, want)
	}
	c.serves(t, side, time.Now())
	m.run(t, exitFailed, "resume") // nothing is left to resume
}

// TestKillAgain kills a decided cutover, then each resume of it one moment
// later than the one before.
func TestKillAgain(t *testing.T) {
	parallel(t)
	_, forward := moments(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	c.expect(pg.Old, pg.New)
	for i, at := range forward {
		m.hook(t, at.event, "kill")
		command := []string{"cutover", "--yes"}
		if i > 0 {
			command = []string{"resume"}
		}
		m.run(t, killed, command...)
		dead := time.Now()
		m.unhook(t, at.event)
		c.serves(t, pg.New, dead)
	}
	m.resumes(t, c, pg.New)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// TestKillUndo kills a cutover just before its decision, then each resume of it
// when it has undone one step more than the one before.
func TestKillUndo(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	started := m.catalogs(t)
	all := steps(t)
	m.killedAt(t, c, moment{"before-" + all[final(all)].Name, pg.Old})
	kills := 0
	for kills < len(all) {
		lines := 0
		p := m.launch(t, func(p *process, line string) {
			if begins(line, "undo") {
				if lines++; lines > kills {
					p.signal(syscall.SIGKILL)
				}
			}
		}, "resume")
		if p.wait().code != killed {
			break
		}
		kills++
		c.serves(t, pg.Old, time.Now())
	}
	t.Logf("resume was killed %d times", kills)
	if kills == 0 {
		t.Error("resume was never killed")
	}
	if r := m.launch(t, nil, "resume").wait(); r.code != exitDone && r.code != exitFailed { // the last one may have come to its end
		t.Errorf("resume ended with status %d\n%s", r.code, r)
	}
	m.unchanged(t, "before the cutover", started)
	m.turn(t, c)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// rounds of TestKillInThePause, and how long after the freeze the last one
// kills. By then new is open and clients are being moved.
const (
	rounds    = 5
	lastRound = 60 * time.Millisecond
)

// TestKillInThePause kills the tool at random instants from the freeze on.
func TestKillInThePause(t *testing.T) {
	parallel(t)
	var m *move
	var c *clients
	var before catalogs
	for round := range rounds {
		if m == nil {
			m = newMove(t, pgtest.Pairs(t)[0])
			before = m.catalogs(t)
			c = m.write(t)
			m.start(t)
			c.probe(t)
		}
		const slice = lastRound / rounds
		side := m.killInPause(t, c, time.Duration(round)*slice+rand.N(slice))
		if side == pg.Old && round < rounds-1 {
			continue // the next round kills the same move
		}
		if side == pg.Old {
			m.turn(t, c)
		}
		c.prove(t, pg.New)
		m.complete(t, before)
		m = nil
	}
}

// killInPause kills a cutover some time after it has said that writers are
// frozen, resumes it, and returns the side that serves.
func (m *move) killInPause(t *testing.T, c *clients, after time.Duration) pg.Side {
	t.Helper()
	c.expect(pg.Old, pg.New)
	p := m.launch(t, func(p *process, line string) {
		if begins(line, "ok freeze") {
			<-time.After(after)
			p.signal(syscall.SIGKILL)
		}
	}, "cutover", "--yes")
	code := p.wait().code
	dead := time.Now()
	side := m.serving(t)
	t.Logf("killed %s after the freeze (status %d): the %s server serves", after, code, side)
	if side == pg.Old {
		c.expect(pg.Old)
	}
	c.serves(t, side, dead)
	switch {
	case code == killed && m.over(t, side): // between its last word and its end
	case code == killed:
		m.resumes(t, c, side)
	case code == exitDone: // it was faster
	default:
		t.Errorf("the tool ended by itself:\n%s", p.result)
	}
	return side
}

// over tells whether a killed cutover had done all that it had to do.
func (m *move) over(t *testing.T, side pg.Side) bool {
	t.Helper()
	s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json"))
	return side == pg.New && s.Serving == "new" && s.Phase == "cut over"
}
