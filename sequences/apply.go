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
	// Fast sets sequences with setval wherever the role has UPDATE, in one round
	// trip: about 0.05 ms each instead of 0.3 ms, and no lock that makes nextval
	// wait. It is for the write pause, and for a new server in use. The statement
	// that sets a sequence looks at it itself; in between lie a few microseconds
	// in which another session's nextval may come.
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
// sequence backwards. q is a pool or a connection, which is in no transaction.
//
// What is used for a sequence follows from the rights of the role: ownership
// allows ALTER SEQUENCE, UPDATE allows setval. A sequence for which both are
// missing is an error that names it, with the GRANT as a hint, before anything
// is changed.
//
// All is done in one transaction if three quarters of what is free in the server's
// lock table have room for the sequences (max_locks_per_transaction *
// (max_connections + max_prepared_transactions), less what pg_locks shows), and they
// are no more than 20,000: otherwise in as few as fit, each of which sends its statements in one round
// trip, so that an error may leave the earlier ones set, which is harmless. setval is
// not transactional: what it set stays set.
//
// The look under the lock is that of a second session: ALTER SEQUENCE gives the
// sequence a new file, and whoever does not see that transaction yet reads the old
// one, which nobody can change any more. Locking first, by an ALTER SEQUENCE that
// changes nothing, makes two new files for each and took two to five times as long.
func Apply(ctx context.Context, q Querier, changes []Change, o Options) ([]Change, error) {
	a := applying{q: q, options: o}
	for _, c := range changes {
		if !c.Kept {
			a.due = append(a.due, c)
		}
	}
	a.made = make([]bool, len(a.due))
	err := a.run(ctx)
	var made []Change
	for i, c := range a.due {
		if a.made[i] {
			made = append(made, c)
		}
	}
	if err != nil {
		return made, fmt.Errorf("setting sequences: %w", err)
	}
	return made, nil
}

// applying is one Apply.
type applying struct {
	q       Querier
	options Options
	due     []Change
	made    []bool // of due
}

// task is one change, by its place in due.
type task struct {
	Change
	i       int
	restart bool // by ALTER SEQUENCE; otherwise by setval
}

func (a *applying) run(ctx context.Context) error {
	if len(a.due) == 0 {
		return nil
	}
	if a.options.Fast && !slices.ContainsFunc(a.due, func(c Change) bool { return !c.New.Settable }) {
		tasks := make([]task, len(a.due))
		for i, c := range a.due {
			tasks[i] = task{Change: c, i: i}
		}
		err := inParts(len(tasks), chunk, func(from, to int) error { return a.part(ctx, tasks[from:to]) })
		if !pg.IsCode(err, pg.InsufficientPrivilege, pg.UndefinedTable, pg.InvalidSchemaName) {
			return err
		}
		// The rights are no longer those that were read: find out.
	}
	tasks, err := a.prepare(ctx)
	if err != nil {
		return err
	}
	room, err := lockRoom(ctx, a.q)
	if err != nil {
		return err
	}
	return inParts(len(tasks), room, func(from, to int) error { return a.part(ctx, tasks[from:to]) })
}

// prepare chooses the means for each change from the rights of the role.
func (a *applying) prepare(ctx context.Context) ([]task, error) {
	refs := make([]Ref, len(a.due))
	for i, c := range a.due {
		refs[i] = c.Ref
	}
	seen, err := lookup(ctx, a.q, refs)
	if err != nil {
		return nil, err
	}
	var (
		tasks  = make([]task, len(a.due))
		hidden []Ref
		errs   []error
	)
	for i, f := range seen {
		byRestart := f.owned && !a.due[i].Exhausted && !(a.options.Fast && f.settable)
		switch {
		case !f.exists:
			errs = append(errs, vanished(f.Ref))
		case !f.readable:
			hidden = append(hidden, f.Ref)
		case !byRestart && !f.settable:
			errs = append(errs, hint.With(fmt.Errorf("role %q may not set sequence %s", f.role, f.Ident()),
				"run as the owner of the sequence: "+grantSet(f.Ref, f.role)))
		}
		tasks[i] = task{Change: a.due[i], i: i, restart: byRestart}
	}
	if len(hidden) > 0 {
		errs = append(errs, unreadable(seen[0].role, hidden))
	}
	return tasks, errors.Join(errs...)
}

// part makes the changes of one transaction.
func (a *applying) part(ctx context.Context, tasks []task) error {
	var restarts, sets []task
	for _, t := range tasks {
		if t.restart {
			restarts = append(restarts, t)
		} else {
			sets = append(sets, t)
		}
	}
	return session(ctx, a.q, func(conn *pgx.Conn) error {
		if len(restarts) == 0 {
			return a.setEach(ctx, conn, sets)
		}
		return beside(ctx, a.q, conn, func(look Querier) error { return a.restart(ctx, conn, look, restarts, sets) })
	})
}

