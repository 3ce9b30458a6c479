package warmup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// changedRows is autovacuum's default of autovacuum_analyze_threshold.
const changedRows = 50

// due returns those of asked that AnalyzeTables has to analyze.
func (a *analysis) due(ctx context.Context, conn *pgx.Conn, asked []*relation) ([]*relation, error) {
	expressions, err := bareExpressions(ctx, conn)
	if err != nil {
		return nil, err
	}
	rough, err := a.rough(ctx, conn)
	if err != nil {
		return nil, err
	}
	stale := map[uint32]bool{}
	for _, r := range a.known {
		stale[r.OID] = a.lacks[r.OID] != "" || r.Own && r.Tuples != 0 && expressions[r.OID] || rough[r.OID] || a.changed(r) || a.old(r)
	}
	var chosen []*relation
	for _, r := range asked {
		if stale[r.OID] || a.touched(r, stale) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// changed tells that more of the table has changed than it may.
func (a *analysis) changed(r *relation) bool {
	limit := r.Threshold + r.Factor*float64(max(r.Tuples, 0))
	if a.options.Changed > 0 {
		limit = changedRows + a.options.Changed*float64(max(r.Tuples, 0))
	}
	return float64(r.Changed) > limit
}

// old tells that the server remembers no ANALYZE since the given time. Before 14
// it remembers none of partitioned tables.
func (a *analysis) old(r *relation) bool {
	last := r.last()
	switch {
	case r.Kind == ForeignTable && !r.Own && last == nil:
		return true
	case a.options.Since.IsZero():
		return false
	case r.Kind == PartitionedTable && a.server.Version() < 140000:
		return false
	}
	return last == nil || last.Before(a.options.Since)
}

// touched tells that a parent's statistics over its tree are behind those of
// what is below it. Autovacuum sees to the descendants alone, and takes their
// count of changes back.
func (a *analysis) touched(r *relation, stale map[uint32]bool) bool {
	below := r.descendants(a.known)
	// Where its ANALYZE goes on to the partitions, they always come later.
	later := r.last() != nil && separate(a.server.Version(), r, below)
	for _, oid := range below {
		if stale[oid] {
			return true
		}
		if child := a.known[oid]; later && child != nil && child.last() != nil && child.last().After(*r.last()) {
			return true
		}
	}
	return false
}

// bareExpressionsSQL lists the tables that have an index on an expression without
// statistics: one made after the last ANALYZE. Of an index on a part of the rows
// none may be in the sample. The owner sees them.
const bareExpressionsSQL = `
select distinct i.indrelid
  from pg_index i
  join pg_class ic on ic.oid = i.indexrelid
  join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = ic.relnamespace
  left join pg_stats v on v.schemaname = n.nspname and v.tablename = ic.relname
 where i.indexprs is not null and i.indpred is null and i.indisvalid
   and c.relkind in ('r', 'm')
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
   and pg_has_role(c.relowner, 'USAGE')
   and v.tablename is null
   and exists (select 1 from pg_attribute a
                where a.attrelid = i.indexrelid and i.indkey[a.attnum - 1] = 0 and coalesce(a.attstattarget, -1) <> 0)`

func bareExpressions(ctx context.Context, conn *pgx.Conn) (map[uint32]bool, error) {
	return oidSet(ctx, conn, "listing indexes on expressions", bareExpressionsSQL)
}

// roughSQL lists those of the tables $1 whose statistics are those of a rough
// stage: of a column with a thousand values or more, a histogram of no more than
// $2 parts, and of no column more than that. An ANALYZE with a target above $2
// sees more, but for values of more than 1 kB, which are counted and not kept: a
// column of these alone says nothing. $3 is the target of the last stage, null for
// the session's own.
const roughSQL = `
select x.oid
  from (select c.oid, v.inherited,
               bool_or(v.null_frac < 0.5
                   and (v.n_distinct >= 1000 or v.n_distinct < 0 and -v.n_distinct * c.reltuples >= 1000)
                   and array_length(v.histogram_bounds, 1) - 1 <= $2::int
                   and coalesce(nullif(a.attstattarget::int, -1), $3::int, current_setting('default_statistics_target')::int) > $2::int) as rough,
               bool_or(coalesce(a.attstattarget, -1) = -1
                   and (array_length(v.histogram_bounds, 1) - 1 > $2::int or array_length(v.most_common_freqs, 1) > $2::int)) as fine
          from pg_class c
          join pg_namespace n on n.oid = c.relnamespace
          join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          join pg_stats v on v.schemaname = n.nspname and v.tablename = c.relname and v.attname = a.attname
         where c.oid = any($1::oid[])
         group by c.oid, v.inherited) x
 group by x.oid
having bool_or(x.rough and not coalesce(x.fine, false))`

// rough returns the tables that an Analyze that was interrupted has left with
// the statistics of a rough stage. Only big ones have such stages.
func (a *analysis) rough(ctx context.Context, conn *pgx.Conn) (map[uint32]bool, error) {
	stages := a.options.Stages
	last := stages[len(stages)-1]
	highest := Stage(0)
	for _, s := range stages[:len(stages)-1] {
		highest = max(highest, s)
	}
	if highest == 0 && last == DefaultTarget {
		highest = roughTarget
	}
	var big []uint32
	for _, r := range a.known {
		if (r.Own || r.Inherited) && r.tree(a.known) > a.options.Small {
			big = append(big, r.OID)
		}
	}
	if len(big) == 0 || highest == 0 {
		return nil, nil
	}
	var target *int
	if last != DefaultTarget {
		n := int(last)
		target = &n
	}
	return oidSet(ctx, conn, "looking for rough statistics", roughSQL, big, int(highest), target)
}

// roughTarget is the highest rough target of [Stages].
const roughTarget = 10

func oidSet(ctx context.Context, conn *pgx.Conn, doing, sql string, args ...any) (map[uint32]bool, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	set := make(map[uint32]bool, len(oids))
	for _, oid := range oids {
		set[oid] = true
	}
	return set, nil
}
