package fence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Table is an ordinary or partitioned table and what the fence looks like on
// it.
type Table struct {
	Schema, Name string
	Partitioned  bool
	Parent       bool // others inherit from it
	Fenced       bool // our trigger stands on it, enabled always, for every kind of write
	Foreign      bool // a trigger of our name that is not that
}

// Identifier returns the table's name, quoted.
func (t Table) Identifier() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// tablesSQL lists every ordinary and partitioned table of the database,
// whether in scope or not: a write through an unfenced ancestor or partition
// would slip. Unlogged ones too; temporary ones belong to their sessions. Left
// out are those that leftOutSQL lists. A trigger of type 62 is a statement
// trigger before INSERT, UPDATE, DELETE and TRUNCATE.
//
// It adds up three lists in place of joining them: right after the triggers of
// thousands of tables were made, the planner still takes pg_trigger for empty,
// and a join took seconds (measured on 15 and 18).
const tablesSQL = `
select max(u.schema), max(u.name), bool_or(u.partitioned), bool_or(u.parent),
       coalesce(bool_or(u.fenced), false), bool_or(u.fenced) is not null
  from (
    select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind = 'p' as partitioned,
           c.relhassubclass as parent, null::boolean as fenced, false as left_out
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
       and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
    union all
    select t.tgrelid, null, null, null, null,
           t.tgenabled = 'A' and t.tgtype = 62 and t.tgqual is null and t.tgattr::text = ''
           and t.tgfoid = coalesce((select to_regprocedure('pgcutover.fence()')::oid), 0), false
      from pg_trigger t
     where t.tgname = $1 and not t.tgisinternal
    union all
    select d.objid, null, null, null, null, null, true
      from pg_depend d
      join pg_class c on c.oid = d.objid
     where d.refclassid = 'pg_extension'::regclass and d.classid = 'pg_class'::regclass and d.deptype = 'e'
       and not pg_has_role(c.relowner, 'usage')
  ) u
 group by u.oid
having max(u.name) is not null and not bool_or(u.left_out)
 order by max(u.schema) collate "C", max(u.name) collate "C"`

// TriggerName is what the fence's trigger is called on every table.
func TriggerName(move string) string { return "pgcutover_" + move + "_fence" }

// Tables lists the tables that are to be fenced and the state of the fence on
// each.
func Tables(ctx context.Context, q state.Querier, move string) ([]Table, error) {
	rows, err := q.Query(ctx, tablesSQL, TriggerName(move))
	if err != nil {
		return nil, fmt.Errorf("listing the tables to fence: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
		var t Table
		var there bool
		err := row.Scan(&t.Schema, &t.Name, &t.Partitioned, &t.Parent, &t.Fenced, &there)
		t.Foreign = there && !t.Fenced
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the tables to fence: %w", err)
	}
	return tables, nil
}

// LeftOutTable is a table that cannot be fenced.
type LeftOutTable struct {
	Schema, Name string
	Extension    string
	Owner        string
}

// leftOutSQL lists the tables of extensions whose owner's rights the role has
// not: where a provider owns the extensions nobody else can make a trigger
// there. Their rows are not replicated either.
const leftOutSQL = `
select n.nspname, c.relname, e.extname, pg_get_userbyid(c.relowner)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
  join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not pg_has_role(c.relowner, 'usage')
 order by n.nspname, c.relname`

// LeftOut lists the tables that are not fenced because they belong to an
// extension that is somebody else's. Writes to them are refused by the
// read-only default only, which a client can override.
func LeftOut(ctx context.Context, q state.Querier) ([]LeftOutTable, error) {
	rows, err := q.Query(ctx, leftOutSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the tables that cannot be fenced: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LeftOutTable])
	if err != nil {
		return nil, fmt.Errorf("listing the tables that cannot be fenced: %w", err)
	}
	return tables, nil
}

// AttachSQL makes the trigger on one table.
func AttachSQL(move string, t Table) string {
	name := pgx.Identifier{TriggerName(move)}.Sanitize()
	return fmt.Sprintf("create trigger %[1]s before insert or update or delete or truncate on %[2]s for each statement execute procedure pgcutover.fence();\nalter table %[2]s enable always trigger %[1]s",
		name, t.Identifier())
}

// DetachSQL drops the trigger from one table.
func DetachSQL(move string, t Table) string {
	return fmt.Sprintf("drop trigger if exists %s on %s", pgx.Identifier{TriggerName(move)}.Sanitize(), t.Identifier())
}

