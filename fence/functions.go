package fence

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// OnClosed says what a closed fence does to a client that writes.
type OnClosed string

const (
	// Error raises SQLSTATE 25006, read_only_sql_transaction, which drivers
	// take as "connect again".
	Error OnClosed = "error"
	// Disconnect ends the session, so that no function can swallow the error.
	Disconnect OnClosed = "disconnect"
)

// OpenSQL makes check() do nothing: writes pass.
const OpenSQL = `
create or replace function pgcutover.check() returns void language plpgsql as $pgcutover$
begin
end
$pgcutover$`

// fenceSQL is the trigger function on every table. A session in the replica
// role passes only if it is known not to be a client backend: apply and
// tablesync workers do fire ALWAYS statement triggers for TRUNCATE and COPY.
// An unknown kind (no right to see it) does not pass.
const fenceSQL = `
create or replace function pgcutover.fence() returns trigger
language plpgsql security definer set search_path = pg_catalog as $pgcutover$
begin
  if current_setting('session_replication_role') = 'replica' and exists (
       select 1 from pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) as a
        where a.backend_type <> 'client backend') then
    return null;
  end if;
  perform 1 from pgcutover.gate for key share;
  perform pgcutover.check();
  return null;
end
$pgcutover$`

// guardSQL opens the server inside the apply transaction that delivers the
// decision of the armed attempt. It locks the turn first, as open and every
// undo do. The apply worker's transaction is read-only where the database's
// default is; its owner's role setting takes that away (see subscriber).
const guardSQL = `
create or replace function pgcutover.guard() returns trigger
language plpgsql security definer set search_path = pg_catalog as $pgcutover$
declare
  t record;
begin
  select attempt, armed, open into t from pgcutover.turn for update;
  if t.attempt = new.attempt and t.armed and not t.open then
    perform pg_catalog.set_config('synchronous_commit', 'on', true);
    perform pgcutover.open_now();
  end if;
  return new;
end
$pgcutover$`

// openNowSQL is what opening means, in one place: the guard and the tool's own
// open both call it, inside a transaction that holds the turn's row. What is
// only for people must not keep the server closed.
const openNowSQL = `
create or replace function pgcutover.open_now() returns void
language plpgsql security definer set search_path = pg_catalog as $pgcutover$
begin
  execute $open$
create or replace function pgcutover.check() returns void language plpgsql as $check$
begin
end
$check$
$open$;
  execute pg_catalog.format('alter database %I reset default_transaction_read_only', pg_catalog.current_database());
  begin
    perform pgcutover.let_in();
    perform pgcutover.retract();
  exception when others then
    raise warning 'pgcutover: the comment of the database, or who may connect, was not put back: %', sqlerrm;
  end;
  update pgcutover.turn set open = true, armed = false;
end
$pgcutover$`

// tryOpenForwardSQL is the tool's own open on new, all of it in one statement and
// so in one transaction and one round trip: the writers wait for it. known says
// that the decision is known from the source; then the marker must be here,
// which proves that all else is.
const tryOpenForwardSQL = `
create or replace function pgcutover.try_open(mine bigint, known boolean) returns text
language plpgsql security definer set search_path = pg_catalog as $pgcutover$
declare
  t record;
begin
  select attempt, armed, open into t from pgcutover.turn for update;
  if t.attempt <> mine then
    return 'turn ' || t.attempt;
  elsif t.open then
    return 'open';
  elsif exists (select 1 from pgcutover.decision_forward where attempt = mine)
     or (known and exists (select 1 from pgcutover.marker_forward where attempt = mine)) then
    perform pgcutover.open_now();
    return 'opened';
  end if;
  return 'not yet';
end
$pgcutover$;
revoke all on function pgcutover.try_open(bigint, boolean) from public`

