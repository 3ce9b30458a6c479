package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

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
	// Stages are the targets, in order; none means Stages() for Analyze and
	// only the default target for AnalyzeTables. All but the last are for big
	// tables that have no statistics at all: others would lose good statistics
	// for poor ones meanwhile, and small ones get the last target at once, as
	// soon as the big ones have the first. Of parents only the first and the last
	// are done, and so they are of all tables as long as the stages are those of
	// Stages() and no more big tables have none than there are Jobs: the last
	// stage of each begins as soon as the small tables are done.
	Stages []Stage
	// Small is up to which size of the main fork, in bytes, a table is small; of a
	// partitioned table the partitions count. 0 means 16 MB, a negative number
	// that none is.
	Small int64
	// Foreign says that foreign tables are analyzed, too: their servers send a
	// sample, or all rows.
	Foreign bool
	// Jobs is the number of tables analyzed at the same time; 0 means 4. A job
	// needs one session, on a partitioned table before 18 two.
	Jobs int
	// PerTable bounds one table's ANALYZE; 0 means 15 minutes.
	PerTable time.Duration
	// Answer is how long the server may take for what is quick, and for an ANALYZE
	// beyond PerTable; after that the session is given up. 0 means 5 minutes.
	Answer time.Duration
	// LockTimeout bounds the wait for one table's lock; 0 means 3 seconds.
	// Below the server's deadlock_timeout (1 s) an autovacuum worker is never
	// told to give way.
	LockTimeout time.Duration
	// Attempts is how often, at the end, a table whose lock was not to be had is
	// tried again; 0 means 3, a negative number never.
	Attempts int
	// Usage is how much tables are used on the server that serves, see
	// [ReadUsage]: the most used ones come first. Nil means biggest first for
	// Analyze, and for AnalyzeTables what the server itself has counted.
	Usage Usage
	// Changed is the part of a table's rows that must have changed since its
	// last ANALYZE for AnalyzeTables to analyze it, on top of 50 rows; 0 means
	// what autovacuum would wait for: autovacuum_analyze_threshold and
	// autovacuum_analyze_scale_factor, the table's own or the server's.
	Changed float64
	// Since makes AnalyzeTables analyze what was not analyzed since, by the
	// server's memory of it. The zero time asks for nothing of the kind.
	Since time.Time
	// Within bounds all of it: no ANALYZE begins or goes on after that. What is
	// left is in the report. 0 means no bound.
	Within time.Duration
	// Gently lets live queries come first: the sessions pause again and again, see
	// vacuum_cost_delay, and an ANALYZE ends as soon as somebody waits for the
	// lock that it holds on its table.
	Gently bool
	// Progress, which may be nil, is called after each table of each stage, by
	// one goroutine at a time. It must return soon.
	Progress func(AnalyzeProgress)
}

// smallTable is where rough statistics first begin to pay: an ANALYZE of so many
// bytes takes a small part of a second.
const smallTable = 16 << 20

func (o AnalyzeOptions) withDefaults() AnalyzeOptions {
	o.Jobs = cmp.Or(max(o.Jobs, 0), 4)
	o.PerTable = cmp.Or(max(o.PerTable, 0), 15*time.Minute)
	o.Answer = cmp.Or(max(o.Answer, 0), 5*time.Minute)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), 3*time.Second)
	o.Attempts = max(cmp.Or(o.Attempts, 3), 0)
	o.Small = cmp.Or(o.Small, smallTable)
	return o
}

// Analyze gathers statistics of all application tables in o.Jobs sessions, the
// most used table first. Partitioned tables and inheritance parents follow what is
// below them.
//
// A table that cannot be analyzed does not stop the others: one whose lock is
// not to be had is left out until the end and then tried again o.Attempts times, so that it costs at most (o.Attempts + 2) times
// o.LockTimeout. Whatever the outcomes, the error is nil when no table has a
// hole at the end, see [Holes] (its statistics may be of an earlier stage or an
// earlier call: see AnalyzeReport.Unfinished); otherwise it is a
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
	a := &analysis{server: s, options: o, all: true}
	report, err := a.run(ctx, func(_ context.Context, _ *pgx.Conn, all []*relation) ([]*relation, error) {
		inUsageOrder(all, o.Usage, biggestFirst)
		return all, nil
	})
	if err != nil {
		return report, fmt.Errorf("analyzing the %s server: %w", s.Side(), err)
	}
	return report, nil
}

// AnalyzeTables gathers statistics of those of the given tables (all, when
// there are none given) that need it, the most used ones first:
//
//   - that have a hole, see [Holes], or an index on an expression without
//     statistics;
//   - of which more has changed since they were last analyzed than o.Changed says;
//   - that were not analyzed since o.Since, if it is set;
//   - that have rough statistics only, of a stage that was not the last one;
//   - partitioned tables and inheritance parents of which a descendant is one of
//     these, or was analyzed later than they.
//
// A name that is no application table is an error, before anything is done.
// Errors and locks are as with Analyze; only tables given count as missing.
func AnalyzeTables(ctx context.Context, s *pg.Server, tables []Table, o AnalyzeOptions) (AnalyzeReport, error) {
	o = o.withDefaults()
	if len(o.Stages) == 0 {
		o.Stages = []Stage{DefaultTarget}
	}
	a := &analysis{server: s, options: o, only: tables}
	report, err := a.run(ctx, func(ctx context.Context, conn *pgx.Conn, all []*relation) ([]*relation, error) {
		chosen, err := a.due(ctx, conn, all)
		inUsageOrder(chosen, o.Usage, hottestFirst)
		return chosen, err
	})
	if err != nil {
		return report, fmt.Errorf("analyzing tables of the %s server: %w", s.Side(), err)
	}
	return report, nil
}

