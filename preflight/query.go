package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// read returns the rows of one query, by the names of their columns, in a
// read-only transaction of its own. doing is a gerund for the error.
func read[T any](ctx context.Context, s *pg.Server, doing, sql string, args ...any) ([]T, error) {
	return collect(ctx, s, doing, pgx.RowToStructByName[T], sql, args...)
}

// readValues is read for queries of one column.
func readValues[T any](ctx context.Context, s *pg.Server, doing, sql string, args ...any) ([]T, error) {
	return collect(ctx, s, doing, pgx.RowTo[T], sql, args...)
}

// readOne is read for queries that return exactly one row.
func readOne[T any](ctx context.Context, s *pg.Server, doing, sql string, args ...any) (T, error) {
	rows, err := read[T](ctx, s, doing, sql, args...)
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("%s on the %s server: %d rows where one was expected", doing, s.Side(), len(rows))
	}
	if err != nil {
		var none T
		return none, err
	}
	return rows[0], nil
}

func collect[T any](ctx context.Context, s *pg.Server, doing string, to pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var out []T
	err := pgx.BeginTxFunc(ctx, s.Pool(), pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s on the %s server: %w", doing, s.Side(), s.Redacted(err))
	}
	return out, nil
}

// onBoth asks the same of old and new and joins what was found.
func onBoth(p *Pair, look func(*pg.Server) ([]Finding, error)) ([]Finding, error) {
	old, err := look(p.Old)
	if err != nil {
		return nil, err
	}
	found, err := look(p.New)
	return append(old, found...), err
}

// quote is an identifier as it stands in SQL.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal is a string as it stands in SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// setting is the statement that changes a server's setting.
func setting(name string, value any, restart bool) string {
	if restart {
		return fmt.Sprintf("ALTER SYSTEM SET %s = %v; -- then restart the server", name, value)
	}
	return fmt.Sprintf("ALTER SYSTEM SET %s = %v; SELECT pg_reload_conf();", name, value)
}

// streamName is the common beginning of what a move makes on the servers.
func streamName(move string) string { return "pgcutover_" + move }

// bytes writes a size for people.
func bytes(n int64) string {
	const units = "kMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, u := range units {
		f /= 1024
		if f < 1024 || u == 'P' {
			return fmt.Sprintf("%.1f %ciB", f, u)
		}
	}
	return ""
}
