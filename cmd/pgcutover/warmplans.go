package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

const plansLong = `

With --plans nothing is read: the most expensive SELECTs of old, by pg_stat_statements, or those of
--queries, are explained on both servers, never run, and it is told whose plan changed. --save
keeps old's plans in a file, --against compares new with them later, also when old is gone.

With --queries the queries of a file are run on new, in read-only transactions, as rehearsal
traffic; with --compare on both servers, with times, numbers of rows and plans side by side. The
file is SQL; a line before a statement gives the values of its parameters:
  -- parameters: [42, "paid", null]
  select * from orders where customer = $1 and state = $2 and coupon is not distinct from $3;`

const plansExample = `
  pgcutover warm --plans --top 100
  pgcutover warm --plans --save plans.json
  pgcutover warm --plans --against plans.json
  pgcutover warm --queries reads.sql --sessions 8 --during 10m --per-second 200
  pgcutover warm --queries reads.sql --compare --times 20`

// plansFlags are what the command line says about plans and queries.
type plansFlags struct {
	plans, compare                  bool
	file, save, against, searchPath string
	top, times, sessions            int
	during, timeout                 time.Duration
	perSecond                       float64
}

// withPlans adds --plans and --queries to a command, which is run without them.
func withPlans(a *app, cmd *cobra.Command) *cobra.Command {
	var f plansFlags
	cmd.Long = strings.TrimSuffix(cmd.Long, "\n"+exitHelp) + plansLong + "\n" + exitHelp
	cmd.Example += plansExample
	flags := cmd.Flags()
	flags.BoolVar(&f.plans, "plans", false, "compare the plans of queries on both servers instead of reading")
	flags.IntVar(&f.top, "top", 50, "with --plans: how many of the most expensive queries")
	flags.StringVar(&f.save, "save", "", "with --plans: write old's plans to this file, and ask new nothing")
	flags.StringVar(&f.against, "against", "", "with --plans: compare new with the plans of this file, and ask old nothing")
	flags.StringVar(&f.file, "queries", "", "run the queries of this file on new instead of reading; with --plans: compare their plans")
	flags.BoolVar(&f.compare, "compare", false, "with --queries: run them on old, too, and compare times, rows and plans")
	flags.IntVar(&f.times, "times", 0, "with --queries: how often each is run (default once, or as long as --during says)")
	flags.DurationVar(&f.during, "during", 0, "with --queries: when to stop at the latest")
	flags.Float64Var(&f.perSecond, "per-second", 0, "with --queries: how many are begun in a second (default as many as can be)")
	flags.IntVar(&f.sessions, "sessions", 1, "with --queries: how many sessions")
	flags.DurationVar(&f.timeout, "query-timeout", 0, "how long one query may take (default 30s), with --plans its planning (10s)")
	flags.StringVar(&f.searchPath, "search-path", "", "search_path of the queries (default that of the role that ran them, for a file that of the connection)")
	inner := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(); err != nil {
			return &usageError{err}
		}
		switch {
		case f.plans:
			return a.comparePlans(cmd.Context(), f)
		case f.file != "":
			return a.runQueries(cmd.Context(), f)
		}
		return inner(cmd, args)
	}
	return cmd
}

func (f plansFlags) check() error {
	switch {
	case !f.plans && (f.save != "" || f.against != ""):
		return errors.New("--save and --against go with --plans")
	case f.save != "" && f.against != "":
		return errors.New("give --save or --against: the one writes the file, the other reads it")
	case f.against != "" && f.file != "":
		return errors.New("--against compares the queries of its file: leave --queries away")
	case f.file == "" && (f.compare || f.times != 0 || f.during != 0 || f.perSecond != 0):
		return errors.New("--compare, --times, --during and --per-second go with --queries")
	case f.plans && f.compare:
		return errors.New("--compare compares plans, too: leave --plans away")
	case f.top < 1 || f.times < 0 || f.during < 0 || f.perSecond < 0 || f.sessions < 1 || f.timeout < 0:
		return errors.New("--top and --sessions are at least 1, --times, --during, --per-second and --query-timeout not negative")
	}
	return nil
}

