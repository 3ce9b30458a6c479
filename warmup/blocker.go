package warmup

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Blocker is a session, or a prepared transaction, that holds a lock which
// another one waited for in vain.
type Blocker struct {
	PID         int32  `json:"pid,omitempty"` // 0 for a prepared transaction
	Prepared    string `json:"prepared,omitempty"`
	Table       Table  `json:"table"` // whose lock it is; a partition, perhaps
	Mode        string `json:"mode"`  // such as AccessExclusiveLock
	Application string `json:"application,omitempty"`
	Role        string `json:"role,omitempty"`
	State       string `json:"state,omitempty"`
	Query       string `json:"query,omitempty"` // the beginning; empty without the right to see it
}

// String says who holds which lock.
func (b Blocker) String() string {
	if b.PID == 0 {
		return fmt.Sprintf("prepared transaction %q holds %s on %s", b.Prepared, b.Mode, b.Table)
	}
	text := fmt.Sprintf("session %d", b.PID)
	if b.Application != "" {
		text += fmt.Sprintf(" (%s)", b.Application)
	}
	text += fmt.Sprintf(" holds %s on %s", b.Mode, b.Table)
	if b.State != "" {
		text += ", " + b.State
	}
	if b.Query != "" {
		text += ": " + b.Query
	}
	return text
}

// blockersSQL lists who holds a lock that ANALYZE of the table $1 waits for:
// it takes SHARE UPDATE EXCLUSIVE on the table and, to sample them, ACCESS
// SHARE on its descendants $2. Who only reads waits for the latter. A
// prepared transaction has no pid; the lock on its own number, of the same
// virtual transaction, leads to its name.
// Postgres manual: 13.3.1, Table-Level Locks, and 54.12, pg_locks.
const blockersSQL = `
with locks as (
    select l.relation, l.locktype, l.mode, l.pid, l.virtualtransaction, l.transactionid, l.database
      from pg_locks l
     where l.granted
)
select distinct coalesce(l.pid, 0), coalesce(x.gid, ''), n.nspname, c.relname, l.mode,
       coalesce(a.application_name, ''), coalesce(a.usename::text, ''), coalesce(a.state, ''),
       coalesce(left(a.query, 200), '')
  from locks l
  join pg_class c on c.oid = l.relation
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_stat_activity a on a.pid = l.pid
  left join locks own on l.pid is null and own.pid is null and own.locktype = 'transactionid'
                     and own.virtualtransaction = l.virtualtransaction
  left join pg_prepared_xacts x on x.transaction = own.transactionid
 where l.locktype = 'relation'
   and l.database = (select d.oid from pg_database d where d.datname = current_database())
   and l.pid is distinct from pg_backend_pid()
   and (l.relation = $1::oid and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                                            'ExclusiveLock', 'AccessExclusiveLock')
     or l.relation = any($2::oid[]) and l.mode = 'AccessExclusiveLock')
 order by 1, 2, 3, 4, 5`

// blockersOf asks who stands in the way of work on t: of analyzing the table
// with one object identifier, or of reading those with the others. The lock may
// be free again by now: then the list is empty.
func blockersOf(ctx context.Context, conn *pgx.Conn, t Table, analyzed uint32, read []uint32) ([]Blocker, error) {
	rows, err := conn.Query(ctx, blockersSQL, analyzed, read)
	if err != nil {
		return nil, fmt.Errorf("asking who locks %s: %w", t, err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Blocker, error) {
		var b Blocker
		err := row.Scan(&b.PID, &b.Prepared, &b.Table.Schema, &b.Table.Name, &b.Mode, &b.Application, &b.Role, &b.State, &b.Query)
		b.Query = presentable(b.Query)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("asking who locks %s: %w", t, err)
	}
	return found, nil
}

// presentable puts a foreign statement on one line and withholds one that may
// hold a secret, since reports are passed on.
func presentable(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if strings.Contains(strings.ToLower(query), "password") {
		return "(not shown: it mentions a password)"
	}
	return query
}
