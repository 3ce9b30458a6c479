package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/traffic"
)

// ErrServes means that the old server takes the writes already: there is nothing
// to open.
var ErrServes = errors.New("the old server takes the writes already")

// OldRemains is what old knows of the last attempt, and has of new's writes, when
// new is gone.
type OldRemains struct {
	Attempt int64          `json:"attempt"`
	Open    bool           `json:"open"`              // old takes the writes already
	Promise *state.Promise `json:"promise,omitempty"` // by an earlier run of this command
	Decided bool           `json:"decided"`           // a rollback's decision arrived: nothing is missing
	Drained bool           `json:"drained"`           // a rollback's marker arrived: all that new acknowledged before its last freeze is there
	// Closed is when the cutover closed old.
	Closed *time.Time `json:"closed,omitempty"`
	// Back is how far the stream back had come.
	Back WayBack `json:"way_back"`
	// NotRaised are the sequences of which nobody can say here how far new used
	// them.
	NotRaised []sequences.Problem `json:"sequences_not_raised"`
}

// WayBack is what old has of the writes that new took.
type WayBack struct {
	// Flowed tells that the stream back was started: old followed new.
	Flowed bool `json:"flowed"`
	// Position is where the last transaction that came back was committed on
	// new; empty when none came, or when it cannot be read.
	Position string `json:"position,omitempty"`
	// Hidden tells that the role may not read the position.
	Hidden bool `json:"hidden,omitempty"`
	// At is when that was, by new's clock, and Heard when old last heard of new.
	// PostgreSQL forgets both with the worker, unless old has
	// track_commit_timestamp.
	At    *time.Time `json:"at,omitempty"`
	Heard *time.Time `json:"heard,omitempty"`
	// Errors is how often the apply worker failed (15 and later), also for the
	// end of new: a row that it could not apply is missing, and all after it.
	Errors int64 `json:"apply_errors,omitempty"`
}

// String says what that means.
func (w WayBack) String() string {
	if !w.Flowed {
		return "nothing has come back from new since: the stream back did not flow. Whatever new acknowledged is lost"
	}
	text := "no transaction has come back from new since. Whatever new acknowledged is lost"
	switch when := w.when(); {
	case w.Hidden:
		text = "new's writes came back up to a position that this role may not read (pg_replication_origin_status)" + when + ". Whatever new acknowledged after that is lost"
	case w.Position != "":
		text = "new's writes came back up to its position " + w.Position + when + ". Whatever new acknowledged after that is lost"
	}
	return text
}

func (w WayBack) when() string {
	switch {
	case w.At != nil:
		return ", committed at " + utc(*w.At)
	case w.Heard != nil:
		return ", old last heard from it at " + utc(*w.Heard)
	}
	return " (PostgreSQL keeps no time for it without track_commit_timestamp: look for the newest rows)"
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// String says what old has.
func (r OldRemains) String() string {
	switch {
	case r.Promise != nil:
		return fmt.Sprintf("new was given up at %s, and old takes the writes", utc(r.Promise.At))
	case r.Open:
		return "a rollback is decided and old takes the writes already; nothing is missing on it"
	case r.Decided:
		return "the decision of a rollback has arrived on old: nothing is missing on it"
	case r.Drained: // the sequences were set ahead before the marker was written
		return "a rollback was under way: old has all that new acknowledged before it held its writers. If that rollback was undone, what new took afterwards is lost"
	}
	closed := "the cutover closed old"
	if r.Closed != nil {
		closed += " at " + utc(*r.Closed)
	}
	closed += "; " + r.Back.String() + ", and so are tables and other DDL made there"
	if n := r.Back.Errors; n > 0 {
		closed += fmt.Sprintf(". Times that the stream's worker failed: %d, perhaps only when new went away; old's log says why", n)
	}
	return closed
}

const closedAtSQL = `
select at
  from pgcutover.decision_forward
 where attempt = (select max(attempt) from pgcutover.decision_forward)`

// OldRemains reads that. It refuses an old server that is not this move's, one
// that takes the writes without a decision, and a new server that is not gone.
func (m *Move) OldRemains(ctx context.Context) (OldRemains, error) {
	r := OldRemains{NotRaised: []sequences.Problem{}}
	recorded, err := m.recordedOn(ctx, m.Old)
	if err != nil {
		return r, err
	}
	turn, err := state.ReadTurn(ctx, m.Old.Pool())
	if err != nil {
		return r, err
	}
	r.Attempt, r.Open = turn.Attempt, turn.Open
	if r.Decided, err = state.Decided(ctx, m.Old.Pool(), state.Back, turn.Attempt); err != nil {
		return r, err
	}
	if r.Promise, err = state.ReadPromise(ctx, m.Old); err != nil {
		return r, err
	}
	if r.Open && !r.Decided {
		return r, hint.With(fmt.Errorf("%w: it was not closed by a cutover, or it was opened again", ErrServes),
			"nothing has to be opened. If new is gone for good, remove the move: pgcutover abort --old-only; poolers that are left paused: pgcutover doctor --fix")
	}
	if err := m.mustBeGone(ctx, pg.New, *recorded); err != nil {
		return r, err
	}
	if r.Drained, err = state.Marked(ctx, m.Old.Pool(), state.Back, turn.Attempt); err != nil {
		return r, err
	}
	err = m.Old.Pool().QueryRow(ctx, closedAtSQL).Scan(&r.Closed)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return r, fmt.Errorf("looking when the old server was closed: %w", err)
	}
	if r.Open {
		return r, nil
	}
	if r.Back, err = m.wayBack(ctx, turn.Attempt); err != nil {
		return r, err
	}
	_, r.NotRaised, err = m.planPast(ctx)
	return r, err
}

