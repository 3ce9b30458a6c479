package warmup

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// silentError names the server that has not answered for too long. A server that
// works ends a statement by statement_timeout itself; one that was stopped, or is cut
// off, does not.
type silentError struct {
	server *pg.Server
	bound  time.Duration
}

func (e *silentError) Error() string {
	return fmt.Sprintf("the %s server (%s) has not answered for %s", e.server.Side(), e.server.Address(), e.bound)
}

// Unwrap makes errors.Is(err, errSilent) true.
func (e *silentError) Unwrap() error { return errSilent }

// answered gives an exchange with the server no more time than the bound. After that
// the session is lost, and the error is a *silentError.
func answered(ctx context.Context, s *pg.Server, bound time.Duration, exchange func(context.Context) error) error {
	bounded, cancel := context.WithTimeoutCause(ctx, bound, &silentError{s, bound})
	defer cancel()
	err := exchange(bounded)
	if pg.Code(err) != "" { // it has answered
		return err
	}
	return silent(bounded, err)
}

// answered is the same for a table that is read.
func (r *reader) answered(ctx context.Context, exchange func(context.Context) error) error {
	return answered(ctx, r.server, r.options.Answer, exchange)
}

// row asks for one row.
func (r *reader) row(ctx context.Context, sql string, arguments []any, into ...any) error {
	return r.answered(ctx, func(ctx context.Context) error { return r.conn.QueryRow(ctx, sql, arguments...).Scan(into...) })
}
