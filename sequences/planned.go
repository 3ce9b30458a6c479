package sequences

import (
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// After returns the sequences on the target as they are once changes are made.
func After(changes []Change) []Sequence {
	out := make([]Sequence, len(changes))
	for i, c := range changes {
		out[i] = c.after()
	}
	return out
}

// Statements are what Apply runs for changes made with ALTER SEQUENCE, or setval
// for one that has reached its end: for the plan.
func Statements(changes []Change) []string {
	var out []string
	for _, c := range changes {
		switch {
		case c.Kept:
		case c.Exhausted:
			out = append(out, c.setvalSQL())
		default:
			out = append(out, strings.TrimRight(c.SQL(), ";"))
		}
	}
	return out
}

// outranSQL makes a setval for each sequence that has fewer numbers left of what
// it was given than the reserve. Where a cycle has ended it says nothing: such
// sequences are left to the tool.
const outranSQL = `
select format('select pg_catalog.setval(%%L, %%s, false)', g.name,
              greatest(least(p.last + g.step::numeric * greatest(%[2]d, g.cache), g.most::numeric), g.least::numeric))
  from (values
    %[1]s
       ) as g (name, given, step, cache, least, most)
 cross join lateral (select pg_sequence_last_value(g.name::regclass)::numeric as last offset 0) as p
 where p.last is not null
   and (g.given - p.last) / g.step <= greatest(%[3]d, case when %[3]d > 0 then g.cache else 0 end)`

// OutranSQL is Outran as a query for the source, which answers the statements for
// the target, one a row; empty without sequences.
func OutranSQL(given []Change, margin, reserve int64) string {
	var rows []string
	for _, c := range given {
		if c.Exhausted || c.New.Cycle {
			continue
		}
		rows = append(rows, fmt.Sprintf("(%s, %d::numeric, %d, %d, %d, %d)", pg.Literal(c.Ident()), c.Value, c.New.Increment, c.Old.Cache, c.New.Min, c.New.Max))
	}
	if len(rows) == 0 {
		return ""
	}
	return fmt.Sprintf(outranSQL, strings.Join(rows, ",\n    "), margin, reserve)
}
