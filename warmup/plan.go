package warmup

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// AnalyzeStage is one round of Analyze, for the plan.
type AnalyzeStage struct {
	Stage      Stage
	Setup      string   // what a session sets before it
	Statements []string // one for each table
}

// AnalyzePlan returns what Analyze runs on s when no table there has statistics
// yet. The tables are listed on from, which may be the server that they will come
// from. Nothing is changed.
func AnalyzePlan(ctx context.Context, from, s *pg.Server, o AnalyzeOptions) ([]AnalyzeStage, error) {
	conn, err := openMissing(ctx, from)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	all, err := relations(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("planning ANALYZE: %w", err)
	}
	biggestFirst(all)
	known := byOID(all)
	stages := o.Stages
	if len(stages) == 0 {
		stages = Stages()
	}
	var out []AnalyzeStage
	for _, stage := range stages {
		plan := AnalyzeStage{Stage: stage, Setup: strings.Join(stage.settings(), ";\n")}
		for _, lists := range inOrder(all, known) {
			for _, list := range lists {
				for _, r := range list {
					plan.Statements = append(plan.Statements, analyzeStatement(s.Version(), r, r.descendants(known)))
				}
			}
		}
		out = append(out, plan)
	}
	return out, nil
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
select format('analyze %%I.%%I', schemaname, relname)
  from pg_stat_user_tables
 where schemaname <> 'pgcutover'
   and (n_mod_since_analyze > %d + %g * n_live_tup or last_analyze is null and last_autoanalyze is null and n_live_tup > 0)
 order by n_tup_ins + n_tup_upd + n_tup_del + seq_tup_read desc`

// ChangedSQL answers what AnalyzeTables runs at that moment, one statement a row.
func ChangedSQL(o AnalyzeOptions) string {
	return fmt.Sprintf(changedSQL, changedRows, o.withDefaults().Changed)
}
