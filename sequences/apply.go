package sequences

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Options say how Apply works.
type Options struct {
	// Fast sets sequences with setval wherever the role has UPDATE: about
	// 0.05 ms each instead of 0.2 to 0.4 ms, and no lock that makes nextval
	// wait. It is for the write pause, and for a new server in use. Between
	// its last look at a sequence and setval lie a few microseconds in which
	// another session's nextval may come.
	//
	// Otherwise a sequence that the role owns is set with ALTER SEQUENCE ...
	// RESTART WITH, as Script prints it: transactional, and under a lock that
	// keeps nextval of other sessions out from the look to the commit.
	Fast bool
	// Settings are put before ALTER SEQUENCE, as in "SET LOCAL <setting>":
	// pg.Server's QuietSettings, which keep event triggers from firing for it.
	Settings []string
}

// Apply makes the changes on the server behind q, the new one, and returns
// those that it really made: a sequence that is kept, or that is by now at or
// past its Value, is left alone. So it can be run again, and never moves a
// sequence backwards.
//
// What is used for a sequence follows from the rights of the role: ownership
// allows ALTER SEQUENCE, UPDATE allows setval. A sequence for which both are
// missing is an error that names it, with the GRANT as a hint, before anything
// of its transaction is changed. Each transaction covers 1,000 sequences, so
// an error may leave the earlier ones set, which is harmless. setval is not
// transactional: what it set stays set.
func Apply(ctx context.Context, q Querier, changes []Change, o Options) ([]Change, error) {
	var due, made []Change
	for _, c := range changes {
		if !c.Kept {
			due = append(due, c)
		}
	}
	for part := range slices.Chunk(due, chunk) {
		done, err := applyPart(ctx, q, part, o)
		made = append(made, done...)
		if err != nil {
			return made, fmt.Errorf("setting sequences: %w", err)
		}
	}
	return made, nil
}

// task is one change with what the server says of its sequence.
type task struct {
	change  Change
	found   found
	restart bool // by ALTER SEQUENCE; otherwise by setval
}

