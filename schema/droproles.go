package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// dependentObjects is the SQLSTATE of DROP ROLE while something depends on the
// role, in any database of the server.
const dependentObjects = "2BP01"

// DropRoles drops from new the roles that [MakeRoles] made, and nothing else: a
// role that was dropped and made again since is another one. Roles on which
// something depends, in whichever database, stay and are among the notices. What
// the move made has to be gone before, see [Remove]. guard, which may be nil, is
// called first in the transaction; its error ends the call.
func DropRoles(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error) (dropped []string, left []Notice, err error) {
	err = onRoles(ctx, new, guard, func(tx pgx.Tx, names []string) error {
		dropped, left, err = dropRoles(ctx, tx, names)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("dropping the roles that were made on the new server (%s): %w", new.Address(), new.Redacted(err))
	}
	return dropped, left, nil
}

// DropRolesSQL does by hand what DropRoles does, if no role is in use: in one
// statement they may depend on each other.
const DropRolesSQL = `
do $$
declare
  names text := (select string_agg(quote_ident(r.rolname), ', ')
                   from pgcutover.made_role m
                   join pg_roles r on r.oid = m.oid);
begin
  if names is not null then
    execute 'drop role ' || names;
  end if;
end
$$`

// onRoles runs do in a transaction with the names of the roles that were made, and
// again when another session was in its way.
func onRoles(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error, do func(pgx.Tx, []string) error) error {
	for attempt := 1; ; attempt++ {
		err := onRolesOnce(ctx, new, guard, do)
		if attempt < roleAttempts && inEachOthersWay(err) {
			continue
		}
		return err
	}
}

func onRolesOnce(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error, do func(pgx.Tx, []string) error) error {
	names, err := madeRoles(ctx, new.Pool())
	if err != nil || len(names) == 0 {
		return err
	}
	conn, err := new.Connect(ctx, "roles", nil)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		return do(tx, names)
	})
}

// dropRoles goes round as long as something can be dropped: from 16 on a role
// depends on the memberships that it granted.
func dropRoles(ctx context.Context, tx pgx.Tx, names []string) (dropped []string, left []Notice, err error) {
	for {
		var later []string
		left = nil
		for _, name := range names {
			refused, err := dropRole(ctx, tx, name)
			if err != nil {
				return nil, nil, err
			}
			if refused == "" {
				dropped = append(dropped, name)
				continue
			}
			later = append(later, name)
			left = append(left, Notice{
				Object: "role " + quoteName(name), Seen: "was made by this move and stays, since it is in use: " + refused,
				Fix: "drop role " + quoteName(name) + ";",
			})
		}
		if len(later) == 0 || len(later) == len(names) {
			return dropped, left, nil
		}
		names = later
	}
}

// dropRole returns why the role cannot be dropped, or nothing when it was.
func dropRole(ctx context.Context, tx pgx.Tx, name string) (refused string, err error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return "", fmt.Errorf("setting a savepoint: %w", err)
	}
	_, err = inner.Exec(ctx, "drop role "+quoteName(name))
	if err == nil {
		return "", inner.Commit(ctx)
	}
	rollback(ctx, inner)
	if pg.IsCode(err, dependentObjects, pg.InsufficientPrivilege, pg.ObjectInUse) {
		return message(err), nil
	}
	return "", fmt.Errorf("dropping role %q: %w", name, err)
}

// actedSQL lists the roles in which the tool's role made itself a member.
const actedSQL = `
select r.rolname::text
  from pgcutover.made_role m
  join pg_roles r on r.oid = m.oid
 where m.acting
 order by 1`

// LeaveRolesSQL does by hand what LeaveRoles does.
const LeaveRolesSQL = `
do $$
declare
  name text;
begin
  for name in select r.rolname from pgcutover.made_role m join pg_roles r on r.oid = m.oid where m.acting loop
    execute format('revoke %I from %I', name, current_user);
  end loop;
end
$$`

// LeaveRoles takes back the memberships that the tool's role gave itself in the
// roles it made, which stay. guard is as in [DropRoles].
func LeaveRoles(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error) error {
	err := onRoles(ctx, new, guard, func(tx pgx.Tx, _ []string) error {
		rows, err := tx.Query(ctx, actedSQL)
		if err != nil {
			return fmt.Errorf("reading memberships: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("reading memberships: %w", err)
		}
		for _, name := range names {
			sql := "revoke " + quoteName(name) + " from " + quoteName(new.User())
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("executing %q: %w", sql, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("leaving the roles that were made on the new server (%s): %w", new.Address(), new.Redacted(err))
	}
	return nil
}
