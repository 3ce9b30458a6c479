package warmup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// PlanVerdict is what became of a statement's plan.
type PlanVerdict string

// The verdicts, the gravest first.
const (
	PlanIndexMissing PlanVerdict = "index missing" // old's plan uses an index that new has not, or not valid
	PlanDearer       PlanVerdict = "dearer"        // changed, and costs more than the tolerance
	PlanUnexplained  PlanVerdict = "not explained"
	PlanChanged      PlanVerdict = "changed" // and costs the same or less
	PlanSame         PlanVerdict = "same"
)

// Grave tells whether a person should look at it before the cutover.
func (v PlanVerdict) Grave() bool { return v == PlanIndexMissing || v == PlanDearer }

// PlanComparison is one statement on both servers.
type PlanComparison struct {
	PlanStatement
	Verdict PlanVerdict `json:"verdict"`
	// Changes say what is different, one each.
	Changes []string `json:"changes"`
	// Missing are the indexes that new lacks: schema.index on schema.table.
	Missing []string `json:"missing_indexes"`
	// Unexplained says on which server the statement could not be planned, and
	// Reason why.
	Unexplained pg.Side `json:"unexplained_on,omitempty"`
	Reason      string  `json:"reason,omitempty"`
	// CostRatio is new's cost divided by old's; 0 when there are not both.
	CostRatio float64    `json:"cost_ratio,omitempty"`
	Method    PlanMethod `json:"method,omitempty"`
	// Notes are for people: what makes the comparison doubtful.
	Notes []string `json:"notes"`
	Old   *Plan    `json:"old,omitempty"`
	New   *Plan    `json:"new,omitempty"`
}

// PlansReport is what ComparePlans found, the gravest first, and among equals the
// most expensive on old first.
type PlansReport struct {
	OldServer  string              `json:"old_server"`
	OldVersion string              `json:"old_version"`
	NewServer  string              `json:"new_server"`
	NewVersion string              `json:"new_version"`
	OldAt      time.Time           `json:"old_at"` // when old's plans were made
	Statements []PlanComparison    `json:"statements"`
	Counts     map[PlanVerdict]int `json:"counts"`
	// Settings are the planner settings that differ between the tool's sessions.
	Settings []SettingDifference `json:"setting_differences"`
	// WithoutStatistics are tables of new that the statements read and that have
	// rows and no statistics: what the planner expects of them is a guess.
	WithoutStatistics []Table       `json:"without_statistics"`
	Hidden            int64         `json:"hidden_calls"`
	LeftOut           int           `json:"left_out"`
	Warnings          []string      `json:"warnings"`
	Took              time.Duration `json:"took_ns"`
}

// Grave counts the statements whose plan is dearer or lacks an index.
func (r PlansReport) Grave() int { return r.Counts[PlanIndexMissing] + r.Counts[PlanDearer] }

// comparer holds what one comparison knows.
type comparer struct {
	options      PlansOptions
	before, now  indexBook
	noStatistics []Table
}

// ComparePlansWith is the second half of ComparePlans: it plans the statements of a
// set on another server, or later on the same, and compares.
func ComparePlansWith(ctx context.Context, set PlanSet, to *pg.Server, o PlansOptions) (PlansReport, error) {
	began := time.Now()
	o = o.withDefaults()
	r := PlansReport{
		OldServer: set.Server, OldVersion: set.Version, OldAt: set.At, NewServer: to.Address(),
		Statements: []PlanComparison{}, Counts: map[PlanVerdict]int{}, WithoutStatistics: []Table{},
		Hidden: set.Hidden, LeftOut: set.LeftOut, Warnings: append([]string{}, set.Warnings...),
	}
	e, err := openExplainer(ctx, to, o)
	if err != nil {
		return r, err
	}
	defer endSession(ctx, e.conn)
	r.NewVersion = e.conn.PgConn().ParameterStatus("server_version")
	there := PlanSet{Statements: make([]PlannedStatement, len(set.Statements))}
	for i, s := range set.Statements {
		o.Progress(to.Side(), i)
		there.Statements[i] = PlannedStatement{PlanStatement: s.PlanStatement, Asked: s.Asked}
		if s.Plan == nil {
			continue
		}
		if err := e.again(ctx, &there.Statements[i]); err != nil {
			return r, fmt.Errorf("explaining statement %s on the %s server: %w", s.ID, to.Side(), err)
		}
	}
	if err := there.surroundings(ctx, e); err != nil {
		return r, err
	}
	c := comparer{options: o, before: bookOf(set.Indexes), now: bookOf(there.Indexes)}
	if c.noStatistics, err = WithoutStatistics(ctx, to); err != nil {
		return r, err
	}
	r.Settings = settingDifferences(set.Settings, there.Settings)
	if warning := unitsWarning(r.Settings); warning != "" {
		r.Warnings = append(r.Warnings, warning)
	}
	for i, s := range set.Statements {
		one := c.compare(s, there.Statements[i])
		r.Counts[one.Verdict]++
		r.Statements = append(r.Statements, one)
		for _, t := range c.unknown(one) {
			if !slices.Contains(r.WithoutStatistics, t) {
				r.WithoutStatistics = append(r.WithoutStatistics, t)
			}
		}
	}
	if slices.ContainsFunc(set.Statements, func(s PlannedStatement) bool { return s.Asked.Serial }) {
		r.Warnings = append(r.Warnings, "statements with parameters are compared without parallel workers: version 10 plans none for the form in which they are explained")
	}
	slices.SortStableFunc(r.Statements, func(a, b PlanComparison) int { return rank(a.Verdict) - rank(b.Verdict) })
	r.Took = time.Since(began)
	return r, nil
}

