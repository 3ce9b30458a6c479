package warmup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Stage is one round of ANALYZE over the tables: the value that
// default_statistics_target has meanwhile. ALTER TABLE ... SET STATISTICS goes
// before it, as the server honours it in every stage.
// Postgres manual: 20.7.4, default_statistics_target.
type Stage int

// DefaultTarget is the stage that uses the server's, or the database's, own
// default_statistics_target.
const DefaultTarget Stage = 0

// String returns the target, or "default".
func (s Stage) String() string {
	if s == DefaultTarget {
		return "default"
	}
	return strconv.Itoa(int(s))
}

// Stages are those of vacuumdb --analyze-in-stages.
func Stages() []Stage { return []Stage{1, 10, DefaultTarget} }

// AnalyzeOptions say how statistics are gathered. The zero value is ready for
// use.
type AnalyzeOptions struct {
	// Stages are the rounds, in order; none means Stages() for Analyze and
	// only the default target for AnalyzeTables. All but the last touch only
	// tables that had no statistics when the call began: others would lose
	// good statistics for poor ones meanwhile.
	Stages []Stage
	// Jobs is the number of tables analyzed at the same time; 0 means 4. A job
	// needs one session, on a partitioned table before 18 two.
	Jobs int
	// PerTable bounds one table's ANALYZE; 0 means 15 minutes.
	PerTable time.Duration
	// LockTimeout bounds the wait for one table's lock; 0 means 3 seconds.
	// Below the server's deadlock_timeout (1 s) an autovacuum worker is never
	// told to give way.
	LockTimeout time.Duration
	// Attempts is how often, after the last stage, a table whose lock was not
	// to be had is tried again; 0 means 3, a negative number never.
	Attempts int
	// Changed is the part of a table's rows that must have changed since its
	// last ANALYZE for AnalyzeTables to analyze it, on top of 50 rows; 0 means
	// 0.1, as autovacuum's default.
	Changed float64
	// Progress, which may be nil, is called after each table of each stage, by
	// one goroutine at a time. It must return soon.
	Progress func(AnalyzeProgress)
}

func (o AnalyzeOptions) withDefaults() AnalyzeOptions {
	o.Jobs = cmp.Or(max(o.Jobs, 0), 4)
	o.PerTable = cmp.Or(max(o.PerTable, 0), 15*time.Minute)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), 3*time.Second)
	o.Attempts = max(cmp.Or(o.Attempts, 3), 0)
	if o.Changed <= 0 {
		o.Changed = 0.1
	}
	return o
}

// Analyze gathers statistics of all application tables, stage by stage, in
// o.Jobs sessions, biggest table first. Partitioned tables follow their
// partitions within each stage.
//
// A table that cannot be analyzed does not stop the others: one whose lock is
// not to be had is left out until the end of the last stage and then tried
// again o.Attempts times, so that it costs at most (o.Attempts + 2) times
// o.LockTimeout. Whatever the outcomes, the error is nil when every table with
// rows has statistics at the end (perhaps of an earlier stage or an earlier
// call: see AnalyzeReport.Unfinished); otherwise it is a
// *MissingStatisticsError that names them. Other errors mean that the server
// could not be reached or that ctx ended. The report holds what was done.
//
// Analyze may be repeated; it must not run twice at the same time, since both
// would wait for each other's locks.
// Postgres manual: ANALYZE; vacuumdb --analyze-in-stages; 24.1.3, Updating
// Planner Statistics.
func Analyze(ctx context.Context, s *pg.Server, o AnalyzeOptions) (AnalyzeReport, error) {
	o = o.withDefaults()
	if len(o.Stages) == 0 {
		o.Stages = Stages()
	}
	a := &analysis{server: s, options: o}
	report, err := a.run(ctx, func(all []*relation) []*relation {
		biggestFirst(all)
		return all
	})
	if err != nil {
		return report, fmt.Errorf("analyzing the %s server: %w", s.Side(), err)
	}
	return report, nil
}

// AnalyzeTables gathers statistics of those of the given tables (all, when
// there are none given) that have no statistics or have changed by more than
// o.Changed since they were last analyzed, hottest first: those whose rows
// were read and written most. A partitioned table is analyzed when one of its
// partitions is, or when it has no statistics. A name that is no application
// table is an error, before anything is done.
//
// Errors and locks are as with Analyze; only tables given count as missing.
func AnalyzeTables(ctx context.Context, s *pg.Server, tables []Table, o AnalyzeOptions) (AnalyzeReport, error) {
	o = o.withDefaults()
	if len(o.Stages) == 0 {
		o.Stages = []Stage{DefaultTarget}
	}
	a := &analysis{server: s, options: o, only: tables}
	report, err := a.run(ctx, func(all []*relation) []*relation {
		changed := a.changed(all)
		hottestFirst(changed)
		return changed
	})
	if err != nil {
		return report, fmt.Errorf("analyzing tables of the %s server: %w", s.Side(), err)
	}
	return report, nil
}