// recordedOn returns the move's row of the one server that is left, and refuses
// one that is not this move's.
func (m *Move) recordedOn(ctx context.Context, s *pg.Server) (*state.Move, error) {
	recorded, err := state.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	if recorded == nil {
		return nil, hint.With(fmt.Errorf("the server given as %s (%s): %w", s.Side(), s.Address(), state.ErrNoMove), "correct "+string(s.Side())+".url")
	}
	if recorded.Side != s.Side() {
		return nil, hint.With(fmt.Errorf("the server given as %s is the %s server of the move %q", s.Side(), recorded.Side, recorded.Name), "old and new are swapped: correct the two URLs")
	}
	return recorded, recorded.Owns(ctx, m.Options.Name, s)
}

// wayBackSQL finds the stream back whose newest attempt it is, and what its
// worker says, as long as it lives.
const wayBackSQL = `
select s.subname, s.subenabled and s.subslotname is not null, 'pg_' || s.oid, max(w.latest_end_time)
  from pg_subscription s
  left join pg_stat_subscription w on w.subid = s.oid and w.relid is null and w.pid is not null
 where s.subname ~ $1
   and s.subdbid = (select oid from pg_database where datname = current_database())
 group by s.oid, s.subname, s.subenabled, s.subslotname
 order by length(s.subname) desc, s.subname desc
 limit 1`

// originSQL is kept by the server itself, crash-safe, with every transaction
// that it applies.
// Postgres manual: 50, Replication Progress Tracking.
const originSQL = `
select remote_lsn::text
  from pg_replication_origin_status
 where external_id = $1 and remote_lsn is not null and remote_lsn <> '0/0'`

const commitTimesSQL = `select current_setting('track_commit_timestamp')::boolean`

// lastAppliedSQL is from 14 on, and only if nothing was committed on old since.
const lastAppliedSQL = `
select l.timestamp
  from pg_last_committed_xact() l
  join pg_replication_origin o on o.roident = l.roident
 where o.roname = $1`

// wayBack reads how far the stream back has come, or, once the stream is ended,
// what the run found that ended it.
func (m *Move) wayBack(ctx context.Context, attempt int64) (WayBack, error) {
	w, err := m.readWayBack(ctx)
	if err != nil || w.Flowed {
		return w, err
	}
	var found WayBack
	if known, err := state.RememberedRemains(ctx, m.Old, attempt, &found); err != nil || known {
		return found, err
	}
	return w, nil
}

