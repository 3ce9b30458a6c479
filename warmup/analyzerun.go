package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// task is an ANALYZE of one table in one stage.
type task struct {
	*relation
	stage int // the place in AnalyzeOptions.Stages
}

// isRough tells that a better stage follows.
func (a *analysis) isRough(t task) bool { return t.stage < len(a.options.Stages)-1 }

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

// stages does all that is to be done to the chosen tables, in their order:
//
//  1. the first stage of big tables that have no statistics, and of their parents;
//  2. the last stage of the small ones, and then the other stages of the big ones;
//  3. the last stage of parents, which look into all that is below them;
//  4. what was locked, again.
//
// No session waits for the others between these, see queue.
func (a *analysis) stages(ctx context.Context, sessions *sessions, chosen []*relation) error {
	w := a.work(chosen)
	a.total = len(w.first) + len(w.big) + len(w.small) + len(w.parents)
	q := a.newQueue(slices.Concat(w.big, w.parents), slices.Concat(w.first, w.small), len(w.small)/2)
	if err := a.lanes(ctx, sessions, q, a.early(w)); err != nil {
		return err
	}
	return a.again(ctx, sessions, slices.Concat(w.big, w.small, w.parents))
}

// work is what is to be done.
type work struct {
	first, big, small, parents []task
}

func (a *analysis) work(chosen []*relation) work {
	var w work
	last := len(a.options.Stages) - 1
	stages := make([][]task, last+1)
	var rough []task // of parents
	between := a.between(chosen)
	for _, r := range chosen {
		switch small := a.small(r); {
		case a.outcome(r) == NotPermitted:
		case r.isParent():
			w.parents = append(w.parents, task{r, last})
			if !small && a.bare(r) && last > 0 && separate(a.server.Version(), r, r.descendants(a.known)) {
				rough = append(rough, task{r, 0})
			}
		case small:
			w.small = append(w.small, task{r, last})
		default:
			for i := range stages {
				if i == last || a.bare(r) && (i == 0 || between) {
					stages[i] = append(stages[i], task{r, i})
				}
			}
		}
	}
	if last > 0 {
		w.first = append(stages[0], a.deepestFirst(rough)...)
		stages = stages[1:]
	}
	w.big, w.parents = slices.Concat(stages...), a.deepestFirst(w.parents)
	slices.SortStableFunc(w.small, func(x, y task) int { // what has statistics can wait
		return cmp.Compare(btoi(a.lacks[x.OID] == ""), btoi(a.lacks[y.OID] == ""))
	})
	return w
}

// between tells whether the stages between the first and the last one are done:
// always where the caller asks for stages of his own, otherwise where big tables
// have to wait for the last one, since there are more of them than sessions.
func (a *analysis) between(chosen []*relation) bool {
	waiting := 0
	for _, r := range chosen {
		if !a.small(r) && a.bare(r) && !r.isParent() {
			waiting++
		}
	}
	return waiting > a.options.Jobs || !slices.Equal(a.options.Stages, Stages())
}

