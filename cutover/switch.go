package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
)

func (c *Cutover) switchStep() step.Step {
	return step.Step{
		Name:  "switch",
		About: "end the client sessions on old, send the clients to new, look at old's sequences once more",
		Bound: 5 * time.Minute,
		Do:    c.switchOver,
		Statements: step.Fixed(
			step.Statement{Server: "old", SQL: terminateSQL, Why: "a pool that keeps its session would get 25006 for ever, a reader stale data"}),
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
  join pg_roles r on r.oid = a.usesysid
 cross join (select rolname, rolsuper from pg_roles where rolname = current_user) as me
 where a.datname = current_database()
   and a.backend_type = 'client backend'
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
	// An old server that died after the decision must not keep the clients from
	// new: the drivers run all the same, and what needs old fails the step.
	lost := c.awaitLock(ctx)
	if errors.Is(lost, pg.ErrLockHeld) {
		return nil, lost
	}
	if lost == nil {
		if err := c.endSessions(ctx, &facts); err != nil {
			return nil, err
		}
	}
	errs := c.driveAll(ctx, lost, &facts)
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

// oldBound is how long an old server that does not answer is waited for.
const oldBound = 20 * time.Second

// awaitLock is ensureLock for an old server that may be restarting.
func (c *Cutover) awaitLock(ctx context.Context) error {
	var last error
	err := pg.Wait(ctx, "the old server to answer", 500*time.Millisecond, oldBound, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			last = c.ensureLock(ctx)
			if last == nil || errors.Is(last, pg.ErrLockHeld) || !pg.Lost(last) {
				return true, "", nil
			}
			return false, "the old server cannot be reached", nil
		})
	if err != nil {
		return errors.Join(err, last)
	}
	return last
}

// driveAll sends the clients to new. Before each driver somebody else must be
// kept out: by the one-tool lock, or, with old out of reach, by new itself,
// which serves under this very attempt.
func (c *Cutover) driveAll(ctx context.Context, lost error, facts *switchFacts) []error {
	var errs []error
	for _, d := range c.Drivers {
		if err := c.mayDrive(ctx, lost); err != nil {
			return append(errs, err)
		}
		// One driver's failure must not keep the others' clients waiting.
		if err := c.drive(ctx, d); err != nil {
			errs = append(errs, err)
			continue
		}
		facts.Drivers = append(facts.Drivers, d.Name())
	}
	return errs
}

func (c *Cutover) mayDrive(ctx context.Context, lost error) error {
	if lost == nil {
		return c.ensureLock(ctx)
	}
	turn, err := state.ReadTurn(ctx, c.New.Pool())
	if err != nil {
		return err
	}
	if turn.Attempt != c.attempt || !turn.Open {
		return fmt.Errorf("switching clients for attempt %d while attempt %d has the turn (open: %t): %w", c.attempt, turn.Attempt, turn.Open, fence.ErrNotMine)
	}
	return nil
}

func (c *Cutover) drive(ctx context.Context, d traffic.Driver) error {
	if err := d.Switch(ctx, c.target()); err != nil {
		return fmt.Errorf("switching %s to the new server: %w", d.Name(), err)
	}
	if err := d.Verify(ctx, c.target()); err != nil {
		return fmt.Errorf("verifying that %s reaches the new server: %w", d.Name(), err)
	}
	return nil
}

type session struct {
	PID       int32
	User, App string
	Ended     bool
}

// endSessions ends the clients' sessions on old and waits until they are gone.
// Those that this role may not end are named; the fence refuses their writes
// all the same.
func (c *Cutover) endSessions(ctx context.Context, facts *switchFacts) error {
	ended := map[int32]bool{}
	var kept []string
	err := pg.Wait(ctx, "the client sessions on the old server to end", 20*time.Millisecond, 10*time.Second, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			rows, err := c.Old.Pool().Query(ctx, terminateSQL)
			if err != nil {
				return false, "", err
			}
			sessions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[session])
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
			"%d sessions on the old server could not be ended for lack of rights (GRANT pg_signal_backend TO %s): %v. Their writes are refused, their reads are stale",
			len(kept), pgx.Identifier{c.Old.User()}.Sanitize(), kept))
	}
	if errors.Is(err, pg.ErrTimeout) {
		// Clients that reconnect to old as fast as they are ended are refused
		// there anyway; going on is safer than stopping here.
		facts.Warnings = append(facts.Warnings, err.Error())
		return nil
	}
	return err
}
