package cutover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/unreplicated"
)

// meetTarget looks for large objects that only the target has: those that clients
// unlinked while it did not serve must not come back with it.
func (c *Cutover) meetTarget(ctx context.Context, found *unreplicated.Inventory) error {
	if !c.Settings.Unreplicated.objects() {
		return nil
	}
	return found.LookAtTarget(ctx, c.target())
}

// keptFromSQL lists the owners of large objects that the tool's role may not
// unlink.
const keptFromSQL = `
select distinct pg_get_userbyid(m.lomowner)::text
  from pg_catalog.pg_largeobject_metadata m
 where not pg_has_role(m.lomowner, 'usage')`

// mayRemoveObjects proves that large objects can be removed from a target whose
// source has none. Reading and holding takes no right then: there is nothing.
func (c *Cutover) mayRemoveObjects(ctx context.Context) error {
	target := c.target()
	never := c.copiedBefore(ctx)
	rows, err := target.Pool().Query(ctx, keptFromSQL)
	if err != nil {
		return fmt.Errorf("looking for the owners of large objects on the %s server: %w", target.Side(), err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for the owners of large objects on the %s server: %w", target.Side(), err)
	}
	if len(owners) == 0 {
		return never
	}
	return errors.Join(never, blocked(fmt.Sprintf("GRANT these roles TO %s there; or leave the large objects (unreplicated: { large_objects: ignore })", pgx.Identifier{target.User()}.Sanitize()),
		"the %s server has large objects that the %s server has no more, and they belong to roles that the tool's role is no member of: %s", target.Side(), c.source().Side(), strings.Join(owners, ", ")))
}

// copiedForwardSQL tells how many large objects the newest cutover copied to new.
const copiedForwardSQL = `
select coalesce((j.facts->>'large_objects')::bigint, 0)
  from pgcutover.journal j
 where j.list = $1 and j.step = 'unreplicated' and j.event = 'succeeded'
   and j.run = (select max(d.attempt) from pgcutover.decision_forward d)
 order by j.seq desc
 limit 1`

// copiedBackSQL is the same of the newest rollback, to old.
const copiedBackSQL = `
select coalesce((j.facts->>'large_objects')::bigint, 0)
  from pgcutover.journal j
 where j.list = $1 and j.step = 'unreplicated' and j.event = 'succeeded'
   and j.run = (select max(d.attempt) from pgcutover.decision_back d)
 order by j.seq desc
 limit 1`

// copiedBefore proves that the large objects of the target were on the source
// once, when that began to serve, so that clients unlinked them there. Those that
// the move left behind because it was told to ignore them, or that somebody put
// there by hand, nobody else has.
func (c *Cutover) copiedBefore(ctx context.Context) error {
	sql := copiedForwardSQL
	if c.Direction == state.Forward {
		sql = copiedBackSQL
	}
	var copied int64
	err := c.New.Pool().QueryRow(ctx, sql, List).Scan(&copied)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("looking how many large objects were copied before: %w", err)
	}
	if copied > 0 {
		return nil
	}
	source, target := c.Direction.Source(), c.Direction.Target()
	return blocked(fmt.Sprintf("keep them: unreplicated: { large_objects: ignore }; or unlink them on the %s server if nobody needs them", target),
		"the %s server has large objects that were never on the %s server, which has none: the only copy would be removed", target, source)
}
