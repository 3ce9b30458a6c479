package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// LockedError says that a schema could not be read because what Postgres prints of
// it was not to be had: the functions that print expressions, views and partition
// bounds wait for whoever alters the relation.
type LockedError struct {
	Side pg.Side
	// By are relations that are locked, each with who locks it; empty when the lock
	// was free again by the time of the look.
	By  []string
	err error
}

// Error names the relations.
func (e *LockedError) Error() string {
	text := fmt.Sprintf("reading the schema of the %s server: the lock of a relation was not to be had in time", e.Side)
	if len(e.By) > 0 {
		text += ": " + strings.Join(e.By, "; ")
	}
	return text
}

// Unwrap returns the server's error.
func (e *LockedError) Unwrap() error { return e.err }

// lockedSQL lists relations that somebody holds, or waits for, ACCESS EXCLUSIVE on:
// everybody else waits. A prepared transaction has no process.
// https://www.postgresql.org/docs/current/view-pg-locks.html
const lockedSQL = `
select format('%s is %s exclusively by %s', c.oid::regclass, case when l.granted then 'locked' else 'to be locked' end,
              case when l.pid is null then 'a prepared transaction'
                   else concat('session ', l.pid, ' (' || nullif(concat_ws(', ', nullif(a.application_name, ''), a.state), '') || ')') end)
  from pg_locks l
  join pg_class c on c.oid = l.relation
  left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
   and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
 order by 1
 limit 5`

// Locked tells which relations of s are locked so that nobody can read them, each
// with who locks it: at most five, none where that cannot be seen. It is for the
// error of a lock that was not to be had.
func Locked(ctx context.Context, s *pg.Server) []string {
	rows, err := s.Pool().Query(ctx, lockedSQL)
	if err != nil {
		return nil
	}
	by, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil
	}
	return by
}
