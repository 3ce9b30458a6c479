package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// checkLeaks fails the test when it leaves a goroutine that was not there.
func checkLeaks(t *testing.T) {
	t.Helper()
	for _, major := range pgtest.Majors(t) {
		pgtest.Server(t, major) // has goroutines of its own
	}
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		// A connection that was given up in the middle of something ends when the
		// server has noticed.
		var left error
		for end := time.Now().Add(30 * time.Second); ; {
			if left = goleak.Find(ignore); left == nil || time.Now().After(end) {
				break
			}
		}
		if left != nil {
			t.Error(left)
		}
	})
}

// running is a probe under way, which keeps what it is told.
type running struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once

	after int // rounds up to the one that was waited for last

	mu       sync.Mutex
	rounds   []Round
	warnings []string
	report   Report
	err      error
}

func (p *running) Round(r Round) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rounds = append(p.rounds, r)
}

func (p *running) Warning(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, err.Error())
}

func (p *running) seen() []Round {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Round(nil), p.rounds...)
}

const pace = 20 * time.Millisecond

// patience is how long a round may take that has to succeed.
const patience = 30 * time.Second

// start begins to probe, at a fast pace unless o says otherwise.
func start(t *testing.T, o Options) *running {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	if len(o.Schedule) == 0 {
		o.Schedule = []Pace{{Every: pace}}
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := &running{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.report, p.err = Run(ctx, o, p)
	}()
	t.Cleanup(func() { p.stop() })
	return p
}

// stop ends it and returns its report.
func (p *running) stop() Report {
	p.t.Helper()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		p.t.Fatal("the probe does not end")
	}
	p.once.Do(func() {
		if p.err != nil {
			p.t.Errorf("the probe did not run: %v", p.err)
		}
	})
	return p.report
}

// until waits for a round, after those seen by now, that is as wanted.
func (p *running) until(what string, is func(Round) bool) Round {
	p.t.Helper()
	from := len(p.seen())
	return p.untilFrom(from, what, is)
}

// next waits for one after the round that was waited for last: what happens once
// may have happened by now.
func (p *running) next(what string, is func(Round) bool) Round {
	p.t.Helper()
	return p.untilFrom(p.after, what, is)
}

// untilFrom does the same after a number of rounds, and more before each look.
func (p *running) untilFrom(from int, what string, is func(Round) bool, more ...func()) Round {
	p.t.Helper()
	var found Round
	until(p.t, what, func() bool {
		for _, do := range more {
			do()
		}
		for i, r := range p.seen()[from:] {
			if is(r) {
				found, p.after = r, from+i+1
				return true
			}
		}
		return false
	})
	return found
}

func ok(r Round) bool { return r.OK }

func failing(kind Kind) func(Round) bool {
	return func(r Round) bool { return !r.OK && r.Failure.Kind == kind }
}

// ask does one round.
func ask(t *testing.T, o Options) (Round, *running) {
	t.Helper()
	o.Count = 1
	p := start(t, o)
	<-p.done
	p.stop()
	rounds := p.seen()
	if len(rounds) != 1 {
		t.Fatalf("%d rounds, want 1: %v", len(rounds), p.err)
	}
	return rounds[0], p
}

// fails does one round that has to fail in one way.
func fails(t *testing.T, o Options, kind Kind, code string) *Failure {
	t.Helper()
	r, _ := ask(t, o)
	if r.OK || r.Failure.Kind != kind || r.Failure.SQLSTATE != code {
		t.Fatalf("round %+v, failure %v, want %s with SQLSTATE %q", r, r.Failure, kind, code)
	}
	return r.Failure
}

// timesOut does one round that nobody answers in time: the server says so, or,
// where it is late with that, the probe itself.
func timesOut(t *testing.T, o Options) *Failure {
	t.Helper()
	r, _ := ask(t, o)
	if r.OK || r.Failure.Kind != Timeout || !slices.Contains([]string{pg.LockNotAvailable, pg.QueryCanceled, pg.IdleInTransaction, ""}, r.Failure.SQLSTATE) {
		t.Fatalf("round %+v, failure %v, want a timeout", r, r.Failure)
	}
	return r.Failure
}

// works does one round that has to succeed.
func works(t *testing.T, o Options) (Round, *running) {
	t.Helper()
	r, p := ask(t, o)
	if !r.OK {
		t.Fatalf("the round failed: %v (%s)", r.Failure, r.Failure.Hint)
	}
	return r, p
}

func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

func eachMajor(t *testing.T, test func(t *testing.T, url string)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, pgtest.Database(t, pgtest.Server(t, major)))
		})
	}
}

// role makes an ordinary role that outlives the test, and returns its URL.
func role(t *testing.T, url string) string {
	t.Helper()
	name := fmt.Sprintf("probe_%d", time.Now().UnixNano())
	pgtest.Exec(t, url, "create role "+name+" login")
	return pgtest.WithUser(t, url, name, "")
}

// moving gives a database what start does: the state of a move and the fence's
// functions, open, and the probe's table.
func moving(t *testing.T, url string) (close, open func(fence.OnClosed)) {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: fmt.Sprintf("p%d", time.Now().UnixNano())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	id, err := state.Identify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Create(t.Context(), s, state.Move{Name: s.Move(), Old: id, New: id}); err != nil {
		t.Fatal(err)
	}
	if err := fence.Install(t.Context(), s, fence.Error, id.Database); err != nil {
		t.Fatal(err)
	}
	return func(on fence.OnClosed) { pgtest.Exec(t, url, fence.ClosedSQL(s, on, id.Database, time.Now())) },
		func(fence.OnClosed) { pgtest.Exec(t, url, fence.OpenSQL) }
}

// install makes the table as start would.
func install(t *testing.T, url string) {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: "m"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 2 { // the second time changes nothing
		if err := Install(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// waitingSQL counts the probe's statements that wait for a lock.
const waitingSQL = `
select count(*) from pg_locks where not granted and pid in
  (select pid from pg_stat_activity where datname = current_database() and application_name = 'pgcutover-probe')`

// nobodyWaits waits until the server has ended the statements of earlier probes.
func nobodyWaits(t *testing.T, url string) {
	t.Helper()
	until(t, "the earlier probe to end on the server", func() bool { return pgtest.Value[int](t, url, waitingSQL) == 0 })
}

// rollbackBehind ends a transaction some time after the probe has begun to wait
// for it, and closes the channel when it has.
func rollbackBehind(t *testing.T, url string, tx pgx.Tx, d time.Duration) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := pg.Wait(t.Context(), "the probe to wait", 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
			return pgtest.Value[int](t, url, waitingSQL) > 0, "", nil
		})
		<-time.After(d)
		if err := errors.Join(err, tx.Rollback(context.WithoutCancel(t.Context()))); err != nil {
			t.Error(err)
		}
	}()
	return done
}
