package cutover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/unreplicated"
)

// Unreplicated says what becomes of what logical replication does not carry. The
// zero value copies all of it, within DefaultBudget.
type Unreplicated struct {
	Budget  time.Duration // how much longer clients may wait for it
	Tables  unreplicated.TableMode
	Objects unreplicated.ObjectMode
}

// DefaultBudget is how much longer clients wait, unless told otherwise.
const DefaultBudget = 2 * time.Second

func (u Unreplicated) budget() time.Duration {
	if u.Budget == 0 {
		return DefaultBudget
	}
	return u.Budget
}

func (u Unreplicated) tables() bool { return u.Tables != unreplicated.EmptyTables }

func (u Unreplicated) objects() bool { return u.Objects != unreplicated.IgnoreObjects }

// held tells that writers of large objects are to be held.
func (u Unreplicated) held() bool { return u.objects() && u.Objects != unreplicated.IdleObjects }

// InFreeze is what a cutover from source would do, by sizes as of the last VACUUM.
func (u Unreplicated) InFreeze(ctx context.Context, source *pg.Server, inScope func(schema, table string) bool) (*preflight.InFreeze, error) {
	found, err := unreplicated.LookAgain(ctx, source, inScope)
	if err != nil {
		return nil, err
	}
	return &preflight.InFreeze{
		Tables: found.Estimate(u.tables(), false), Objects: found.Estimate(false, u.objects()), Budget: u.budget(),
		EmptyTables: !u.tables(), IgnoreObjects: !u.objects(),
	}, nil
}

// unreplicatedStep moves unlogged tables and large objects. Nothing of the
// protocol rests on it: it writes only what is neither published nor subscribed,
// on a target that is closed, and before the decision. A decision that is made
// after it says nothing about it either, since the step fails or it is done. So
// the models in docs/model know nothing of it.
func (c *Cutover) unreplicatedStep() step.Step {
	return step.Step{
		Name:  "unreplicated",
		About: fmt.Sprintf("copy unlogged tables and large objects to %s, if there are any, within their budget", c.Direction.Target()),
		Bound: c.Settings.MaxPause,
		Do:    c.moveUnreplicated,
		Undo:  c.undoUnreplicated, UndoBound: 2*sourceBound + time.Minute,
		Behind:     true,
		Statements: c.planning(c.unreplicatedStatements),
	}
}

// rest is what of a cutover belongs to what is not replicated.
type rest struct {
	mover *unreplicated.Mover   // nil when there was nothing to move
	hold  *publisher.ObjectHold // nil when writers of large objects are not held
	found chan foundObjects     // what was seen of large objects in the freeze; nil when nobody looks
}

type foundObjects struct {
	there bool
	err   error
}

// gateUnreplicated proves that moving it fits into the budget and that the roles
// may do it.
func (c *Cutover) gateUnreplicated(ctx context.Context) (unreplicated.Inventory, error) {
	u := c.Settings.Unreplicated
	found, err := unreplicated.Look(ctx, c.source(), c.Settings.InScope)
	if err != nil {
		return found, err
	}
	if err := c.meetTarget(ctx, &found); err != nil {
		return found, err
	}
	var errs []error
	budget := min(u.budget(), c.Settings.MaxPause)
	if estimate := found.Estimate(u.tables(), u.objects()); estimate > budget {
		errs = append(errs, blocked(tooMuchAdvice(found, u), "moving %s in the freeze takes about %s, more than unreplicated.budget (%s)",
			found, estimate.Round(100*time.Millisecond), budget))
	}
	if found.Objects.Count > 0 && u.objects() {
		errs = append(errs, c.mayMoveObjects(ctx))
	}
	if found.Stale > 0 {
		errs = append(errs, c.mayRemoveObjects(ctx))
	}
	return found, errors.Join(errs...)
}

