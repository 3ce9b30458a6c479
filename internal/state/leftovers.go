package state

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// leftoversSQL lists everything on a server that bears a move's name: $1 is
// the name of its stream, $2 that of its fence triggers. Slots and roles are
// the cluster's, the rest is the database's.
const leftoversSQL = `
select 'schema ' || nspname from pg_namespace where nspname = 'pgcutover'
union all
select 'publication ' || pubname from pg_publication where pubname = $1
union all
select 'subscription ' || subname from pg_subscription where subname = $1
union all
select 'replication slot ' || slot_name from pg_replication_slots where slot_name = $1
union all
select 'role ' || rolname from pg_roles where rolname = $1
union all
select 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass::text
  from pg_trigger t where t.tgname = $2 and not t.tgisinternal
union all
select 'database setting ' || c
  from pg_db_role_setting s
  join pg_database d on d.oid = s.setdatabase
  cross join lateral unnest(s.setconfig) as c
 where s.setrole = 0 and d.datname = current_database() and c like 'default_transaction_read_only=%'
union all
select 'role setting of ' || r.rolname || ': ' || c
  from pg_db_role_setting s
  join pg_database d on d.oid = s.setdatabase
  join pg_roles r on r.oid = s.setrole
  cross join lateral unnest(s.setconfig) as c
 where d.datname = current_database() and c like 'default_transaction_read_only=%'
union all
select 'replication origin ' || roname from pg_replication_origin
 where $3 <> 0 and (roname = 'pg_' || $3::text or roname like 'pg\_' || $3::text || '\_%')
 order by 1`

// Leftovers lists what of a move is still on a server. subscription is the OID
// that its subscription had, 0 if not known.
func Leftovers(ctx context.Context, s *pg.Server, subscription uint32) ([]string, error) {
	rows, err := s.Pool().Query(ctx, leftoversSQL, "pgcutover_"+s.Move(), "pgcutover_"+s.Move()+"_fence", int64(subscription))
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers on the %s server: %w", s.Side(), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers on the %s server: %w", s.Side(), err)
	}
	return found, nil
}
