package fence

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// lockOutSQL takes CONNECT on the database from everybody but the roles in keep,
// and those that stream from here: without them the decision could not travel.
// Each right that it takes, and each that it gives a keeper in place of PUBLIC's,
// is remembered. It takes only what can be put back exactly, from any session:
// rights that the database's owner has granted and that nobody has passed on. It
// returns who may still connect. Superusers are above all that.
const lockOutSQL = `
create or replace function pgcutover.lock_out(keep text[]) returns text[]
language plpgsql set search_path = pg_catalog set lock_timeout = '1s' as $pgcutover$
declare
  db record;
  r record;
  keepers oid[];
  still text[];
begin
  select d.oid, d.datname, d.datdba, coalesce(d.datacl, acldefault('d', d.datdba)) as acl, pg_has_role(d.datdba, 'usage') as mine
    into db from pg_database d where d.datname = current_database();
  if not db.mine then
    raise insufficient_privilege using message = format('must be owner of database %s to take CONNECT from its clients', db.datname);
  end if;
  select array_agg(x.oid) into keepers from pg_roles x
   where x.rolname = any (keep) or x.rolname in (current_user, session_user)
      or x.oid in (select w.usesysid from pg_stat_replication w join pg_stat_activity a on a.pid = w.pid
                    where a.datname = db.datname);
  for r in select x.oid, x.rolname from pg_roles x
            where x.oid = any (keepers) and not x.rolsuper
              and not exists (select 1 from aclexplode(db.acl) a
                               where a.privilege_type = 'CONNECT' and a.grantee = x.oid and a.grantor = db.datdba)
  loop
    insert into pgcutover.kept values ('connect ' || r.oid, 'granted') on conflict (key) do nothing;
    execute format('grant connect on database %I to %I', db.datname, r.rolname);
  end loop;
  for r in select a.grantee, a.is_grantable, x.rolname
             from aclexplode(db.acl) a
             left join pg_roles x on x.oid = a.grantee
            where a.privilege_type = 'CONNECT' and a.grantor = db.datdba and not a.grantee = any (keepers)
              and (a.grantee = db.datdba
                   or not exists (select 1 from aclexplode(db.acl) p where p.privilege_type = 'CONNECT' and p.grantor = a.grantee))
  loop
    insert into pgcutover.kept values ('connect ' || r.grantee, case when r.is_grantable and r.grantee <> db.datdba then 'revoked with grant option' else 'revoked' end)
      on conflict (key) do nothing;
    execute format('revoke connect on database %I from %s', db.datname, case when r.grantee = 0 then 'public' else quote_ident(r.rolname) end);
  end loop;
  select array_agg(distinct coalesce(x.rolname::text, 'public')) into still
    from pg_database d
   cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
    left join pg_roles x on x.oid = a.grantee
   where d.oid = db.oid and a.privilege_type = 'CONNECT' and not a.grantee = any (keepers) and not coalesce(x.rolsuper, false);
  return coalesce(still, '{}');
end
$pgcutover$`

// letInSQL puts back what lock_out and lock_objects have changed, and nothing else: rights granted
// meanwhile stay. Where the database had no access list at all it has one now
// that says the same.
const letInSQL = `
create or replace function pgcutover.let_in() returns void
language plpgsql set search_path = pg_catalog set lock_timeout = '1s' as $pgcutover$
declare
  r record;
begin
  for r in select k.value, case when k.key = 'connect 0' then 'public' else quote_ident(x.rolname) end as role
             from pgcutover.kept k
             left join pg_roles x on x.oid = substr(k.key, 9)::oid
            where k.key like 'connect %' and (k.key = 'connect 0' or x.oid is not null)
  loop
    if r.value = 'granted' then
      execute format('revoke connect on database %I from %s', current_database(), r.role);
    else
      execute format('grant connect on database %I to %s%s', current_database(), r.role,
                     case when r.value = 'revoked with grant option' then ' with grant option' else '' end);
    end if;
  end loop;
  delete from pgcutover.kept k where k.key like 'connect %';
  for r in select substr(k.key, 9) as f from pgcutover.kept k where k.key like 'execute %' loop
    execute 'grant execute on function pg_catalog.' || r.f || ' to public';
  end loop;
  delete from pgcutover.kept k where k.key like 'execute %';
end
$pgcutover$`

// lockOutCallSQL is what RevokeConnectSQL fills in.
const lockOutCallSQL = `select pgcutover.lock_out(array[%s]::text[])`

// RevokeConnectSQL takes CONNECT on the database of a server that is being
// closed from its clients, and remembers how it was; open_now() and Revert put
// it back. It belongs into the transaction that closes the server, and returns
// the roles that may still connect. Kept are the tool's role, that by which the
// other server reaches this one, and the owner of the move's subscription.
// Sessions that are there go on.
//
// It is not for clients with several hosts: libpq and pgx take a refused CONNECT
// for an answer and do not try the next host (measured with libpq 15 and pgx
// 5.12), where they would go on from a read-only server.
func RevokeConnectSQL(s *pg.Server) (string, error) {
	peer, err := s.Peer()
	if err != nil {
		return "", err
	}
	var keep []string
	for _, role := range []string{s.User(), userOf(peer), "pgcutover_" + s.Move()} {
		keep = append(keep, escaped(role))
	}
	return fmt.Sprintf(lockOutCallSQL, strings.Join(keep, ", ")), nil
}

// userOf is the role in a connection string. pgx would read the files that the
// string names too, which are on the other server's host.
func userOf(conninfo string) string {
	if strings.HasPrefix(conninfo, "postgres://") || strings.HasPrefix(conninfo, "postgresql://") {
		if u, err := url.Parse(conninfo); err == nil && u.User.Username() != "" {
			return u.User.Username()
		}
	}
	return pg.Keyword(conninfo, "user")
}

// RevokeConnect runs RevokeConnectSQL and returns the roles that may still
// connect.
func RevokeConnect(ctx context.Context, q state.Querier, s *pg.Server) ([]string, error) {
	sql, err := RevokeConnectSQL(s)
	if err != nil {
		return nil, err
	}
	var still []string
	if err := q.QueryRow(ctx, sql).Scan(&still); err != nil {
		return nil, fmt.Errorf("taking CONNECT on the %s database from its clients: %w", s.Side(), err)
	}
	return still, nil
}

const mayRevertSQL = `select to_regprocedure('pgcutover.let_in()') is not null and to_regprocedure('pgcutover.retract()') is not null`

// RevertSQL puts back what closing a server has changed besides the fence: the
// database's comment and who may connect.
const RevertSQL = `select pgcutover.let_in(), pgcutover.retract()`

// Revert runs RevertSQL, for abort and complete: a server that is opened does so
// by itself. Without anything to put back it does nothing.
func Revert(ctx context.Context, q state.Querier, s *pg.Server) error {
	var there bool
	if err := q.QueryRow(ctx, mayRevertSQL).Scan(&there); err != nil {
		return fmt.Errorf("looking for the fence on the %s server: %w", s.Side(), err)
	}
	if !there {
		return nil
	}
	if _, err := q.Exec(ctx, RevertSQL); err != nil {
		return fmt.Errorf("putting back the comment of the %s database and who may connect: %w", s.Side(), err)
	}
	return nil
}
