package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Kind says what a [Table] is.
type Kind string

// The kinds of tables that have statistics.
const (
	OrdinaryTable    Kind = "table"
	PartitionedTable Kind = "partitioned table"
	MaterializedView Kind = "materialized view"
	ForeignTable     Kind = "foreign table" // only where it is asked for
)

// Table names a table, a partitioned table or a materialized view.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String returns the quoted, qualified name, as SQL takes it.
func (t Table) String() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// relation is an application table and what the catalogs know about it.
type relation struct {
	Table
	OID       uint32
	Kind      Kind
	Bytes     int64   // of the main fork; of a locked table an estimate
	Toast     int64   // of the toast table's main fork; 0 when locked
	Indexes   int64   // of all indexes, as of their last count
	Pages     int32   // pg_class.relpages
	Tuples    float32 // pg_class.reltuples; see hasRows
	Locked    bool    // ACCESS EXCLUSIVE is held or waited for: looking would wait
	Partition bool    // of a partitioned table
	Populated bool    // false for a materialized view WITH NO DATA
	Readable  bool    // pg_stats shows this role the table's statistics
	Countable bool    // ANALYZE looks at a column: one that is stored, with a target other than 0
	Own       bool    // has statistics of its own rows
	Inherited bool    // has statistics of its rows and those of its descendants
	Columns   int     // whatever their statistics targets are
	Analyzed  bool    // the statistics collector remembers an ANALYZE
	Changed   int64   // rows changed since the last ANALYZE
	Live      int64   // rows, as the statistics collector counts them
	Activity  int64   // rows read and written since the statistics were reset

	OwnColumns  int // with statistics of the table's own rows
	TreeColumns int // with statistics over its tree

	ByHand    *time.Time // the last ANALYZE that the collector remembers
	ByVacuum  *time.Time // the last one by autovacuum
	Threshold float64    // autovacuum_analyze_threshold, the table's or the server's
	Factor    float64    // autovacuum_analyze_scale_factor, likewise

	children []uint32 // direct ones, partitions and inheritance children
}