func inUsageOrder(all []*relation, usage Usage, otherwise func([]*relation)) {
	if usage == nil {
		otherwise(all)
		return
	}
	mostUsedFirst(all, usage)
}

// analysis is one call of Analyze or AnalyzeTables.
type analysis struct {
	server  *pg.Server
	options AnalyzeOptions
	all     bool    // whether or not there is need
	only    []Table // none: all application tables
	until   time.Time

	known map[uint32]*relation
	lacks map[uint32]string // holes at the beginning

	began time.Time

	mu      sync.Mutex // guards what follows, and Progress
	done    map[uint32]*TableAnalysis
	full    map[uint32]bool // the last stage is done
	reports []StageReport
	total   int
	count   int
}

func (a *analysis) begin(at time.Time) {
	a.began, a.done, a.full = at, map[uint32]*TableAnalysis{}, map[uint32]bool{}
	a.reports = make([]StageReport, len(a.options.Stages))
	for i, stage := range a.options.Stages {
		a.reports[i].Target = stage.String()
	}
}

// run does the work on the tables that choose picks, in its order.
func (a *analysis) run(ctx context.Context, choose func(context.Context, *pgx.Conn, []*relation) ([]*relation, error)) (report AnalyzeReport, err error) {
	began := time.Now()
	if a.options.Within > 0 {
		a.until = began.Add(a.options.Within)
	}
	report.Missing = []Table{} // in JSON a list, never null
	a.begin(began)
	defer func() {
		report.Stages, report.Tables = a.reports, a.tables()
		report.Took = time.Since(began)
	}()
	var chosen []*relation
	err = answered(ctx, a.server, surveyAnswer+a.options.Answer, func(ctx context.Context) (err error) {
		chosen, err = a.look(ctx, choose)
		return err
	})
	if err != nil || len(chosen) == 0 { // a table with a hole is chosen
		return report, err
	}
	sessions, err := a.open(ctx, len(chosen))
	defer sessions.close(ctx)
	if err != nil {
		return report, err
	}
	err = answered(ctx, a.server, a.options.Answer, func(ctx context.Context) error { return a.forbid(ctx, sessions, chosen) })
	if err != nil {
		return report, err
	}
	watched, err := a.watched(ctx, sessions)
	if err != nil {
		return report, err
	}
	err = a.stages(ctx, sessions, chosen)
	if err := errors.Join(err, watched()); err != nil {
		return report, err
	}
	a.leave(chosen)
	err = answered(ctx, a.server, surveyAnswer+time.Duration(len(a.known))*probeBound+a.options.Answer, func(ctx context.Context) error {
		missing, err := a.missing(ctx)
		if missing != nil {
			report.Missing = missing
		}
		return err
	})
	return report, err
}

// look lists the tables that are asked for, notes which lack statistics, and
// chooses.
func (a *analysis) look(ctx context.Context, choose func(context.Context, *pgx.Conn, []*relation) ([]*relation, error)) ([]*relation, error) {
	conn, err := openMissing(ctx, a.server)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	// Who analyzes all of them needs not know which are empty.
	found, err := surveyRows(ctx, conn, a.server.Version(), a.options.Foreign, a.all)
	if err != nil {
		return nil, err
	}
	a.known, a.lacks = found.known, found.lacks
	a.done, a.full = map[uint32]*TableAnalysis{}, map[uint32]bool{}
	asked, err := a.asked(found.all)
	if err != nil {
		return nil, err
	}
	return choose(ctx, conn, asked)
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

// missing looks again, and returns what has no statistics and an error that
// says why. Of tables that this role may not read, the ANALYZE that was just
// done is proof enough: the server may remember it only later, or never.
func (a *analysis) missing(ctx context.Context) ([]Table, error) {
	conn, err := openMissing(ctx, a.server)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	found, err := survey(ctx, conn, a.server.Version(), false)
	if err != nil {
		return nil, err
	}
	missing := []Table{}
	failure := &MissingStatisticsError{}
	for _, r := range found.all {
		if found.lacks[r.OID] == "" || len(a.only) > 0 && !slices.Contains(a.only, r.Table) {
			continue
		}
		tried := TableAnalysis{Table: r.Table, Kind: r.Kind, Bytes: r.Bytes}
		if t := a.done[r.OID]; t != nil {
			tried = *t
		}
		if tried.Outcome == Analyzed && !r.Readable {
			continue
		}
		if lacks := found.lacks[r.OID]; lacks != lacksAll {
			tried.Lacks = lacks
		}
		missing = append(missing, r.Table)
		failure.Tables = append(failure.Tables, tried)
	}
	if len(missing) == 0 {
		return missing, nil
	}
	return missing, hint.With(failure, advice(failure.Tables))
}
