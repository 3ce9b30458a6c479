package upgrade

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// ErrSplit means that some databases of a move are served by old and some by
// new: each by exactly one of them.
var ErrSplit = errors.New("some databases are on old and some on new")

// Turning is one try at turning the writes of several databases together.
type Turning struct {
	Direction state.Direction
	Cutovers  []*Turn
}

// Turn is one database's part in it.
type Turn struct {
	*cutover.Cutover
	Database string
}

// NewTurning returns the cutovers of all databases, or their rollbacks;
// leaveBehind is for these, see Move.NewRollback. Databases that the target
// serves already are left out: they were turned by an earlier try that the
// others did not come through. ErrAlreadyDone, or ErrNotCutOver, when that is so
// of all.
func (c *Cluster) NewTurning(ctx context.Context, d state.Direction, leaveBehind bool) (*Turning, error) {
	turns := make([]*Turn, len(c.Moves))
	err := together(len(c.Moves), atOnce, func(i int) error {
		m := c.Moves[i]
		turn, err := m.NewCutover, error(nil)
		if d == state.Back {
			turn = func(ctx context.Context) (*cutover.Cutover, error) { return m.NewRollback(ctx, leaveBehind) }
		}
		made, err := turn(ctx)
		if err != nil {
			return named(m.Database, err)
		}
		pos, err := state.Locate(ctx, m.Old, m.New)
		if err != nil {
			return named(m.Database, err)
		}
		if pos.Serving() == d.Source() {
			turns[i] = &Turn{Cutover: made, Database: m.Database}
			return nil
		}
		// One that was decided and not finished must not pass for done.
		if err := made.Interrupted(ctx); errors.Is(err, cutover.ErrInterrupted) {
			return named(m.Database, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t := &Turning{Direction: d}
	for _, turn := range turns {
		if turn != nil {
			t.Cutovers = append(t.Cutovers, turn)
		}
	}
	switch {
	case len(t.Cutovers) > 0:
		return t, nil
	case d == state.Back:
		return nil, hint.With(cutover.ErrNotCutOver, "run: pgcutover status")
	}
	return nil, hint.With(cutover.ErrAlreadyDone, "run: pgcutover complete, or, to go back, pgcutover rollback")
}

// Ready looks at the gates of all databases.
func (t *Turning) Ready(ctx context.Context) error {
	return together(len(t.Cutovers), atOnce, func(i int) error {
		return named(t.Cutovers[i].Database, t.Cutovers[i].Ready(ctx))
	})
}

// Run turns all databases together. They wait for each other before what holds
// clients up and before the decision; one that fails until then makes all undo.
// The error joins those of the databases, and ErrSplit when some have been
// decided and some have not, which takes a crash or a lost session between the
// decisions. soft and hard are those of step.Runner.Run.
func (t *Turning) Run(soft, hard context.Context) error {
	names := make([]string, len(t.Cutovers))
	for i, turn := range t.Cutovers {
		names[i] = turn.Database
	}
	meeting := newMeeting(names)
	common, stop := context.WithCancelCause(soft)
	defer stop(nil)
	errs := make([]error, len(t.Cutovers))
	var all sync.WaitGroup
	for i, turn := range t.Cutovers {
		if len(names) > 1 {
			turn.Meet = func(ctx context.Context, step string) error { return meeting.wait(ctx, turn.Database, step) }
		}
		failed := func(err error) {
			if meeting.leave(turn.Database, err) {
				stop(&AnotherDatabaseError{Database: turn.Database, Cause: err})
			}
		}
		turn.Observer = withFailed(turn.Observer, failed)
		all.Go(func() {
			err := turn.Cutover.Run(common, hard)
			if err != nil {
				failed(err)
			}
			errs[i] = named(turn.Database, err)
		})
	}
	all.Wait()
	return errors.Join(append(errs, t.split(errs))...)
}

// failing is an Observer that tells of a failed step before it is undone: the
// others' clients must not wait for that.
type failing struct {
	step.Observer
	tell func(error)
}

func withFailed(o step.Observer, tell func(error)) step.Observer {
	if o == nil {
		o = step.NopObserver{}
	}
	return failing{o, tell}
}

// StepFailed tells, and then does what it always does.
func (f failing) StepFailed(s step.Step, err error, took time.Duration) {
	f.tell(err)
	f.Observer.StepFailed(s, err, took)
}

// split returns ErrSplit when some of the databases were decided and some not.
// Of a database whose error says that nobody knows, nothing is said.
func (t *Turning) split(errs []error) error {
	var on, left []string
	for i, turn := range t.Cutovers {
		var unfinished *step.Unfinished
		switch {
		case turn.Decided():
			on = append(on, turn.Database)
		case !errors.As(errs[i], &unfinished):
			left = append(left, turn.Database)
		}
	}
	if len(on) == 0 || len(left) == 0 {
		return nil
	}
	return hint.With(fmt.Errorf("%w: the %s server serves %s, the %s server still serves %s", ErrSplit,
		t.Direction.Target(), few(on), t.Direction.Source(), few(left)), "run: pgcutover resume, which moves the rest")
}

// Pause is the longest time that the writers of one database were held up.
func (t *Turning) Pause() time.Duration {
	var longest time.Duration
	for _, turn := range t.Cutovers {
		longest = max(longest, turn.Pause())
	}
	return longest
}

// Resumed says what Resume did with one database.
type Resumed struct {
	Database string          `json:"database"`
	Outcome  cutover.Outcome `json:"outcome,omitempty"` // empty: nothing was interrupted
	Serving  string          `json:"serving"`
}

// Resume ends what was interrupted in any database, as Cutover.Resume does. When
// afterwards some databases are on old and some on new, rest is the turning that
// moves the others the way of the newest decision; nil when there is none to
// move. ErrNothing when nothing was interrupted and nothing is to be moved.
func (c *Cluster) Resume(soft, hard context.Context) (done []Resumed, rest *Turning, err error) {
	done = make([]Resumed, len(c.Moves))
	positions := make([]state.Position, len(c.Moves))
	err = together(len(c.Moves), atOnce, func(i int) error {
		m := c.Moves[i]
		done[i].Database = m.Database
		turn, err := m.NewCutover(soft)
		if err != nil {
			return named(m.Database, err)
		}
		done[i].Outcome, err = turn.Resume(soft, hard)
		if err != nil && !errors.Is(err, cutover.ErrNothing) {
			return named(m.Database, err)
		}
		positions[i], err = state.Locate(soft, m.Old, m.New)
		done[i].Serving = string(positions[i].Serving())
		return named(m.Database, err)
	})
	if err != nil {
		return done, nil, err
	}
	direction, split, err := c.lastDirection(soft, positions)
	if err != nil {
		return done, nil, err
	}
	if split {
		rest, err = c.NewTurning(soft, direction, false)
		return done, rest, err
	}
	for _, d := range done {
		if d.Outcome != "" {
			return done, nil, nil
		}
	}
	return done, nil, cutover.ErrNothing
}

// clocksApart is how far the clocks of two servers may be apart.
const clocksApart = time.Minute

// lastDirection tells whether the databases are split, and if so which way the
// newest decision of any of them went. Decisions in the two directions are made
// on two servers, whose clocks may differ.
func (c *Cluster) lastDirection(ctx context.Context, positions []state.Position) (state.Direction, bool, error) {
	newest := map[pg.Side]time.Time{}
	never := false // one was never rolled back: then nothing but a cutover can have split them
	for i, p := range positions {
		at, err := state.DecidedAt(ctx, c.Moves[i].Old, c.Moves[i].New, p)
		if err != nil {
			return "", false, named(c.Moves[i].Database, err)
		}
		if is, found := newest[p.Serving()]; !found || at.After(is) {
			newest[p.Serving()] = at
		}
		never = never || (p.Serving() == pg.Old && p.Back == 0)
	}
	back, forth := newest[pg.Old], newest[pg.New]
	switch {
	case len(newest) < 2:
		return "", false, nil
	case never || forth.Sub(back) > clocksApart:
		return state.Forward, true, nil
	case back.Sub(forth) > clocksApart:
		return state.Back, true, nil
	}
	return "", true, hint.With(fmt.Errorf("%w, and their last decisions are too close to each other to tell which way they were going", ErrSplit),
		"run the one you want: pgcutover cutover, or pgcutover rollback; it turns those that are not there yet")
}
