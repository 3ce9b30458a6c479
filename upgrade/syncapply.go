package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/subscriber"
)

// chosen is what is restored whole; archive is nil when that is nothing.
type chosen struct {
	*schema.Choice
	archive *schema.Archive
	scripts []string
}

func (y *schemaSync) choose(ctx context.Context, r *syncRound) (*chosen, error) {
	c := &chosen{}
	if !slices.ContainsFunc(r.fixes, func(f schema.Fix) bool { return f.Whole }) {
		return c, nil
	}
	archive, err := schema.Dump(ctx, y.Old, os.TempDir())
	if err != nil {
		return nil, err
	}
	c.archive = archive
	if c.Choice, err = archive.Choose(ctx, y.Old, r.fixes); err != nil {
		return nil, errors.Join(err, archive.Close())
	}
	for _, part := range []schema.Part{schema.Tables, schema.Views, schema.Rest} {
		script, err := c.Script(ctx, part)
		if err != nil {
			return nil, errors.Join(err, archive.Close())
		}
		if script != "" {
			c.scripts = append(c.scripts, script)
		}
	}
	return c, nil
}

func (c *chosen) restore(ctx context.Context, y *schemaSync, part schema.Part) error {
	if c.archive == nil {
		return nil
	}
	return c.Restore(ctx, y.New, part, func(text string) { y.progress("schema", text) })
}

func (y *schemaSync) progress(what, text string) { y.Observer.Progress(what, text) }

// paused runs f while the apply worker is stopped: the two would wait for each
// other's locks.
func (y *schemaSync) paused(ctx context.Context, f func() error) (err error) {
	if err := subscriber.SetEnabled(ctx, y.New, y.first(), false); err != nil {
		return err
	}
	defer func() {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, subscriber.SetEnabled(again, y.New, y.first(), true))
	}()
	if err := subscriber.WaitStopped(ctx, y.New, y.first(), time.Minute); err != nil {
		return err
	}
	return f()
}

