package unreplicated

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Inventory is what a server has that logical replication does not carry.
type Inventory struct {
	Tables  []Table `json:"tables,omitempty"`
	Objects Objects `json:"large_objects"`
	// Stale counts the large objects of the target where the source has none, see
	// LookAtTarget: all of them go away.
	Stale int64 `json:"stale_large_objects,omitempty"`
}

// Table is an unlogged table, or an unlogged partition, that has rows of its own.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"` // on disk, without indexes

	columns []string // those that can be written, in order
}

// Identifier returns the table's name, quoted.
func (t Table) Identifier() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// Objects are the large objects of a database.
type Objects struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"` // on disk
}

// Empty tells that there is nothing to move.
func (i Inventory) Empty() bool { return len(i.Tables) == 0 && !i.AnyObjects() }

// AnyObjects tells that large objects are to be copied or removed.
func (i Inventory) AnyObjects() bool { return i.Objects.Count > 0 || i.Stale > 0 }

// TableBytes is the size of all tables.
func (i Inventory) TableBytes() int64 {
	var n int64
	for _, t := range i.Tables {
		n += t.Bytes
	}
	return n
}

// tablesSQL lists the unlogged tables that an application can write, with their
// columns. Unlogged sequences (15 and later) are sequences. $1: their size is to
// be that of now, for which it waits for whoever has one exclusively, and behind
// those who want to; else it is that of the last VACUUM or ANALYZE.
const tablesSQL = `
select n.nspname::text, c.relname::text,
       case when $1 then pg_table_size(c.oid) else c.relpages::bigint * current_setting('block_size')::bigint end,
       coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'u' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

// tables11SQL is for 10 and 11, which have no generated columns.
const tables11SQL = `
select n.nspname::text, c.relname::text,
       case when $1 then pg_table_size(c.oid) else c.relpages::bigint * current_setting('block_size')::bigint end,
       coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '{}')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'u' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

// objectsSQL counts the large objects. Any role may; what they are made of is in
// a catalog that only few may read, so that its size on disk must do.
const objectsSQL = `
select (select count(*) from pg_catalog.pg_largeobject_metadata), pg_relation_size('pg_catalog.pg_largeobject')`

// Look takes the inventory of a server: the unlogged tables in scope, and the
// large objects, which no scope leaves out. It changes nothing.
func Look(ctx context.Context, s *pg.Server, inScope func(schema, table string) bool) (Inventory, error) {
	return look(ctx, s, inScope, true)
}

// LookAgain is Look that waits for no lock, and takes the sizes of tables as the
// last VACUUM or ANALYZE saw them.
func LookAgain(ctx context.Context, s *pg.Server, inScope func(schema, table string) bool) (Inventory, error) {
	return look(ctx, s, inScope, false)
}

func look(ctx context.Context, s *pg.Server, inScope func(schema, table string) bool, sizes bool) (Inventory, error) {
	var i Inventory
	sql := tablesSQL
	if s.Major() < 12 {
		sql = tables11SQL
	}
	rows, err := s.Pool().Query(ctx, sql, sizes)
	if err != nil {
		return i, fmt.Errorf("listing the unlogged tables of the %s server: %w", s.Side(), err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		return t, row.Scan(&t.Schema, &t.Name, &t.Bytes, &t.columns)
	})
	if err != nil {
		return i, fmt.Errorf("listing the unlogged tables of the %s server: %w", s.Side(), err)
	}
	for _, t := range tables {
		if inScope == nil || inScope(t.Schema, t.Name) {
			i.Tables = append(i.Tables, t)
		}
	}
	if err := s.Pool().QueryRow(ctx, objectsSQL).Scan(&i.Objects.Count, &i.Objects.Bytes); err != nil {
		return i, fmt.Errorf("counting the large objects of the %s server: %w", s.Side(), err)
	}
	if i.Objects.Count == 0 {
		i.Objects.Bytes = 0 // what is on disk then is dead
	}
	return i, nil
}

// staleSQL counts what would be left over on a target whose source has none.
const staleSQL = `select count(*) from pg_catalog.pg_largeobject_metadata`

// LookAtTarget counts the target's large objects where the source has none: those
// that clients unlinked since it was the source would come back with the next move.
// Where the source has some, listing both is a part of Move. It changes nothing on
// the server.
func (i *Inventory) LookAtTarget(ctx context.Context, target *pg.Server) error {
	if i.Objects.Count > 0 {
		return nil
	}
	if err := target.Pool().QueryRow(ctx, staleSQL).Scan(&i.Stale); err != nil {
		return fmt.Errorf("counting the large objects of the %s server: %w", target.Side(), err)
	}
	return nil
}

const anyObjectsSQL = `select exists (select 1 from pg_catalog.pg_largeobject_metadata)`

// AnyObjects tells whether a server has large objects: one look, cheap enough for
// the pause.
func AnyObjects(ctx context.Context, s *pg.Server) (bool, error) {
	var there bool
	if err := s.Pool().QueryRow(ctx, anyObjectsSQL).Scan(&there); err != nil {
		return false, fmt.Errorf("looking for large objects on the %s server: %w", s.Side(), err)
	}
	return there, nil
}

// What moving takes at the worst, by which Estimate counts. Measured between two
// servers on one machine with two busy cores; see docs/unreplicated.md. The
// budget's clock stops a move over a network that is slower than that.
const (
	tableRate  = 20 << 20 // bytes of a table a second
	tableCost  = 4 * time.Millisecond
	objectRate = 40 << 20 // bytes of large objects a second
	objectCost = 100 * time.Microsecond
	firstCost  = 10 * time.Millisecond // of anything at all
)

// Estimate says how long Move takes with the inventory, by rates on the safe
// side. objects and tables say which of the two are moved.
func (i Inventory) Estimate(tables, objects bool) time.Duration {
	var d time.Duration
	if tables && len(i.Tables) > 0 {
		d += firstCost + time.Duration(len(i.Tables))*tableCost + seconds(i.TableBytes(), tableRate)
	}
	if objects && i.Objects.Count > 0 {
		d += firstCost + time.Duration(i.Objects.Count)*objectCost + seconds(i.Objects.Bytes, objectRate)
	}
	if objects && i.Stale > 0 {
		d += firstCost + time.Duration(i.Stale)*objectCost
	}
	return d
}

func seconds(bytes, rate int64) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
}

// String names it for people: what there is, how much, and the largest tables.
func (i Inventory) String() string {
	var parts []string
	if n := len(i.Tables); n > 0 {
		const shown = 3
		var names []string
		for _, t := range i.largest() {
			if len(names) == shown {
				names = append(names, fmt.Sprintf("%d more", n-shown))
				break
			}
			names = append(names, fmt.Sprintf("%s (%s)", t.Identifier(), size(t.Bytes)))
		}
		parts = append(parts, fmt.Sprintf("%d unlogged tables of %s: %s", n, size(i.TableBytes()), strings.Join(names, ", ")))
	}
	if i.Objects.Count > 0 {
		parts = append(parts, fmt.Sprintf("%d large objects of %s", i.Objects.Count, size(i.Objects.Bytes)))
	}
	if i.Stale > 0 {
		parts = append(parts, fmt.Sprintf("%d large objects to be removed, which the other server has no more", i.Stale))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

func size(bytes int64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d kB", (bytes+1023)>>10)
}
