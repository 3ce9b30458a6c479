package main

import (
	"context"
	"errors"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// withMove reads the config, connects to both servers and runs f.
func (a *app) withMove(ctx context.Context, f func(*upgrade.Move) error) error {
	return a.withServers(ctx, false, f)
}

// withServers is withMove, or, with oldOnly, without the new server.
func (a *app) withServers(ctx context.Context, oldOnly bool, f func(*upgrade.Move) error) error {
	options, err := a.options()
	if err != nil {
		return err
	}
	open := upgrade.Open
	if oldOnly {
		open = upgrade.OpenOld
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
	var (
		c   *config.Config
		err error
	)
	switch {
	case a.flags.old != "" && a.flags.new != "":
		c, err = config.FromURLs(a.flags.old, a.flags.new, a.flags.name)
	case a.flags.old != "" || a.flags.new != "":
		err = errors.New("--old and --new go together")
	default:
		c, err = config.Load(a.flags.config)
	}
	if err != nil {
		return upgrade.Options{}, &usageError{err}
	}
	return fromConfig(c), nil
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
		Warm:      warmup.WarmOptions{Recent: c.Warm.Recent.Std(), Budget: c.Warm.Budget.Size.Bytes(), Jobs: c.Warm.Jobs},
		Analyze:   warmup.AnalyzeOptions{Stages: stages, Jobs: c.Analyze.Jobs},
		Margin:    c.Sequences.Margin,
		Cutover: cutover.Settings{
			MaxLag:      c.Cutover.MaxLag.Bytes(),
			MaxPause:    c.Cutover.MaxPause.Std(),
			LockTimeout: c.Cutover.LockTimeout.Std(),
			Attempts:    c.Cutover.Attempts,
			OnClosed:    fence.OnClosed(c.Cutover.OnClosed),
		},
		Traffic: drivers(c.Traffic),
		Hooks:   traffic.Hooks{Dir: c.Hooks.Dir, Bound: hookBound},
		WALWarn: c.WAL.Warn.Bytes(),

		FailoverPaused: c.Old.Failover == "paused",
	}
}

func drivers(list []config.Traffic) []traffic.Driver {
	var out []traffic.Driver
	for _, t := range list {
		switch {
		case t.MultiHost != nil:
			out = append(out, traffic.Multihost{})
		case t.Hook != nil:
			out = append(out, traffic.Hook{Command: t.Hook.Command, Bound: hookBound})
		}
	}
	return out
}
