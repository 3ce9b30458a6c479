package cutover_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// atCommit calls act, once, with the COMMIT of the session that has written the
// decision; afterwards then decides about everything, nil forwards.
func (m *move) atCommit(act func() pgtest.Action, then pgtest.FrontendFunc) (seen *atomic.Bool) {
	seen = new(atomic.Bool)
	var mu sync.Mutex
	deciding := map[int]bool{}
	m.proxy.OnFrontend(func(conn int, message byte, payload []byte) pgtest.Action {
		if seen.Load() {
			if then != nil {
				return then(conn, message, payload)
			}
			return pgtest.Forward
		}
		mu.Lock()
		defer mu.Unlock()
		text := bytes.ToLower(payload)
		if (message == 'P' || message == 'Q') && bytes.Contains(text, []byte("insert into pgcutover.decision_forward")) {
			deciding[conn] = true
		}
		if message == 'Q' && deciding[conn] && bytes.Equal(bytes.TrimRight(text, "\x00; \n"), []byte("commit")) {
			seen.Store(true)
			return act()
		}
		return pgtest.Forward
	})
	return seen
}

// unreachable drops every connection at its first message.
func unreachable(int, byte, []byte) pgtest.Action { return pgtest.CutBefore }

func cut(a pgtest.Action) func() pgtest.Action { return func() pgtest.Action { return a } }

// distant takes as long as a server in another region. It is what happens after
// the COMMIT, so that waits which were chosen for a near one show.
func distant(_ int, message byte, _ []byte) pgtest.Action {
	if message == 'Q' || message == 'S' {
		<-time.After(30 * time.Millisecond)
	}
	return pgtest.Forward
}

// The server never got the COMMIT: a definitive no, so everything is undone.
func TestCommitThatNeverArrives(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		before := m.rest(t)
		seen := m.atCommit(cut(pgtest.CutBefore), distant)
		c := m.cutover(t)
		err := c.Run(t.Context(), t.Context())
		if !seen.Load() {
			t.Fatalf("no COMMIT of a decision was sent: %v", err)
		}
		aborted := outcome[*step.Aborted](t, err)
		if aborted.Step != "decide" || !aborted.Undone || !errors.Is(err, step.ErrRefuted) {
			t.Errorf("%+v, want decide refuted and undone", aborted)
		}
		m.writes(t, pg.Old)
		m.unchanged(t, before)
		if n := pgtest.Value[int](t, m.newURL, `select count(*) from pgcutover.decision_forward`); n != 0 {
			t.Errorf("%d decisions on new", n)
		}
		if err := m.cutover(t).Interrupted(t.Context()); err != nil {
			t.Errorf("something stands in the way of the next attempt: %v", err)
		}
		m.proxy.OnFrontend(nil)
		m.run(t)
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}

// The server committed and its answer got lost: a yes, so it goes forward.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		seen := m.atCommit(cut(pgtest.CutAfter), nil)
		c := m.cutover(t)
		if err := c.Run(t.Context(), t.Context()); err != nil || !seen.Load() {
			t.Fatalf("commit seen: %t, %v\n%s", seen.Load(), err, hint.Of(err))
		}
		m.writes(t, pg.New)
		if err := m.cutover(t).Interrupted(t.Context()); !errors.Is(err, cutover.ErrAlreadyDone) {
			t.Errorf("after a cutover that went to its end: %v", err)
		}
		m.proved(t, pg.New)
	})
}

// The network swallows everything from the COMMIT on, without closing a
// connection: the tool must look for the decision, not wait for an answer.
func TestCommitIntoSilence(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		m.atCommit(func() pgtest.Action {
			m.proxy.Stall()
			return pgtest.Forward
		}, nil)
		c := m.cutover(t)
		opened := make(chan struct{})
		c.Observer = &onDone{step: "open", call: func() { close(opened) }}
		done := make(chan error, 1)
		go func() { done <- c.Run(t.Context(), t.Context()) }()
		select {
		case <-opened:
		case err := <-done:
			t.Fatalf("it did not find the decision: %v", err)
		}
		m.writes(t, pg.New)
		m.proxy.Restore(t)
		if err := <-done; err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		m.proved(t, pg.New)
	})
}

// onDone calls when a step is done, and when the undo of another begins.
type onDone struct {
	step.NopObserver
	step string
	call func()
	undo string
	back func()
}

func (o *onDone) UndoStarted(s step.Step) {
	if s.Name == o.undo {
		o.back()
	}
}

func (o *onDone) StepDone(s step.Step, _ any, _ time.Duration) {
	if s.Name == o.step {
		o.call()
	}
}

