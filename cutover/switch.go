package cutover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
)

func (c *Cutover) switchStep() step.Step {
	return step.Step{
		Name:  "switch",
		About: fmt.Sprintf("send the clients to %s, end their sessions on %[2]s, look at %[2]s's sequences once more", c.Direction.Target(), c.Direction.Source()),
		Bound: 5 * time.Minute,
		Do:    c.switchOver, Behind: true,
		Statements: c.planning(c.switchStatements),
	}
}

// terminateSQL ends every client session on this database that is not the
// tool's own and that this role may end; readers too. Walsenders, apply
// workers and autovacuum are not client backends.
const terminateSQL = `
select a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),
       case when r.rolsuper and not me.rolsuper then false
            when pg_has_role(me.rolname, a.usesysid, 'USAGE') or pg_has_role(me.rolname, 'pg_signal_backend', 'USAGE')
            then pg_terminate_backend(a.pid)
            else false end
  from pg_stat_activity a
  join pg_roles r on r.oid = a.usesysid -- background workers have none
 cross join (select rolname, rolsuper from pg_roles where rolname = current_user) as me
 where a.datname = current_database()
   and (a.backend_type = 'client backend'
        or (a.backend_type is null -- hidden from a role without pg_read_all_stats
            and a.pid not in (select pid from pg_stat_replication where pid is not null)
            and a.pid not in (select pid from pg_stat_subscription where pid is not null)))
   and a.pid <> pg_backend_pid()
   and coalesce(a.application_name, '') not like 'pgcutover/%'`

type switchFacts struct {
	Ended    int      `json:"sessions_ended"`
	Kept     []string `json:"sessions_left,omitempty"` // could not be ended
	Drivers  []string `json:"drivers,omitempty"`
	Raised   int      `json:"sequences_raised"`
	Warnings []string `json:"warnings,omitempty"`
}

func (c *Cutover) switchOver(ctx context.Context) (any, error) {
	var facts switchFacts
	// A source that died after the decision must not keep the clients from the
	// target: the drivers run all the same, and what needs the source fails the
	// step.
	lost := c.awaitLock(ctx)
	if errors.Is(lost, pg.ErrLockHeld) {
		return nil, lost
	}
	// First those whose clients wait; a probe can wait until the sessions on the
	// source have ended.
	errs := []error{c.switchPoolers(ctx)}
	others := c.startOthers(ctx, lost)
	if lost == nil {
		errs = append(errs, c.endSessions(ctx, &facts))
	}
	c.leaveUnreplicated(ctx) // who waited for a large object is gone
	errs = append(errs, others(), c.verifyPoolers(ctx, &facts), c.verifyOthers(ctx, &facts))
	if err := errors.Join(errs...); err != nil && lost == nil && !errors.Is(err, fence.ErrNotMine) {
		return facts, err
	}
	// Had this process slept in the middle of a driver, others may have turned the
	// writes again.
	if err := c.stillMine(ctx); err != nil {
		return facts, hint.With(errors.Join(err, c.mendPoolers(ctx)), "clients may have been sent to a server that does not serve any more; run: pgcutover doctor")
	}
	if errors.Join(errs...) == nil {
		c.dismissWatch()
	}
	if lost != nil {
		return facts, errors.Join(append(errs, lost)...)
	}
	raised, warnings, err := c.raiseSequences(ctx)
	facts.Raised, facts.Warnings = raised, append(facts.Warnings, warnings...)
	for _, w := range facts.Warnings {
		step.Progress(ctx, "%s", w)
	}
	return facts, errors.Join(append(errs, err)...)
}

// awaitLock is ensureLock for a source that may be restarting.
func (c *Cutover) awaitLock(ctx context.Context) error {
	var last error
	err := pg.Wait(ctx, fmt.Sprintf("the %s server to answer", c.Direction.Source()), 500*time.Millisecond, sourceBound, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			last = c.ensureLock(ctx)
			if last == nil || errors.Is(last, pg.ErrLockHeld) || !pg.Lost(last) {
				return true, "", nil
			}
			return false, "it cannot be reached", nil
		})
	if err != nil {
		return errors.Join(err, last)
	}
	return last
}

// switchPoolers leads all poolers to the target at the same time.
func (c *Cutover) switchPoolers(ctx context.Context) error {
	poolers := c.poolers()
	if len(poolers) == 0 {
		return nil
	}
	if err := c.stillMine(ctx); err != nil { // the lock was asked for a moment ago
		return err
	}
	return together(poolers, func(p traffic.Pauser) error {
		if err := p.Switch(ctx, c.situation()); err != nil {
			return hint.With(fmt.Errorf("switching %s to the %s server: %w", p.Name(), c.Direction.Target(), err), hint.Of(err))
		}
		return nil
	})
}

// mendPoolers leads the poolers to whichever server serves, after this process
// found that it was not the one that it had led them to.
func (c *Cutover) mendPoolers(ctx context.Context) error {
	for _, s := range []*pg.Server{c.source(), c.target()} {
		turn, err := state.ReadTurn(ctx, s.Pool())
		if err != nil || !turn.Open || turn.Attempt <= c.attempt {
			continue
		}
		situation := c.situation()
		situation.Serving = s.Side()
		return together(c.poolers(), func(p traffic.Pauser) error { return p.Switch(ctx, situation) })
	}
	return nil
}

// verifyPoolers probes a write's way through each of them.
func (c *Cutover) verifyPoolers(ctx context.Context, facts *switchFacts) error {
	for _, p := range c.poolers() {
		facts.Drivers = append(facts.Drivers, p.Name())
	}
	return together(c.poolers(), func(p traffic.Pauser) error {
		if err := p.Verify(ctx, c.situation()); err != nil {
			return hint.With(fmt.Errorf("verifying that %s reaches the %s server: %w", p.Name(), c.Direction.Target(), err), hint.Of(err))
		}
		return nil
	})
}

