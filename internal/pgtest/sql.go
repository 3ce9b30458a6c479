package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
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
	defer leave(ctx, conn)
	for _, text := range sql {
		if _, err := conn.Exec(ctx, text).ReadAll(); err != nil {
			t.Fatalf("running %s\n%v", text, err)
		}
	}
}

// leaveBound is how long a session's end is waited for.
const leaveBound = 10 * time.Second

// leave ends a session and waits until its server process has gone, which the
// end of the connection tells: only then are its locks free and what it did
// counted in the statistics, where a test looks next.
func leave(ctx context.Context, conn *pgconn.PgConn) {
	taken, err := conn.Hijack()
	if err != nil { // in the middle of something
		conn.Close(ctx)
		return
	}
	defer taken.Conn.Close()
	if err := taken.Conn.SetDeadline(time.Now().Add(leaveBound)); err != nil {
		return
	}
	taken.Frontend.Send(&pgproto3.Terminate{})
	for err = taken.Frontend.Flush(); err == nil; {
		_, err = taken.Frontend.Receive()
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
	defer leave(ctx, conn.PgConn())
	var value T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&value); err != nil {
		t.Fatalf("querying %s\n%v", sql, err)
	}
	return value
}
