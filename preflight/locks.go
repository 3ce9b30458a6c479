package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// tablesSQL counts the tables that a cutover locks.
const tablesSQL = `
select count(*) as tables
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')`

// locksSQL reads the lock table's nominal size, per_transaction times sessions.
// Postgres manual: 19.12, Lock Management.
const locksSQL = `
select current_setting('max_locks_per_transaction')::bigint as per_transaction,
       current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint as sessions`

type lockFacts struct {
	PerTransaction int64
	Sessions       int64
}

// checkLocks looks for room for one lock on every table: pg_dump takes one, so
// does the cutover, and a rollback takes one on the new server. Other sessions
// want some too, so four fifths of the nominal number are taken as all there is.
func checkLocks(ctx context.Context, p *Pair) ([]Finding, error) {
	counted, err := readValues[int64](ctx, p.Old, "counting tables", tablesSQL)
	if err != nil {
		return nil, err
	}
	tables := counted[0] * int64(p.Settings.databases())
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		if s.Side() == pg.New && !p.Settings.Rollback {
			return nil, nil
		}
		have, err := readOne[lockFacts](ctx, s, "reading the size of the lock table", locksSQL)
		return lockFindings(s, have, tables), err
	})
}

func lockFindings(s *pg.Server, have lockFacts, tables int64) []Finding {
	if tables*5 <= have.PerTransaction*have.Sessions*4 {
		return nil
	}
	why := "pg_dump locks every table at once, and so does the cutover; when the lock table is full, they and other sessions fail with 53200."
	if s.Side() == pg.New {
		why = "A rollback locks every table at once; when the lock table is full, it and other sessions fail with 53200."
	}
	return []Finding{Finding{
		ID: "locks.room", Severity: Warning, Server: string(s.Side()), Object: "max_locks_per_transaction",
		Seen: fmt.Sprintf("%d tables, room for about %d locks in all sessions together", tables, have.PerTransaction*have.Sessions),
		Why:  why,
	}.setTo("max_locks_per_transaction", tables*5/4/have.Sessions+1, true)}
}
