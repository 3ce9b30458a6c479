package upgrade

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/preflight"
)

// mendLockTimeout is how long one fix waits for a table that clients use:
// behind a waiting ALTER TABLE all of them queue.
const mendLockTimeout = "2s"

// mendAttempts is how often a fix is tried.
const mendAttempts = 5

// Mendable returns the findings that Mend can mend: those whose fix is SQL that
// can be taken back.
func Mendable(findings []preflight.Finding) []preflight.Finding {
	var out []preflight.Finding
	for _, f := range findings {
		if f.FixKind == preflight.FixSQL && f.Undo != "" {
			out = append(out, f)
		}
	}
	return out
}

// Mend carries out the fixes of findings that Mendable has chosen, each in one
// transaction with the record of how it is taken back; Abort and Complete do
// that. The record stands on old, in schema pgcutover, which Mend makes there if
// need be. It stops at the first fix that fails, and may be run again.
func (m *Move) Mend(ctx context.Context, findings []preflight.Finding) (done []state.Mended, err error) {
	err = m.locked(ctx, "check", func(ctx context.Context) error {
		now, err := state.Observe(ctx, m.Options.Name, m.Old, m.New)
		if err != nil {
			return err
		}
		if err := state.Create(ctx, m.Old, *now); err != nil {
			return state.WayOut(ctx, err, m.Old, m.New)
		}
		for _, f := range findings {
			one := state.Mended{
				Server: cmp.Or(f.FixOn, pg.Side(f.Server)), Finding: f.ID, Object: f.Object, Fix: f.Fix, Undo: f.Undo,
				Travels: f.Group == preflight.Tables || f.Group == preflight.Objects,
			}
			if err := m.mend(ctx, one); err != nil {
				return hint.With(fmt.Errorf("mending %s of %s: %w", f.ID, f.Object, err), "run it by hand: "+f.Fix)
			}
			done = append(done, one)
			step.Progress(ctx, "%s: %s", f.Object, f.ID)
		}
		return nil
	})
	return done, err
}

// mend makes one change. That of old is one with its record; one of new, and one
// that no transaction can make, is recorded before, since what is taken back twice
// does no harm.
func (m *Move) mend(ctx context.Context, one state.Mended) error {
	if one.Server == pg.New || ofSystem(one.Fix) {
		if err := state.Tx(ctx, m.Old, mendLockTimeout, func(tx pgx.Tx) error { return one.Remember(ctx, tx) }); err != nil {
			return err
		}
		s := m.Old
		if one.Server == pg.New {
			s = m.New
		}
		return carryOut(ctx, s, one.Fix)
	}
	return patiently(ctx, m.Old, func(tx pgx.Tx) error {
		if err := one.Remember(ctx, tx); err != nil {
			return err
		}
		return run(ctx, tx, one.Fix)
	})
}

// ofSystem tells that a text changes the server's own settings: statements that
// refuse to run in a transaction.
func ofSystem(sql string) bool { return strings.HasPrefix(sql, "ALTER SYSTEM ") }

// carryOut runs a text in one transaction or, where that is refused, statement by
// statement.
func carryOut(ctx context.Context, s *pg.Server, sql string) error {
	if !ofSystem(sql) {
		return patiently(ctx, s, func(tx pgx.Tx) error { return run(ctx, tx, sql) })
	}
	for one := range strings.SplitSeq(sql, ";") { // no value of these texts has one
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		if _, err := s.Pool().Exec(ctx, one); err != nil {
			return s.Redacted(err)
		}
	}
	return nil
}

// run executes a text of one or several statements.
func run(ctx context.Context, tx pgx.Tx, sql string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// patiently tries a transaction again that could not have its lock: clients
// that queued behind it go first.
func patiently(ctx context.Context, s *pg.Server, f func(pgx.Tx) error) error {
	var err error
	for range mendAttempts {
		err = state.Tx(ctx, s, mendLockTimeout, f)
		if !pg.IsCode(err, pg.LockNotAvailable) {
			return s.Redacted(err)
		}
	}
	return hint.With(err, "a client holds the table for longer; wait for its transaction to end, then run it again")
}

// unmend takes back what Mend did, and then forgets it: what is taken back twice
// does no harm. What came to new with the schema is taken back there too. A table
// that was dropped or renamed since has nothing to be taken back.
func (r *remover) unmend(ctx context.Context) (any, error) {
	servers := r.servers()
	record := servers[len(servers)-1] // old, where there is one
	all, err := state.ReadMended(ctx, record)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		for _, s := range concerned(one, servers) {
			if err := gone(carryOut(ctx, s, one.Undo)); err != nil {
				return nil, hint.With(fmt.Errorf("taking back %q on the %s server: %w", one.Fix, s.Side(), err), "run it by hand: "+one.Undo)
			}
		}
		if err := state.Tx(ctx, record, mendLockTimeout, func(tx pgx.Tx) error { return one.Forget(ctx, tx) }); err != nil {
			return nil, err
		}
		step.Progress(ctx, "%s", one.Undo)
	}
	return all, nil
}

// concerned are the servers on which a change is taken back.
func concerned(one state.Mended, servers []*pg.Server) []*pg.Server {
	var out []*pg.Server
	for _, s := range servers {
		if s.Side() == one.Server || (one.Travels && one.Server == pg.Old && s.Side() == pg.New) {
			out = append(out, s)
		}
	}
	return out
}

func (r *remover) unmendStatements(ctx context.Context) ([]step.Statement, error) {
	servers := r.servers()
	all, err := state.ReadMended(ctx, servers[len(servers)-1])
	if err != nil {
		return nil, err
	}
	var out []step.Statement
	for _, one := range all {
		for _, s := range concerned(one, servers) {
			out = append(out, step.Statement{Server: string(s.Side()), SQL: one.Undo, Why: one.Finding + " of " + one.Object + ", if it is there"})
		}
	}
	return out, nil
}

// gone passes over the error that the object of a statement is not there.
func gone(err error) error {
	if pg.IsCode(err, pg.UndefinedTable, pg.UndefinedObject, pg.InvalidSchemaName) {
		return nil
	}
	return err
}