// early makes what new rows need: types, tables, columns.
func (y *schemaSync) early(ctx context.Context, r *syncRound, c *chosen) error {
	conn, err := y.New.Connect(ctx, "sync", pg.LongRunning())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, f := range r.fixes {
		if f.Alone {
			if err := y.each(ctx, conn, f); err != nil {
				return err
			}
		}
	}
	run := func(pick func(schema.Fix) []string) error {
		for _, f := range r.fixes {
			if f.Alone || f.Contract {
				continue
			}
			if err := y.apply(ctx, conn, f, pick(f)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, do := range []func() error{
		func() error { return run(func(f schema.Fix) []string { return f.Drop }) },
		func() error { return y.loosen(ctx, conn, r) },
		func() error { return c.restore(ctx, y, schema.Tables) },
		func() error { return y.made(ctx, r) },
		func() error {
			return run(func(f schema.Fix) []string {
				if f.Late {
					return nil
				}
				return f.Statements
			})
		},
		func() error { return c.restore(ctx, y, schema.Views) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// makeRoles makes the roles that were made on old since, as start does: what
// comes after it names them.
func (y *schemaSync) makeRoles(ctx context.Context, r *syncRound) error {
	if len(r.roles) == 0 {
		return nil
	}
	report, err := schema.MakeRoles(ctx, y.Old, y.New, func(text string) { y.progress("roles", text) })
	y.tell("roles", report.Notices)
	y.report.Roles = append(y.report.Roles, report.Made...)
	return err
}

// made remembers at once which tables were made: what fails later in the round
// must not leave them taken for those that they replace.
func (y *schemaSync) made(ctx context.Context, r *syncRound) error {
	if r.baseline == nil || !slices.ContainsFunc(r.fixes, func(f schema.Fix) bool { return f.Whole }) {
		return nil
	}
	brought, err := schema.Inventory(ctx, y.Old)
	if err != nil {
		return err
	}
	r.baseline.Bring(brought)
	r.baseline.Remade(r.old, r.fixes)
	return state.SetBaseline(ctx, y.New, r.baseline)
}

// loosen makes new take rows that lack what it still has.
func (y *schemaSync) loosen(ctx context.Context, conn *pgx.Conn, r *syncRound) error {
	for _, f := range r.fixes {
		if f.Contract {
			if err := y.apply(ctx, conn, f, f.Loosen); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitedFor returns those renames without which the stream does not go on: the
// first transaction that new has not applied has the new name. ALTER TABLE lets
// nobody write at the same time, so that no later one has the former name. The
// apply worker has to be stopped.
func (y *schemaSync) waitedFor(ctx context.Context, fixes []schema.Fix) ([]schema.Fix, error) {
	var at Stopped
	if err := y.stoppedApply(ctx, &at, y.first(), y.Old, y.New); err != nil {
		return nil, err
	}
	var out []schema.Fix
	for _, f := range fixes {
		in, table, column, renames := f.Renamed()
		if renames && slices.ContainsFunc(at.Reasons, func(r subscriber.Reason) bool {
			return r.Drift && r.Schema == in && r.Table == table && (column == "" || slices.Contains(r.Missing, column))
		}) {
			out = append(out, f)
		}
	}
	return out, nil
}

// renameWaitedFor carries these out, and reports whether there were any. What is
// left of the round is for the next one, which sees what a former name has hidden:
// until then nothing can be waited for.
func (y *schemaSync) renameWaitedFor(ctx context.Context, r *syncRound) (renamed bool, err error) {
	err = y.paused(ctx, func() error {
		waited, err := y.waitedFor(ctx, r.fixes)
		if renamed = len(waited) > 0; err != nil || !renamed {
			return err
		}
		r.fixes = waited
		return y.contract(ctx, r)
	})
	if err != nil || !renamed {
		return renamed, err
	}
	if err := y.subscribe(ctx); err != nil {
		return true, err
	}
	return true, y.settle(ctx, r)
}

// contract takes away what old has taken away.
func (y *schemaSync) contract(ctx context.Context, r *syncRound) error {
	conn, err := y.New.Connect(ctx, "sync", pg.LongRunning())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, f := range r.fixes {
		if !f.Contract {
			continue
		}
		if err := y.apply(ctx, conn, f, f.All()); err != nil {
			return err
		}
	}
	return nil
}

// late makes what looks at rows, and then gives privileges and comments to what
// was restored.
func (y *schemaSync) late(ctx context.Context, r *syncRound, c *chosen) error {
	if err := c.restore(ctx, y, schema.Rest); err != nil {
		return err
	}
	conn, err := y.New.Connect(ctx, "sync", pg.LongRunning())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for _, f := range r.fixes {
		if f.Alone || f.Contract || !f.Late {
			continue
		}
		if err := y.apply(ctx, conn, f, f.Statements); err != nil {
			return err
		}
	}
	return nil
}

// noBodiesSQL lets functions be made whose bodies need what comes later.
const noBodiesSQL = `set local check_function_bodies = off`

// apply runs statements in one transaction.
func (y *schemaSync) apply(ctx context.Context, conn *pgx.Conn, f schema.Fix, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Event triggers that came with the schema stay away: one that writes would
		// be refused by the fence.
		before := []string{noBodiesSQL}
		for _, setting := range y.New.QuietSettings() {
			before = append(before, "set local "+setting)
		}
		for _, sql := range slices.Concat(before, statements) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("running %q on the new server: %w", sql, y.New.Redacted(withDetail(err)))
			}
		}
		return nil
	})
	if err != nil {
		next := "what was done before stays; mend this by hand on the new server, then run: pgcutover start --sync-schema"
		if pg.IsCode(err, pg.UndefinedObject) {
			next = "when it is a role that the tool may not make: pgcutover check prints the statement for the new server (roles.missing); " + next
		}
		return hint.With(fmt.Errorf("bringing %s in line: %w", f.Difference.Object(), err), next)
	}
	return nil
}

// withDetail adds what names the object that is in the way.
func withDetail(err error) error {
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Detail != "" {
		return fmt.Errorf("%w: %s", err, refused.Detail)
	}
	return err
}

// each runs statements that cannot be in one transaction.
func (y *schemaSync) each(ctx context.Context, conn *pgx.Conn, f schema.Fix) error {
	for _, sql := range f.Statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return hint.With(fmt.Errorf("bringing %s in line: running %q on the new server: %w", f.Difference.Object(), sql, y.New.Redacted(err)),
				"mend this by hand on the new server, then run: pgcutover start --sync-schema")
		}
	}
	return nil
}