// The tool has lost the connection while its COMMIT is still on its way. Old
// shows no decision, yet that is no no: the committing session lives.
func TestCommitStillOnItsWay(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		m.atCommit(func() pgtest.Action {
			<-time.After(3 * time.Second)
			return pgtest.Forward
		}, nil)
		c := m.cutover(t)
		cutover.SetCommitBound(c, 500*time.Millisecond)
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		m.writes(t, pg.New)
		m.proved(t, pg.New)
	})
}

// The COMMIT landed and old cannot be reached any more: the decision's arrival
// on new is a yes, new serves; only the clean-up has to wait for old.
func TestCommitThenOldUnreachable(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		m.atCommit(cut(pgtest.CutAfter), unreachable)
		err := m.cutover(t).Run(t.Context(), t.Context())
		unfinished := outcome[*step.Unfinished](t, err)
		if unfinished.Undecided || unfinished.Step != "switch" {
			t.Errorf("%+v, want certainty, and the switch left to do", unfinished)
		}
		m.writes(t, pg.New)
		m.proxy.Cut() // not even a connection
		m.writes(t, pg.New)
		m.resumes(t, cutover.Finished)
		m.proved(t, pg.New)
	})
}

// The tool is told to stop at once, at the COMMIT, and sees no answer: it knows
// nothing and undoes nothing. The guard opens new.
func TestCommitThenToolStopped(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		hard, stop := context.WithCancel(t.Context())
		m.atCommit(func() pgtest.Action {
			stop()
			return pgtest.CutAfter
		}, unreachable)
		err := m.cutover(t).Run(t.Context(), hard)
		unfinished := outcome[*step.Unfinished](t, err)
		if !unfinished.Undecided || unfinished.Step != "decide" || !errors.Is(err, step.ErrUndecided) {
			t.Errorf("%+v, want decide undecided", unfinished)
		}
		m.writes(t, pg.New) // the guard's doing
		if turn := pgtest.Value[string](t, m.newURL, turnSQL); turn != "armed f open t" {
			t.Errorf("new's turn is %s", turn)
		}
		m.resumes(t, cutover.Finished)
		m.proved(t, pg.New)
	})
}

// The COMMIT never arrived and old cannot be reached: nobody may say no, so
// nothing is undone; old's writers go on all the same, and resume undoes.
func TestCommitNeverArrivesAndOldUnreachable(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		t.Parallel()
		m := started(t, pair)
		turn := pgtest.Value[string](t, m.newURL, turnSQL)
		m.atCommit(cut(pgtest.CutBefore), unreachable)
		c := m.cutover(t)
		cutover.SetResolveBound(c, time.Second)
		err := c.Run(t.Context(), t.Context())
		unfinished := outcome[*step.Unfinished](t, err)
		if !unfinished.Undecided || !errors.Is(err, step.ErrUndecided) {
			t.Errorf("%+v, want undecided", unfinished)
		}
		if hint.Of(err) == "" {
			t.Error("no hint says what to do")
		}
		if fences := pgtest.Value[string](t, m.oldURL, fencesSQL); fences == "none" {
			t.Error("the fence was undone without a definitive no")
		}
		if turn := pgtest.Value[string](t, m.newURL, turnSQL); turn != "armed t open f" {
			t.Errorf("the guard was disarmed without a definitive no: %s", turn)
		}
		m.writes(t, pg.Old)
		m.resumes(t, cutover.Undone)
		m.writes(t, pg.Old)
		if now := pgtest.Value[string](t, m.newURL, turnSQL); now != turn {
			t.Errorf("new's turn is %s, was %s", now, turn)
		}
		if fences := pgtest.Value[string](t, m.oldURL, fencesSQL); fences != "none" {
			t.Errorf("fences are left on old: %s", fences)
		}
		m.proved(t, pg.Old)
	})
}

// resumes lets the tool reach old again and resumes, twice: the second finds
// nothing to do.
func (m *move) resumes(t *testing.T, want cutover.Outcome) {
	t.Helper()
	m.proxy.OnFrontend(nil)
	m.proxy.Restore(t)
	direction, err := m.cutover(t).Resume(t.Context(), t.Context())
	if err != nil || direction != want {
		t.Fatalf("resumed %q, %v, want %q\n%s", direction, err, want, hint.Of(err))
	}
	if direction, err := m.cutover(t).Resume(t.Context(), t.Context()); !errors.Is(err, cutover.ErrNothing) {
		t.Errorf("resuming again: %q, %v", direction, err)
	}
}
