// Package fill brings rows into the databases of benches, as a copy does it:
// table by table, before there are indexes.
package fill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// Jobs is how many sessions fill at the same time.
const Jobs = 2

const filledSQL = `select exists (select 1 from pg_database where datname = $1)`

// filling is what a database is called until it is full.
const filling = "filling"

// Once makes the database on the server unless it is there, full, from an
// earlier run; fill gets the connection string. It reports whether it was made.
func Once(ctx context.Context, c *pgserver.Cluster, database string, fill func(url string) error) (bool, error) {
	full, err := Value[bool](ctx, c.URL("postgres"), filledSQL, database)
	if err != nil || full {
		return false, err
	}
	if err := pgserver.Execute(ctx, c.URL("postgres"), "drop database if exists "+filling, "create database "+filling); err != nil {
		return false, err
	}
	if err := fill(c.URL(filling)); err != nil {
		return false, err
	}
	return true, pgserver.Execute(ctx, c.URL("postgres"), "alter database "+filling+" rename to "+database, "checkpoint")
}

// Settings are those of servers that are filled and then measured by what they
// read: copying spares the log, and nothing in the background does what the bench
// is to do, or reads meanwhile.
func Settings(sharedBuffers string) map[string]string {
	return map[string]string{
		"shared_buffers":       sharedBuffers,
		"wal_level":            "minimal",
		"max_wal_senders":      "0",
		"max_wal_size":         "1GB",
		"maintenance_work_mem": "128MB",
		"autovacuum":           "off",
		"max_connections":      "100",
	}
}

// Content is what a database is made of: statements, and the names of tables.
type Content struct {
	Schema  []string // tables without indexes
	Rows    []string // of old, run a few at the same time
	Tables  []string // that are copied to new
	Indexes []string // on both, when the rows are there
	Finish  []string // on both, one after the other
}

// Both makes the database on old, and on new as a copy does it: rows table by
// table, then the indexes; each unless it was kept. It returns the bytes on new.
func Both(ctx context.Context, old, to *pgserver.Cluster, database string, c Content, say func(string, ...any)) (int64, error) {
	began, filled := time.Now(), 0
	for _, server := range []*pgserver.Cluster{old, to} {
		made, err := Once(ctx, server, database, func(url string) error {
			if err := pgserver.Execute(ctx, url, c.Schema...); err != nil {
				return err
			}
			var err error
			if server == old {
				err = Execute(ctx, url, c.Rows)
			} else {
				err = Copy(ctx, old.URL(database), url, c.Tables)
			}
			if err != nil {
				return err
			}
			if err := Execute(ctx, url, c.Indexes); err != nil {
				return err
			}
			return pgserver.Execute(ctx, url, c.Finish...)
		})
		if err != nil {
			return 0, err
		}
		if made {
			filled++
		}
	}
	if filled > 0 {
		say("filled %d servers in %s", filled, time.Since(began).Round(time.Second))
	}
	return Value[int64](ctx, to.URL(database), "select pg_database_size(current_database())")
}

// Copy brings the rows of tables, written as in SQL, from one database to
// another that has the same tables, empty.
func Copy(ctx context.Context, from, to string, tables []string) error {
	return parallel(ctx, tables, func(ctx context.Context, table string) error {
		if err := copyTable(ctx, from, to, table); err != nil {
			return fmt.Errorf("copying %s: %w", table, err)
		}
		return nil
	})
}

// Execute runs statements, begun in their order, each in a session of its own.
func Execute(ctx context.Context, url string, statements []string) error {
	return parallel(ctx, statements, func(ctx context.Context, sql string) error {
		return pgserver.Execute(ctx, url, sql)
	})
}

// Value asks for one value, in a session of its own.
func Value[T any](ctx context.Context, url, sql string, args ...any) (T, error) {
	var v T
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return v, err
	}
	defer pg.Close(ctx, conn)
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		return v, fmt.Errorf("asking %q: %w", sql, err)
	}
	return v, nil
}

// copyTable copies a table. TRUNCATE in the same transaction spares the log
// where wal_level is minimal.
func copyTable(ctx context.Context, oldURL, newURL, table string) error {
	from, err := pgx.Connect(ctx, oldURL)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, from)
	to, err := pgx.Connect(ctx, newURL)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, to)
	if _, err := to.Exec(ctx, "begin; truncate "+table); err != nil {
		return err
	}
	reading, writing := io.Pipe()
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error {
		buffer := bufio.NewWriterSize(writing, 256<<10)
		_, err := from.PgConn().CopyTo(inner, buffer, "copy "+table+" to stdout (format binary)")
		err = errors.Join(err, buffer.Flush())
		return errors.Join(err, writing.CloseWithError(err))
	})
	group.Go(func() error {
		_, err := to.PgConn().CopyFrom(inner, reading, "copy "+table+" from stdin (format binary)")
		return errors.Join(err, reading.CloseWithError(err))
	})
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = to.Exec(ctx, "commit")
	return err
}

// parallel runs do for all items, a few at the same time, in order.
func parallel(ctx context.Context, items []string, do func(context.Context, string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range Jobs {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return nil
				}
				if err := do(ctx, items[i]); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}
