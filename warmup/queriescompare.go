package warmup

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// QueryComparison is one query on both servers.
type QueryComparison struct {
	Name string `json:"name,omitempty"`
	Line int    `json:"line"`
	// OldMS and NewMS are the medians; Ratio is new's divided by old's, 0 where one
	// has none.
	OldMS float64 `json:"old_median_ms"`
	NewMS float64 `json:"new_median_ms"`
	Ratio float64 `json:"ratio,omitempty"`
	// SameRows tells whether both returned as many rows, with each list of values.
	// What the rows hold is not compared.
	SameRows bool `json:"same_rows"`
	// Plan is the gravest verdict over the lists of values.
	Plan PlanVerdict `json:"plan"`
}

// QueriesComparison is what CompareQueries found.
type QueriesComparison struct {
	Queries []QueryComparison `json:"queries"`
	Plans   PlansReport       `json:"plans"`
	Old     QueriesReport     `json:"old"`
	New     QueriesReport     `json:"new"`
}

// CompareQueries runs queries on old and then on new, as RunQueries does, and
// compares the plans that they have with their values. Old has the load of it.
// While clients write, the numbers of rows may differ by what they wrote.
func CompareQueries(ctx context.Context, from, to *pg.Server, queries []Query, o QueriesOptions, p PlansOptions) (QueriesComparison, error) {
	var (
		c   QueriesComparison
		err error
	)
	p.Statements = PlanStatements(queries)
	if c.Plans, err = ComparePlans(ctx, from, to, p); err != nil {
		return c, err
	}
	if c.Old, err = RunQueries(ctx, from, queries, o); err != nil {
		return c, err
	}
	if c.New, err = RunQueries(ctx, to, queries, o); err != nil {
		return c, err
	}
	verdicts := map[string]PlanVerdict{}
	for _, s := range c.Plans.Statements {
		verdicts[s.ID] = s.Verdict
	}
	for i, q := range queries {
		was, isIt := c.Old.Queries[i], c.New.Queries[i]
		one := QueryComparison{
			Name: q.Name, Line: q.Line, OldMS: was.MedianMS, NewMS: isIt.MedianMS, Plan: PlanSame,
			SameRows: slices.Equal(was.Rows, isIt.Rows) && !slices.Contains(was.Rows, -1),
		}
		if was.MedianMS > 0 && isIt.MedianMS > 0 {
			one.Ratio = isIt.MedianMS / was.MedianMS
		}
		for _, s := range PlanStatements([]Query{q}) {
			if v := verdicts[s.ID]; rank(v) < rank(one.Plan) {
				one.Plan = v
			}
		}
		c.Queries = append(c.Queries, one)
	}
	return c, nil
}

// WriteText prints times and plans side by side, for people.
func (c QueriesComparison) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s %9s %9s %7s  %-9s  plan\n", "query", "old ms", "new ms", "ratio", "rows")
	for i, q := range c.Queries {
		rows := "equal"
		if !q.SameRows {
			rows = rowsText(c.Old.Queries[i].Rows) + " / " + rowsText(c.New.Queries[i].Rows)
		}
		fmt.Fprintf(&b, "%-24s %9s %9s %7s  %-9s  %s\n", c.New.Queries[i].label(), short(q.OldMS), short(q.NewMS), short(q.Ratio), rows, q.Plan)
		c.Old.Queries[i].writeErrors(&b, " on old")
		c.New.Queries[i].writeErrors(&b, " on new")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return c.Plans.WriteText(w)
}
