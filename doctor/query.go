package doctor

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// read returns the rows of one query, by the names of their columns, in a
// read-only transaction of its own. doing is a gerund for the error.
func read[T any](ctx context.Context, s *pg.Server, doing, sql string, args ...any) ([]T, error) {
	var out []T
	err := pgx.BeginTxFunc(ctx, s.Pool(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, pgx.RowToStructByName[T])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s on the %s server: %w", doing, s.Side(), s.Redacted(err))
	}
	return out, nil
}

// readOne is read for a query that returns one row, or none: then nil.
func readOne[T any](ctx context.Context, s *pg.Server, doing, sql string, args ...any) (*T, error) {
	rows, err := read[T](ctx, s, doing, sql, args...)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}
