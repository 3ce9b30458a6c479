package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/unreplicated"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// withMove reads the config, connects to both servers and runs f.
func (a *app) withMove(ctx context.Context, f func(*upgrade.Move) error) error {
	return a.withServers(ctx, both, f)
}

// reach says which of the two servers can be reached.
type reach int

const (
	both reach = iota
	oldOnly
	newOnly
)

// withServers is withMove, or without a server that is gone.
func (a *app) withServers(ctx context.Context, which reach, f func(*upgrade.Move) error) error {
	options, err := a.options()
	if err != nil {
		return err
	}
	open := upgrade.Open
	switch which {
	case oldOnly:
		open = upgrade.OpenOld
	case newOnly:
		open = upgrade.OpenNew
	}
	m, err := open(ctx, options, newNarrator(a))
	if err != nil {
		return err
	}
	defer m.Close()
	return f(m)
}

// options reads the config file, or the two URLs.
func (a *app) options() (upgrade.Options, error) {
	c, err := a.config()
	if err != nil {
		return upgrade.Options{}, err
	}
	if len(c.Databases) > 1 && a.flags.database == "" {
		return upgrade.Options{}, &usageError{fmt.Errorf("the move has %d databases: name one of them with --database", len(c.Databases))}
	}
	return a.optionsFor(c, a.flags.database)
}

// optionsFor are those of one database of the config's list; its name is empty
// when there is no list.
func (a *app) optionsFor(c *config.Config, database string) (upgrade.Options, error) {
	several, family := len(c.Databases), ""
	if database != "" && several == 0 {
		return upgrade.Options{}, &usageError{errors.New("--database chooses from the config's list of databases, and there is none")}
	}
	if database != "" {
		if several > 1 {
			family = config.Family(c.Name)
		}
		one, err := c.ForDatabase(database)
		if err != nil {
			return upgrade.Options{}, &usageError{err}
		}
		c = one
	}
	o := fromConfig(c)
	o.Beside, o.Family, o.Watch = several, family, a.watchdogFor(database)
	o.Ignore = append(slices.Clone(o.Ignore), a.flags.ignore...)
	if err := preflight.Unknown(o.Ignore); err != nil {
		return upgrade.Options{}, &usageError{err}
	}
	return o, nil
}

// config is options as they stand in the file.
func (a *app) config() (c *config.Config, err error) {
	switch {
	case a.flags.old != "" && a.flags.new != "":
		c, err = config.FromURLs(a.flags.old, a.flags.new, a.flags.name)
	case a.flags.old != "" || a.flags.new != "":
		err = errors.New("--old and --new go together")
	default:
		c, err = config.Load(a.flags.config)
	}
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// hookBound is how long a hook and a traffic command may take.
const hookBound = time.Minute

func fromConfig(c *config.Config) upgrade.Options {
	stages := make([]warmup.Stage, len(c.Analyze.Stages))
	for i, s := range c.Analyze.Stages {
		stages[i] = warmup.Stage(s)
	}
	return upgrade.Options{
		Name:      c.Name,
		Old:       upgrade.Endpoint{URL: c.Old.URL.Reveal(), PeerURL: c.Old.PeerURL.Reveal()},
		New:       upgrade.Endpoint{URL: c.New.URL.Reveal(), PeerURL: c.New.PeerURL.Reveal()},
		Include:   c.Tables.Include,
		Exclude:   c.Tables.Exclude,
		IndexJobs: c.Copy.Jobs,
		Warm:      warmOptions(c.Warm),
		WarmEvery: c.Warm.Every.Std(), WarmBeforeCutover: c.Warm.BeforeCutover.Std(),
		Analyze: warmup.AnalyzeOptions{Stages: stages, Jobs: c.Analyze.Jobs, PerTable: c.Analyze.PerTable.Std(), Foreign: c.Analyze.Foreign},
		NoCarry: !c.Analyze.Carry,
		Margin:  c.Sequences.Margin,
		Cutover: cutover.Settings{
			MaxLag:      c.Cutover.MaxLag.Bytes(),
			MaxPause:    c.Cutover.MaxPause.Std(),
			LockTimeout: c.Cutover.LockTimeout.Std(),
			Attempts:    c.Cutover.Attempts,
			OnClosed:    fence.OnClosed(c.Cutover.OnClosed),
			WayBack:     c.Rollback.Keep,

			TerminateAfter: c.Cutover.TerminateBlockersAfter.Std(),
			RevokeConnect:  c.Cutover.RevokeConnect,
			Unreplicated: cutover.Unreplicated{
				Budget:  c.Unreplicated.Budget.Std(),
				Tables:  unreplicated.TableMode(c.Unreplicated.Unlogged),
				Objects: unreplicated.ObjectMode(c.Unreplicated.LargeObjects),
			},
			RefreshWithin: refreshWithin(c.Refresh),
		},
		Ignore:  c.Check.Ignore,
		Traffic: drivers(c),
		Hooks:   traffic.Hooks{Dir: c.Hooks.Dir, Bound: hookBound},
		WALWarn: c.WAL.Warn.Bytes(),

		FailoverPaused:    c.Old.Failover == "paused",
		NewFailoverPaused: c.New.Failover == "paused",
	}
}

func warmOptions(w config.Warm) warmup.WarmOptions {
	o := warmup.WarmOptions{
		Recent: w.Recent.Std(), Budget: w.Budget.Size.Bytes(), Jobs: w.Jobs, Rate: w.Rate.Bytes(),
		NoPrewarm: w.Prewarm == "never", Columns: map[string]string{},
	}
	for _, name := range w.Columns {
		if at := strings.LastIndexByte(name, '.'); at > 0 {
			o.Columns[name[:at]] = name[at+1:]
		}
	}
	return o
}

// refreshWithin is 0 when a cutover is not to refresh anything.
func refreshWithin(r config.Refresh) time.Duration {
	if !r.BeforeCutover {
		return 0
	}
	return r.Bound.Std()
}

func drivers(c *config.Config) []traffic.Driver {
	var out []traffic.Driver
	for _, t := range c.Traffic {
		switch {
		case t.PgBouncer != nil:
			out = append(out, pooler(t.PgBouncer, c.Old.URL))
		case t.MultiHost != nil:
			out = append(out, traffic.Multihost{})
		case t.Hook != nil:
			out = append(out, traffic.Hook{Command: t.Hook.Command, Bound: hookBound})
		}
	}
	return out
}

func pooler(p *config.PgBouncer, old config.Secret) *traffic.PgBouncer {
	endpoint := func(s config.PoolerServer) traffic.PoolerEndpoint {
		return traffic.PoolerEndpoint{Host: s.Host, Port: s.Port, Database: s.DBName}
	}
	return traffic.NewPgBouncer(traffic.PgBouncerOptions{
		AdminURL:      p.AdminURL.Reveal(),
		Databases:     p.Databases,
		File:          p.Config,
		ProbeURL:      p.ProbeURL.Reveal(),
		ClientURL:     old.Reveal(),
		Old:           endpoint(p.Old),
		New:           endpoint(p.New),
		Shared:        p.Shared,
		PauseTimeout:  p.PauseTimeout.Std(),
		PauseAttempts: p.PauseAttempts,
	})
}