// together runs f for all poolers at the same time and joins the errors.
func together(poolers []traffic.Pauser, f func(traffic.Pauser) error) error {
	errs := make([]error, len(poolers))
	var group sync.WaitGroup
	for i, p := range poolers {
		group.Go(func() { errs[i] = f(p) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// headStart is how long the drivers that are no poolers run before the sessions
// on the source are ended: clients whose sessions end should find the way.
const headStart = 300 * time.Millisecond

// startOthers begins to send the clients of the drivers that are no poolers to
// the target, and returns when that is done or has had its head start.
func (c *Cutover) startOthers(ctx context.Context, lost error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- c.switchOthers(ctx, lost) }()
	head := time.NewTimer(headStart)
	defer head.Stop()
	select {
	case err := <-done:
		return func() error { return err }
	case <-head.C:
		return func() error { return <-done }
	}
}

func (c *Cutover) others() []traffic.Driver {
	var out []traffic.Driver
	for _, d := range c.Drivers {
		if _, pooler := d.(traffic.Pauser); !pooler {
			out = append(out, d)
		}
	}
	return out
}

// switchOthers does so one after the other. One driver's failure must not keep
// the others' clients waiting.
func (c *Cutover) switchOthers(ctx context.Context, lost error) error {
	var errs []error
	for _, d := range c.others() {
		if err := c.mayDrive(ctx, lost); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := d.Switch(ctx, c.situation()); err != nil {
			errs = append(errs, hint.With(fmt.Errorf("switching %s to the %s server: %w", d.Name(), c.Direction.Target(), err), hint.Of(err)))
		}
	}
	return errors.Join(errs...)
}

func (c *Cutover) verifyOthers(ctx context.Context, facts *switchFacts) error {
	var errs []error
	for _, d := range c.others() {
		if err := d.Verify(ctx, c.situation()); err != nil {
			errs = append(errs, hint.With(fmt.Errorf("verifying that %s reaches the %s server: %w", d.Name(), c.Direction.Target(), err), hint.Of(err)))
			continue
		}
		facts.Drivers = append(facts.Drivers, d.Name())
	}
	return errors.Join(errs...)
}

// mayDrive says whether clients may be sent to the target: while the one-tool
// lock is held or, with the source out of reach, nobody can hold it; and while
// the target serves under this very attempt.
func (c *Cutover) mayDrive(ctx context.Context, lost error) error {
	if lost == nil {
		if err := c.ensureLock(ctx); err != nil {
			return err
		}
	}
	return c.stillMine(ctx)
}

// stillMine proves that the target serves under this very attempt. The lock does
// not say so: taken again, after this process slept, others may have turned the
// writes back in between.
func (c *Cutover) stillMine(ctx context.Context) error {
	var turn state.Turn
	err := patiently(ctx, c.Direction.Target(), func(ctx context.Context) (err error) {
		turn, err = state.ReadTurn(ctx, c.target().Pool())
		return err
	})
	if err != nil {
		return err
	}
	if turn.Attempt != c.attempt || !turn.Open {
		return fmt.Errorf("switching clients for attempt %d while attempt %d has the turn (open: %t): %w", c.attempt, turn.Attempt, turn.Open, fence.ErrNotMine)
	}
	return nil
}

func (c *Cutover) drive(ctx context.Context, d traffic.Driver) error {
	if err := d.Switch(ctx, c.situation()); err != nil {
		return fmt.Errorf("switching %s to the %s server: %w", d.Name(), c.Direction.Target(), err)
	}
	if err := d.Verify(ctx, c.situation()); err != nil {
		return fmt.Errorf("verifying that %s reaches the %s server: %w", d.Name(), c.Direction.Target(), err)
	}
	return nil
}

type session struct {
	PID       int32
	User, App string
	Ended     bool
}

// endSessions ends the clients' sessions on the source and waits until they are gone.
// Those that this role may not end are named; the fence refuses their writes
// all the same.
func (c *Cutover) endSessions(ctx context.Context, facts *switchFacts) error {
	if err := c.stillMine(ctx); err != nil {
		return err
	}
	ended := map[int32]bool{}
	var kept []string
	err := pg.Wait(ctx, fmt.Sprintf("the client sessions on the %s server to end", c.Direction.Source()), 20*time.Millisecond, 10*time.Second, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			var sessions []session
			err := patiently(ctx, c.Direction.Source(), func(ctx context.Context) error {
				rows, err := c.source().Pool().Query(ctx, terminateSQL)
				if err != nil {
					return err
				}
				sessions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[session])
				return err
			})
			if err != nil {
				return false, "", err
			}
			kept = kept[:0]
			going := 0
			for _, s := range sessions {
				if s.Ended {
					ended[s.PID] = true
					going++
				} else {
					kept = append(kept, fmt.Sprintf("%d (%s, %s)", s.PID, s.User, s.App))
				}
			}
			return going == 0, fmt.Sprintf("%d sessions are ending", going), nil
		})
	facts.Ended, facts.Kept = len(ended), kept
	if len(kept) > 0 {
		facts.Warnings = append(facts.Warnings, fmt.Sprintf(
			"%d sessions on the %s server could not be ended for lack of rights (GRANT pg_signal_backend TO %s): %v. Their writes are refused, their reads are stale",
			len(kept), c.Direction.Source(), pgx.Identifier{c.source().User()}.Sanitize(), kept))
	}
	if errors.Is(err, pg.ErrTimeout) {
		// Clients that reconnect as fast as they are ended are refused
		// there anyway; going on is safer than stopping here.
		facts.Warnings = append(facts.Warnings, err.Error())
		return nil
	}
	return err
}