// tryOpenBackSQL is the same on old, for a rollback.
const tryOpenBackSQL = `
create or replace function pgcutover.try_open(mine bigint, known boolean) returns text
language plpgsql security definer set search_path = pg_catalog as $pgcutover$
declare
  t record;
begin
  select attempt, armed, open into t from pgcutover.turn for update;
  if t.attempt <> mine then
    return 'turn ' || t.attempt;
  elsif t.open then
    return 'open';
  elsif exists (select 1 from pgcutover.decision_back where attempt = mine)
     or (known and exists (select 1 from pgcutover.marker_back where attempt = mine)) then
    perform pgcutover.open_now();
    return 'opened';
  end if;
  return 'not yet';
end
$pgcutover$;
revoke all on function pgcutover.try_open(bigint, boolean) from public`

// guardForwardSQL makes the guard of the new server, which fires for replicated
// rows only.
const guardForwardSQL = `
create trigger pgcutover_guard before insert on pgcutover.decision_forward
  for each row execute procedure pgcutover.guard();
alter table pgcutover.decision_forward enable replica trigger pgcutover_guard`

// guardBackSQL makes the guard of the old server, for a rollback.
const guardBackSQL = `
create trigger pgcutover_guard before insert on pgcutover.decision_back
  for each row execute procedure pgcutover.guard();
alter table pgcutover.decision_back enable replica trigger pgcutover_guard`

// revokeSQL keeps everybody else from calling what opens the server.
const revokeSQL = `
revoke all on function pgcutover.open_now() from public;
revoke all on function pgcutover.announce(text) from public;
revoke all on function pgcutover.retract() from public;
revoke all on function pgcutover.lock_out(text[]) from public;
revoke all on function pgcutover.lock_objects() from public;
revoke all on function pgcutover.let_in() from public;
revoke all on function pgcutover.guard() from public;
revoke all on function pgcutover.fence() from public`

const hasSQL = `
select to_regprocedure('pgcutover.check()') is not null, to_regprocedure('pgcutover.fence()') is not null,
       to_regclass('pgcutover.kept') is not null`

// has says what of the fence a server has already.
type has struct{ check, fence, kept bool }

// Install makes the fence's functions on a server: on old the check is open,
// on new closed. check() itself is left alone when it exists, since it says
// whether the server is open.
func Install(ctx context.Context, s *pg.Server, onClosed OnClosed, databaseOID uint32) error {
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		var have has
		if err := tx.QueryRow(ctx, hasSQL).Scan(&have.check, &have.fence, &have.kept); err != nil {
			return fmt.Errorf("looking for the fence on the %s server: %w", s.Side(), err)
		}
		for _, sql := range installSQL(s, onClosed, databaseOID, have) {
			if _, err := tx.Exec(ctx, s.Quiet(sql)); err != nil {
				return fmt.Errorf("making the fence's functions on the %s server: %w", s.Side(), err)
			}
		}
		return nil
	})
}

func installSQL(s *pg.Server, onClosed OnClosed, databaseOID uint32, have has) []string {
	var out []string
	if !have.check {
		if s.Side() == pg.Old {
			out = append(out, OpenSQL)
		} else {
			out = append(out, ClosedSQL(s, onClosed, databaseOID, time.Now()))
		}
	}
	if !have.kept {
		out = append(out, keptSQL, announceSQL, retractSQL, lockOutSQL, lockObjectsSQL, letInSQL, openNowSQL)
		// An event trigger that writes a table must not keep the server closed.
		for _, setting := range s.QuietSettings() {
			out = append(out, "alter function pgcutover.open_now() set "+setting)
		}
	}
	if !have.fence {
		out = append(out, fenceSQL, guardSQL)
		if s.Side() == pg.New {
			out = append(out, guardForwardSQL, tryOpenForwardSQL)
		} else {
			out = append(out, guardBackSQL, tryOpenBackSQL)
		}
	}
	if !have.kept || !have.fence {
		out = append(out, revokeSQL)
	}
	return out
}

// InstallStatements returns what Install runs on a server that has nothing
// yet, for the plan.
func InstallStatements(s *pg.Server, onClosed OnClosed, databaseOID uint32) []string {
	return installSQL(s, onClosed, databaseOID, has{})
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