func applyPart(ctx context.Context, q Querier, changes []Change, o Options) ([]Change, error) {
	tasks, err := prepare(ctx, q, changes, o)
	if err != nil {
		return nil, err
	}
	var made []Change
	err = pgx.BeginFunc(ctx, q, func(tx pgx.Tx) error {
		if err := set(ctx, tx, tasks, o.Settings); err != nil {
			return err
		}
		due, err := lookAgain(ctx, tx, tasks)
		if err != nil {
			return err
		}
		if err := restart(ctx, tx, due); err != nil {
			return err
		}
		if made, err = setAll(ctx, tx, due); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// set makes the settings for the transaction when a sequence will be altered.
func set(ctx context.Context, tx pgx.Tx, tasks []task, settings []string) error {
	if !slices.ContainsFunc(tasks, func(t task) bool { return t.restart }) {
		return nil
	}
	for _, setting := range settings {
		if _, err := tx.Exec(ctx, "set local "+setting); err != nil {
			return fmt.Errorf("setting %s for the transaction: %w", setting, err)
		}
	}
	return nil
}

// prepare chooses the means for each change from the rights of the role.
func prepare(ctx context.Context, q Querier, changes []Change, o Options) ([]task, error) {
	refs := make([]Ref, len(changes))
	for i, c := range changes {
		refs[i] = c.Ref
	}
	seen, err := lookup(ctx, q, refs)
	if err != nil {
		return nil, err
	}
	var (
		tasks  = make([]task, len(changes))
		hidden []Ref
		errs   []error
	)
	for i, f := range seen {
		byRestart := f.owned && !changes[i].Exhausted && !(o.Fast && f.settable)
		switch {
		case !f.exists:
			errs = append(errs, vanished(f.Ref))
		case !f.readable:
			hidden = append(hidden, f.Ref)
		case !byRestart && !f.settable:
			errs = append(errs, hint.With(fmt.Errorf("role %q may not set sequence %s", f.role, f.Ident()),
				"run as the owner of the sequence: "+grantSet(f.Ref, f.role)))
		}
		tasks[i] = task{change: changes[i], found: f, restart: byRestart}
	}
	if len(hidden) > 0 {
		errs = append(errs, unreadable(seen[0].role, hidden))
	}
	return tasks, errors.Join(errs...)
}

// lookAgain returns the tasks that are still due, after locking the sequences
// that will be altered. LOCK TABLE refuses sequences; giving a sequence the
// increment it has takes the lock of ALTER SEQUENCE (share row exclusive),
// which nextval and setval of other sessions wait for and readers do not.
func lookAgain(ctx context.Context, tx pgx.Tx, tasks []task) ([]task, error) {
	var b pgx.Batch
	for _, t := range tasks {
		if t.restart {
			b.Queue(lockSQL(t.change.Ref, t.found.increment))
		}
		b.Queue(selectValue(t.change.Ref))
	}
	results := tx.SendBatch(ctx, &b)
	var due []task
	for _, t := range tasks {
		err := error(nil)
		if t.restart {
			_, err = results.Exec()
		}
		now := Value{Ref: t.change.Ref}
		if err == nil {
			err = results.QueryRow().Scan(&now.LastValue, &now.IsCalled)
		}
		if err != nil {
			//nolint:errcheck // the first error of the batch is what matters
			results.Close()
			err = fmt.Errorf("locking and reading sequence %s: %w", t.change.Ident(), err)
			if pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled) {
				err = hint.With(err, "an open transaction uses the sequence there: wait for it or end it (that server's pg_locks names it), then run the command again")
			}
			return nil, err
		}
		if t.change.due(now) {
			due = append(due, t)
		}
	}
	return due, results.Close()
}

// due decides with the sequence's position of this moment: forward only.
func (c Change) due(now Value) bool {
	n := c.New
	n.Value = now
	next, alive := n.next()
	switch {
	case c.Exhausted:
		return alive
	case c.Wrapped && !beyond(c.New.LastValue, now.LastValue, n.Increment):
		return true // new is still in the cycle that old has left
	default:
		return alive && beyond(c.Value, next, n.Increment)
	}
}

func restart(ctx context.Context, tx pgx.Tx, tasks []task) error {
	var b pgx.Batch
	for _, t := range tasks {
		if t.restart {
			b.Queue(t.change.SQL())
		}
	}
	if b.Len() == 0 {
		return nil
	}
	results := tx.SendBatch(ctx, &b)
	for _, t := range tasks {
		if !t.restart {
			continue
		}
		if _, err := results.Exec(); err != nil {
			//nolint:errcheck // the first error of the batch is what matters
			results.Close()
			return fmt.Errorf("restarting sequence %s with %d: %w", t.change.Ident(), t.change.Value, err)
		}
	}
	return results.Close()
}

// setvalSQL sets sequences by OID to (value, called) and returns their places
// in the arrays. Each one's position is looked at once more in the statement
// that sets it: pg_sequence_last_value() is null while nothing was called. A
// sequence that has reached the value meanwhile is skipped, unless it is to
// follow old over the end of a cycle ("lap" is where it stood in that cycle).
const setvalSQL = `
select t.i, setval(t.oid::regclass, t.value, t.called)
  from unnest($1::oid[], $2::bigint[], $3::bool[], $4::bool[], $5::bigint[]) with ordinality
       as t(oid, value, called, up, lap, i)
 cross join lateral (select pg_sequence_last_value(t.oid) as last offset 0) s
 where s.last is null
    or t.called
    or case when t.up then s.last < t.value or s.last >= t.lap
            else s.last > t.value or s.last <= t.lap end`

// setAll sets what restart did not, and returns all changes made.
func setAll(ctx context.Context, tx pgx.Tx, tasks []task) ([]Change, error) {
	var (
		made     []Change
		due      []task
		oids     []uint32
		values   []int64
		calleds  []bool
		upwards  []bool
		lapStart []*int64
	)
	for _, t := range tasks {
		if t.restart {
			made = append(made, t.change)
			continue
		}
		var lap *int64
		if t.change.Wrapped {
			lap = &t.change.New.LastValue
		}
		due = append(due, t)
		oids, values, calleds = append(oids, t.found.oid), append(values, t.change.Value), append(calleds, t.change.Exhausted)
		upwards, lapStart = append(upwards, t.found.increment > 0), append(lapStart, lap)
	}
	if len(due) == 0 {
		return made, nil
	}
	rows, err := tx.Query(ctx, setvalSQL, oids, values, calleds, upwards, lapStart)
	if err != nil {
		return nil, fmt.Errorf("setting sequences with setval: %w", err)
	}
	set, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (int64, error) {
		var i, value int64
		err := row.Scan(&i, &value)
		return i, err
	})
	if err != nil {
		return nil, fmt.Errorf("setting sequences with setval: %w", err)
	}
	for _, i := range set {
		made = append(made, due[i-1].change)
	}
	return made, nil
}

// found is what the catalog says of a named sequence and of the role's rights.
type found struct {
	Ref
	exists, readable, owned, settable bool
	oid                               uint32
	increment                         int64
	role                              string
}

// lookupSQL finds the sequences named by two arrays, schemas and names. The
// lateral query with offset 0 is one index lookup for each name, whatever the
// statistics of the catalogs say: right after a restore they know of no
// sequences, and a plan made from that took seconds for 1,000 names.
const lookupSQL = `
select c.oid is not null,
       coalesce(has_sequence_privilege(c.oid, 'SELECT') and has_schema_privilege(c.relnamespace, 'USAGE'), false),
       coalesce(pg_has_role(c.relowner, 'USAGE') and has_schema_privilege(c.relnamespace, 'USAGE'), false),
       coalesce(has_sequence_privilege(c.oid, 'UPDATE'), false),
       coalesce(c.oid, 0), coalesce(c.seqincrement, 0), current_user
  from unnest($1::text[], $2::text[]) with ordinality as u(schema, name, i)
  left join lateral (
       select k.oid, k.relnamespace, k.relowner, s.seqincrement
         from pg_namespace n
         join pg_class k on k.relnamespace = n.oid
         join pg_sequence s on s.seqrelid = k.oid
        where n.nspname = u.schema::name and k.relname = u.name::name
       offset 0) c on true
 order by u.i`

// lookup returns one found for each of refs, in their order.
func lookup(ctx context.Context, q Querier, refs []Ref) ([]found, error) {
	schemas, names := split(refs)
	rows, err := q.Query(ctx, lookupSQL, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("looking up sequences: %w", err)
	}
	i := -1
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (found, error) {
		i++
		f := found{Ref: refs[i]}
		err := row.Scan(&f.exists, &f.readable, &f.owned, &f.settable, &f.oid, &f.increment, &f.role)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("looking up sequences: %w", err)
	}
	return all, nil
}
