package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/warmup"
)

// Options are the inputs of a move; they do not change while it runs.
type Options struct {
	Name             string
	Old, New         Endpoint
	Include, Exclude []string // table patterns
	IndexJobs        int      // indexes built at the same time on new
	Warm             warmup.WarmOptions
	WarmEvery        time.Duration // between two rounds of KeepWarm
	// WarmBeforeCutover bounds the round before a cutover; 0 for none.
	WarmBeforeCutover time.Duration
	Analyze           warmup.AnalyzeOptions
	NoCarry           bool  // statistics are not carried over, only made by ANALYZE
	Margin            int64 // steps that sequences are set ahead
	Cutover           cutover.Settings
	Traffic           []traffic.Driver
	Hooks             traffic.Hooks
	WALWarn           int64         // bytes of retained WAL that status warns about, 0 for never
	WALSample         time.Duration // how long check watches the growth of WAL, 0 for a second
	FailoverPaused    bool          // the operator has paused the failover of old's standbys
	// NewFailoverPaused says the same of new's, for a rollback.
	NewFailoverPaused bool
	// Ignore are the IDs of findings that do not keep the move from starting.
	Ignore []string
	// Beside is how many databases are moved together, this one included; less
	// than two means that it moves alone.
	Beside int
	// Family is how the names of all of them begin, before an underscore.
	Family string
	// Watch starts the watchdog of the poolers' pause; see cutover.Cutover.
	Watch func(ctx context.Context, w cutover.Watched) (stop func(), err error)
}

// Endpoint is how one server is reached.
type Endpoint struct {
	URL     string
	PeerURL string // how the other server reaches it; empty means URL
}

// Move is an opened move: both servers are connected. Close it.
type Move struct {
	Options  Options
	Old, New *pg.Server
	Observer step.Observer
	scope    preflight.Scope
	compared driftMemo
	halted   stoppedMemo
	stall    time.Duration // subscriber.CopyWatch.Stall
	hurry    time.Duration // instead of statusPatience
}

