package sequences

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// session lends f a session of q.
func session(ctx context.Context, q Querier, f func(*pgx.Conn) error) error {
	switch q := q.(type) {
	case *pgxpool.Pool:
		return q.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return f(c.Conn()) })
	case *pgx.Conn:
		return f(q)
	case interface{ Conn() *pgx.Conn }: // a transaction
		return f(q.Conn())
	}
	return fmt.Errorf("a %T lends no session", q)
}

// beside lends f a second session, which is no part of what is done in the first.
func beside(ctx context.Context, q Querier, first *pgx.Conn, f func(Querier) error) error {
	if pool, ok := q.(*pgxpool.Pool); ok && pool.Config().MaxConns > 1 {
		return f(pool)
	}
	conn, err := pgx.ConnectConfig(ctx, first.Config())
	if err != nil {
		return fmt.Errorf("opening a second session: %w", err)
	}
	defer pg.Close(ctx, conn)
	return f(conn)
}

// versionOf returns the major version, as server_version_num has it.
func versionOf(conn *pgx.Conn) int {
	text := conn.PgConn().ParameterStatus("server_version")
	digits := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		text = text[:digits]
	}
	major, err := strconv.Atoi(text)
	if err != nil {
		return 0 // read as the oldest are
	}
	return major * 10000
}

// send runs statements in one round trip. Without a transaction around them they
// are one: all or none. Each row of each result goes to row, as text. done is how many
// statements have succeeded.
func send(ctx context.Context, conn *pgx.Conn, statements []string, row func(i int, values [][]byte) error) (done int, err error) {
	var b pgconn.Batch
	for _, sql := range statements {
		b.ExecParams(sql, nil, nil, nil, nil)
	}
	results := conn.PgConn().ExecBatch(ctx, &b)
	var refused error
	for results.NextResult() {
		one := results.ResultReader()
		for one.NextRow() {
			if row != nil && refused == nil {
				refused = row(done, one.Values())
			}
		}
		if _, err := one.Close(); err == nil {
			done++
		}
	}
	if err := results.Close(); err != nil {
		return done, err
	}
	return done, refused
}

// rollbackBound is how long taking back may take.
const rollbackBound = 10 * time.Second

// rollBack ends the session's transaction. A session that does not answer to that is
// closed, which has the same effect.
func rollBack(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() {
		return
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackBound)
	defer cancel()
	if _, err := conn.Exec(limit, "rollback"); err != nil {
		pg.Close(ctx, conn)
	}
}

// lockTableFull is what the server answers when its lock table has no room
// ("out of shared memory"; Postgres manual: Appendix A, out_of_memory).
const lockTableFull = "53200"

// fewest sequences are tried in one transaction before a full lock table is an error.
const fewest = 10

// inParts calls do for parts of n sequences, size of them at a time. A part for which
// the lock table has no room is done again in halves.
func inParts(n, size int, do func(from, to int) error) error {
	for from := 0; from < n; {
		to := min(from+size, n)
		err := do(from, to)
		switch {
		case err == nil:
			from = to
		case pg.IsCode(err, lockTableFull) && to-from > fewest:
			size = max((to-from)/2, fewest)
		default:
			return err
		}
	}
	return nil
}

// lockRoomSQL asks how many locks the lock table has room for. Postgres manual:
// max_locks_per_transaction.
const lockRoomSQL = `
select current_setting('max_locks_per_transaction')::bigint
     * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
     - (select count(*) from pg_locks where not fastpath)`

// mostAtOnce bounds a transaction where the lock table has room for more: while the
// second session looks at that many, idle_in_transaction_session_timeout runs in the
// first one, and nextval waits.
const mostAtOnce = 20000

// lockRoom returns how many sequences one transaction may lock, so that a quarter
// of the room is left for everybody else.
func lockRoom(ctx context.Context, q Querier) (int, error) {
	rows, err := q.Query(ctx, lockRoomSQL)
	if err != nil {
		return 0, fmt.Errorf("reading the size of the lock table: %w", err)
	}
	free, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, fmt.Errorf("reading the size of the lock table: %w", err)
	}
	return int(min(max(free/4*3, fewest), mostAtOnce)), nil
}
