package unreplicated

import "slices"

// ties is sets of names that belong together.
type ties struct {
	parent map[string]string
	order  []string
}

func newTies(tables map[string]made) *ties {
	t := &ties{parent: map[string]string{}}
	for name := range tables {
		t.parent[name] = name
		t.order = append(t.order, name)
	}
	slices.Sort(t.order)
	return t
}

func (t *ties) find(name string) string {
	for t.parent[name] != name {
		name = t.parent[name]
	}
	return name
}

func (t *ties) tie(a, b string) { t.parent[t.find(a)] = t.find(b) }

// sets returns them, each in the order of its names.
func (t *ties) sets() [][]string {
	at := map[string]int{}
	var out [][]string
	for _, name := range t.order {
		root := t.find(name)
		i, known := at[root]
		if !known {
			i = len(out)
			at[root] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], name)
	}
	return out
}

// inOrder puts those that are referred to before those that refer. Where they
// refer to each other in a circle any order is as good.
func inOrder(names []string, refersTo map[string][]string) []string {
	var out []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, to := range refersTo[name] {
			visit(to)
		}
		out = append(out, name)
	}
	for _, name := range names {
		visit(name)
	}
	return out
}
