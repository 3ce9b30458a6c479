package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// statementBound is how long Exec and Value wait, connecting included.
const statementBound = 2 * time.Minute

// Exec runs the texts one after the other in one session; each may hold several
// statements, which then are one transaction. An error ends the test. Like
// Value it may be called in a cleanup function, too.
func Exec(t testing.TB, url string, sql ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), statementBound)
	defer cancel()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	defer conn.Close(ctx)
	for _, text := range sql {
		if _, err := conn.Exec(ctx, text).ReadAll(); err != nil {
			t.Fatalf("running %s\n%v", text, err)
		}
	}
}

// Value returns the first column of the first row of a query. An error ends the
// test; no row is an error.
func Value[T any](t testing.TB, url, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), statementBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	defer conn.Close(ctx)
	var value T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		t.Fatalf("querying %s\n%v", sql, err)
	}
	return value
}
