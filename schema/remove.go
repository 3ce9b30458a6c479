package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// RemoveOptions say what Remove may drop.
type RemoveOptions struct {
	// Ours are the objects that the move brought: those of the old database, see
	// [Inventory], and those of the archive, see [Archive.Objects], in case the
	// old one has dropped some since.
	Ours []Object
	// Known tells, beside Ours, what the move brought; nil: nothing more.
	Known *Baseline
	// Force drops objects that are neither in the state before nor of the move.
	Force bool
	// Guard, which may be nil, is called first in each transaction that drops
	// something; its error ends the removal. It is for a condition that must
	// still hold when a process that slept wakes up.
	Guard func(context.Context, pgx.Tx) error
	// Progress, which may be nil, is told how far the dropping is.
	Progress func(string)
}

// ForeignError lists objects on the new server that the move did not bring, or
// that depend on what it brought. Nothing was dropped.
type ForeignError struct {
	Objects []Object
	Depend  bool // they were there before the move and depend on what it brought
}

// Error names the objects.
func (e *ForeignError) Error() string {
	if e.Depend {
		return "objects that were there before the move depend on what it brought: " + list(e.Objects)
	}
	return "the new database has objects that the move did not bring: " + list(e.Objects)
}

// LeftoverError lists how the database still differs from its state before the
// move, after everything that could be dropped was.
type LeftoverError struct{ Differences []string }

// Error lists the differences.
func (e *LeftoverError) Error() string {
	return "the new database is not as it was before the move: " + strings.Join(e.Differences, "; ")
}

// outOfMemory is the SQLSTATE of a full lock table.
const outOfMemory = "53200"

// Remove drops from the new database, with their data, all objects that are not
// in the state before, and gives schemas, privileges and default privileges the
// owners and values of that state. What belongs to the tool itself stays.
//
// It refuses with a *ForeignError, before it drops anything, when an object is
// neither in the state before nor among o.Ours and o.Known, unless o.Force is set:
// somebody has begun to work in the new database. Columns and rows that somebody
// added to a table of the move are not noticed. Subscriptions have to be dropped
// first; they are never dropped here.
//
// All is done in one transaction, or, for more objects than a share of the new
// server's lock table, in several, tables first: called again after an
// interruption, it goes on. At the end it compares the database with the state
// before and returns a *LeftoverError if they differ.
func Remove(ctx context.Context, new *pg.Server, before State, o RemoveOptions) error {
	if err := remove(ctx, new, before, o); err != nil {
		return fmt.Errorf("removing the schema from the new server (%s): %w", new.Address(), new.Redacted(err))
	}
	return nil
}

func remove(ctx context.Context, new *pg.Server, before State, o RemoveOptions) error {
	if err := endStale(ctx, new); err != nil {
		return err
	}
	conn, err := new.Connect(ctx, "remove", pg.LongRunning())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	plan, err := planRemoval(ctx, conn, before, o)
	if err != nil {
		return err
	}
	capacity, err := lockCapacity(ctx, new)
	if err != nil {
		return err
	}
	statements := plan.statements()
	size := min(max(capacity/16, 10), 500)
	for total := len(statements); ; {
		n := min(size, len(statements))
		last := n == len(statements)
		err := dropBatch(ctx, conn, statements[:n], last, before, o.Guard)
		if pg.IsCode(err, outOfMemory) && size > 1 {
			size /= 2
			continue
		}
		if err != nil {
			return err
		}
		if last {
			break
		}
		statements = statements[n:]
		if o.Progress != nil {
			o.Progress(fmt.Sprintf("dropped %d of %d objects", total-len(statements), total))
		}
	}
	return verify(ctx, conn, before)
}

func verify(ctx context.Context, q querier, before State) error {
	now, err := snapshot(ctx, q)
	if err != nil {
		return fmt.Errorf("comparing with the state before the move: %w", err)
	}
	if differences := before.Differences(now); len(differences) > 0 {
		return &LeftoverError{Differences: differences}
	}
	return nil
}

// removal divides the objects of a database.
type removal struct {
	kept   []item
	doomed []item
	depth  map[uint32]int // of tables below the ones that they inherit from
}

