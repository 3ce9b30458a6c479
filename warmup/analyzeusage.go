package warmup

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// TableUsage is how much a table was used since its server's counters were
// reset, with all partitions and inheritance children below it.
type TableUsage struct {
	Scans int64 `json:"scans"` // of the table and through its indexes
	Rows  int64 `json:"rows"`  // read and written
	Bytes int64 `json:"bytes"` // of the main fork, as of the last VACUUM or ANALYZE
}

// Usage is how much each table is used.
type Usage map[Table]TableUsage

// usageSQL sums the counters of each table and of what is below it. They are
// those of this server alone: what standbys of it read is counted there.
// Postgres manual: 27.2.20, pg_stat_all_tables, and 27.2.21, pg_stat_all_indexes.
const usageSQL = `
with recursive tree (root, relation) as (
    select c.oid, c.oid
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'm', 'f')
       and c.relpersistence <> 't'
       and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
    union
    select tree.root, i.inhrelid
      from tree
      join pg_inherits i on i.inhparent = tree.relation
), through_indexes as (
    select i.indrelid, sum(pg_stat_get_numscans(i.indexrelid)) as scans
      from pg_index i
     group by i.indrelid
), used as (
    select tree.root,
           sum(pg_stat_get_numscans(c.oid) + coalesce(t.scans, 0)) as scans,
           sum(pg_stat_get_tuples_returned(c.oid) + pg_stat_get_tuples_fetched(c.oid) + pg_stat_get_tuples_inserted(c.oid)
             + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)) as rows,
           sum(greatest(c.relpages, 0)::bigint * current_setting('block_size')::bigint) as bytes
      from tree
      join pg_class c on c.oid = tree.relation
      left join through_indexes t on t.indrelid = c.oid
     group by tree.root
)
select n.nspname, c.relname, coalesce(used.scans, 0)::bigint, coalesce(used.rows, 0)::bigint, coalesce(used.bytes, 0)::bigint
  from used
  join pg_class c on c.oid = used.root
  join pg_namespace n on n.oid = c.relnamespace`

// ReadUsage reads how much each table is used from the counters of a server that
// serves: mostly the old one. It takes no lock on any table, needs no rights and
// changes nothing.
func ReadUsage(ctx context.Context, s *pg.Server) (Usage, error) {
	conn, err := openMissing(ctx, s)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	rows, err := conn.Query(ctx, usageSQL)
	if err != nil {
		return nil, fmt.Errorf("reading how much tables are used on the %s server: %w", s.Side(), err)
	}
	usage := Usage{}
	var t Table
	var u TableUsage
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &u.Scans, &u.Rows, &u.Bytes}, func() error {
		usage[t] = u
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading how much tables are used on the %s server: %w", s.Side(), err)
	}
	return usage, nil
}

// compare orders the most used table first. Scans go before rows: each is at
// least one statement that somebody waits for and that was planned, while one
// nightly report reads more rows than a day of customers.
func (u TableUsage) compare(v TableUsage) int {
	return cmp.Or(cmp.Compare(v.Scans, u.Scans), cmp.Compare(v.Rows, u.Rows), cmp.Compare(v.Bytes, u.Bytes))
}

// mostUsedFirst sorts by what another server counted; tables that it does not
// have come last, biggest first.
func mostUsedFirst(all []*relation, usage Usage) {
	slices.SortStableFunc(all, func(a, b *relation) int {
		return cmp.Or(usage[a.Table].compare(usage[b.Table]), cmp.Compare(b.Bytes, a.Bytes))
	})
}
