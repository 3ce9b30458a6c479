package warmup

import (
	"fmt"
	"slices"
	"strings"
)

// differences says how two plans differ; nothing when they are the same.
func differences(before, now PlanNode) []string {
	if before.String() == now.String() {
		return []string{}
	}
	a, b := traitsOf(&before), traitsOf(&now)
	changes := accessChanges(a, b)
	if more := len(changes) - mostChanges; more > 0 {
		changes = append(changes[:mostChanges], fmt.Sprintf("%d more tables are read otherwise", more))
	}
	pairs := []struct {
		what      string
		was, isIt []string
	}{
		{"join order", a.order, b.order},
		{"joins", a.joins, b.joins},
		{"aggregation", a.groups, b.groups},
	}
	for _, p := range pairs {
		if !slices.Equal(p.was, p.isIt) {
			changes = append(changes, fmt.Sprintf("%s: %s -> %s", p.what, listed(p.was), listed(p.isIt)))
		}
	}
	if gone := minus(a.others, b.others); len(gone) > 0 {
		changes = append(changes, "no more: "+listed(gone))
	}
	if added := minus(b.others, a.others); len(added) > 0 {
		changes = append(changes, "added: "+listed(added))
	}
	if len(changes) == 0 {
		changes = append(changes, "the same steps in another order")
	}
	return changes
}

// mostListed is how many steps a line names: a table may have thousands of
// partitions. The plans have them all.
const (
	mostListed  = 12
	mostChanges = 20 // tables that are told to be read otherwise
)

func listed(all []string) string {
	switch {
	case len(all) == 0:
		return "none"
	case len(all) > mostListed:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:mostListed], ", "), len(all)-mostListed)
	}
	return strings.Join(all, ", ")
}

// minus are the elements of a that b has not, or not as often.
func minus(a, b []string) []string {
	left := slices.Clone(b)
	var out []string
	for _, s := range a {
		if i := slices.Index(left, s); i >= 0 {
			left = slices.Delete(left, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}

// traits are what people look at in a plan.
type traits struct {
	scans  map[string][]string // how each table is read, by its name in the query
	order  []string            // the tables in the order of the plan
	joins  []string
	groups []string
	others []string // sorts, limits, parallel workers and so on
}

func traitsOf(root *PlanNode) traits {
	t := traits{scans: map[string][]string{}}
	root.each(func(n *PlanNode) {
		switch {
		case n.Table != nil:
			t.scan(n)
		case n.Join != "":
			t.joins = append(t.joins, joinName(n))
		case strings.Contains(n.Type, "Aggregate"), strings.HasPrefix(n.Type, "Group"):
			t.groups = append(t.groups, n.Type)
		default:
			t.others = append(t.others, n.Type)
		}
	})
	return t
}

func joinName(n *PlanNode) string {
	if n.Join == "Inner" {
		return n.Type
	}
	return n.Type + " (" + n.Join + ")"
}

func (t *traits) scan(n *PlanNode) {
	name := n.Table.Schema + "." + n.Table.Name
	if n.Type != "Bitmap Index Scan" {
		label := name
		if n.Alias != "" {
			label += " " + n.Alias
		}
		t.order = append(t.order, label)
	}
	how := n.Type
	if n.Index != "" {
		how += " using " + n.Index
	}
	// A bitmap's index scan knows no alias: it belongs to the table.
	t.scans[name] = append(t.scans[name], how)
}

// accessChanges says for each table that is read otherwise, how.
func accessChanges(a, b traits) []string {
	names := make([]string, 0, len(a.scans)+len(b.scans))
	for name := range a.scans {
		names = append(names, name)
	}
	for name := range b.scans {
		if a.scans[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	changes := []string{}
	for _, name := range names {
		was, isIt := minus(a.scans[name], b.scans[name]), minus(b.scans[name], a.scans[name])
		switch {
		case len(was) == 0 && len(isIt) == 0:
		case b.scans[name] == nil:
			changes = append(changes, name+" is read no more (was "+listed(was)+")")
		default:
			changes = append(changes, fmt.Sprintf("%s: %s -> %s", name, listed(was), listed(isIt)))
		}
	}
	return changes
}