// unfencedSQL counts tables without our trigger, or with it not enabled always
// or not for every write, or with one of its name that is not ours. See
// tablesSQL for what is left out, and for the form. The side is the one that is
// to be closed.
const unfencedSQL = `
select count(*), (select m.side from pgcutover.move m)
  from (
    select c.oid
      from pg_class c
     where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
       and c.relnamespace not in (select n.oid from pg_namespace n
                                   where n.nspname in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover'))
    except
    select t.tgrelid
      from pg_trigger t
     where t.tgname = $1 and t.tgenabled = 'A' and t.tgtype = 62 and t.tgqual is null and t.tgattr::text = ''
       and t.tgfoid = (select to_regprocedure('pgcutover.fence()')::oid)
    except
    select d.objid
      from pg_depend d
      join pg_class c on c.oid = d.objid
     where d.refclassid = 'pg_extension'::regclass and d.classid = 'pg_class'::regclass and d.deptype = 'e'
       and not pg_has_role(c.relowner, 'usage')
  ) u`

// ErrUnfenced means that a table has no fence, so that closing would not close
// it.
var ErrUnfenced = errors.New("tables without a fence")

// AllFenced returns ErrUnfenced when a table has no enabled fence: one made, or
// a trigger disabled, since Attach. It is cheap enough for the write pause.
func AllFenced(ctx context.Context, q state.Querier, move string) error {
	var n int
	var side pg.Side
	if err := q.QueryRow(ctx, unfencedSQL, TriggerName(move)).Scan(&n, &side); err != nil {
		return fmt.Errorf("looking for tables without a fence: %w", err)
	}
	if n > 0 {
		command := state.DirectionFrom(side).Command()
		return hint.With(fmt.Errorf("%w: %d, made or altered while the %s was under way", ErrUnfenced, n, command), "keep DDL away and run: pgcutover "+command)
	}
	return nil
}

// How AttachMissing waits for a table: short, since its writers stand in line
// meanwhile, and not often, since the lease holds DDL up.
const (
	missingWait  = 100 * time.Millisecond
	missingTries = 12
)

// AttachMissing makes the triggers that are missing in the lease's own
// transaction: tables and partitions made since Attach. The lease holds SHARE
// UPDATE EXCLUSIVE on the tables, so no further partition can appear. A table
// that somebody has written to and not committed is waited for a little.
func AttachMissing(ctx context.Context, q state.Querier, s *pg.Server) (int, error) {
	move := s.Move()
	tables, err := Tables(ctx, q, move)
	if err != nil {
		return 0, err
	}
	made := 0
	for _, t := range tables {
		if t.Foreign {
			return made, foreignError(move, t)
		}
		if t.Fenced {
			continue
		}
		if err := attachMissing(ctx, q, s, t); err != nil {
			return made, fmt.Errorf("making the fence trigger on table %s, which is new: %w", t.Identifier(), err)
		}
		made++
	}
	return made, nil
}

func foreignError(move string, t Table) error {
	return hint.With(fmt.Errorf("table %s has a trigger %s that is not an enabled fence", t.Identifier(), TriggerName(move)),
		"drop that trigger; pgcutover makes it anew")
}

// attachMissing leaves the transaction usable when it is refused, and its
// lock_timeout as it was.
func attachMissing(ctx context.Context, q state.Querier, s *pg.Server, t Table) error {
	make := fmt.Sprintf("savepoint fence; set local lock_timeout = %d;\n%s", missingWait.Milliseconds(), s.Quiet(AttachSQL(s.Move(), t)))
	for try := 1; ; try++ {
		_, err := q.Exec(ctx, make)
		if err == nil {
			// RELEASE keeps what SET LOCAL has set; ROLLBACK TO takes it back.
			_, err = q.Exec(ctx, "release savepoint fence; set local lock_timeout to default")
			return err
		}
		if pg.Lost(err) {
			return err
		}
		if _, back := q.Exec(ctx, "rollback to savepoint fence; release savepoint fence"); back != nil {
			return errors.Join(err, back)
		}
		if !retryable(err) {
			return err
		}
		if try == missingTries {
			found, looked := blocker.Find(ctx, q, s.Move(), blocker.ShareRowExclusive, t.Identifier())
			if looked != nil {
				return errors.Join(err, looked)
			}
			return hint.With(fmt.Errorf("held by %s: %w", blocker.Describe(found), err), blocker.Advice(found))
		}
		if err := pg.Pause(ctx, missingWait/2+rand.N(missingWait)); err != nil {
			return err
		}
	}
}