// relationsSQL lists the application tables. Sizes are not asked of tables
// that somebody locks exclusively, since pg_relation_size would wait for them;
// pg_class, pg_stats and the pg_stat_get functions take no lock on a table.
// pg_stats shows only columns that the role may read, hence "readable". Foreign
// tables are listed if $1.
const relationsSQL = `
with locked as (
    select distinct l.relation
      from pg_locks l
     where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
), stats as (
    select s.schemaname, s.tablename,
           bool_or(s.inherited) as inherited, bool_or(not s.inherited) as own,
           count(*) filter (where s.inherited) as inherited_columns, count(*) filter (where not s.inherited) as own_columns
      from pg_stats s
     group by s.schemaname, s.tablename
), columns as (
    select a.attrelid, count(*) as columns
      from pg_attribute a
     where a.attnum > 0 and not a.attisdropped
     group by a.attrelid
), indexes as (
    select i.indrelid, sum(ic.relpages)::bigint as pages
      from pg_index i
      join pg_class ic on ic.oid = i.indexrelid
     group by i.indrelid
)
select n.nspname, c.relname, c.oid, c.relkind::text,
       case when c.relkind = 'p' then 0
            when locked.relation is not null then greatest(c.relpages, 1)::bigint * current_setting('block_size')::bigint
            else coalesce(pg_relation_size(c.oid), 0) end,
       case when c.reltoastrelid = 0 or locked.relation is not null then 0
            else coalesce(pg_relation_size(c.reltoastrelid), 0) end,
       coalesce(indexes.pages, 0) * current_setting('block_size')::bigint,
       c.relpages, c.reltuples, locked.relation is not null, c.relispartition, c.relispopulated,
       has_any_column_privilege(c.oid, 'SELECT') and not row_security_active(c.oid),
       exists (select 1 from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                  and coalesce(a.attstattarget, -1) <> 0
                  and (not a.atthasdef or to_jsonb(a) ->> 'attgenerated' is distinct from 'v')),
       coalesce(stats.own, false), coalesce(stats.inherited, false),
       coalesce(columns.columns, 0), coalesce(stats.own_columns, 0), coalesce(stats.inherited_columns, 0),
       pg_stat_get_last_analyze_time(c.oid) is not null or pg_stat_get_last_autoanalyze_time(c.oid) is not null,
       coalesce(pg_stat_get_mod_since_analyze(c.oid), 0),
       coalesce(pg_stat_get_live_tuples(c.oid), 0),
       coalesce(pg_stat_get_tuples_returned(c.oid) + pg_stat_get_tuples_fetched(c.oid)
              + pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
              + pg_stat_get_tuples_deleted(c.oid), 0),
       pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid),
       coalesce((select max(o.option_value::float8) from pg_options_to_table(c.reloptions) o
                  where o.option_name = 'autovacuum_analyze_threshold'),
                current_setting('autovacuum_analyze_threshold')::float8),
       coalesce((select max(o.option_value::float8) from pg_options_to_table(c.reloptions) o
                  where o.option_name = 'autovacuum_analyze_scale_factor'),
                current_setting('autovacuum_analyze_scale_factor')::float8)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join locked on locked.relation = c.oid
  left join stats on stats.schemaname = n.nspname and stats.tablename = c.relname
  left join columns on columns.attrelid = c.oid
  left join indexes on indexes.indrelid = c.oid
 where (c.relkind in ('r', 'p', 'm') or $1::boolean and c.relkind = 'f')
   and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and n.nspname not like 'pg\_temp\_%' and n.nspname not like 'pg\_toast\_temp\_%'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

// relations lists the application tables, with their children.
func relations(ctx context.Context, conn *pgx.Conn) ([]*relation, error) {
	return allRelations(ctx, conn, false)
}

// allRelations is relations, with foreign tables if they are asked for.
func allRelations(ctx context.Context, conn *pgx.Conn, foreign bool) ([]*relation, error) {
	var all []*relation
	err := untilUnlocked(ctx, func() error {
		rows, err := conn.Query(ctx, relationsSQL, foreign)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, scanRelation)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	return all, addChildren(ctx, conn, all)
}

func scanRelation(row pgx.CollectableRow) (*relation, error) {
	var r relation
	var kind string
	err := row.Scan(&r.Schema, &r.Name, &r.OID, &kind, &r.Bytes, &r.Toast, &r.Indexes, &r.Pages, &r.Tuples,
		&r.Locked, &r.Partition, &r.Populated, &r.Readable, &r.Countable, &r.Own, &r.Inherited,
		&r.Columns, &r.OwnColumns, &r.TreeColumns, &r.Analyzed,
		&r.Changed, &r.Live, &r.Activity, &r.ByHand, &r.ByVacuum, &r.Threshold, &r.Factor)
	r.Kind = map[string]Kind{"r": OrdinaryTable, "p": PartitionedTable, "m": MaterializedView, "f": ForeignTable}[kind]
	return &r, err
}

// listTries bounds how often a listing is begun again when a table is locked
// between the look at pg_locks and the look at its size.
const listTries = 3

// untilUnlocked repeats f while a lock is not to be had.
func untilUnlocked(ctx context.Context, f func() error) error {
	var err error
	for range listTries {
		if err = f(); !pg.IsCode(err, pg.LockNotAvailable) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// childrenSQL lists who inherits from whom, partitions included.
const childrenSQL = `
select i.inhparent, i.inhrelid
  from pg_inherits i
  join pg_class c on c.oid = i.inhrelid
 where c.relkind in ('r', 'p', 'f')
 order by i.inhparent, i.inhrelid`

func addChildren(ctx context.Context, conn *pgx.Conn, all []*relation) error {
	rows, err := conn.Query(ctx, childrenSQL)
	if err != nil {
		return fmt.Errorf("listing partitions: %w", err)
	}
	known := byOID(all)
	var parent, child uint32
	_, err = pgx.ForEachRow(rows, []any{&parent, &child}, func() error {
		if r := known[parent]; r != nil {
			r.children = append(r.children, child)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing partitions: %w", err)
	}
	return nil
}

func byOID(all []*relation) map[uint32]*relation {
	known := make(map[uint32]*relation, len(all))
	for _, r := range all {
		known[r.OID] = r
	}
	return known
}

// descendants returns the object identifiers of all partitions and inheritance
// children below r, foreign tables included, each once.
func (r *relation) descendants(known map[uint32]*relation) []uint32 {
	var found []uint32
	seen := map[uint32]bool{r.OID: true}
	var walk func(*relation)
	walk = func(r *relation) {
		for _, oid := range r.children {
			if seen[oid] {
				continue
			}
			seen[oid] = true
			found = append(found, oid)
			if child := known[oid]; child != nil {
				walk(child)
			}
		}
	}
	walk(r)
	return found
}

// last returns when the table was last analyzed, by hand or by autovacuum; nil
// when the server remembers no time.
func (r *relation) last() *time.Time {
	switch {
	case r.ByHand == nil:
		return r.ByVacuum
	case r.ByVacuum != nil && r.ByVacuum.After(*r.ByHand):
		return r.ByVacuum
	}
	return r.ByHand
}

// tree is the size of a table with all that is below it.
func (r *relation) tree(known map[uint32]*relation) int64 {
	size := r.Bytes
	for _, oid := range r.descendants(known) {
		if child := known[oid]; child != nil {
			size += child.Bytes
		}
	}
	return size
}

// biggestFirst sorts so that the longest work begins first.
func biggestFirst(all []*relation) {
	slices.SortStableFunc(all, func(a, b *relation) int { return cmp.Compare(b.Bytes, a.Bytes) })
}

// hottestFirst sorts by what clients and replication have done to a table.
func hottestFirst(all []*relation) {
	slices.SortStableFunc(all, func(a, b *relation) int {
		return cmp.Or(cmp.Compare(b.Activity, a.Activity), cmp.Compare(b.Bytes, a.Bytes))
	})
}

// closeBound is how long the end of a session is waited for, and hurried how long
// it is when the caller's time is over. A server that answers takes milliseconds.
const (
	closeBound = 5 * time.Second
	hurried    = 2 * time.Second
)

// endSession closes conn. After a cancelled statement the driver asks the
// server, in the background, to cancel it and only then hangs up; waiting for
// that leaves no session behind when the call returns.
func endSession(ctx context.Context, conn *pgx.Conn) {
	pg.Close(ctx, conn)
	if conn == nil {
		return
	}
	bound := closeBound
	if ctx.Err() != nil {
		bound = hurried
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-conn.PgConn().CleanupDone():
	case <-timer.C:
	}
}

// cancelled returns the cause of ctx's end, nil while it lives.
func cancelled(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// errNotApplication is returned for a name that is no application table.
var errNotApplication = errors.New("no such application table")