func (m *Move) readWayBack(ctx context.Context) (WayBack, error) {
	var w WayBack
	var name, origin string
	err := m.Old.Pool().QueryRow(ctx, wayBackSQL, state.StreamPattern(m.Options.Name)).Scan(&name, &w.Flowed, &origin, &w.Heard)
	if errors.Is(err, pgx.ErrNoRows) {
		return w, nil
	}
	if err != nil {
		return w, fmt.Errorf("looking for the stream back on the old server: %w", err)
	}
	err = m.Old.Pool().QueryRow(ctx, originSQL, origin).Scan(&w.Position)
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		w.Hidden = true
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return w, fmt.Errorf("reading how far the stream back has come: %w", err)
	}
	worker, err := subscriber.ReadWorker(ctx, m.Old, state.Stream{Move: m.Options.Name, Direction: state.Back, Attempt: state.StreamAttempt(m.Options.Name, name)})
	if err != nil {
		return w, err
	}
	w.Errors = worker.ApplyErrors
	var kept bool
	if err := m.Old.Pool().QueryRow(ctx, commitTimesSQL).Scan(&kept); err != nil {
		return w, fmt.Errorf("asking the old server for track_commit_timestamp: %w", err)
	}
	if !kept || m.Old.Major() < 14 {
		return w, nil
	}
	err = m.Old.Pool().QueryRow(ctx, lastAppliedSQL, origin).Scan(&w.At)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return w, fmt.Errorf("reading when the last transaction came back: %w", err)
	}
	return w, nil
}

// planPast says how the sequences on old are to be raised past the rows that are
// there, and of which that cannot be said.
func (m *Move) planPast(ctx context.Context) ([]sequences.Change, []sequences.Problem, error) {
	reached, err := sequences.ReadReached(ctx, m.Old.Pool(), m.Old.Version())
	if err != nil {
		return nil, nil, fmt.Errorf("on the old server: %w", err)
	}
	changes, left := sequences.PlanPast(reached, m.Options.Margin)
	if left == nil {
		left = []sequences.Problem{}
	}
	return changes, left, nil
}

// GivenUp is what OpenWithoutNew did.
type GivenUp struct {
	Attempt int64              `json:"attempt"`
	Raised  []sequences.Change `json:"sequences_raised"`
}

// OpenWithoutNew makes old take the writes again although new cannot be asked,
// and sends the clients there. It is for a human who knows that new is gone for
// good: should new come back and take writes, both servers do. seen is what was
// shown to him. It may be run again after it was interrupted.
func (m *Move) OpenWithoutNew(soft, hard context.Context, seen OldRemains) (GivenUp, error) {
	var out GivenUp
	err := m.locked(soft, "resume", func(ctx context.Context) error {
		now, err := m.OldRemains(ctx) // nobody else goes on from here
		if err != nil {
			return err
		}
		if now.Attempt != seen.Attempt || now.Open != seen.Open {
			return hint.With(errors.New("another tool went on meanwhile"), "run: pgcutover status")
		}
		g := &givingUp{Move: m, remains: now, out: &out}
		out.Attempt = now.Attempt
		steps := g.steps()
		log, err := journal.Open(ctx, &journal.Memory{}, journal.Spec{List: "lost", Steps: step.Journal(steps), Rerunnable: true})
		if err != nil {
			return err
		}
		return (&step.Runner{Log: log, Steps: steps, Observer: m.Observer, Keep: true}).Run(ctx, hard)
	})
	return out, err
}

// givingUp is one run of OpenWithoutNew.
type givingUp struct {
	*Move
	remains OldRemains
	out     *GivenUp
}

// steps are what it does; each finds out by itself what is left to do.
func (g *givingUp) steps() []step.Step {
	var steps []step.Step
	if !g.remains.Open {
		steps = []step.Step{
			{Name: "remember", About: "write down how far the stream back had come", Bound: 10 * time.Second, Do: g.remember},
			{Name: "streams", About: "drop the stream back, and what new could still follow if it came back", Bound: 2 * time.Minute, Do: g.dropStreams},
			{Name: "sequences", About: "raise the sequences past the rows that are there", Bound: 5 * time.Minute, Do: g.raise},
			{Name: "open", About: "record the promise, open the fence on old", Bound: time.Minute, Do: g.open},
		}
	}
	return append(steps,
		step.Step{Name: "probe", About: "put back who may connect and the comment; try a write as a client does", Bound: time.Minute, Do: g.probe},
		step.Step{Name: "switch", About: "send the clients to old", Bound: 5 * time.Minute, Do: g.send})
}

