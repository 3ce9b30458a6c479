package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/config"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/probe"
)

const probeLong = `probe commits a row through a connection string and reads it back in a new transaction, again and
again, through a new connection each time, as a client would. It tells at once when a write is
refused, when nobody answers, when an acknowledged write is gone, and, with --expect, when another
server answers than the one expected; and again when it works, with the length of the outage.

Without --url it probes probe.url of the config file, or else what clients use by its traffic:
entries (a pooler's probe_url, both servers for multihost), or else the new server. Without
--every and --for it asks every 5 seconds for 10 minutes, then each minute, until it is
interrupted.

Its exit status is 0 when every round succeeded and 1 when one failed, although later ones may have
succeeded. A slow round has not failed.`

const probeExample = `  pgcutover probe --url 'postgres://app@pooler:6432/shop'
  pgcutover probe --expect new --every 1s --for 10m --webhook https://alerts.example/hook
  pgcutover probe --count 1 --quiet || echo "no write possible"`

// probeFlags are what the command line says about a probe.
type probeFlags struct {
	options      probe.Options
	every, lasts time.Duration
	expect       string
	quiet        bool
}

func newProbe(a *app) *cobra.Command {
	var f probeFlags
	cmd := command("probe", "Write and read back through a connection string, again and again", probeLong, probeExample,
		func(ctx context.Context) error {
			o, err := a.probeOptions(ctx, f)
			if err != nil {
				return err
			}
			report, err := probe.Run(ctx, o, &probePrinter{app: a, quiet: f.quiet})
			if err != nil {
				return &usageError{err}
			}
			return errors.Join(report.Err(), a.print(report, report.WriteText))
		})
	flags := cmd.Flags()
	flags.StringVar(&f.options.URL, "url", "", "connection string to write through: a server, several hosts, or a pooler")
	flags.DurationVar(&f.every, "every", 0, "time from one round to the next (default 5s, after 10 minutes 1m)")
	flags.DurationVar(&f.lasts, "for", 0, "how long to go on (default until interrupted)")
	flags.IntVar(&f.options.Count, "count", 0, "how many rounds (default as --for says)")
	flags.DurationVar(&f.options.Timeout, "timeout", 5*time.Second, "how long one round may take")
	flags.DurationVar(&f.options.Slow, "slow", time.Second, "call a round slow that takes longer")
	flags.StringVar(&f.options.Table, "table", "", "table to write to, made when missing (default pgcutover.probe while a move is under way, else pgcutover_probe)")
	flags.StringVar(&f.expect, "expect", "", "old or new: fail when another server answers")
	flags.StringVar(&f.options.Webhook, "webhook", "", "URL to post to, as JSON, when it begins to fail and when it works again (default probe.webhook of the config, unless --url is given)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "say only what fails, and when it works again")
	return cmd
}

// probeOptions completes the flags with what the config file says, which is
// read only when it is needed.
func (a *app) probeOptions(ctx context.Context, f probeFlags) (probe.Options, error) {
	o := f.options
	switch {
	case f.every < 0 || f.lasts < 0 || o.Count < 0 || o.Timeout <= 0 || o.Slow <= 0:
		return o, &usageError{errors.New("--every, --for and --count are not negative, --timeout and --slow more than 0")}
	case f.expect != "" && f.expect != string(pg.Old) && f.expect != string(pg.New):
		return o, &usageError{fmt.Errorf("--expect is old or new, not %q", f.expect)}
	case f.every > 0 || f.lasts > 0:
		o.Schedule = []probe.Pace{{Every: f.every, For: f.lasts}}
		if f.every == 0 {
			o.Schedule[0].Every = probe.AfterCutover()[0].Every
		}
	}
	if o.URL != "" && f.expect == "" {
		return o, nil
	}
	c, err := a.config()
	if err != nil {
		return o, err
	}
	if o.URL == "" {
		o.URL = clientURL(c)
		o.Webhook = cmp.Or(o.Webhook, c.Probe.Webhook.Reveal())
	}
	if f.expect == "" {
		return o, nil
	}
	o.Expect = pg.Side(f.expect)
	o.Servers, err = a.bothServers(ctx, c, o.Expect)
	return o, err
}

// clientURL is how clients of a move reach the server that takes writes, as far
// as the config tells.
func clientURL(c *config.Config) string {
	if !c.Probe.URL.Empty() {
		return c.Probe.URL.Reveal()
	}
	for _, t := range c.Traffic {
		switch {
		case t.PgBouncer != nil && !t.PgBouncer.ProbeURL.Empty():
			return t.PgBouncer.ProbeURL.Reveal()
		case t.MultiHost != nil:
			if both, err := workload.Multihost(c.Old.URL.Reveal(), c.New.URL.Reveal()); err == nil {
				return both
			}
		}
	}
	return c.New.URL.Reveal()
}

// bothServers identifies the expected server and, if it answers, the other one,
// which is only to be called by its name.
func (a *app) bothServers(ctx context.Context, c *config.Config, expect pg.Side) (map[pg.Side]probe.Server, error) {
	const bound = 10 * time.Second
	servers := map[pg.Side]probe.Server{}
	for side, url := range map[pg.Side]string{pg.Old: c.Old.URL.Reveal(), pg.New: c.New.URL.Reveal()} {
		limit, cancel := context.WithTimeout(ctx, bound)
		server, err := probe.Identify(limit, pg.Options{Side: side, URL: url, Move: c.Name})
		cancel()
		switch {
		case err == nil:
			servers[side] = server
		case side == expect:
			return nil, err
		default:
			a.say("the %s server does not say who it is: %v", side, err)
		}
	}
	return servers, nil
}

// probePrinter prints a line for each round, on stderr.
type probePrinter struct {
	app   *app
	quiet bool
	first bool   // a round was printed
	hint  string // that was printed last
}

// Round prints a round.
func (p *probePrinter) Round(r probe.Round) {
	at := r.At.Format("15:04:05")
	if !r.OK {
		lasting := ""
		if r.FailedRounds > 1 {
			lasting = fmt.Sprintf(", failing for %s (%d rounds)", seconds(r.FailingMS), r.FailedRounds)
		}
		p.app.say("%s FAIL      %s%s", at, r.Failure, lasting)
		if r.Failure.Hint != "" && r.Failure.Hint != p.hint {
			p.app.say("         next: %s", r.Failure.Hint)
		}
		p.hint = r.Failure.Hint
		return
	}
	if r.Change == probe.Recovered {
		p.app.say("%s RECOVERED after %s, %d rounds had failed", at, seconds(r.FailingMS), r.FailedRounds)
		p.hint = ""
	}
	if r.Moved || (!p.first && !p.quiet) {
		p.app.say("%s server    %s", at, serverName(*r.Server))
	}
	p.first = true
	switch {
	case r.Slow:
		p.app.say("%s SLOW      %s", at, latency(r))
	case !p.quiet:
		p.app.say("%s ok        %s", at, latency(r))
	}
}

// Warning prints what went wrong beside the question.
func (p *probePrinter) Warning(err error) { p.app.say("WARN %v", err) }

func latency(r probe.Round) string {
	return fmt.Sprintf("%.1f ms (connect %.1f, write %.1f, read %.1f)", r.TookMS, r.ConnectMS, r.WriteMS, r.ReadMS)
}

func serverName(s probe.Server) string {
	if s.Side != "" {
		return string(s.Side) + " (" + s.String() + ")"
	}
	return s.String()
}

func seconds(ms float64) string { return round(time.Duration(ms * float64(time.Millisecond))).String() }
