package arena

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// removeBound is how long it may take to remove what a run has left.
const removeBound = 2 * time.Minute

// Remove drops both databases with all that a method, also one that failed, has
// left: subscriptions, slots, settings of the application's role.
func (p *Pair) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeBound)
	defer cancel()
	var errs []error
	clusters := []*pgserver.Cluster{p.Old, p.New}
	for _, c := range clusters {
		errs = append(errs, p.dropSubscriptions(ctx, c))
	}
	for _, c := range clusters {
		errs = append(errs, p.dropSlots(ctx, c))
	}
	for _, c := range clusters {
		errs = append(errs, pgserver.Execute(ctx, c.URL("postgres"),
			"set default_transaction_read_only = off",
			"alter role "+AppRole+" reset default_transaction_read_only",
			p.dropDatabase(c)), p.dropRoles(ctx, c))
	}
	return errors.Join(errs...)
}

func (p *Pair) dropDatabase(c *pgserver.Cluster) string {
	if c.Major() < 13 {
		return "drop database " + p.Name
	}
	return "drop database " + p.Name + " with (force)"
}

const subscriptionsSQL = `
select s.subname::text
  from pg_subscription as s
  join pg_database as d on d.oid = s.subdbid
 where d.datname = $1`

// dropSubscriptions detaches them from their slots, which are dropped on their
// own: the other server may not have them any more.
func (p *Pair) dropSubscriptions(ctx context.Context, c *pgserver.Cluster) error {
	names, err := list(ctx, c.URL("postgres"), subscriptionsSQL, p.Name)
	if err != nil || len(names) == 0 {
		return err
	}
	statements := []string{"set default_transaction_read_only = off"}
	for _, name := range names {
		name = pgx.Identifier{name}.Sanitize()
		statements = append(statements, "alter subscription "+name+" disable",
			"alter subscription "+name+" set (slot_name = none)", "drop subscription "+name)
	}
	return pgserver.Execute(ctx, c.URL(p.Name), statements...)
}

// slotsSQL ends the walsenders of the database's slots and names the slots.
const slotsSQL = `
select s.slot_name::text
  from pg_replication_slots as s
 where s.database = $1
   and (s.active_pid is null or pg_terminate_backend(s.active_pid))`

func (p *Pair) dropSlots(ctx context.Context, c *pgserver.Cluster) error {
	return pg.Wait(ctx, "the slots of "+p.Name+" to go", 50*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		names, err := list(ctx, c.URL("postgres"), slotsSQL, p.Name)
		if err != nil || len(names) == 0 {
			return err == nil, "", err
		}
		for _, name := range names {
			err := pgserver.Execute(ctx, c.URL("postgres"), "select pg_drop_replication_slot('"+name+"')")
			if err != nil && !pg.IsCode(err, "55006", "42704") { // still active, gone already
				return false, "", err
			}
		}
		return false, fmt.Sprintf("%d slots", len(names)), nil
	})
}

const rolesSQL = `
select r.rolname::text
  from pg_roles as r
 where r.rolname like 'pgcutover\_%'
   and $1 <> ''`

// dropRoles drops the roles that a move made for its subscriptions.
func (p *Pair) dropRoles(ctx context.Context, c *pgserver.Cluster) error {
	names, err := list(ctx, c.URL("postgres"), rolesSQL, p.Name)
	if err != nil {
		return err
	}
	for _, name := range names {
		name = pgx.Identifier{name}.Sanitize()
		if err := pgserver.Execute(ctx, c.URL("postgres"), "drop owned by "+name, "drop role "+name); err != nil {
			return err
		}
	}
	return nil
}

func list(ctx context.Context, address, sql string, args ...any) ([]string, error) {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
