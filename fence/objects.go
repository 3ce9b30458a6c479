package fence

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/state"
)

// lockObjectsSQL takes from PUBLIC the functions that write large objects, and
// remembers which they were; let_in puts them back. No trigger fires for large
// objects, and before 16 a read-only transaction writes them (measured on 10, 13
// and 15): nothing else would keep clients from it. Superusers are above that,
// and so are roles to whom EXECUTE was granted by name. It returns false where the
// role is not a superuser, who alone may do that.
const lockObjectsSQL = `
create or replace function pgcutover.lock_objects() returns boolean
language plpgsql set search_path = pg_catalog set lock_timeout = '1s' as $pgcutover$
declare
  f text;
begin
  if not (select r.rolsuper from pg_roles r where r.rolname = current_user) then
    return false;
  end if;
  for f in select p.oid::regprocedure::text
             from pg_proc p
            where p.pronamespace = 'pg_catalog'::regnamespace
              and p.proname in ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lo_truncate', 'lo_truncate64', 'lo_unlink', 'lowrite')
              and exists (select 1 from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                           where a.grantee = 0 and a.privilege_type = 'EXECUTE')
  loop
    insert into pgcutover.kept values ('execute ' || f, 'revoked') on conflict (key) do nothing;
    execute 'revoke execute on function pg_catalog.' || f || ' from public';
  end loop;
  return true;
end
$pgcutover$`

// LockObjectsSQL keeps clients of a server that is being closed from writing
// large objects. It belongs into the transaction that closes the server;
// open_now() and Revert put back what it takes.
const LockObjectsSQL = `select pgcutover.lock_objects()`

// hasLockObjectsSQL: a move that an earlier version has started has no such
// function.
const hasLockObjectsSQL = `select to_regprocedure('pgcutover.lock_objects()') is not null`

// LockObjects runs LockObjectsSQL. It returns false when the role may not.
func LockObjects(ctx context.Context, q state.Querier) (bool, error) {
	var may bool
	if err := q.QueryRow(ctx, hasLockObjectsSQL).Scan(&may); err != nil || !may {
		return false, err
	}
	if err := q.QueryRow(ctx, LockObjectsSQL).Scan(&may); err != nil {
		return false, fmt.Errorf("taking the functions that write large objects from clients: %w", err)
	}
	return may, nil
}