func (f plansFlags) plansOptions() warmup.PlansOptions {
	return warmup.PlansOptions{Top: f.top, Timeout: f.timeout, SearchPath: f.searchPath}
}

func (f plansFlags) queriesOptions() warmup.QueriesOptions {
	return warmup.QueriesOptions{
		Jobs: f.sessions, Rounds: f.times, For: f.during, Rate: f.perSecond, Timeout: f.timeout, SearchPath: f.searchPath,
	}
}

// queries reads the file of queries.
func (f plansFlags) queries() ([]warmup.Query, error) {
	file, err := os.Open(f.file)
	if err != nil {
		return nil, &usageError{fmt.Errorf("opening the file of queries: %w", err)}
	}
	defer file.Close() //nolint:errcheck // only read
	queries, err := warmup.ParseQueries(file)
	if err != nil {
		return nil, &usageError{fmt.Errorf("%s: %w", f.file, err)}
	}
	return queries, nil
}

// comparePlans is warm --plans.
func (a *app) comparePlans(ctx context.Context, f plansFlags) error {
	o := f.plansOptions()
	if f.file != "" {
		queries, err := f.queries()
		if err != nil {
			return err
		}
		o.Statements = warmup.PlanStatements(queries)
	}
	o.Progress = func(side pg.Side, done int) {
		if done > 0 && done%50 == 0 {
			a.say("%d queries explained on %s", done, side)
		}
	}
	if f.save == "" && f.against == "" {
		return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
			report, err := warmup.ComparePlans(ctx, m.Old, m.New, o)
			return report, report.WriteText, err
		})
	}
	switch _, several, err := a.several(); {
	case err != nil:
		return err
	case several:
		return onlyOne("--save and --against")
	}
	if f.save != "" {
		return a.withServers(ctx, oldOnly, func(m *upgrade.Move) error { return a.savePlans(ctx, m.Old, f.save, o) })
	}
	return a.withServers(ctx, newOnly, func(m *upgrade.Move) error { return a.plansAgainst(ctx, m.New, f.against, o) })
}

func (a *app) savePlans(ctx context.Context, s *pg.Server, path string, o warmup.PlansOptions) error {
	set, err := warmup.ReadPlans(ctx, s, o)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the plans: %w", err)
	}
	// One that was there keeps its mode otherwise.
	if err := errors.Join(file.Chmod(0o600), set.Save(file), file.Close()); err != nil {
		return fmt.Errorf("keeping the plans in %s: %w", path, err)
	}
	return a.print(set, set.WriteText)
}

func (a *app) plansAgainst(ctx context.Context, s *pg.Server, path string, o warmup.PlansOptions) error {
	file, err := os.Open(path)
	if err != nil {
		return &usageError{fmt.Errorf("opening the kept plans: %w", err)}
	}
	defer file.Close() //nolint:errcheck // only read
	set, err := warmup.LoadPlans(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	report, err := warmup.ComparePlansWith(ctx, set, s, o)
	if err != nil {
		return err
	}
	return a.print(report, report.WriteText)
}

// runQueries is warm --queries.
func (a *app) runQueries(ctx context.Context, f plansFlags) error {
	queries, err := f.queries()
	if err != nil {
		return err
	}
	o := f.queriesOptions()
	said := time.Now()
	o.Progress = func(done int) {
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			a.say("%d queries run", done)
		}
	}
	return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
		if f.compare {
			report, err := warmup.CompareQueries(ctx, m.Old, m.New, queries, o, f.plansOptions())
			return report, report.WriteText, err
		}
		report, err := warmup.RunQueries(ctx, m.New, queries, o)
		return report, report.WriteText, err
	})
}