// analysis is one call of Analyze or AnalyzeTables.
type analysis struct {
	server  *pg.Server
	options AnalyzeOptions
	only    []Table // none: all application tables

	known map[uint32]*relation
	bare  map[uint32]bool // had rows and no statistics at the beginning

	mu    sync.Mutex // guards what follows, and Progress
	done  map[uint32]*TableAnalysis
	total int
	count int
}

// run does the work on the tables that choose picks, in its order.
func (a *analysis) run(ctx context.Context, choose func([]*relation) []*relation) (report AnalyzeReport, err error) {
	began := time.Now()
	report.Stages, report.Missing = []StageReport{}, []Table{} // lists in JSON, never null
	defer func() {
		report.Tables = a.tables()
		report.Took = time.Since(began)
	}()
	all, err := a.look(ctx)
	if err != nil {
		return report, err
	}
	chosen := choose(all)
	sessions, err := a.open(ctx, len(chosen))
	defer sessions.close(ctx)
	if err != nil {
		return report, err
	}
	if err := a.forbid(ctx, sessions, chosen); err != nil {
		return report, err
	}
	for i, stage := range a.options.Stages {
		stageReport, err := a.stage(ctx, sessions, i, stage, chosen)
		if err != nil {
			return report, err
		}
		report.Stages = append(report.Stages, stageReport)
	}
	missing, err := a.missing(ctx)
	if missing != nil {
		report.Missing = missing
	}
	return report, err
}

// look lists the tables that are asked for and notes which lack statistics.
func (a *analysis) look(ctx context.Context) ([]*relation, error) {
	conn, err := openMissing(ctx, a.server)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	all, missing, err := relationsMissing(ctx, conn)
	if err != nil {
		return nil, err
	}
	a.known, a.bare, a.done = byOID(all), map[uint32]bool{}, map[uint32]*TableAnalysis{}
	for _, r := range missing {
		a.bare[r.OID] = true
	}
	return a.asked(all)
}

// asked returns those of all that the caller named.
func (a *analysis) asked(all []*relation) ([]*relation, error) {
	if len(a.only) == 0 {
		return all, nil
	}
	byName := make(map[Table]*relation, len(all))
	for _, r := range all {
		byName[r.Table] = r
	}
	found := make([]*relation, 0, len(a.only))
	for _, t := range a.only {
		r := byName[t]
		if r == nil {
			return nil, fmt.Errorf("looking up %s: %w", t, errNotApplication)
		}
		if !slices.Contains(found, r) {
			found = append(found, r)
		}
	}
	return found, nil
}

// changedRows is autovacuum's default of autovacuum_analyze_threshold.
const changedRows = 50