// early is how many sessions turn to big tables when half of the small ones are
// done: where there are fewer big tables than sessions, some of these would have
// nothing to do at the end.
func (a *analysis) early(w work) int {
	big := 0
	for _, t := range w.big {
		big += btoi(!a.isRough(t))
	}
	return min(max(a.options.Jobs-big, 0), big)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// small tells that rough statistics first would be no gain.
func (a *analysis) small(r *relation) bool {
	return r.tree(a.known) <= a.options.Small || r.Kind == ForeignTable
}

// bare tells that a table has rows and no statistics at all, so that there are
// none to lose.
func (a *analysis) bare(r *relation) bool {
	return a.lacks[r.OID] != "" && !r.Own && !r.Inherited
}

// again tries what was locked, or gave way.
func (a *analysis) again(ctx context.Context, sessions *sessions, tasks []task) error {
	for range a.options.Attempts {
		var left []task
		for _, t := range tasks {
			if o := a.outcome(t.relation); t.stage == len(a.options.Stages)-1 && (o == Locked || o == GaveWay) {
				left = append(left, t)
			}
		}
		if len(left) == 0 || a.late() {
			return nil
		}
		a.count -= len(left)
		if err := a.lanes(ctx, sessions, a.newQueue(nil, left, 0), 0); err != nil {
			return err
		}
	}
	return nil
}

// late tells that the time of all is up.
func (a *analysis) late() bool { return !a.until.IsZero() && time.Until(a.until) <= 0 }

// isParent tells that a table has, or may have, others below it.
func (r *relation) isParent() bool { return r.Kind == PartitionedTable || len(r.children) > 0 }

// deepestFirst orders the parents of each tree, in the place of its first one, so
// that none comes before what is below it.
func (a *analysis) deepestFirst(tasks []task) []task {
	parents := map[uint32]*relation{}
	for _, r := range a.known {
		for _, child := range r.children {
			parents[child] = r
		}
	}
	var lists [][]task
	trees, depths := map[uint32]int{}, map[uint32]int{}
	for _, t := range tasks {
		root := t.relation
		for parents[root.OID] != nil && depths[t.OID] < len(a.known) {
			root = parents[root.OID]
			depths[t.OID]++
		}
		at, ok := trees[root.OID]
		if !ok {
			at = len(lists)
			trees[root.OID] = at
			lists = append(lists, nil)
		}
		lists[at] = append(lists[at], t)
	}
	for _, list := range lists {
		slices.SortStableFunc(list, func(x, y task) int { return cmp.Compare(depths[y.OID], depths[x.OID]) })
	}
	return slices.Concat(lists...)
}

// lanes works a queue off in all sessions, of which some turn early to its long
// work.
func (a *analysis) lanes(ctx context.Context, sessions *sessions, q *queue, early int) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, se := range sessions.all {
		g.Go(func() error {
			for {
				t, ok := q.next(i < early)
				if !ok {
					return nil
				}
				err := a.one(ctx, se, t)
				q.done(t, err)
				if err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// one analyzes a table and notes what became of it. Its error means that no
// other table can be analyzed either.
func (a *analysis) one(ctx context.Context, se *session, t task) error {
	began := time.Now()
	if o := a.outcomeSafely(t.relation); o == Gone || a.isRough(t) && o != "" && o != Analyzed {
		return nil // what was locked waits for the last stage
	}
	inTime := true
	err := answered(ctx, a.server, a.patience(t), func(ctx context.Context) (err error) {
		if inTime, err = se.hurry(ctx); err == nil && inTime {
			err = a.analyze(ctx, se, t)
		}
		return err
	})
	if ctx.Err() != nil {
		return fmt.Errorf("analyzing %s: %w", t.Table, cancelled(ctx))
	}
	if errors.Is(err, errNotAlone) || err == nil && !inTime {
		return nil // the last stage sees to it, or leave does
	}
	outcome, reason := judge(err)
	switch {
	case outcome == TimedOut && se.gaveWay.Load():
		outcome = GaveWay
	case outcome == TimedOut && se.bound < se.perTable: // all the time was up, not the table's
		outcome = Left
	}
	var blockers []Blocker
	if outcome == Locked {
		// The sentry may have meant the ANALYZE that has just ended.
		err = answered(ctx, a.server, a.options.Answer, func(ctx context.Context) (err error) {
			blockers, err = blockersOf(ctx, se.conn, t.Table, t.OID, t.descendants(a.known))
			return err
		})
		if err != nil && !pg.Lost(err) && !pg.IsCode(err, pg.QueryCanceled) {
			return err
		}
	}
	if se.conn.IsClosed() {
		again := se.reopen(ctx)
		if again != nil && errors.Is(err, errSilent) {
			return fmt.Errorf("analyzing %s: %w; %w", t.Table, err, again)
		}
		if again != nil {
			return again
		}
	}
	a.note(t, outcome, reason, blockers, time.Since(began))
	return nil
}

// patience is how long a server may take to analyze a table: as long as it lets the
// statement itself, and for the locks on partitions, one by one.
func (a *analysis) patience(t task) time.Duration {
	per := a.options.PerTable
	if !a.until.IsZero() {
		per = min(per, max(time.Until(a.until), 0))
	}
	return per + a.options.Answer + a.options.LockTimeout + time.Duration(len(t.descendants(a.known)))*time.Second
}

// analyze is the ANALYZE itself, with the target that the task has.
func (a *analysis) analyze(ctx context.Context, se *session, t task) error {
	if stage := a.options.Stages[t.stage]; se.stage != stage {
		if err := se.setTarget(ctx, stage); err != nil {
			return err
		}
	}
	se.rough = a.isRough(t)
	se.gaveWay.Store(false)
	return se.analyze(ctx, t.relation, t.descendants(a.known))
}

// leave notes which tables the time was not enough for.
func (a *analysis) leave(chosen []*relation) {
	if !a.late() {
		return
	}
	for _, r := range chosen {
		if e := a.entry(r); !a.full[r.OID] && (e.Outcome == "" || e.Outcome == Analyzed) {
			e.Outcome = Left
		}
	}
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

func (a *analysis) outcomeSafely(r *relation) Outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.outcome(r)
}

// note writes into the report and tells the caller.
func (a *analysis) note(t task, outcome Outcome, reason string, blockers []Blocker, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, target := a.entry(t.relation), a.options.Stages[t.stage].String()
	e.Outcome, e.Reason, e.Blockers = outcome, reason, blockers
	e.Attempts++
	e.Took += took
	if outcome == Analyzed {
		e.Targets = append(e.Targets, target)
		a.full[t.OID] = !a.isRough(t)
		a.reports[t.stage].Tables++
		a.reports[t.stage].Took = time.Since(a.began)
	}
	a.count++
	if a.options.Progress != nil {
		a.options.Progress(AnalyzeProgress{
			Target: target, Stage: t.stage + 1, Stages: len(a.options.Stages), Table: t.Table, Outcome: outcome,
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
