package warmup

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// probeBound is how long one table is searched for a row.
const probeBound = 2 * time.Second

// WithoutStatistics returns the application tables that have rows and no
// planner statistics at all, ordered by name. A partitioned table, like every
// parent of an inheritance tree, is one of them when a descendant has rows and
// statistics over the whole tree were never gathered.
//
// The proof of statistics is a row in pg_stats, which a table's owner sees.
// pg_class.reltuples is none: CREATE INDEX and VACUUM set it, too (before 18
// also the index build that follows a copy). Only for a table whose columns
// this role may not read, or that row security hides, the server's memory of
// an ANALYZE counts instead (pg_stat_all_tables.last_analyze); it is lost when
// the server crashes, and before 14 not kept for partitioned tables: then the
// table counts as one without statistics.
//
// An empty table is fine. A table is known to have rows when it was counted,
// else it is looked into; one that is locked or cannot be read counts as having
// rows when it has blocks. Tables whose columns all have a statistics target
// of 0 are fine.
func WithoutStatistics(ctx context.Context, s *pg.Server) ([]Table, error) {
	conn, err := openMissing(ctx, s)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	_, missing, err := relationsMissing(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("looking for tables without statistics on the %s server: %w", s.Side(), err)
	}
	tables := make([]Table, 0, len(missing))
	for _, r := range missing {
		tables = append(tables, r.Table)
	}
	return tables, nil
}

func openMissing(ctx context.Context, s *pg.Server) (*pgx.Conn, error) {
	conn, err := s.Connect(ctx, "statistics", map[string]string{
		"lock_timeout":                  "1s",
		"default_transaction_read_only": "on",
	})
	if err != nil {
		return nil, fmt.Errorf("opening a session to look for tables without statistics: %w", err)
	}
	return conn, nil
}

// relationsMissing returns all application tables and those of them that
// WithoutStatistics names.
func relationsMissing(ctx context.Context, conn *pgx.Conn) (all, missing []*relation, err error) {
	all, err = relations(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	known := byOID(all)
	rows := rowFinder{conn: conn, known: map[uint32]bool{}}
	for _, r := range all {
		lacks, err := lacksStatistics(ctx, r, known, &rows)
		if err != nil {
			return nil, nil, err
		}
		if lacks {
			missing = append(missing, r)
		}
	}
	return all, missing, nil
}

// lacksStatistics decides about one table. It looks for rows last, since that
// may read the table.
func lacksStatistics(ctx context.Context, r *relation, known map[uint32]*relation, rows *rowFinder) (bool, error) {
	if !r.Countable || !r.Readable && r.Analyzed {
		return false, nil
	}
	if r.Kind != PartitionedTable && !r.Own {
		if has, err := rows.has(ctx, r); has || err != nil {
			return has, err
		}
	}
	if r.Inherited {
		return false, nil
	}
	for _, oid := range r.descendants(known) {
		child := known[oid]
		if child == nil || child.Kind == PartitionedTable {
			continue
		}
		if has, err := rows.has(ctx, child); has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// rowFinder finds out whether tables have rows, each table once.
type rowFinder struct {
	conn  *pgx.Conn
	known map[uint32]bool
}

// has reports whether a table has rows. Tables without a block and tables that
// were counted are not read. A count of 0 is only believed after an ANALYZE:
// before 14 it also means "never counted".
func (f *rowFinder) has(ctx context.Context, r *relation) (bool, error) {
	if has, ok := f.known[r.OID]; ok {
		return has, nil
	}
	var has bool
	var err error
	switch {
	case r.Bytes == 0 || !r.Populated:
	case r.Own || r.Tuples > 0 || r.Locked:
		has = true
	case r.Analyzed && r.Tuples == 0:
	default:
		has, err = f.look(ctx, r)
	}
	if err == nil {
		f.known[r.OID] = has
	}
	return has, err
}

// firstRowSQL is followed by nothing; %s is the table. A table of many blocks
// and no row takes long: the caller bounds it.
const firstRowSQL = `select exists (select 1 from only %s)`

// look searches the table for a row. What cannot be searched counts as having
// one: it is better named than overlooked.
func (f *rowFinder) look(ctx context.Context, r *relation) (bool, error) {
	tx, err := f.conn.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("looking for a row in %s: %w", r.Table, err)
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "set local statement_timeout = "+strconv.FormatInt(probeBound.Milliseconds(), 10)); err != nil {
		return false, fmt.Errorf("looking for a row in %s: %w", r.Table, err)
	}
	var has bool
	err = tx.QueryRow(ctx, fmt.Sprintf(firstRowSQL, r.Table)).Scan(&has)
	switch {
	case pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName):
		return false, nil // dropped meanwhile
	case pg.IsCode(err, pg.QueryCanceled, pg.LockNotAvailable, pg.InsufficientPrivilege):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for a row in %s: %w", r.Table, err)
	}
	return has, nil
}

// rollback ends a transaction that only read, or failed.
func rollback(ctx context.Context, tx pgx.Tx) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBound)
	defer cancel()
	//nolint:errcheck // nothing was written; a session that is gone has rolled back
	tx.Rollback(end)
}