// mine asks inside a transaction whether the turn is still as it was shown.
func (g *givingUp) mine(ctx context.Context, tx pgx.Tx) error {
	turn, err := state.LockTurn(ctx, tx)
	if err != nil {
		return err
	}
	if turn.Attempt != g.remains.Attempt || turn.Open {
		return hint.With(fmt.Errorf("the turn on the old server changed meanwhile (attempt %d, was %d): %w", turn.Attempt, g.remains.Attempt, fence.ErrNotMine), "run: pgcutover status")
	}
	return nil
}

func (g *givingUp) remember(ctx context.Context) (any, error) {
	return nil, state.RememberRemains(ctx, g.Old, g.remains.Attempt, g.remains.Back)
}

// dropStreams ends the stream back, so that no row arrives behind the sequences,
// and all that a new server that comes back could still be opened by: it may be
// armed for the decision that stands in old's stream.
func (g *givingUp) dropStreams(ctx context.Context) (any, error) {
	if _, err := subscriber.DropAll(ctx, g.Old, nil, g.mine); err != nil {
		return nil, err
	}
	names, err := publisher.Names(ctx, g.Old)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := publisher.Remove(ctx, g.Old, name, 30*time.Second, g.mine); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (g *givingUp) raise(ctx context.Context) (any, error) {
	changes, _, err := g.planPast(ctx)
	if err != nil {
		return nil, err
	}
	if g.out.Raised, err = sequences.Apply(ctx, g.Old.Pool(), changes, sequences.Options{Settings: g.Old.QuietSettings()}); err != nil {
		return nil, fmt.Errorf("on the old server: %w", err)
	}
	return nil, nil
}

// open is one transaction: the promise, its attempt, and the open server.
func (g *givingUp) open(ctx context.Context) (any, error) {
	err := state.Tx(ctx, g.Old, "5s", func(tx pgx.Tx) (err error) {
		if err := g.mine(ctx, tx); err != nil {
			return err
		}
		if !g.remains.Decided {
			if g.out.Attempt, err = state.DecideByPromise(ctx, tx, state.Back); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, fence.OpenNowSQL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening the old server: %w", err)
	}
	return nil, nil
}

// fencedSQL picks the smallest table that the fence stood on, and that the role
// may delete from.
const fencedSQL = `
select format('%I.%I', n.nspname, c.relname)
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
 where t.tgname = $1 and not t.tgisinternal and c.relkind = 'r' and not c.relhasrules
   and has_table_privilege(c.oid, 'delete') and has_schema_privilege(n.oid, 'usage')
 order by c.relpages, c.oid
 limit 1`

// writeProbeSQL fires the fence of a table, and writes nothing.
const writeProbeSQL = `delete from %s where false`

// probe proves that old takes writes: in a session with no settings of ours.
func (g *givingUp) probe(ctx context.Context) (any, error) {
	if err := fence.Revert(ctx, g.Old.Pool(), g.Old); err != nil { // what open_now only warned of
		return nil, err
	}
	var table string
	err := g.Old.Pool().QueryRow(ctx, fencedSQL, fence.TriggerName(g.Options.Name)).Scan(&table)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil // nothing is fenced that this role could write
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a table to try a write on: %w", err)
	}
	conn, err := g.Old.ConnectAsClient(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(context.WithoutCancel(ctx), conn)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local lock_timeout = '5s'"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(writeProbeSQL, table))
		return err
	})
	if err != nil && !pg.IsCode(err, pg.LockNotAvailable) { // a client has it: old is in use
		return nil, fmt.Errorf("old was opened, and yet refuses a write to %s: %w", table, err)
	}
	return nil, nil
}

// send leads the clients to old.
func (g *givingUp) send(ctx context.Context) (any, error) {
	to := traffic.Target{Move: g.Options.Name, Attempt: g.out.Attempt, Old: g.Old, Serving: pg.Old}
	var errs []error
	for _, d := range g.Options.Traffic {
		if err := errors.Join(d.Switch(ctx, to), d.Verify(ctx, to)); err != nil {
			errs = append(errs, fmt.Errorf("switching %s to the old server: %w", d.Name(), err))
		}
	}
	return nil, errors.Join(errs...)
}
