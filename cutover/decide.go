package cutover

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
)

// resolveBound is how long a lost answer to the COMMIT is looked for.
const resolveBound = 30 * time.Second

// commitBound is how long the answer to the COMMIT is waited for. A network
// that swallows everything must not keep the tool from asking new, which may
// have the decision long since.
const commitBound = 5 * time.Second

// relockBound is how long the one-tool lock is waited for in one look, round
// trips to a distant server included.
const relockBound = 2 * time.Second

func (c *Cutover) decideStep() step.Step {
	return step.Step{
		Name:       "decide",
		About:      fmt.Sprintf("close the fence on %s and record the decision, in one COMMIT", c.Direction.Source()),
		Bound:      commitBound + resolveBound + 10*time.Second,
		Do:         c.decide,
		Final:      true,
		Behind:     true,
		Statements: c.planning(c.decideStatements),
	}
}

// decideForwardSQL records the decision of a cutover; the row travels to new and
// opens it.
const decideForwardSQL = `insert into pgcutover.decision_forward (attempt, stream) values ($1, 0)`

// decideBackSQL records that of a rollback; the row travels to old.
const decideBackSQL = `insert into pgcutover.decision_back (attempt, stream) values ($1, 0)`

func (c *Cutover) decideSQL() string {
	if c.Direction == state.Back {
		return decideBackSQL
	}
	return decideForwardSQL
}

// closeTurnSQL says on the source that it does not take writes any more.
const closeTurnSQL = `update pgcutover.turn set open = false where attempt = $1 and open`

type decideFacts struct {
	CommitMS float64 `json:"commit_ms"`
	Resolved bool    `json:"resolved,omitempty"` // the answer was lost and looked up
}

