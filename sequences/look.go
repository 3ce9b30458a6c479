package sequences

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// look asks for the number of one column that lies furthest.
type look struct {
	of     *Reached
	column column
	value  *int64
	failed string // why it was not answered
}

// furthestSQL is answered from the end of an index.
const furthestSQL = `select %[1]s(%[2]s)::bigint from %[3]s`

func (l *look) sql() string {
	function := "max"
	if l.of.Increment < 0 {
		function = "min"
	}
	return fmt.Sprintf(furthestSQL, function, l.column.name, l.column.table)
}

// looksAtOnce is how many columns are asked for in one transaction: each table
// with its indexes, its partitions too, takes entries in the server's lock table.
const looksAtOnce = 200

// looksWithin bounds all looks together: they are for information.
const looksWithin = 30 * time.Second

// politelySQL bounds each look: the end of an index may hold many dead rows, and
// somebody may hold the table's lock.
const politelySQL = `
select set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '2s', true), set_config('transaction_read_only', 'on', true)`

// askAll answers all looks, or says of each why it was not. The error is one of the
// connection or the context.
func askAll(ctx context.Context, q Querier, looks []*look, within time.Duration) error {
	end := time.Now().Add(within)
	for len(looks) > 0 {
		if time.Now().After(end) {
			for _, l := range looks {
				l.failed = fmt.Sprintf("not looked at, for all took longer than %s", within)
			}
			return nil
		}
		some := looks[:min(looksAtOnce, len(looks))]
		done, err := ask(ctx, q, some)
		if err != nil {
			return err
		}
		looks = looks[done:]
	}
	return nil
}

// ask answers looks in one round trip and returns how many from the first on are
// settled: all, or those up to the one that failed. When statements do not even get
// through their parsing, it is not known whose fault that is: then half as many are
// tried.
func ask(ctx context.Context, q Querier, looks []*look) (int, error) {
	for {
		answered, err := askTogether(ctx, q, looks)
		switch {
		case err == nil:
			return len(looks), nil
		case pg.Code(err) == "" || ctx.Err() != nil || answered == len(looks):
			return 0, err
		case answered > 0 || len(looks) == 1 || pg.IsCode(err, pg.QueryCanceled):
			looks[answered].failed = reason(err)
			return answered + 1, nil
		}
		looks = looks[:len(looks)/2]
	}
}

// reason says in words why the server did not answer.
func reason(err error) string {
	var e *pgconn.PgError
	switch errors.As(err, &e); {
	case e.Code == pg.LockNotAvailable:
		return "somebody holds a lock on the table"
	case e.Code == pg.QueryCanceled:
		return "the end of the index could not be read in time"
	default:
		return e.Message
	}
}

// askTogether returns how many were answered before the error.
func askTogether(ctx context.Context, q Querier, looks []*look) (answered int, err error) {
	err = pgx.BeginFunc(ctx, q, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, politelySQL); err != nil {
			return err
		}
		var b pgx.Batch
		for _, l := range looks {
			b.Queue(l.sql())
		}
		results := tx.SendBatch(ctx, &b)
		for _, l := range looks {
			if err := results.QueryRow().Scan(&l.value); err != nil {
				//nolint:errcheck // the first error of the batch is what matters
				results.Close()
				return err
			}
			answered++
		}
		return results.Close()
	})
	return answered, err
}
