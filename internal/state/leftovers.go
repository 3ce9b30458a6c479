package state

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// leftoversSQL lists everything on a server that bears a move's name: $1 is
// the pattern of its streams' names, $2 the name of its fence triggers, $4 that
// of its role. Slots and roles are
// the cluster's, the rest is the database's.
const leftoversSQL = `
select 'schema ' || nspname from pg_namespace where nspname = 'pgcutover'
union all
select 'publication ' || pubname from pg_publication where pubname ~ $1
union all
select 'subscription ' || subname from pg_subscription where subname ~ $1
union all
select 'replication slot ' || slot_name from pg_replication_slots where slot_name ~ $1
union all
select 'role ' || rolname from pg_roles where rolname = $4
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
select 'comment of the database: ' || c
  from (select shobj_description(d.oid, 'pg_database') as c from pg_database d where d.datname = current_database()) as d
 where c like 'writes are refused: pgcutover%'
union all
select 'replication origin ' || roname from pg_replication_origin
 where exists (select 1 from unnest($3::bigint[]) as s(oid)
                where roname = 'pg_' || s.oid or roname like 'pg\_' || s.oid || '\_%')
 order by 1`

// Leftovers lists what of a move is still on a server. subscriptions are the
// OIDs that its subscriptions there had, as far as they are known.
func Leftovers(ctx context.Context, s *pg.Server, subscriptions []uint32) ([]string, error) {
	oids := make([]int64, 0, len(subscriptions))
	for _, oid := range subscriptions {
		oids = append(oids, int64(oid))
	}
	rows, err := s.Pool().Query(ctx, leftoversSQL, StreamPattern(s.Move()), "pgcutover_"+s.Move()+"_fence", oids, "pgcutover_"+s.Move())
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers on the %s server: %w", s.Side(), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers on the %s server: %w", s.Side(), err)
	}
	return found, nil
}