// Open connects to both servers.
func Open(ctx context.Context, o Options, observer step.Observer) (*Move, error) {
	m := newMove(o, observer)
	var errOld, errNew error
	m.Old, errOld = m.open(ctx, pg.Old)
	m.New, errNew = m.open(ctx, pg.New)
	if err := errors.Join(errOld, errNew); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func newMove(o Options, observer step.Observer) *Move {
	if observer == nil {
		observer = step.NopObserver{}
	}
	return &Move{Options: o, Observer: observer, scope: preflight.Scope{Include: o.Include, Exclude: o.Exclude}}
}

// Close ends all connections.
func (m *Move) Close() {
	for _, s := range []*pg.Server{m.Old, m.New} {
		if s != nil {
			s.Close()
		}
	}
}

// lockBound is how long a command waits for the one-tool lock.
const lockBound = 10 * time.Second

// locked runs f while the one-tool lock is held on old; losing it cancels f's
// context.
func (m *Move) locked(ctx context.Context, purpose string, f func(context.Context) error) error {
	return locked(ctx, m.Old, purpose, f)
}

func locked(ctx context.Context, on *pg.Server, purpose string, f func(context.Context) error) error {
	held, release, err := pg.HoldLock(ctx, on, purpose, lockBound)
	if err != nil {
		return err
	}
	defer release()
	return f(held)
}

// NewCutover returns a cutover of this move, after comparing both servers with
// those that the move was started with.
func (m *Move) NewCutover(ctx context.Context) (*cutover.Cutover, error) {
	recorded, err := state.Verify(ctx, m.Options.Name, m.Old, m.New)
	if err != nil {
		return nil, err
	}
	if err := m.goesOn(ctx); err != nil {
		return nil, err
	}
	return m.cutover(*recorded), nil
}

// NewRollback returns the cutover in the other direction: from new to old,
// through the stream that the cutover left behind. leaveBehind accepts that what
// was made on new since and is not in that stream stays there; see NotGoingBack.
func (m *Move) NewRollback(ctx context.Context, leaveBehind bool) (*cutover.Cutover, error) {
	recorded, err := state.Verify(ctx, m.Options.Name, m.Old, m.New)
	if err != nil {
		return nil, err
	}
	if err := m.goesOn(ctx); err != nil {
		return nil, err
	}
	c := m.rollback(*recorded)
	c.Settings.LeaveBehind = leaveBehind
	c.Gates = func(ctx context.Context) error { return m.gatesTo(ctx, state.Back, leaveBehind) }
	return c, nil
}

func (m *Move) rollback(recorded state.Move) *cutover.Cutover {
	c := m.cutover(recorded)
	c.Direction = state.Back
	return c
}

func (m *Move) cutover(recorded state.Move) *cutover.Cutover {
	settings := m.Options.Cutover
	settings.Margin = m.Options.Margin
	settings.AnalyzeJobs = m.Options.Analyze.Jobs
	settings.InScope = m.scope.Match
	return &cutover.Cutover{
		Old: m.Old, New: m.New, Move: recorded, Settings: settings,
		Drivers: m.Options.Traffic, Hooks: m.Options.Hooks, Observer: m.Observer,
		Direction: state.Forward, Watch: m.Options.Watch,
		Gates: func(ctx context.Context) error { return m.gatesTo(ctx, state.Forward, false) },
	}
}

// ErrBlockers is wrapped when checks found blockers; the report says which.
var ErrBlockers = errors.New("checks found blockers")

// Check runs every preflight check, and sets those findings aside that
// Options.Ignore names. It changes nothing.
func (m *Move) Check(ctx context.Context) (preflight.Report, error) {
	report, err := preflight.Run(ctx, m.pair(), preflight.All(), checkJobs)
	report.Ignore(m.Options.Ignore)
	return report, err
}

const checkJobs = 4

// syncWorkers is how many tables Postgres copies at a time unless
// max_sync_workers_per_subscription says otherwise.
const syncWorkers = 2

func (m *Move) pair() *preflight.Pair {
	return &preflight.Pair{
		Old: m.Old, New: m.New, Scope: m.scope,
		Settings: preflight.Settings{
			SyncWorkers: syncWorkers, Databases: m.Options.Beside, Family: m.Options.Family,
			WALWarn: m.Options.WALWarn, Sample: m.Options.WALSample, Pause: m.Options.Cutover.MaxPause,
			FailoverPaused: m.Options.FailoverPaused, Rollback: m.Options.Cutover.WayBack, TerminateBlockers: m.Options.Cutover.TerminateAfter > 0,
			ClosedDisconnects: m.Options.Cutover.OnClosed == fence.Disconnect, InFreeze: m.inFreeze,
		},
	}
}

// inFreeze tells the checks what a cutover is going to do about what logical
// replication does not carry.
func (m *Move) inFreeze(ctx context.Context, source *pg.Server) (*preflight.InFreeze, error) {
	return m.Options.Cutover.Unreplicated.InFreeze(ctx, source, m.scope.Match)
}

// gatesTo are the preflight checks that a cutover and a rollback repeat, with
// the roles of the servers in that direction.
func (m *Move) gatesTo(ctx context.Context, d state.Direction, leaveBehind bool) error {
	pair := m.pair()
	if d == state.Back {
		pair.Old, pair.New = m.New, m.Old
		pair.Settings.FailoverPaused = m.Options.NewFailoverPaused
	}
	report, err := preflight.Run(ctx, pair, preflight.Gates(), checkJobs)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range report.Blockers() {
		errs = append(errs, blocker(f))
	}
	if !leaveBehind {
		if err := m.schemaGate(ctx, d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func blocker(f preflight.Finding) error {
	text := fmt.Sprintf("%s on %s: %s: %s", f.ID, f.Server, f.Object, f.Seen)
	return cutover.Blocked(f.Fix, text)
}
