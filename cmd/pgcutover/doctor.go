package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
)

func newDoctor(a *app) *cobra.Command {
	var (
		fix bool
		cmd *cobra.Command
	)
	cmd = command("doctor", "Find what is stuck or orphaned on either server, and say whose it is",
		"doctor reads the catalogs of both servers, or of the one that can be reached, and needs nothing\nelse: no journal, no earlier run on this machine. It names closed fences and leftover triggers,\nread-only defaults, slots that keep WAL, subscriptions that do not run, and so on, with the SQL\nthat mends each. --fix mends what is this move's and safe: never what may be in use, never while\na tool is at work, and it never lets clients write on a server. Blockers make the exit status 3.",
		"  pgcutover doctor\n  pgcutover doctor --fix\n  pgcutover doctor --old postgres://postgres@old.example/shop   # one server is enough",
		func(ctx context.Context) error {
			o, err := a.doctorOptions(cmd.Flags().Changed("name"))
			if err != nil {
				return err
			}
			o.Fix = fix
			report, err := doctor.Run(ctx, o)
			if errors.Is(err, doctor.ErrUsage) {
				return &usageError{err}
			}
			if err != nil {
				return err
			}
			if err := a.print(report, report.WriteText); err != nil {
				return err
			}
			if report.Blocking > 0 {
				return fmt.Errorf("%w: %d", upgrade.ErrBlockers, report.Blocking)
			}
			return nil
		})
	cmd.Flags().BoolVar(&fix, "fix", false, "mend what is this move's and safe to mend")
	return cmd
}

// doctorOptions reads the config file, or one or both of the URLs. The name of
// the move then is what the servers say, unless --name is given.
func (a *app) doctorOptions(named bool) (doctor.Options, error) {
	if a.flags.old == "" && a.flags.new == "" {
		c, err := config.Load(a.flags.config)
		if err != nil {
			return doctor.Options{}, &usageError{err}
		}
		return doctor.Options{
			Move: c.Name, Old: c.Old.URL.Reveal(), New: c.New.URL.Reveal(), WALWarn: c.WAL.Warn.Bytes(),
			Poolers: doctor.LookAtPoolers(doctorPoolers(c)),
		}, nil
	}
	o := doctor.Options{Old: a.flags.old, New: a.flags.new, WALWarn: config.Default().WAL.Warn.Bytes()}
	if named {
		o.Move = a.flags.name
	}
	return o, nil
}

// doctorPoolers are the poolers of the config.
func doctorPoolers(c *config.Config) []doctor.Pooler {
	var out []doctor.Pooler
	for _, t := range c.Traffic {
		if p := t.PgBouncer; p != nil {
			out = append(out, doctor.Pooler{
				AdminURL: p.AdminURL.Reveal(), Databases: p.Databases, Driver: pooler(p, c.Old.URL),
				Old: traffic.PoolerEndpoint{Host: p.Old.Host, Port: p.Old.Port, Database: p.Old.DBName},
				New: traffic.PoolerEndpoint{Host: p.New.Host, Port: p.New.Port, Database: p.New.DBName},
			})
		}
	}
	return out
}
