package warmup

import (
	"regexp"
	"slices"
	"strings"
)

// rawPlan is a node of EXPLAIN (VERBOSE, FORMAT JSON), as far as it is read.
// Postgres manual: 14.1, Using EXPLAIN.
type rawPlan struct {
	Type      string    `json:"Node Type"`
	Relation  string    `json:"Relation Name"`
	Schema    string    `json:"Schema"`
	Alias     string    `json:"Alias"`
	Index     string    `json:"Index Name"`
	Join      string    `json:"Join Type"`
	Strategy  string    `json:"Strategy"`
	Partial   string    `json:"Partial Mode"`
	Parent    string    `json:"Parent Relationship"`
	Operation string    `json:"Operation"`
	Cost      float64   `json:"Total Cost"`
	Rows      float64   `json:"Plan Rows"`
	Removed   int       `json:"Subplans Removed"`
	Plans     []rawPlan `json:"Plans"`
}

// removed counts the parts that EXPLAIN left out, of partitions that no row of
// the given values can be in.
func (r *rawPlan) removed() int {
	n := r.Removed
	for i := range r.Plans {
		n += r.Plans[i].removed()
	}
	return n
}

// writes tells whether the plan changes rows.
func (r *rawPlan) writes() bool {
	return r.Type == "ModifyTable" || slices.ContainsFunc(r.Plans, func(p rawPlan) bool { return p.writes() })
}

// PlanNode is a step of a plan without costs and rows.
type PlanNode struct {
	// Type is as EXPLAIN says it: Index Scan, Hash Join and so on, with the
	// strategy of an aggregation: Aggregate (Hashed).
	Type string `json:"node"`
	// Join is the type of a join: Inner, Left and so on.
	Join string `json:"join,omitempty"`
	// Table is what a scan reads, with its name in the query.
	Table *Table `json:"table,omitempty"`
	Alias string `json:"alias,omitempty"`
	// Index is what it reads by.
	Index string     `json:"index,omitempty"`
	Plans []PlanNode `json:"plans,omitempty"`
}

// Plan is how one server would run a statement.
type Plan struct {
	Root PlanNode `json:"plan"`
	// Cost and Rows are the planner's estimates for the whole statement. Costs are
	// in the units of its cost settings.
	Cost float64 `json:"cost"`
	Rows float64 `json:"rows"`
}

// plan makes the form that is compared. With subselects the parameters are
// sub-selects, which are no part of the query's plan.
func (r *rawPlan) plan(subselects bool) Plan {
	return Plan{Root: r.node(nil, subselects), Cost: r.Cost, Rows: r.Rows}
}

var numbered = regexp.MustCompile(`_[0-9]+$`)

func (r *rawPlan) node(above *Table, subselects bool) PlanNode {
	n := PlanNode{Type: r.Type, Join: r.Join, Alias: r.Alias, Index: r.Index}
	if r.Strategy != "" && r.Strategy != "Plain" {
		n.Type += " (" + r.Strategy + ")"
	}
	if r.Partial != "" && r.Partial != "Simple" {
		n.Type = r.Partial + " " + n.Type
	}
	if r.Relation != "" {
		n.Table = &Table{Schema: r.Schema, Name: r.Relation}
		above = n.Table
	}
	if r.Type == "Bitmap Index Scan" {
		n.Table = above // EXPLAIN names it in the node above only
	}
	// Before 13 a partition has its own name or the table's alias, since then the
	// alias with a number.
	n.Alias = numbered.ReplaceAllString(n.Alias, "")
	if n.Alias == r.Relation || r.Parent == "Member" {
		n.Alias = ""
	}
	for i := range r.Plans {
		below := &r.Plans[i]
		stand := below.Parent == "InitPlan" && below.Type == "Result" && len(below.Plans) == 0 && below.Relation == ""
		if subselects && stand {
			continue
		}
		n.Plans = append(n.Plans, below.node(above, subselects))
	}
	return n
}

// each calls f for the node and all below it, in EXPLAIN's order.
func (n *PlanNode) each(f func(*PlanNode)) {
	f(n)
	for i := range n.Plans {
		n.Plans[i].each(f)
	}
}

// tables lists what the plan reads, each once.
func (n *PlanNode) tables() []Table {
	var all []Table
	n.each(func(n *PlanNode) {
		if n.Table != nil && !slices.Contains(all, *n.Table) {
			all = append(all, *n.Table)
		}
	})
	return all
}

// readsApplication tells whether the plan reads any table that is the
// application's.
func (n *PlanNode) readsApplication() bool {
	return slices.ContainsFunc(n.tables(), func(t Table) bool {
		return t.Schema != "pg_catalog" && t.Schema != "information_schema" && t.Schema != "pgcutover" && !strings.HasPrefix(t.Schema, "pg_toast")
	})
}

// String writes the plan as EXPLAIN does, a line for each node.
func (n *PlanNode) String() string {
	var b strings.Builder
	n.write(&b, 0)
	return b.String()
}

func (n *PlanNode) write(b *strings.Builder, depth int) {
	b.WriteString(strings.Repeat("  ", depth))
	b.WriteString(n.line())
	b.WriteByte('\n')
	for i := range n.Plans {
		n.Plans[i].write(b, depth+1)
	}
}

func (n *PlanNode) line() string {
	text := n.Type
	if n.Join != "" && n.Join != "Inner" {
		text += " (" + n.Join + ")"
	}
	if n.Index != "" {
		text += " using " + n.Index
	}
	if n.Table != nil && n.Type != "Bitmap Index Scan" {
		text += " on " + n.Table.Schema + "." + n.Table.Name
		if n.Alias != "" {
			text += " " + n.Alias
		}
	}
	return text
}