func tooMuchAdvice(found unreplicated.Inventory, u Unreplicated) string {
	ways := []string{"raise unreplicated.budget, and with it cutover.max_pause"}
	if len(found.Tables) > 0 && u.tables() {
		ways = append(ways, "leave rows behind that can be made anew (unreplicated: { unlogged: empty })",
			"ALTER TABLE ... SET LOGGED before start, so that the stream carries them")
	}
	if found.Objects.Count > 0 && u.objects() {
		ways = append(ways, "remove large objects that nothing refers to (vacuumlo, then VACUUM pg_largeobject)",
			"leave large objects behind (unreplicated: { large_objects: ignore })")
	}
	if found.Stale > 0 {
		ways = append(ways, "leave large objects as they are on both servers (unreplicated: { large_objects: ignore })")
	}
	return strings.Join(ways, "; or ")
}

// mayReadObjectsSQL: pg_read_all_data (14 and later) is enough for it; nobody but
// superusers otherwise, unless it was granted.
const mayReadObjectsSQL = `select has_table_privilege('pg_catalog.pg_largeobject', 'select')`

// ownersSQL lists the owners of the source's large objects.
const ownersSQL = `select distinct pg_get_userbyid(m.lomowner)::text from pg_catalog.pg_largeobject_metadata m`

// strangersSQL lists those of the roles $1 that are not on the server, or for whom
// the tool's role may not make large objects.
const strangersSQL = `
select x.name
  from unnest($1::text[]) as x (name)
  left join pg_roles r on r.rolname = x.name
 where r.oid is null or not pg_has_role(r.oid, 'member')
 order by x.name`

func (c *Cutover) mayMoveObjects(ctx context.Context) error {
	source, target := c.Direction.Source(), c.Direction.Target()
	role := pgx.Identifier{c.source().User()}.Sanitize()
	var errs []error
	if c.Settings.Unreplicated.held() {
		may, err := publisher.MayHoldObjects(ctx, c.source())
		if err != nil {
			return err
		}
		if !may {
			how := "let the tool connect as a superuser"
			if c.source().Major() >= 17 {
				how = "GRANT pg_maintain, pg_read_all_stats, pg_signal_backend TO " + role
			}
			errs = append(errs, blocked(how+"; or see that nobody writes large objects during the cutover and say so (unreplicated: { large_objects: idle }); or leave them behind (large_objects: ignore)",
				"the role %s cannot hold the writers of large objects on the %s server", role, source))
		}
	}
	var reads bool
	if err := c.source().Pool().QueryRow(ctx, mayReadObjectsSQL).Scan(&reads); err != nil {
		return fmt.Errorf("looking for the right to read large objects: %w", err)
	}
	if !reads {
		how := "GRANT SELECT ON pg_catalog.pg_largeobject TO " + role + " as a superuser"
		if c.source().Major() >= 14 {
			how = "GRANT pg_read_all_data TO " + role
		}
		errs = append(errs, blocked(how+"; or leave them behind (unreplicated: { large_objects: ignore })", "the role %s cannot read large objects on the %s server", role, source))
	}
	rows, err := c.source().Pool().Query(ctx, ownersSQL)
	if err != nil {
		return fmt.Errorf("listing the owners of large objects: %w", err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("listing the owners of large objects: %w", err)
	}
	if rows, err = c.target().Pool().Query(ctx, strangersSQL, owners); err != nil {
		return fmt.Errorf("looking for the owners of large objects on the %s server: %w", target, err)
	}
	strangers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for the owners of large objects on the %s server: %w", target, err)
	}
	if len(strangers) > 0 {
		errs = append(errs, blocked(fmt.Sprintf("make these roles there, or GRANT them TO %s", pgx.Identifier{c.target().User()}.Sanitize()),
			"large objects belong to roles that are not on the %s server or that the tool's role is no member of: %s", target, strings.Join(strangers, ", ")))
	}
	return errors.Join(errs...)
}