func planRemoval(ctx context.Context, q querier, before State, o RemoveOptions) (*removal, error) {
	items, err := inventory(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("listing the objects: %w", err)
	}
	was, ours := keysOf(before.Objects), keysOf(o.Ours)
	plan := &removal{}
	var foreign, subscriptions []Object
	for _, i := range items {
		if was[i.key()] {
			plan.kept = append(plan.kept, i)
			continue
		}
		plan.doomed = append(plan.doomed, i)
		switch {
		case i.Kind == kindSubscription:
			subscriptions = append(subscriptions, i.object())
		case !i.implied && (neverMoved(i.Kind) || !ours[i.key()] && !o.Known.brought(i.key())):
			foreign = append(foreign, i.object())
		}
	}
	if len(subscriptions) > 0 {
		return nil, hint.With(&ForeignError{Objects: subscriptions}, "drop it by hand: DROP SUBSCRIPTION cannot run in a transaction when it has a slot")
	}
	if len(foreign) > 0 && !o.Force {
		return nil, hint.With(&ForeignError{Objects: foreign}, "drop or move them yourself, or abort with force, which drops them too")
	}
	dependent, err := plan.dependent(ctx, q)
	if err != nil {
		return nil, err
	}
	if len(dependent) > 0 {
		return nil, hint.With(&ForeignError{Objects: dependent, Depend: true}, "end the dependency by hand, for instance with ALTER TABLE ... DROP COLUMN")
	}
	plan.depth, err = readDepth(ctx, q)
	return plan, err
}

// dependentSQL lists which of the objects ($1, $2: catalog and OID) depend,
// themselves or through a rule, a column's default, a constraint, a trigger or
// a policy, on one of the others ($3, $4): CASCADE would reach into them.
const dependentSQL = `
with kept (classid, objid) as (
    select * from unnest($1::oid[], $2::oid[])
), doomed (classid, objid) as (
    select * from unnest($3::oid[], $4::oid[])
), parts (classid, objid, whole) as (
    select classid, objid, kept from kept
    union all
    select 'pg_rewrite'::regclass, w.oid, kept from kept join pg_rewrite w on w.ev_class = objid where classid = 'pg_class'::regclass
    union all
    select 'pg_attrdef'::regclass, d.oid, kept from kept join pg_attrdef d on d.adrelid = objid where classid = 'pg_class'::regclass
    union all
    select 'pg_constraint'::regclass, k.oid, kept from kept join pg_constraint k on k.conrelid = objid where classid = 'pg_class'::regclass
    union all
    select 'pg_trigger'::regclass, g.oid, kept from kept join pg_trigger g on g.tgrelid = objid where classid = 'pg_class'::regclass
    union all
    select 'pg_policy'::regclass, y.oid, kept from kept join pg_policy y on y.polrelid = objid where classid = 'pg_class'::regclass
)
select distinct i.type, i.identity
  from parts
  join pg_depend d on d.classid = parts.classid and d.objid = parts.objid
  join doomed on doomed.classid = d.refclassid and doomed.objid = d.refobjid
 cross join lateral pg_identify_object((parts.whole).classid, (parts.whole).objid, 0) i
 order by 1, 2`

func (r *removal) dependent(ctx context.Context, q querier) ([]Object, error) {
	addresses := func(items []item) (classes, oids []uint32) {
		for _, i := range items {
			classes, oids = append(classes, i.class), append(oids, i.oid)
		}
		return classes, oids
	}
	keptClasses, kept := addresses(r.kept)
	doomedClasses, doomed := addresses(r.doomed)
	rows, err := q.Query(ctx, dependentSQL, keptClasses, kept, doomedClasses, doomed)
	if err != nil {
		return nil, fmt.Errorf("reading dependencies: %w", err)
	}
	objects, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Object, error) {
		var o Object
		err := row.Scan(&o.Kind, &o.Identity)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading dependencies: %w", err)
	}
	return objects, nil
}

// depthSQL tells how deep a table stands below those that it inherits from.
const depthSQL = `
with recursive tree (oid, depth) as (
    select inhrelid, 1 from pg_inherits
    union
    select h.inhrelid, t.depth + 1
      from tree t
      join pg_inherits h on h.inhparent = t.oid
)
select oid, max(depth) from tree group by oid`

