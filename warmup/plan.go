package warmup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// AnalyzeStage is a row of ANALYZE with the same target, for the plan.
type AnalyzeStage struct {
	Stage      Stage
	Setup      string   // what a session sets before it
	Statements []string // one for each table
}

// AnalyzePlan returns what one session of Analyze runs on s when no table there
// has statistics yet, in order. The tables are listed on from, which may be the
// server that they will come from. Nothing is changed.
func AnalyzePlan(ctx context.Context, from, s *pg.Server, o AnalyzeOptions) ([]AnalyzeStage, error) {
	o = o.withDefaults()
	o.Progress = nil
	if len(o.Stages) == 0 {
		o.Stages = Stages()
	}
	conn, err := openMissing(ctx, from)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	all, err := allRelations(ctx, conn, o.Foreign)
	if err != nil {
		return nil, fmt.Errorf("planning ANALYZE: %w", err)
	}
	inUsageOrder(all, o.Usage, biggestFirst)
	a := &analysis{server: s, options: o, known: byOID(all), lacks: map[uint32]string{}}
	for _, r := range all {
		r.Own, r.Inherited = false, false
		if r.tree(a.known) > 0 {
			a.lacks[r.OID] = lacksAll
		}
	}
	var out []AnalyzeStage
	for _, t := range a.inTurn(all) {
		stage := o.Stages[t.stage]
		if len(out) == 0 || out[len(out)-1].Stage != stage {
			out = append(out, AnalyzeStage{Stage: stage, Setup: strings.Join(stage.settings(o.Gently), ";\n")})
		}
		group := &out[len(out)-1]
		group.Statements = append(group.Statements, analyzeStatement(s.Version(), t.relation, t.descendants(a.known)))
	}
	return out, nil
}

// inTurn is the order in which a single session works, see stages.
func (a *analysis) inTurn(chosen []*relation) []task {
	w := a.work(chosen)
	return slices.Concat(w.first, w.small, w.big, w.parents)
}

// analyzeStatement is what session.analyze runs. Of a partitioned table it
// analyzes the partitions once more where the tool keeps that away by locks of
// another session, which changes nothing.
func analyzeStatement(version int, r *relation, descendants []uint32) string {
	switch {
	case version >= 180000:
		return fmt.Sprintf(analyzeOnlySQL, r.Table)
	case alone(version, r, descendants):
		return strings.Join([]string{"begin", fmt.Sprintf(lockTreeSQL, r.Table), fmt.Sprintf(analyzeSkipSQL, r.Table), "commit"}, ";\n")
	}
	return fmt.Sprintf(analyzeSQL, r.Table)
}

// changedSQL makes an ANALYZE for each table that has changed by more than a part
// of its rows since the last one, or that had none.
const changedSQL = `
select format('analyze %I.%I', schemaname, relname)
  from pg_stat_user_tables
 where schemaname <> 'pgcutover'
   and (n_mod_since_analyze > current_setting('autovacuum_analyze_threshold')::float8
                            + current_setting('autovacuum_analyze_scale_factor')::float8 * n_live_tup
     or last_analyze is null and last_autoanalyze is null and n_live_tup > 0)
 order by seq_scan + coalesce(idx_scan, 0) desc, n_tup_ins + n_tup_upd + n_tup_del + seq_tup_read desc`

// ChangedSQL answers the tables that have changed much, one statement a row: the
// most of what AnalyzeTables runs, which sees parents, rough statistics and
// expressions as well.
func ChangedSQL() string { return changedSQL }

// GentleSQL is what a session sets for AnalyzeOptions.Gently.
func GentleSQL() []string { return []string{gentleDelay, gentleLimit} }
