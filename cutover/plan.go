package cutover

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/warmup"
)

// planned is what the statements of a plan are filled in with: the numbers and
// names that the next attempt will have, and what is on the servers now.
type planned struct {
	attempt        int64
	stream, back   state.Stream
	source, target string // sides
	// fenced are the tables on the source, there those on the target, which has
	// none of them before start.
	fenced, there []fence.Table
	published     []publisher.Table
	capacity      int64 // locks that the source has room for
	onSource      subscriber.Plan
	onTarget      subscriber.Plan
	// given is what the sequences on the target are to be set to.
	given []sequences.Change
	// assumed tells that the move is not as far yet: what is on the servers now
	// says nothing of what will be there.
	assumed bool
}

// assumed is what a plan takes for given although the move is not as far yet.
type assumed struct {
	attempt int64
	stream  state.Stream
	// objects is the server whose tables and sequences both will have.
	objects *pg.Server
}

// Assume makes the plan that of an attempt of that number which drains stream,
// although the move is not as far yet; both servers will have the tables and
// sequences that objects has. It is for plans only.
func (c *Cutover) Assume(attempt int64, stream state.Stream, objects *pg.Server) {
	c.assumed = &assumed{attempt, stream, objects}
}

// planBound is how long the servers are asked for what a plan is filled in with.
const planBound = time.Minute

// planning returns a function for a step's Statements. The servers are asked once
// for all steps.
func (c *Cutover) planning(f func(planned) ([]step.Statement, error)) func(context.Context) ([]step.Statement, error) {
	return func(ctx context.Context) ([]step.Statement, error) {
		if c.asked == nil {
			ctx, cancel := context.WithTimeout(ctx, planBound)
			defer cancel()
			p, err := c.plan(ctx)
			if err != nil {
				return nil, err
			}
			c.asked = &p
		}
		return f(*c.asked)
	}
}

