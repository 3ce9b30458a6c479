package warmup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// bare are the columns of a table that lack statistics while others have some.
type bare struct{ own, tree []string }

// bareColumnsSQL names columns without statistics: of the tables $1 those of their
// own rows, of the parents $2 those over their trees. ANALYZE writes a row for every
// column that it looks at and whose type is analyzed by a function of Postgres
// itself, be all values null, or too wide to be kept. Functions of extensions may
// decline: PostGIS' does for a column without a geometry. So their types prove
// nothing. What the role may not read, pg_stats does not show. $3 are the names of
// all these tables, without which the view would be worked out whole.
// Postgres source: std_typanalyze and compute_trivial_stats in commands/analyze.c.
const bareColumnsSQL = `
with asked (relation, inherited) as (
    select unnest($1::oid[]), false
    union all
    select unnest($2::oid[]), true
), stats as (
    select s.schemaname, s.tablename, s.attname, s.inherited from pg_stats s where s.tablename = any($3::name[])
)
select asked.relation, asked.inherited, array_agg(a.attname::text order by a.attnum)
  from asked
  join pg_class c on c.oid = asked.relation
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid
  join pg_type t on t.oid = a.atttypid
  left join stats s on s.schemaname = n.nspname and s.tablename = c.relname
                   and s.attname = a.attname and s.inherited = asked.inherited
 where a.attnum > 0 and not a.attisdropped
   and coalesce(a.attstattarget, -1) <> 0
   and (not a.atthasdef or to_jsonb(a) ->> 'attgenerated' is distinct from 'v')
   and t.typanalyze::oid < 16384
   and has_column_privilege(c.oid, a.attnum, 'SELECT')
   and s.attname is null
 group by asked.relation, asked.inherited`

// bareColumns looks into the tables that have statistics of fewer columns than
// they have columns. A table without rows at its last count is none of them: ANALYZE
// writes nothing for it, and leaves what it had.
func bareColumns(ctx context.Context, conn *pgx.Conn, all []*relation) (map[uint32]bare, error) {
	var (
		own, tree []uint32
		names     []string
	)
	for _, r := range all {
		if r.Kind == ForeignTable || !r.Countable {
			continue
		}
		before := len(own) + len(tree)
		if r.Own && r.Tuples != 0 && r.OwnColumns < r.Columns {
			own = append(own, r.OID)
		}
		if r.Inherited && r.TreeColumns < r.Columns {
			tree = append(tree, r.OID)
		}
		if len(own)+len(tree) > before {
			names = append(names, r.Name)
		}
	}
	if len(own)+len(tree) == 0 {
		return nil, nil
	}
	rows, err := conn.Query(ctx, bareColumnsSQL, own, tree, names)
	if err != nil {
		return nil, fmt.Errorf("looking for columns without statistics: %w", err)
	}
	found := map[uint32]bare{}
	var (
		oid       uint32
		inherited bool
		columns   []string
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &inherited, &columns}, func() error {
		b := found[oid]
		if inherited {
			b.tree = columns
		} else {
			b.own = columns
		}
		found[oid] = b
		columns = nil // the next row's are others
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for columns without statistics: %w", err)
	}
	return found, nil
}

// lacksColumns says which columns there are no statistics of.
func lacksColumns(columns []string) string {
	text := "statistics of column " + pgx.Identifier{columns[0]}.Sanitize()
	if n := len(columns) - 1; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// bareGaps are those of a table that has statistics of some columns.
func (i inventory) bareGaps(r *relation) []gap {
	var found []gap
	b := i.bare[r.OID]
	if len(b.own) > 0 {
		found = append(found, gap{oid: r.OID, what: lacksColumns(b.own), of: []uint32{r.OID}})
	}
	if below := r.descendants(i.known); len(b.tree) > 0 && len(below) > 0 {
		found = append(found, gap{oid: r.OID, what: lacksColumns(b.tree) + " over the whole tree", of: below})
	}
	return found
}