// changed returns the tables that AnalyzeTables has to analyze.
func (a *analysis) changed(all []*relation) []*relation {
	stale := map[uint32]bool{}
	for _, r := range all {
		limit := changedRows + a.options.Changed*float64(max(r.Tuples, 0))
		stale[r.OID] = a.bare[r.OID] || float64(r.Changed) > limit
	}
	var chosen []*relation
	for _, r := range all {
		touched := slices.ContainsFunc(r.descendants(a.known), func(oid uint32) bool { return stale[oid] })
		if stale[r.OID] || touched {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

// forbid takes out, by noting their outcome, the tables that the role may not
// analyze: ANALYZE would only warn about them.
func (a *analysis) forbid(ctx context.Context, sessions *sessions, chosen []*relation) error {
	if len(chosen) == 0 {
		return nil
	}
	forbidden, err := forbiddenTables(ctx, sessions.all[0].conn, a.server.Version())
	if err != nil {
		return err
	}
	for _, r := range chosen {
		if forbidden[r.OID] {
			a.entry(r).Outcome = NotPermitted
		}
	}
	return nil
}

// stage does one round, and after the last one tries again what was locked.
func (a *analysis) stage(ctx context.Context, sessions *sessions, i int, stage Stage, chosen []*relation) (StageReport, error) {
	began := time.Now()
	last := i == len(a.options.Stages)-1
	var todo []*relation
	for _, r := range chosen {
		// What is locked now waits for the last stage.
		again := a.outcome(r) == "" || a.outcome(r) == Analyzed || last && a.outcome(r) != NotPermitted
		if again && a.outcome(r) != Gone && (last || a.bare[r.OID]) {
			todo = append(todo, r)
		}
	}
	a.count, a.total = 0, len(todo)
	if err := sessions.setTarget(ctx, stage); err != nil {
		return StageReport{}, err
	}
	report := StageReport{Target: stage.String()}
	for attempt := 0; len(todo) > 0; attempt++ {
		for _, lists := range inOrder(todo, a.known) {
			if err := a.round(ctx, sessions, i, lists); err != nil {
				return report, err
			}
		}
		var locked []*relation
		for _, r := range todo {
			switch a.outcome(r) {
			case Analyzed:
				report.Tables++
			case Locked:
				locked = append(locked, r)
			}
		}
		todo = locked
		if !last || attempt == a.options.Attempts {
			break
		}
		a.count -= len(todo)
	}
	report.Took = time.Since(began)
	return report, nil
}

// inOrder returns what has to be done one after the other: first the tables
// that hold rows, then the partitioned ones. Their ANALYZE goes on to the
// partitions before 18, and would wait there for the other sessions. Each
// inner list is for one session: the partitioned tables of one tree.
func inOrder(todo []*relation, known map[uint32]*relation) [2][][]*relation {
	var order [2][][]*relation
	parents := map[uint32]*relation{}
	for _, r := range known {
		if r.Kind == PartitionedTable {
			for _, child := range r.children {
				parents[child] = r
			}
		}
	}
	trees := map[uint32]int{}
	for _, r := range todo {
		if r.Kind != PartitionedTable {
			order[0] = append(order[0], []*relation{r})
			continue
		}
		root := r
		for parents[root.OID] != nil {
			root = parents[root.OID]
		}
		at, ok := trees[root.OID]
		if !ok {
			at = len(order[1])
			trees[root.OID] = at
			order[1] = append(order[1], nil)
		}
		order[1][at] = append(order[1][at], r)
	}
	return order
}

// round works the lists off in all sessions.
func (a *analysis) round(ctx context.Context, sessions *sessions, i int, lists [][]*relation) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for _, se := range sessions.all[:min(len(sessions.all), len(lists))] {
		g.Go(func() error {
			for {
				at := int(next.Add(1)) - 1
				if at >= len(lists) {
					return nil
				}
				for _, r := range lists[at] {
					if err := a.one(ctx, se, i, r); err != nil {
						return err
					}
				}
			}
		})
	}
	return g.Wait()
}

// one analyzes a table and notes what became of it. Its error means that no
// other table can be analyzed either.
func (a *analysis) one(ctx context.Context, se *session, i int, r *relation) error {
	began := time.Now()
	err := se.analyze(ctx, r, r.descendants(a.known))
	if ctx.Err() != nil {
		return fmt.Errorf("analyzing %s: %w", r.Table, cancelled(ctx))
	}
	outcome, reason := judge(err)
	var blockers []Blocker
	if outcome == Locked {
		if blockers, err = blockersOf(ctx, se.conn, r.Table, r.OID, r.descendants(a.known)); err != nil && !pg.Lost(err) {
			return err
		}
	}
	if se.conn.IsClosed() {
		if err := se.reopen(ctx); err != nil {
			return err
		}
	}
	a.note(i, r, outcome, reason, blockers, time.Since(began))
	return nil
}

// entry returns the table's line of the report. The caller holds a.mu, or is
// alone.
func (a *analysis) entry(r *relation) *TableAnalysis {
	t := a.done[r.OID]
	if t == nil {
		t = &TableAnalysis{Table: r.Table, Kind: r.Kind, Bytes: r.Bytes, Targets: []string{}}
		a.done[r.OID] = t
	}
	return t
}

func (a *analysis) outcome(r *relation) Outcome {
	if t := a.done[r.OID]; t != nil {
		return t.Outcome
	}
	return ""
}

// note writes into the report and tells the caller.
func (a *analysis) note(i int, r *relation, outcome Outcome, reason string, blockers []Blocker, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	stage := a.options.Stages[i].String()
	t := a.entry(r)
	t.Outcome, t.Reason, t.Blockers = outcome, reason, blockers
	t.Attempts++
	t.Took += took
	if outcome == Analyzed {
		t.Targets = append(t.Targets, stage)
	}
	a.count++
	if a.options.Progress != nil {
		a.options.Progress(AnalyzeProgress{
			Target: stage, Stage: i + 1, Stages: len(a.options.Stages), Table: r.Table, Outcome: outcome,
			Done: a.count, Total: a.total, Took: took, Blockers: blockers,
		})
	}
}

func (a *analysis) tables() []TableAnalysis {
	tables := make([]TableAnalysis, 0, len(a.done))
	for _, t := range a.done {
		tables = append(tables, *t)
	}
	slices.SortFunc(tables, func(x, y TableAnalysis) int {
		return cmp.Or(cmp.Compare(x.Schema, y.Schema), cmp.Compare(x.Name, y.Name))
	})
	return tables
}

// missing looks again, and returns what has no statistics and an error that
// says why. Of tables that this role may not read, the ANALYZE that was just
// done is proof enough: the server may remember it only later, or never.
func (a *analysis) missing(ctx context.Context) ([]Table, error) {
	conn, err := openMissing(ctx, a.server)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	_, without, err := relationsMissing(ctx, conn)
	if err != nil {
		return nil, err
	}
	missing := []Table{}
	failure := &MissingStatisticsError{}
	for _, r := range without {
		if len(a.only) > 0 && !slices.Contains(a.only, r.Table) {
			continue
		}
		tried := TableAnalysis{Table: r.Table, Kind: r.Kind, Bytes: r.Bytes}
		if t := a.done[r.OID]; t != nil {
			tried = *t
		}
		if tried.Outcome == Analyzed && !r.Readable {
			continue
		}
		missing = append(missing, r.Table)
		failure.Tables = append(failure.Tables, tried)
	}
	if len(missing) == 0 {
		return missing, nil
	}
	return missing, hint.With(failure, advice(failure.Tables))
}
