package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/probe"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/subscriber"
)

// List is what the journal calls the phases of a move.
const List = "start"

// long bounds phases whose time depends on the data.
const long = 30 * 24 * time.Hour

// Phases returns what start does, in order, after preflight.
func (m *Move) Phases() []step.Step { return (&start{Move: m}).phases() }

// start is one run of Start.
type start struct {
	*Move
	recorded state.Move
	asked    *startPlan // what the plan is filled in with; nil before it was asked for
}

// first is the stream that start makes.
func (m *Move) first() state.Stream { return state.FirstStream(m.Options.Name) }

func (s *start) phases() []step.Step {
	return []step.Step{
		{
			Name: "prepare", About: "make the fence's functions on both servers; close new for client writes", Bound: time.Minute,
			Do: s.prepare, Statements: s.planning(s.prepareStatements),
		},
		{
			Name: "roles", About: "make the roles that the database needs on new, with passwords where readable", Bound: 10 * time.Minute,
			Do: s.roles, Statements: s.planning(s.rolesStatements),
		},
		{
			Name: "schema", About: "copy the tables' definitions and their identity indexes to new", Bound: 6 * time.Hour,
			Do: s.schema, Statements: s.planning(s.schemaStatements),
		},
		{
			Name: "publish", About: "make the publication, then the slot, on old", Bound: 30 * time.Minute,
			Do: s.publish, Statements: s.planning(s.publishStatements),
		},
		{
			Name: "subscribe", About: "make the subscription on new, with an owner of its own, and enable it", Bound: 5 * time.Minute,
			Do: s.subscribe, Statements: s.planning(s.subscribeStatements),
		},
		{Name: "copy", About: "wait while Postgres copies the tables", Bound: long, Do: s.copy, Statements: s.planning(s.copyStatements)},
		{
			Name: "index", About: "restore the rest of the schema on new: indexes, foreign keys, triggers, views", Bound: long,
			Do: s.index, Statements: s.planning(s.indexStatements),
		},
		{
			Name: "statistics", About: "carry the planner's statistics over to new, from 18 on", Bound: time.Hour,
			Do: s.statistics, Statements: s.planning(s.statisticsStatements),
		},
		{
			Name: "database", About: "give new's database the settings, privileges, connection limit and comment of old's", Bound: time.Minute,
			Do: s.database, Statements: s.planning(s.databaseStatements),
		},
		{Name: "catch-up", About: "wait until new is close behind old", Bound: long, Do: s.catchUp, Statements: s.planning(s.catchUpStatements)},
		{
			Name: "refresh", About: "refresh the materialized views on new that are filled on old", Bound: 24 * time.Hour, Do: s.refresh,
			Statements: s.planning(s.refreshStatements),
		},
		{Name: "warm", About: "read recent rows, and what old has in its cache, on new, so that they are in its cache", Bound: 2 * time.Hour, Do: s.warm},
		{
			Name: "analyze", About: "make planner statistics on new, in stages", Bound: 24 * time.Hour, Do: s.analyze,
			Statements: s.planning(s.analyzeStatements),
		},
	}
}

// Start does the phases that are not done yet, up to and including until
// (empty for all). Running it again continues. Blockers found by preflight
// come back with the report and ErrBlockers.
func (m *Move) Start(soft, hard context.Context, until string) (preflight.Report, error) {
	if err := m.knownPhase(until); err != nil {
		return preflight.Report{}, err
	}
	report, err := m.Check(soft)
	if err != nil {
		return report, err
	}
	if n := len(report.Blockers()); n > 0 {
		return report, fmt.Errorf("%w: %d", ErrBlockers, n)
	}
	return report, m.begin(soft, hard, until)
}

// begin does the phases, after the checks.
func (m *Move) begin(soft, hard context.Context, until string) error {
	return m.locked(soft, "start", func(ctx context.Context) error {
		recorded, err := m.record(ctx)
		if err != nil {
			return err
		}
		pos, err := state.Locate(ctx, m.Old, m.New)
		if err != nil {
			return err
		}
		if pos.Forward != 0 {
			return hint.With(errors.New("this move has been cut over: there is nothing left to start"), "run: pgcutover status")
		}
		s := &start{Move: m, recorded: *recorded}
		return s.run(ctx, hard, until)
	})
}

func (m *Move) knownPhase(name string) error {
	if name == "" {
		return nil
	}
	var names []string
	for _, p := range m.Phases() {
		if p.Name == name {
			return nil
		}
		names = append(names, p.Name)
	}
	return fmt.Errorf("there is no phase %q: the phases are %v", name, names)
}