// decide is the lease's COMMIT. An error that wraps step.ErrUndecided means
// that its answer was lost and could not be looked up.
func (c *Cutover) decide(ctx context.Context) (any, error) {
	if there, err := c.alreadyDecided(ctx); there || err != nil {
		return decideFacts{Resolved: true}, err
	}
	began := time.Now()
	defer func() {
		if !c.decided { // the guard waits for what was prepared
			c.dropOpening(ctx)
		}
	}()
	err := c.mayDecide(ctx)
	if err == nil {
		err = c.meetToDecide(ctx)
	}
	if err != nil {
		c.lease.Rollback(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("%w: %w", step.ErrRefuted, err)
	}
	bound := c.commitWithin
	if bound == 0 {
		bound = commitBound
	}
	answer, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err = c.lease.Commit(answer)
	facts := decideFacts{CommitMS: ms(time.Since(began))}
	switch {
	case err == nil:
	case publisher.Refused(err):
		return nil, fmt.Errorf("%w: committing the decision: %w", step.ErrRefuted, err)
	default:
		c.dropOpening(ctx)
		step.Progress(ctx, "the answer to COMMIT was lost: looking for the decision")
		facts.Resolved = true
		if err := c.resolve(ctx, err); err != nil {
			return nil, err
		}
	}
	c.decided = true
	return facts, nil
}

// alreadyDecided is for a resumed run: the row is there.
func (c *Cutover) alreadyDecided(ctx context.Context) (bool, error) {
	if c.decided {
		return true, nil
	}
	if !c.frozenAt.IsZero() { // nobody but this process could have sent the COMMIT
		return false, nil
	}
	decided, err := state.Decided(ctx, c.source().Pool(), c.Direction, c.attempt)
	if err != nil { // an earlier process may have sent it
		return false, fmt.Errorf("%w: %w", step.ErrUndecided, err)
	}
	c.decided = decided
	return decided, nil
}

// mayDecide takes the last looks before the COMMIT, at both servers at once,
// since clients wait for each round trip.
func (c *Cutover) mayDecide(ctx context.Context) error {
	wayBack := make(chan error, 1)
	go func() {
		err := c.requireWayBack(ctx)
		if err == nil {
			c.prepareOpening(ctx)
		}
		wayBack <- err
	}()
	c.beginClosing(ctx)
	err := c.awaitClosing(ctx)
	if err == nil {
		err = c.lease.Transaction(func(q state.Querier) error { return fence.AllFenced(ctx, q, c.Move.Name) })
	}
	return errors.Join(err, <-wayBack, c.objectsHeld())
}

// closed is the closing of the source under way in the lease's transaction.
type closed struct {
	done chan struct{}
	err  error
}

// beginClosing does, beside the drain, what the lease's COMMIT makes true, and
// what its ROLLBACK, or the end of its session, takes back: nobody sees it
// before. A second call does nothing.
func (c *Cutover) beginClosing(ctx context.Context) {
	if c.closed != nil {
		return
	}
	closing, lease := &closed{done: make(chan struct{})}, c.lease
	c.closed = closing
	go func() {
		defer close(closing.done)
		// Each statement has its bound. Cut off, it would cost the session.
		limit := context.WithoutCancel(ctx)
		closing.err = lease.Transaction(func(q state.Querier) error { return c.close(limit, q) })
	}()
}

func (c *Cutover) awaitClosing(ctx context.Context) error {
	select {
	case <-c.closed.done:
		return c.closed.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close runs in the lease's transaction: everything that the COMMIT makes true.
// The turn's row is locked from the beginning of the lease to its end.
func (c *Cutover) close(ctx context.Context, q state.Querier) error {
	t, err := state.ReadTurn(ctx, q)
	if err != nil {
		return err
	}
	if t.Attempt != c.attempt || !t.Open {
		return fmt.Errorf("deciding attempt %d while attempt %d has the turn: %w", c.attempt, t.Attempt, fence.ErrNotMine)
	}
	// In one message: what clients wait for is short of round trips.
	closing := strings.Join([]string{
		c.source().Quiet(fence.ClosedSQL(c.source(), c.Settings.OnClosed, c.identity().Database, time.Now())),
		fence.ReadOnlySQL(c.source().Database(), true),
	}, ";\n")
	if _, err := q.Exec(ctx, closing); err != nil {
		return fmt.Errorf("closing the fence on the %s server: %w", c.Direction.Source(), err)
	}
	if _, err := q.Exec(ctx, closeTurnSQL, c.attempt); err != nil {
		return fmt.Errorf("closing the turn on the %s server: %w", c.Direction.Source(), err)
	}
	if _, err := q.Exec(ctx, c.decideSQL(), c.attempt); err != nil {
		return fmt.Errorf("recording the decision: %w", err)
	}
	return nil
}

// resolve finds out what became of a COMMIT whose answer was lost. The row,
// seen on either server, is a yes at once. Its absence is a no only under the
// one-tool lock, which the committing session holds until its COMMIT has
// landed or died.
func (c *Cutover) resolve(ctx context.Context, lost error) error {
	bound := c.resolveWithin
	if bound == 0 {
		bound = resolveBound
	}
	var yes, no bool
	err := pg.Wait(ctx, "what became of the COMMIT", 100*time.Millisecond, bound, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			var detail string
			yes, no, detail = c.look(ctx)
			return yes || no, detail, nil
		})
	switch {
	case yes:
		return nil
	case no:
		return fmt.Errorf("%w: committing the decision: %w", step.ErrRefuted, lost)
	}
	return hint.With(fmt.Errorf("%w: %w: %w", step.ErrUndecided, err, lost),
		fmt.Sprintf("nothing was undone: if the decision was made, the guard opens the %s server by itself; as soon as the %s server can be reached, run: pgcutover resume", c.Direction.Target(), c.Direction.Source()))
}

// look asks both servers once.
func (c *Cutover) look(ctx context.Context) (yes, no bool, detail string) {
	once, cancel := context.WithTimeout(ctx, relockBound+3*time.Second)
	defer cancel()
	if there, err := state.Decided(once, c.target().Pool(), c.Direction, c.attempt); err == nil && there {
		return true, false, ""
	}
	there, err := state.Decided(once, c.source().Pool(), c.Direction, c.attempt)
	if err != nil {
		return false, false, fmt.Sprintf("the %s server does not answer: %v", c.Direction.Source(), err)
	}
	if there {
		return true, false, ""
	}
	if err := c.relock(once); err != nil {
		if errors.Is(err, pg.ErrLockHeld) {
			return false, false, "the committing session still lives"
		}
		return false, false, fmt.Sprintf("taking the one-tool lock: %v", err)
	}
	// Under the lock, so this answer is the last word: if it comes from the very
	// server that the COMMIT was sent to. A standby that was promoted behind the
	// same address may lack the decision although it was made.
	now, err := state.Identify(once, c.source())
	if err != nil {
		return false, false, fmt.Sprintf("the %s server does not answer: %v", c.Direction.Source(), err)
	}
	there, err = state.Decided(once, c.source().Pool(), c.Direction, c.attempt)
	if err == nil && !there && now != c.identity() {
		return false, false, fmt.Sprintf("the %s server is another one than before (timeline %d, was %d)", c.Direction.Source(), now.Timeline, c.identity().Timeline)
	}
	return err == nil && there, err == nil && !there, ""
}

// relock takes the one-tool lock in a new session, unless it is held already.
func (c *Cutover) relock(ctx context.Context) error {
	if c.lease != nil && c.lease.Alive() == nil { //nolint:contextcheck // asks within a bound of its own, also when ctx is cancelled
		return nil
	}
	lease, err := publisher.TakeLock(ctx, c.source(), relockBound)
	if err != nil {
		return err
	}
	if c.lease != nil {
		c.lease.Close(ctx)
	}
	c.lease = lease
	return nil
}