// restart alters the sequences of one transaction and sets the others at its end.
// When one has been used between the look before and the lock, all is taken back
// and done again without those that need nothing any more.
func (a *applying) restart(ctx context.Context, conn *pgx.Conn, look Querier, restarts, sets []task) error {
	for {
		due, err := stillDue(ctx, look, versionOf(conn), restarts)
		if err != nil {
			return err
		}
		if len(due) == 0 {
			return a.setEach(ctx, conn, sets)
		}
		if err := a.alter(ctx, conn, due); err != nil {
			rollBack(ctx, conn)
			return err
		}
		restarts, err = stillDue(ctx, look, versionOf(conn), due)
		if err == nil && len(restarts) == len(due) {
			if err = a.setEach(ctx, conn, sets, "commit"); err == nil {
				for _, t := range due {
					a.made[t.i] = true
				}
				return nil
			}
		}
		rollBack(ctx, conn)
		if err != nil {
			return err
		}
	}
}

// stillDue reads where the sequences stand now.
func stillDue(ctx context.Context, look Querier, version int, tasks []task) ([]task, error) {
	refs := make([]Ref, len(tasks))
	for i, t := range tasks {
		refs[i] = t.Ref
	}
	now, err := ReadValues(ctx, look, version, refs)
	if err != nil {
		return nil, err
	}
	var due []task
	for i, t := range tasks {
		if t.due(now[i]) {
			due = append(due, t)
		}
	}
	return due, nil
}

// alter begins a transaction and restarts the sequences in it, in one round trip.
func (a *applying) alter(ctx context.Context, conn *pgx.Conn, tasks []task) error {
	statements := []string{"begin"}
	for _, setting := range a.options.Settings {
		statements = append(statements, "set local "+setting)
	}
	before := len(statements)
	for _, t := range tasks {
		statements = append(statements, t.SQL())
	}
	done, err := send(ctx, conn, statements, nil)
	switch {
	case err == nil:
		return nil
	case done < before:
		return fmt.Errorf("beginning to restart sequences (%s): %w", statements[done], err)
	case done == len(statements):
		return fmt.Errorf("restarting sequences: %w", err)
	}
	t := tasks[done-before]
	return inUse(fmt.Errorf("restarting sequence %s with %d: %w", t.Ident(), t.Value, err))
}

// inUse adds what to do when somebody holds a sequence's lock.
func inUse(err error) error {
	if pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled) {
		return hint.With(err, "an open transaction uses the sequence there: wait for it or end it (that server's pg_locks names it), then run the command again")
	}
	return err
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

// setEach sets sequences with setval, and runs what else is given behind that, in
// one round trip.
func (a *applying) setEach(ctx context.Context, conn *pgx.Conn, tasks []task, then ...string) error {
	statements := make([]string, 0, len(tasks)+len(then))
	for _, t := range tasks {
		statements = append(statements, t.setvalSQL())
	}
	statements = append(statements, then...)
	done, err := send(ctx, conn, statements, func(i int, _ [][]byte) error {
		if i < len(tasks) {
			a.made[tasks[i].i] = true
		}
		return nil
	})
	switch {
	case err == nil:
		return nil
	case done < len(tasks):
		return inUse(fmt.Errorf("setting sequence %s to %d: %w", tasks[done].Ident(), tasks[done].Value, err))
	}
	return fmt.Errorf("ending the transaction: %w", err)
}

// setvalSQL sets the sequence if that is due, as the statement itself sees: what due
// says, in SQL. It answers a row if it did. A sequence can be read like a table
// on every version, and one statement for each is nearly as fast as one for all.
func (c Change) setvalSQL() string {
	return fmt.Sprintf("select pg_catalog.setval(%s::pg_catalog.regclass, %s, %t) from %s where %s",
		pg.Literal(c.Ident()), bigint(c.Value), c.Exhausted, c.Ident(), c.dueSQL())
}

func (c Change) dueSQL() string {
	step, limit, forward, back := c.New.Increment, c.Value, "<", ">="
	if step < 0 {
		forward, back = ">", "<="
	}
	if c.Exhausted {
		limit, forward = c.New.end(), forward+"="
	}
	// nextval returns last_value + step once it is called; nothing may overflow.
	called := "false"
	if last := limit - step; (last < limit) == (step > 0) {
		called = "last_value " + forward + " " + bigint(last)
	}
	due := fmt.Sprintf("case when is_called then %s else last_value %s %s end", called, forward, bigint(limit))
	if c.Wrapped && !c.Exhausted {
		due += fmt.Sprintf(" or last_value %s %s", back, bigint(c.New.LastValue))
	}
	return due
}

// bigint is a literal; the lowest one of all is no bigint for the parser without quotes.
func bigint(n int64) string { return fmt.Sprintf("bigint '%d'", n) }

// found is what the catalog says of a named sequence and of the role's rights.
type found struct {
	Ref
	exists, readable, owned, settable bool
	oid                               uint32
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
       coalesce(c.oid, 0), current_user
  from unnest($1::text[], $2::text[]) with ordinality as u(schema, name, i)
  left join lateral (
       select k.oid, k.relnamespace, k.relowner
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
		err := row.Scan(&f.exists, &f.readable, &f.owned, &f.settable, &f.oid, &f.role)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("looking up sequences: %w", err)
	}
	return all, nil
}