// meetUnreplicated looks once more, now that DDL is kept away from the tables, and
// makes ready what need not be in the pause. An unlogged table that is made from
// here on has no fence, which the decision looks for; a table that is published
// cannot become one.
func (c *Cutover) meetUnreplicated(ctx context.Context) error {
	c.leaveUnreplicated(ctx)
	u := c.Settings.Unreplicated
	found, err := unreplicated.LookAgain(ctx, c.source(), c.Settings.InScope)
	if err != nil {
		return err
	}
	if !u.objects() {
		found.Objects = unreplicated.Objects{}
	}
	if u.held() {
		may, err := publisher.MayHoldObjects(ctx, c.source())
		if err != nil {
			return err
		}
		if may {
			if c.rest.hold, err = publisher.OpenObjectHold(ctx, c.source()); err != nil {
				return err
			}
			c.rest.hold.Wait = found.Objects.Count > 0
		}
	}
	if err := c.meetTarget(ctx, &found); err != nil {
		return err
	}
	if found.Empty() {
		return nil
	}
	c.rest.mover, err = unreplicated.Prepare(ctx, c.source(), c.target(), found, unreplicated.Options{
		Tables: u.Tables, Objects: u.Objects, Guard: c.keepTurn, CopyTo: c.copyByLease,
		SkipMissing: c.Direction == state.Back && c.Settings.LeaveBehind,
		Bound:       u.budget() + 5*time.Second, // a tool that is stopped must not keep the turn
	})
	return err
}

// keepTurn is what every transaction on the target begins with: the turn is this
// attempt's, the target is closed, and both stay so until the transaction ends.
func (c *Cutover) keepTurn(ctx context.Context, tx pgx.Tx) error {
	t, err := state.ShareTurn(ctx, tx)
	if err != nil {
		return err
	}
	if t.Attempt != c.attempt || t.Open {
		return fmt.Errorf("writing to the %s server for attempt %d while attempt %d has the turn (open: %t): %w", c.Direction.Target(), c.attempt, t.Attempt, t.Open, fence.ErrNotMine)
	}
	return nil
}

func (c *Cutover) copyByLease(ctx context.Context, w io.Writer, sql string) error {
	return c.lease.CopyTo(ctx, w, sql, c.Settings.Unreplicated.budget())
}

// leaveUnreplicated ends the sessions.
func (c *Cutover) leaveUnreplicated(ctx context.Context) {
	c.rest.mover.Close(ctx)
	c.rest.hold.Release(ctx)
	c.rest.mover, c.rest.hold = nil, nil
	if c.rest.found != nil {
		<-c.rest.found
		c.rest.found = nil
	}
}

// frozenUnreplicated is for right after the freeze: the hold's life is tied to the
// lease's, and where there were no large objects it is seen that there are none.
func (c *Cutover) frozenUnreplicated(ctx context.Context) {
	if c.rest.hold != nil {
		c.rest.hold.Watch(ctx, c.Direction, c.attempt, c.Settings.MaxPause)
	}
	if !c.Settings.Unreplicated.objects() || c.rest.mover != nil && c.rest.mover.Inventory().Objects.Count > 0 {
		return
	}
	found := make(chan foundObjects, 1)
	c.rest.found = found
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.remaining())
	go func() { // beside the drain
		defer cancel()
		there, err := unreplicated.AnyObjects(limit, c.source())
		found <- foundObjects{there, err}
	}()
}

// errFirstObjects means that large objects were made since the lease.
var errFirstObjects = errors.New("the first large objects of this database were made while the writes were being frozen")

// ErrOverBudget means that moving what is not replicated took longer than it may.
var ErrOverBudget = errors.New("moving unlogged tables and large objects took longer than unreplicated.budget")

func (c *Cutover) moveUnreplicated(ctx context.Context) (any, error) {
	if c.rest.found != nil {
		found := <-c.rest.found
		c.rest.found = nil
		if found.err != nil {
			return nil, found.err
		}
		if found.there {
			return nil, blocked("run: pgcutover "+c.what(), "%v", errFirstObjects)
		}
	}
	if c.rest.mover == nil {
		return unreplicated.Moved{}, nil
	}
	budget := min(c.Settings.Unreplicated.budget(), c.remaining())
	limit, cancel := context.WithTimeoutCause(ctx, budget, ErrOverBudget)
	defer cancel()
	moved, err := c.rest.mover.Move(limit, c.rest.mover.Inventory().AnyObjects())
	if err != nil && errors.Is(context.Cause(limit), ErrOverBudget) {
		return nil, blocked(tooMuchAdvice(c.rest.mover.Inventory(), c.Settings.Unreplicated), "%v (%s); %s were to be moved: %v", ErrOverBudget, budget, c.rest.mover.Inventory(), err)
	}
	return moved, err
}