func rank(v PlanVerdict) int {
	return slices.Index([]PlanVerdict{PlanIndexMissing, PlanDearer, PlanUnexplained, PlanChanged, PlanSame}, v)
}

// again plans what was planned on the other server, in the same way.
func (e *explainer) again(ctx context.Context, s *PlannedStatement) error {
	q := s.Asked
	if q.Method == GenericPlan && e.server.Major() < 12 {
		s.Reason = "the plans were made with prepared statements, which this server plans for values only"
		return nil
	}
	raw, err := e.explain(ctx, &q)
	switch {
	case err != nil && !ofStatement(ctx, err):
		return err
	case err != nil:
		s.Reason = e.reason(err, q)
	default:
		plan := raw.plan(q.Method == SubselectPlan)
		s.Plan = &plan
	}
	return nil
}

func (c *comparer) compare(before, now PlannedStatement) PlanComparison {
	one := PlanComparison{
		PlanStatement: before.PlanStatement, Method: before.Asked.Method, Old: before.Plan, New: now.Plan,
		Changes: []string{}, Missing: []string{}, Notes: []string{},
	}
	switch {
	case before.Plan == nil:
		one.Verdict, one.Unexplained, one.Reason = PlanUnexplained, pg.Old, before.Reason
		return one
	case now.Plan == nil:
		one.Verdict, one.Unexplained, one.Reason = PlanUnexplained, pg.New, now.Reason
		return one
	}
	if before.Plan.Cost > 0 {
		one.CostRatio = now.Plan.Cost / before.Plan.Cost
	}
	one.Missing = c.missing(&before.Plan.Root)
	one.Changes = differences(before.Plan.Root, c.asOnOld(now.Plan.Root))
	one.Notes = c.notes(one, before.Asked)
	switch {
	case len(one.Missing) > 0:
		one.Verdict = PlanIndexMissing
	case len(one.Changes) == 0:
		one.Verdict = PlanSame
	case now.Plan.Cost > before.Plan.Cost*c.options.Tolerance:
		one.Verdict = PlanDearer
	default:
		one.Verdict = PlanChanged
	}
	return one
}

// missing lists the indexes of old's plan that new has not.
func (c *comparer) missing(root *PlanNode) []string {
	all := []string{}
	root.each(func(n *PlanNode) {
		if n.Index == "" || n.Table == nil {
			return
		}
		index, known := c.before.named(*n.Table, n.Index)
		if !known {
			index = PlanIndex{Table: *n.Table, Name: n.Index}
		}
		text := n.Table.Schema + "." + n.Index + " on " + n.Table.Name
		if !c.now.has(index) && !slices.Contains(all, text) {
			all = append(all, text)
		}
	})
	return all
}

// asOnOld calls the indexes of new's plan what old calls them.
func (c *comparer) asOnOld(n PlanNode) PlanNode {
	if n.Index != "" && n.Table != nil {
		n.Index = c.before.nameOf(*n.Table, n.Index, c.now)
	}
	below := n.Plans
	n.Plans = nil
	for _, b := range below {
		n.Plans = append(n.Plans, c.asOnOld(b))
	}
	return n
}

// unknown lists the tables of a statement that have no statistics on new.
func (c *comparer) unknown(one PlanComparison) []Table {
	if one.New == nil {
		return nil
	}
	var all []Table
	for _, t := range one.New.Root.tables() {
		if slices.Contains(c.noStatistics, t) {
			all = append(all, t)
		}
	}
	return all
}

func (c *comparer) notes(one PlanComparison, q question) []string {
	notes := []string{}
	if unknown := c.unknown(one); len(unknown) > 0 {
		var names []string
		for _, t := range unknown {
			names = append(names, t.Schema+"."+t.Name)
		}
		notes = append(notes, "no statistics on new for "+strings.Join(names, ", ")+": new's costs are guesses; run: pgcutover analyze")
	}
	if a, b := max(one.Old.Rows, 1), max(one.New.Rows, 1); a/b >= 10 || b/a >= 10 {
		notes = append(notes, fmt.Sprintf("expected rows: %.0f on old, %.0f on new", one.Old.Rows, one.New.Rows))
	}
	if q.Guessed {
		notes = append(notes, "the types of some parameters are guessed")
	}
	return notes
}
