package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// leaseBound is how long writers wait at the most for a tool that neither lives
// nor dies: the lease's session ends after five seconds without a sign of life.
const leaseBound = 7 * time.Second

// busy is what other work on the machine may add to a wait of clients.
const busy = 5 * time.Second

// stoppedFor is how long the tool stands still, longer than leaseBound.
const stoppedFor = 8 * time.Second

// TestStop stops the tool in the middle of the pause, as a frozen machine does.
// The clients must go on by themselves, and the tool must do no harm when it
// wakes up.
func TestStop(t *testing.T) {
	t.Parallel()
	_, forward := moments(t)
	for _, test := range []struct {
		event string
		side  pg.Side
		code  int
	}{
		{"before-drain", pg.Old, exitAborted},
		{"after-sequences", pg.Old, exitAborted},
		{forward[0].event, pg.New, exitDone},
	} {
		t.Run(test.event, func(t *testing.T) {
			parallel(t)
			m := newMove(t, pgtest.Pairs(t)[0])
			before := m.catalogs(t)
			c := m.write(t)
			m.start(t)
			c.probe(t)
			started := m.catalogs(t)

			p, stopped := m.stopAt(t, c, test.event, test.side)
			<-time.After(time.Until(stopped.Add(stoppedFor)))
			p.signal(syscall.SIGCONT)
			awake := time.Now()
			p.must(test.code)
			c.serves(t, test.side, awake)
			if test.side == pg.Old {
				m.unchanged(t, "before the cutover", started)
				m.unhook(t, test.event)
				m.turn(t, c)
			}
			c.prove(t, pg.New)
			m.complete(t, before)
		})
	}
}

// stopAt runs a cutover that is stopped at a moment, and checks that the
// clients write on, on the given side, without it.
func (m *move) stopAt(t *testing.T, c *clients, event string, side pg.Side) (*process, time.Time) {
	t.Helper()
	m.hook(t, event, "stop")
	if side == pg.New {
		c.expect(pg.Old, pg.New)
	}
	p := m.launch(t, nil, "cutover", "--yes")
	stopped := p.stopped()
	c.serves(t, side, stopped.Add(time.Second))
	gap := c.writers.Ledger().LongestGap(stopped.Add(-time.Second), time.Now())
	t.Logf("with the tool stopped no client was answered for %s", gap.Round(time.Millisecond))
	if gap > leaseBound+busy {
		t.Errorf("the clients waited %s for a tool that was stopped, want at most %s", gap, leaseBound)
	}
	return p, stopped
}

// stopped waits until the tool is stopped and returns when that was seen.
func (p *process) stopped() time.Time {
	p.t.Helper()
	until(p.t, "the tool to stop", commandBound, func() bool {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil)
		if err != nil || pid != 0 && !status.Stopped() {
			p.t.Fatalf("the tool ended (%v) where it should have stopped: %v\n%s", status, err, p.err)
		}
		return pid != 0
	}, nil)
	return time.Now()
}

// TestStaleUndone lets a tool sleep through the undoing of its cutover and
// through another one that succeeds.
func TestStaleUndone(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	p, _ := m.stopAt(t, c, "before-drain", pg.Old)
	m.unhook(t, "before-drain")
	m.resumes(t, c, pg.Old)
	m.turn(t, c)
	turned := m.catalogs(t)
	p.signal(syscall.SIGCONT)
	awake := time.Now()
	if r := p.wait(); r.code == exitDone {
		t.Errorf("a tool that slept through its own undoing says that it is done:\n%s", r)
	}
	c.serves(t, pg.New, awake)
	m.unchanged(t, "before the old tool woke up", turned)
	c.prove(t, pg.New)
	m.complete(t, before)
}

const endToolSessions = `
select count(pg_terminate_backend(pid))
  from pg_stat_activity
 where datname = current_database()
   and application_name like 'pgcutover/%'
   and pid <> pg_backend_pid()`

// TestStaleCompleted lets a tool sleep after its decision, while another one
// finishes the cutover and the whole move.
func TestStaleCompleted(t *testing.T) {
	parallel(t)
	_, forward := moments(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	p, _ := m.stopAt(t, c, forward[0].event, pg.New)
	m.unhook(t, forward[0].event)
	// It still holds the lock that only one tool can have.
	if r := m.run(t, exitFailed, "resume"); !strings.Contains(r.stderr, "pg_terminate_backend") {
		t.Errorf("the message does not say how to get rid of the other tool:\n%s", r)
	}
	if n := pgtest.Value[int](t, m.old.url, endToolSessions); n == 0 {
		t.Error("the stopped tool had no session on the old server")
	}
	m.resumes(t, c, pg.New)
	c.prove(t, pg.New)
	m.complete(t, before)
	p.signal(syscall.SIGCONT)
	if r := p.wait(); r.code == exitDone {
		t.Errorf("a tool whose move has ended says that it is done:\n%s", r)
	}
	if diff := pgtest.Diff(before.old, m.catalog(t, m.old)); diff != "" {
		t.Errorf("the tool that woke up changed the old server:\n%s", diff)
	}
	m.nothingOfOurs(t)
}

// TestInterruptBack interrupts the tool before the decision: all is undone.
func TestInterruptBack(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	started := m.catalogs(t)
	for _, event := range []string{"before-gates", "after-ahead", "before-drain", "before-decide"} {
		m.hook(t, event, "interrupt-wait")
		m.run(t, exitInterrupted, "cutover", "--yes")
		done := time.Now()
		m.unhook(t, event)
		m.unchanged(t, "before the cutover that was interrupted "+event, started)
		s := m.canCutOver(t)
		if !s.Verdict.CanCutOver || s.Serving != "old" {
			t.Errorf("interrupted %s, status says %+v", event, s)
		}
		c.serves(t, pg.Old, done)
	}
	m.turn(t, c)
	c.prove(t, pg.New)
	m.complete(t, before)
}

// TestInterruptForward interrupts the tool after the decision: it finishes. The
// hooks of all other moments are told what happens.
func TestInterruptForward(t *testing.T) {
	parallel(t)
	m := newMove(t, pgtest.Pairs(t)[0])
	before := m.catalogs(t)
	c := m.write(t)
	m.start(t)
	c.probe(t)
	back, forward := moments(t)
	interrupt := forward[0].event
	var want []string
	for _, at := range slices.Concat(back, forward) {
		script := "record"
		if at.event == interrupt {
			script = "interrupt"
		} else {
			_, name, _ := strings.Cut(at.event, "-")
			want = append(want, strings.Join([]string{at.event, name, m.name, string(at.side)}, " "))
		}
		m.hook(t, at.event, script)
	}
	m.turn(t, c)
	if got := m.events(t); !slices.Equal(got, want) {
		t.Errorf("the hooks were told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	c.prove(t, pg.New)
	m.complete(t, before)
}