func readDepth(ctx context.Context, q querier) (map[uint32]int, error) {
	rows, err := q.Query(ctx, depthSQL)
	if err != nil {
		return nil, fmt.Errorf("reading inheritance: %w", err)
	}
	depth := map[uint32]int{}
	var (
		oid uint32
		n   int
	)
	_, err = pgx.ForEachRow(rows, []any{&oid, &n}, func() error {
		depth[oid] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading inheritance: %w", err)
	}
	return depth, nil
}

// dropOrder ranks kinds: event triggers first, because they would fire; tables
// before what they use; schemas last. Kinds that are not named come after the
// tables and views.
var dropOrder = map[string]int{
	kindEventTrigger: 0, kindPublication: 1, kindPolicy: 2, kindRule: 2, kindTrigger: 2, kindStatistics: 2,
	kindIndex: 2, "table constraint": 2,
	kindTable: 3, "view": 4, "materialized view": 4, "foreign table": 4, kindSequence: 4,
	"cast": 6, "transform": 6, "operator class": 6, "operator": 7, "operator family": 7,
	"aggregate": 8, "function": 9, "procedure": 9, kindType: 10,
	"text search configuration": 11, "text search dictionary": 12, "text search parser": 13, "text search template": 13,
	"server": 14, "foreign-data wrapper": 15, "access method": 15, "language": 15,
	kindExtension: 16, kindSchema: 17,
}

// statements returns the statements that drop what is doomed, in order.
func (r *removal) statements() []string {
	kept := map[uint32]string{}
	for _, i := range r.kept {
		kept[i.oid] = i.Identity
	}
	doomed := slices.Clone(r.doomed)
	rank := func(i item) int {
		if n, found := dropOrder[i.Kind]; found {
			return n
		}
		return 11
	}
	slices.SortStableFunc(doomed, func(a, b item) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(r.depth[b.oid], r.depth[a.oid]))
	})
	var out []string
	for _, i := range doomed {
		table, onKept := kept[i.parent]
		if i.implied || i.parent != 0 && !onKept || i.Kind == "user mapping" || i.Kind == "domain constraint" {
			continue // goes with the object that it is a part of
		}
		out = append(out, i.drop(table))
	}
	return out
}

// drop returns the statement that drops the object; what Postgres calls an
// object (pg_identify_object) is what DROP wants. CASCADE reaches only what is
// doomed as well: planRemoval has seen to that. A schema is empty by then, or
// somebody has just made something in it.
func (i item) drop(table string) string {
	switch i.Kind {
	case kindSchema:
		return "drop schema if exists " + i.Identity
	case "table constraint":
		return fmt.Sprintf("alter table %s drop constraint if exists %s cascade", table, strings.TrimSuffix(i.Identity, " on "+table))
	case "function", "procedure", "aggregate":
		return fmt.Sprintf("drop routine if exists %s cascade", i.Identity)
	case kindStatistics:
		return "drop statistics if exists " + i.Identity
	}
	return fmt.Sprintf("drop %s if exists %s cascade", strings.ReplaceAll(i.Kind, "-", " "), i.Identity)
}

// dropBatch executes the statements in one transaction; the last one also puts
// owners and privileges back.
func dropBatch(ctx context.Context, conn *pgx.Conn, statements []string, last bool, before State, guard func(context.Context, pgx.Tx) error) error {
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		if err := execute(ctx, tx, statements); err != nil {
			return err
		}
		if !last {
			return nil
		}
		return settle(ctx, tx, before)
	})
}

// execute sends all statements at once.
func execute(ctx context.Context, tx pgx.Tx, statements []string) error {
	batch := &pgx.Batch{}
	for _, sql := range statements {
		batch.Queue(sql)
	}
	results := tx.SendBatch(ctx, batch)
	for _, sql := range statements {
		if _, err := results.Exec(); err != nil {
			//nolint:errcheck // repeats the statement's error
			results.Close()
			return fmt.Errorf("executing %q: %w", firstWords(sql, 200), err)
		}
	}
	if err := results.Close(); err != nil {
		return fmt.Errorf("executing the statements: %w", err)
	}
	return nil
}

func inTransaction(ctx context.Context, conn *pgx.Conn, do func(pgx.Tx) error) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	defer rollback(ctx, tx)
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// rollback ends a transaction that is no longer wanted; one that was committed
// stays so.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	//nolint:errcheck // either committed, or the session is given back broken and closed
	tx.Rollback(ctx)
}