// objectsHeld proves, just before the decision, that nobody could write a large
// object since the freeze.
func (c *Cutover) objectsHeld() error { return c.rest.hold.Alive() }

// undoUnreplicated empties what was copied to new: as before, there is nothing
// there that old does not have. A rollback that is undone leaves on old what it
// copied there: the next one replaces it.
func (c *Cutover) undoUnreplicated(ctx context.Context) error {
	if err := c.endLease(ctx); err != nil { // it holds the turn that is asked for below
		return err
	}
	c.leaveUnreplicated(ctx)
	if c.Direction == state.Back {
		return nil
	}
	if mine, err := c.undecided(ctx); !mine {
		return err
	}
	err := patiently(ctx, c.Direction.Target(), c.emptyTarget)
	if errors.Is(err, fence.ErrNotMine) {
		return nil // nothing was copied under this number, or a newer attempt replaces it
	}
	return err
}

// emptyTarget leaves nothing on the target that is not replicated.
func (c *Cutover) emptyTarget(ctx context.Context) error {
	u := c.Settings.Unreplicated
	there, err := unreplicated.LookAgain(ctx, c.target(), c.Settings.InScope)
	if err != nil || there.Empty() {
		return err
	}
	return unreplicated.Empty(ctx, c.target(), there, unreplicated.Options{Objects: u.Objects, Guard: c.keepTurn, Bound: time.Minute})
}

// holdStatements are for a person, who has no session beside the lease's.
func (c *Cutover) holdStatements(p planned) ([]step.Statement, error) {
	if !c.Settings.Unreplicated.held() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), planBound)
	defer cancel()
	may, err := publisher.MayHoldObjects(ctx, c.source())
	if err != nil || !may {
		return nil, err
	}
	there, err := unreplicated.AnyObjects(ctx, c.source())
	if err != nil {
		return nil, err
	}
	optional := "there are no large objects now"
	if there {
		optional = ""
	}
	return []step.Statement{{
		Server: p.source, Session: step.Lease, SQL: publisher.HoldObjectsSQL, Optional: optional,
		Why: "writers of large objects wait; the tool does this in a session of its own, which ends those that wait when the decision is made",
	}}, nil
}

// unreplicatedStatements are for people: COPY goes from one server to the other.
func (c *Cutover) unreplicatedStatements(planned) ([]step.Statement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), planBound)
	defer cancel()
	u := c.Settings.Unreplicated
	found, err := unreplicated.LookAgain(ctx, c.source(), c.Settings.InScope)
	if err != nil {
		return nil, err
	}
	if err := c.meetTarget(ctx, &found); err != nil {
		return nil, err
	}
	source, target := string(c.Direction.Source()), string(c.Direction.Target())
	var out []step.Statement
	for _, t := range found.Tables {
		out = append(out, step.Statement{Server: target, SQL: "-- truncate only " + t.Identifier() + ", its triggers disabled in the same transaction", Why: "an unlogged table"})
		if u.tables() {
			out = append(out, step.Statement{Server: source, SQL: "-- " + unreplicated.CopyOutSQL(t)}, step.Statement{Server: target, SQL: "-- " + unreplicated.CopyInSQL(t), Why: "what " + source + " sends"})
		}
	}
	if found.Objects.Count > 0 && u.objects() {
		out = append(out, step.Statement{
			Server: target, SQL: "-- lo_unlink, lo_create, lo_put: large objects as they are on " + source + ", with owners, rights and comments",
			Why: fmt.Sprintf("%d of them", found.Objects.Count),
		})
	}
	if found.Stale > 0 {
		out = append(out, step.Statement{
			Server: target, SQL: "-- lo_unlink: all large objects, of which " + source + " has none",
			Why: fmt.Sprintf("%d of them", found.Stale),
		})
	}
	return out, nil
}