func (c *Cutover) plan(ctx context.Context) (planned, error) {
	p := planned{
		assumed: c.assumed != nil,
		source:  string(c.Direction.Source()), target: string(c.Direction.Target()),
	}
	source, target := c.source(), c.target()
	if p.assumed {
		p.attempt, p.stream = c.assumed.attempt, c.assumed.stream
		source, target = c.assumed.objects, c.assumed.objects
	} else {
		pos, err := state.Locate(ctx, c.Old, c.New)
		if err != nil {
			return p, err
		}
		p.attempt, p.stream = pos.Attempt+1, pos.Stream(c.Direction)
	}
	p.back = state.WayBack(c.Move.Name, c.Direction, p.attempt)
	var err error
	if p.fenced, err = fence.Tables(ctx, source.Pool(), c.Move.Name); err != nil {
		return p, err
	}
	if p.there, err = fence.Tables(ctx, target.Pool(), c.Move.Name); err != nil {
		return p, err
	}
	if p.published, err = publisher.Tables(ctx, source, c.Settings.InScope); err != nil {
		return p, err
	}
	if p.capacity, err = publisher.LockCapacity(ctx, c.source()); err != nil {
		return p, err
	}
	if p.onSource, err = subscriber.PlanFor(ctx, c.source()); err != nil {
		return p, err
	}
	if p.onTarget, err = subscriber.PlanFor(ctx, c.target()); err != nil {
		return p, err
	}
	p.given, err = c.plannedSequences(ctx)
	return p, err
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// plannedSequences are the changes of step ahead. Before start, the sequences on
// the target will be those of the source.
func (c *Cutover) plannedSequences(ctx context.Context) ([]sequences.Change, error) {
	if c.assumed == nil {
		changes, err := c.planSequences(ctx)
		if errors.Is(err, ErrBlocked) { // the gates will refuse it
			err = nil
		}
		return changes, err
	}
	from, err := sequences.Read(ctx, c.assumed.objects.Pool(), c.assumed.objects.Version())
	if err != nil {
		return nil, err
	}
	if c.Direction == state.Back { // the cutover, which comes first, sets those on new
		ahead, _ := sequences.Plan(from, from, c.Settings.Margin)
		from = sequences.After(ahead)
	}
	changes, _ := sequences.PlanTo(c.Direction.Target(), from, from, c.Settings.Margin)
	return changes, nil
}

// outran is the statement that sets again the sequences which have fewer than
// reserve numbers left of what they were given.
func (c *Cutover) outran(p planned, reserve int64, when string) []step.Statement {
	sql := sequences.OutranSQL(p.given, c.Settings.Margin, reserve)
	if sql == "" {
		return nil
	}
	return []step.Statement{{Server: p.source, SQL: sql, RunOn: p.target, Why: "only those that used up what they were given, " + when + "; none as a rule"}}
}

func (c *Cutover) gatesStatements(p planned) ([]step.Statement, error) {
	out := []step.Statement{{Server: p.source, Session: step.Lease, SQL: pg.TryLockSQL, Expect: "t", Early: true, Why: "the one-tool lock: as long as this session lives no other pgcutover works on this server"}}
	if c.Direction == state.Back {
		out = append(out, step.Statement{Server: string(pg.Old), Session: step.Lease, SQL: pg.TryLockSQL, Expect: "t", Early: true, Why: "the same on old, where the other commands take it"})
	}
	out = append(out,
		step.Statement{
			Server: p.source, SQL: pg.Fill(state.TakeAttemptSQL, p.attempt-1), Expect: number(p.attempt), Early: true,
			Why: "take the number of this attempt; another answer means that this plan is out of date",
		},
		step.Statement{Server: p.source, SQL: publisher.CloseBehindSQL(p.stream, c.Settings.MaxLag), Expect: "t", WaitSeconds: 120, Why: p.target + " is connected and close behind (cutover.max_lag); the tool looks at much more: pgcutover cutover --dry-run"},
		step.Statement{Server: p.target, SQL: subscriber.ReadySQL(p.stream), Expect: "t", Why: "all tables follow the stream"},
		step.Statement{Server: p.target, SQL: fence.UnfencedSQL(c.Move.Name), Expect: "0", Why: "every table on " + p.target + " is fenced: nobody but the stream can have written there"})
	if c.Settings.WayBack {
		out = append(out, step.Statement{Server: p.target, SQL: publisher.WritersSQL(), Expect: "0", WaitSeconds: 120, Why: "nobody has been writing for long on " + p.target + "'s cluster: the slot of the way back would wait for them"})
	}
	return out, nil
}

func (c *Cutover) aheadStatements(p planned) ([]step.Statement, error) {
	out, err := c.refreshStatements()
	if err != nil {
		return nil, err
	}
	for _, t := range p.fenced {
		if !t.Fenced || p.assumed {
			out = append(out, step.Statement{Server: p.source, SQL: fence.AttachScript(c.Move.Name, t), Why: "a fence trigger, open; if the lock is refused, again a little later"})
		}
	}
	out = append(out, step.Statement{Server: p.source, SQL: fence.UnfencedSQL(c.Move.Name), Expect: "0", Why: "every table is fenced"})
	closing, err := fence.TryCloseScript(c.source(), c.closing())
	if err != nil {
		return nil, err
	}
	out = append(out, step.Statement{Server: p.source, SQL: closing, Why: "try to close " + p.source + ", and take it back"})
	for _, sql := range sequences.Statements(p.given) {
		out = append(out, step.Statement{Server: p.target, SQL: sql, Why: "sequences past " + p.source + "'s values; the values are those of this moment"})
	}
	out = append(out, step.Statement{Server: p.target, SQL: fence.TryOpenScript(), Why: "try the guard's body, and take it back"})
	back, err := c.wayBackStatements(p)
	return append(out, back...), err
}

func (c *Cutover) wayBackStatements(p planned) ([]step.Statement, error) {
	ctx, cancel := context.WithTimeout(context.Background(), planBound)
	defer cancel()
	out, err := c.staleStatements(ctx, p)
	if err != nil || !c.Settings.WayBack {
		return out, err
	}
	roles := p.onSource.RoleStatements()
	setting := roles[len(roles)-1] // the role is there since start
	return append(out,
		step.Statement{Server: p.target, SQL: publisher.CreatePublicationSQL(p.back, p.published, c.source().Major()), Why: "the way back; the number in its name is that of the attempt"},
		step.Statement{Server: p.source, SQL: setting, Why: "its owner, which start has made, may write although the database's default will be read-only"},
		step.Statement{Server: p.source, Session: step.Subscribe, SQL: p.onSource.CreateScript(p.back), Why: "disabled, and without its slot until the other stream is gone"}), nil
}

// staleStatements drop the streams of the way back that earlier attempts left.
func (c *Cutover) staleStatements(ctx context.Context, p planned) ([]step.Statement, error) {
	if p.assumed {
		return nil, nil
	}
	subscriptions, err := subscriber.Names(ctx, c.source())
	if err != nil {
		return nil, err
	}
	const why = "what an earlier attempt has left"
	var out []step.Statement
	for _, name := range subscriptions {
		for _, sql := range p.onSource.DropScripts(name) {
			out = append(out, step.Statement{Server: p.source, SQL: sql, Why: why})
		}
	}
	streams, err := publisher.Names(ctx, c.target())
	if err != nil {
		return nil, err
	}
	for _, name := range streams {
		out = append(out, dropNamed(p.target, name, why)...)
	}
	return out, nil
}

// dropNamed drops the slot and the publication of that name.
func dropNamed(server, name, why string) []step.Statement {
	slot, publication := publisher.NamedStatements(name)
	return append(dropSlot(server, name, slot, why), step.Statement{Server: server, SQL: publication, Why: why})
}

func dropSlot(server, name string, slot []string, why string) []step.Statement {
	return []step.Statement{
		{Server: server, SQL: slot[0], Why: why + ": end the walsender that may still use slot " + name},
		{Server: server, SQL: slot[1], Expect: "0", WaitSeconds: 30, Why: "nobody streams from it"},
		{Server: server, SQL: slot[2], Why: why},
	}
}

func (c *Cutover) undoAheadStatements(p planned) ([]step.Statement, error) {
	out := []step.Statement{c.mayUndo(p)}
	for _, t := range p.fenced {
		out = append(out, step.Statement{Server: p.source, SQL: fence.DetachScript(c.Move.Name, t), Why: "drop a fence trigger; if the lock is refused, again a little later"})
	}
	if !c.Settings.WayBack {
		return out, nil
	}
	for _, sql := range p.onSource.DropScripts(p.back.Name()) {
		out = append(out, step.Statement{Server: p.source, SQL: sql})
	}
	return append(out, step.Statement{Server: p.target, SQL: publisher.DropPublicationSQL(p.back)}), nil
}

// mayUndo comes first in every undo outside of the lease.
func (c *Cutover) mayUndo(p planned) step.Statement {
	return step.Statement{Server: p.source, SQL: fence.MayUndoSQL(c.Direction, p.attempt), Expect: "t", Why: "this attempt has the turn and was not decided; otherwise nothing may be undone"}
}

func (c *Cutover) guardStatements(p planned) ([]step.Statement, error) {
	return []step.Statement{
		{Server: p.target, SQL: fence.ArmScript(p.attempt)},
		{Server: p.target, SQL: fence.ArmedSQL(p.attempt), Expect: "t", Why: "the guard is armed for this attempt"},
	}, nil
}

func (c *Cutover) undoGuardStatements(p planned) ([]step.Statement, error) {
	return []step.Statement{c.mayUndo(p), {Server: p.target, SQL: fence.DisarmScript(p.attempt)}}, nil
}

func (c *Cutover) leaseStatements(p planned) ([]step.Statement, error) {
	inLease := func(sql, why string) step.Statement {
		return step.Statement{Server: p.source, Session: step.Lease, SQL: sql, Why: why}
	}
	out := []step.Statement{
		inLease(publisher.BeginSQL, "this transaction stays open until decide"),
		inLease(state.TurnLockSQL, "every undo elsewhere waits for this row; its number is "+number(p.attempt)),
	}
	for _, sql := range publisher.ProtectStatements(c.toProtect(p.fenced, p.capacity)) {
		out = append(out, inLease(sql, "writers are not touched; DDL and vacuum stay out; if a lock is refused: ROLLBACK TO the savepoint, and again"))
	}
	unfenced := inLease(fence.UnfencedSQL(c.Move.Name), "no table was made since step ahead")
	unfenced.Expect = "0"
	out = append(out, unfenced, inLease(fence.CommentSQL(c.source(), time.Now()), "say on the database why it takes no writes, from the COMMIT on"))
	if c.Settings.Unreplicated.objects() {
		out = append(out, inLease(fence.LockObjectsSQL, "take the functions that write large objects from PUBLIC, from the COMMIT on; f: the role is no superuser"))
	}
	if c.Settings.RevokeConnect {
		sql, err := fence.RevokeConnectSQL(c.source())
		if err != nil {
			return nil, err
		}
		out = append(out, inLease(sql, "take the clients' right to connect, from the COMMIT on"))
	}
	return out, nil
}

func (c *Cutover) endLeaseStatements(p planned) ([]step.Statement, error) {
	return []step.Statement{{Server: p.source, Session: step.Lease, SQL: "rollback", Why: "waiting writers go on as if nothing had happened"}}, nil
}

func (c *Cutover) pauseStatements(p planned) ([]step.Statement, error) {
	return c.outran(p, c.Settings.Margin-c.Settings.Margin/4, "before the poolers are paused"), nil
}

func (c *Cutover) freezeStatements(p planned) ([]step.Statement, error) {
	out, err := c.holdStatements(p)
	return append(out, step.Statement{
		Server: p.source, Session: step.Lease, SQL: publisher.FreezeScript(c.Settings.LockTimeout),
		Why: "from here on writers wait; if the lock is refused: ROLLBACK TO the savepoint, and again a little later",
	}), err
}

func (c *Cutover) drainStatements(p planned) ([]step.Statement, error) {
	return []step.Statement{
		{Server: p.source, SQL: publisher.MarkStatement(c.Direction, p.attempt), Why: "the marker: all that was committed arrives before it"},
		{Server: p.target, SQL: subscriber.MarkerSQL(c.Direction, p.attempt), Expect: "t", WaitSeconds: c.Settings.MaxPause.Seconds(), Why: "the marker has arrived; past the bound undo everything"},
		{Server: p.target, SQL: subscriber.FlushStatement(c.Direction, p.attempt), Why: "one synchronous commit, conditional on the marker, makes what was applied durable"},
	}, nil
}

func (c *Cutover) reverseStatements(p planned) ([]step.Statement, error) {
	if !c.Settings.WayBack {
		return nil, nil
	}
	return []step.Statement{{Server: p.target, SQL: publisher.WayBackStatement(p.back), Why: "after the marker has arrived, before anybody writes: nothing that came from the other side goes back"}}, nil
}

func (c *Cutover) undoReverseStatements(p planned) ([]step.Statement, error) {
	if !c.Settings.WayBack {
		return nil, nil
	}
	slot, _ := publisher.NamedStatements(p.back.Name())
	return append([]step.Statement{c.mayUndo(p)}, dropSlot(p.target, p.back.Name(), slot, "undo")...), nil
}

func (c *Cutover) sequencesStatements(p planned) ([]step.Statement, error) {
	return c.outran(p, c.Settings.Margin/2, "now that nobody writes"), nil
}

func (c *Cutover) decideStatements(p planned) ([]step.Statement, error) {
	inLease := func(sql, why string) step.Statement {
		return step.Statement{Server: p.source, Session: step.Lease, SQL: sql, Why: why}
	}
	unfenced := inLease(fence.UnfencedSQL(c.Move.Name), "every table is fenced still")
	unfenced.Expect = "0"
	out := []step.Statement{
		inLease(c.source().Quiet(fence.ClosedSQL(c.source(), c.Settings.OnClosed, c.identity().Database, time.Now()))+";\n"+fence.ReadOnlySQL(c.source().Database(), true),
			"close the fence, and set what multihost clients look at; the tool does this beside the drain"),
		inLease(pg.Fill(closeTurnSQL, p.attempt), p.source+" takes no writes any more"),
		inLease(pg.Fill(c.decideSQL(), p.attempt), "the decision: it travels to "+p.target+" and opens it there"),
		unfenced,
	}
	if c.Settings.WayBack {
		out = append(out, step.Statement{Server: p.target, SQL: publisher.SlotExistsSQL(p.back.Name()), Expect: "1", Why: "the slot of the way back stands"})
	}
	return append(out,
		step.Statement{Server: p.target, SQL: fence.PrepareOpenScript(p.attempt), Why: "step open commits it", Optional: "it makes the opening quicker, and ends by itself after half a second"},
		inLease("commit", "the point of no return")), nil
}

func (c *Cutover) openStatements(p planned) ([]step.Statement, error) {
	return []step.Statement{
		{Server: p.target, SQL: fence.OpenSQLFor(p.attempt, true), Why: "opens it if the decision is there, or is known from " + p.source + " and the marker is there; the guard may have been quicker"},
		{Server: p.target, SQL: fence.ServesSQL(p.attempt), Expect: "t", WaitSeconds: 50, Why: p.target + " takes writes"},
	}, nil
}

func (c *Cutover) switchStatements(p planned) ([]step.Statement, error) {
	out := []step.Statement{{Server: p.source, SQL: terminateSQL, Why: "send the clients to " + p.target + " now; sessions that stay would get 25006 for ever, readers stale data"}}
	return append(out, c.outran(p, 0, "by the sessions that have just ended")...), nil
}

func (c *Cutover) followStatements(p planned) ([]step.Statement, error) {
	out := []step.Statement{
		{Server: p.target, Session: step.Client, SQL: probeSQL, Why: "a write by a session with no settings of ours, rolled back"},
		{Server: p.target, SQL: state.DecidedSQL(c.Direction, p.attempt), Expect: "1", WaitSeconds: 60, Why: "the decision has arrived for good: only then the stream may go"},
	}
	for _, sql := range p.onTarget.DropScripts(p.stream.Name()) {
		out = append(out, step.Statement{Server: p.target, SQL: sql, Why: "the stream that was drained"})
	}
	out = append(out, dropNamed(p.source, p.stream.Name(), "the stream that was drained")...)
	if c.Settings.WayBack {
		out = append(out,
			step.Statement{Server: p.source, SQL: p.onSource.AlterScript(subscriber.ConnectSQL(p.back)), Why: "only now that the other stream is gone: nothing goes round"},
			step.Statement{Server: p.source, SQL: p.onSource.AlterScript(subscriber.EnableSQL(p.back))},
			step.Statement{Server: p.target, SQL: publisher.SlotActiveSQL(p.back.Name()), Expect: "1", WaitSeconds: 30, Why: "the stream back flows"})
	}
	for _, sql := range warmup.GentleSQL() {
		out = append(out, step.Statement{Server: p.target, Session: step.Analyze, SQL: sql, Why: "live queries come before ANALYZE"})
	}
	out = append(out, step.Statement{Server: p.target, Session: step.Analyze, SQL: warmup.ChangedSQL(), RunOn: p.target, Why: "tables that have changed much since they were analyzed"})
	for _, t := range p.there {
		out = append(out, step.Statement{Server: p.target, SQL: fence.DetachScript(c.Move.Name, t), Why: "drop a fence trigger; if the lock is refused, again a little later"})
	}
	return out, nil
}