// record makes schema pgcutover on both servers, with the identity of both,
// and, before anything else changes on new, what new looks like.
func (m *Move) record(ctx context.Context) (*state.Move, error) {
	now, err := state.Observe(ctx, m.Options.Name, m.Old, m.New)
	if err != nil {
		return nil, err
	}
	for _, s := range []*pg.Server{m.Old, m.New} {
		if err := state.Create(ctx, s, *now); err != nil {
			return nil, state.WayOut(ctx, err, m.Old, m.New)
		}
	}
	mended, err := state.ReadMended(ctx, m.Old)
	if err != nil {
		return nil, err
	}
	if err := state.CopyMended(ctx, m.New, mended); err != nil {
		return nil, err
	}
	// No phase runs before this is recorded, so when it is missing new is still
	// as it was, also when an earlier start died in between.
	recorded, err := state.Before(ctx, m.New, &schema.State{})
	if err != nil {
		return nil, err
	}
	if !recorded {
		before, err := schema.Snapshot(ctx, m.New)
		if err != nil {
			return nil, err
		}
		if err := state.SetBefore(ctx, m.New, before); err != nil {
			return nil, err
		}
	}
	return now, nil
}

func (s *start) run(ctx, hard context.Context, until string) error {
	phases := s.phases()
	log, err := journal.Open(ctx, state.Journal{Server: s.New}, journal.Spec{List: List, Steps: step.Journal(phases), Rerunnable: true})
	if err != nil {
		return err
	}
	runner := &step.Runner{Log: log, Steps: phases, Observer: s.Observer, Keep: true}
	if until != "" {
		stop, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		runner.Observer = &untilObserver{Observer: s.Observer, until: until, stop: func() { cancel(errUntil) }}
		ctx = stop
	}
	err = runner.Run(ctx, hard)
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// errUntil stops a start that was asked to go to a phase only.
var errUntil = errors.New("stopped after the phase that was asked for")

type untilObserver struct {
	step.Observer
	until string
	stop  func()
}

func (u *untilObserver) StepDone(s step.Step, facts any, took time.Duration) {
	u.Observer.StepDone(s, facts, took)
	if s.Name == u.until {
		u.stop()
	}
}

func (u *untilObserver) StepSkipped(s step.Step, i, n int) {
	u.Observer.StepSkipped(s, i, n)
	if s.Name == u.until {
		u.stop()
	}
}

func (s *start) prepare(ctx context.Context) (any, error) {
	onClosed := s.Options.Cutover.OnClosed
	if err := fence.Install(ctx, s.Old, onClosed, s.recorded.Old.Database); err != nil {
		return nil, err
	}
	if err := fence.Install(ctx, s.New, onClosed, s.recorded.New.Database); err != nil {
		return nil, err
	}
	for _, server := range []*pg.Server{s.Old, s.New} {
		if err := probe.Install(ctx, server); err != nil {
			return nil, err
		}
	}
	return nil, fence.SetReadOnly(ctx, s.New, true)
}

type schemaFacts struct {
	Fenced     int                `json:"fenced"`
	Extensions []schema.Extension `json:"extensions,omitempty"`
	Notices    []schema.Notice    `json:"notices,omitempty"`
}

func (s *start) schema(ctx context.Context) (any, error) {
	report, err := s.extensions(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.restore(ctx, schema.PreData, schema.Identity); err != nil {
		return nil, err
	}
	if err := s.restored(ctx, false); err != nil {
		return nil, err
	}
	n, err := fence.Attach(ctx, s.New, 10*time.Minute, func(text string) { step.Progress(ctx, "%s", text) })
	return schemaFacts{Fenced: n, Extensions: report.Made, Notices: report.Notices}, err
}

// restore brings the given sections to new, unless the catalogs say that all
// of it is there. What an earlier start has brought is left as it is.
func (s *start) restore(ctx context.Context, sections ...schema.Section) error {
	missing, err := schema.Missing(ctx, s.Old, s.New, sections...)
	if err != nil || len(missing) == 0 {
		return err
	}
	archive, err := s.dump(ctx)
	if err != nil {
		return err
	}
	defer archive.Close() //nolint:errcheck // a temporary folder
	if err := s.dumped(ctx, archive); err != nil {
		return err
	}
	for _, section := range sections {
		step.Progress(ctx, "restoring %s", section)
		options := schema.RestoreOptions{Resume: true, Progress: func(text string) { step.Progress(ctx, "%s", text) }}
		if section == schema.PostData {
			options.Jobs = s.Options.IndexJobs
		}
		if err := archive.Restore(ctx, s.New, section, options); err != nil {
			return err
		}
	}
	return nil
}

func (s *start) dump(ctx context.Context) (*schema.Archive, error) {
	step.Progress(ctx, "running pg_dump on the old server")
	return schema.Dump(ctx, s.Old, os.TempDir())
}

type publishFacts struct {
	Tables     int    `json:"tables"`
	Consistent string `json:"consistent_point"`
}

func (s *start) publish(ctx context.Context) (any, error) {
	tables, err := publisher.Tables(ctx, s.Old, s.scope.Match)
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		return nil, hint.With(errors.New("no table is in scope: there is nothing to move"), "look at tables.include and tables.exclude")
	}
	if err := publisher.EnsurePublication(ctx, s.Old, s.first(), tables, s.New.Major()); err != nil {
		return nil, err
	}
	lsn, err := publisher.EnsureSlot(ctx, s.Old, s.first(), 20*time.Minute, func(text string) { step.Progress(ctx, "%s", text) })
	if err != nil {
		return nil, err
	}
	return publishFacts{Tables: len(tables), Consistent: lsn.String()}, nil
}

func (s *start) subscribe(ctx context.Context) (any, error) {
	owner, err := subscriber.EnsureRole(ctx, s.New)
	if err != nil {
		return nil, err
	}
	conninfo, err := s.Old.Peer()
	if err != nil {
		return nil, err
	}
	if s.Options.Cutover.WayBack {
		if _, err := subscriber.EnsureRole(ctx, s.Old); err != nil {
			return nil, hint.With(err, "this is for the way back; a move without one sets rollback.keep: false")
		}
	}
	if err := subscriber.Ensure(ctx, s.New, s.first(), conninfo, owner); err != nil {
		return nil, err
	}
	return nil, subscriber.SetEnabled(ctx, s.New, s.first(), true)
}

func (s *start) copy(ctx context.Context) (any, error) {
	return nil, subscriber.WaitReady(ctx, s.New, s.first(), s.copyWatch(), func(text string) { step.Progress(ctx, "%s", text) })
}

// index stops the apply worker meanwhile: building indexes and foreign keys
// beside it could deadlock with it, and it would wait anyway.
func (s *start) index(ctx context.Context) (any, error) {
	if err := s.restorePostData(ctx); err != nil {
		return nil, err
	}
	if err := s.restored(ctx, true); err != nil {
		return nil, err
	}
	n, err := fence.Attach(ctx, s.New, 10*time.Minute, func(text string) { step.Progress(ctx, "%s", text) })
	return schemaFacts{Fenced: n}, err
}

func (s *start) restorePostData(ctx context.Context) (err error) {
	if err := subscriber.SetEnabled(ctx, s.New, s.first(), false); err != nil {
		return err
	}
	// Whatever happens: the stream must not stand still, and retain WAL, while
	// somebody reads an error.
	defer func() {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, subscriber.SetEnabled(again, s.New, s.first(), true))
	}()
	if err := subscriber.WaitStopped(ctx, s.New, s.first(), time.Minute); err != nil {
		return err
	}
	return s.restore(ctx, schema.PostData)
}

type lagFacts struct {
	Bytes int64 `json:"lag_bytes"`
}

func (s *start) catchUp(ctx context.Context) (any, error) {
	var lag publisher.Lag
	err := pg.Wait(ctx, "the new server to catch up", 200*time.Millisecond, 0, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			var err error
			if lag, err = publisher.ReadLag(ctx, s.Old, s.first()); err != nil {
				return false, "", err
			}
			if !lag.Connected {
				return false, "the new server does not stream (its apply worker starts within wal_retrieve_retry_interval)", nil
			}
			return lag.Bytes <= s.Options.Cutover.MaxLag, fmt.Sprintf("%d bytes behind", lag.Bytes), nil
		})
	return lagFacts{lag.Bytes}, err
}

func (s *start) refresh(ctx context.Context) (any, error) {
	if err := schema.Refresh(ctx, s.Old, s.New, func(text string) { step.Progress(ctx, "%s", text) }); err != nil {
		return nil, err
	}
	views, err := schema.RefreshAgainSQL(ctx, s.Old, s.New)
	return ViewStatus{Filled: len(views), At: time.Now().UTC()}, err
}

func (s *start) warm(ctx context.Context) (any, error) {
	round, err := s.Warm(ctx)
	return round.Report, err
}
