package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pgcutover/pgcutover/upgrade"
)

// syncSchema shows what brings new in line with old's schema, asks, and does it.
// Several databases are done one after the other.
func (a *app) syncSchema(ctx context.Context, yes bool) error {
	one := func(m *upgrade.Move) (upgrade.SyncReport, error) {
		return m.SyncSchema(ctx, func(p upgrade.SyncPlan) error {
			a.say("%s", p.Text())
			return a.confirm(yes, "Do this on the new server, and publish new tables on old?")
		})
	}
	return a.withMoves(ctx, func(m *upgrade.Move) error {
		report, err := one(m)
		if err != nil && len(report.Applied)+len(report.Left) == 0 {
			return err // nothing came of it
		}
		return errors.Join(a.print(report, writeSync("", report)), err)
	}, func(c *upgrade.Cluster) error {
		var errs []error
		reports := map[string]upgrade.SyncReport{}
		for _, m := range c.Moves {
			report, err := one(m.Move)
			if err != nil {
				err = fmt.Errorf("database %s: %w", m.Database, err)
			}
			reports[m.Database] = report
			errs = append(errs, err)
		}
		errs = append(errs, a.print(reports, func(w io.Writer) error {
			for _, m := range c.Moves {
				if err := writeSync(m.Database+": ", reports[m.Database])(w); err != nil {
					return err
				}
			}
			return nil
		}))
		return errors.Join(errs...)
	})
}

// writeSync says what was done.
func writeSync(prefix string, r upgrade.SyncReport) func(io.Writer) error {
	return func(w io.Writer) error {
		made := ""
		if n := len(r.Roles); n > 0 {
			made = fmt.Sprintf("%d roles made, ", n)
		}
		_, err := fmt.Fprintf(w, "%s%s%d differences brought in line, %d tables published and copied, %d left\n", prefix, made, len(r.Applied), len(r.Published), len(r.Left))
		return err
	}
}
