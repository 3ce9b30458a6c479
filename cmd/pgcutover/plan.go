package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
)

const planHelp = `plan changes nothing on either server. It shows every statement of the move in
order, on which server and in which session it runs, what to look at before
going on, how each step is taken back, its bound, and how long it will take.

  text      for reading: of many statements of one kind it shows a few
  markdown  a runbook: a person with psql can do the move by hand with it
  sql       a script for psql for each server (--server), or one with marks;
            where one script has to wait for the other both bear one number
  json      the same as --json

Statements that depend on what is on the servers are those of this moment:
print the part of the cutover again just before it. Passwords are never shown;
variables of psql stand for them.`

const planExamples = `  pgcutover plan
  pgcutover plan --format markdown > runbook.md
  pgcutover plan --format sql --part cutover --server old > cutover-old.sql
  pgcutover plan --format sql --part cutover --server new > cutover-new.sql
  pgcutover plan --json | jq -r '.cutover[].statements[].sql'`

// planFlags are the flags of plan.
type planFlags struct {
	format, server string
	parts          []string
}

var planFormats = []string{"text", "markdown", "sql", "json"}

func newPlan(a *app) *cobra.Command {
	var f planFlags
	cmd := command("plan", "Print the whole procedure with every statement, undo and bound", planHelp, planExamples,
		func(ctx context.Context) error {
			if err := f.check(); err != nil {
				return err
			}
			if f.format == "json" {
				a.flags.json = true
			}
			_, several, err := a.several()
			if err != nil {
				return err
			}
			if several && (f.format == "markdown" || f.format == "sql") {
				return onlyOne("--format " + f.format)
			}
			return a.each(ctx, func(m *upgrade.Move) (any, func(io.Writer) error, error) {
				plan, err := m.Plan(ctx)
				return plan, func(w io.Writer) error { return f.write(w, plan.Runbook()) }, err
			})
		})
	cmd.Flags().StringVar(&f.format, "format", "text", "text, markdown, sql or json")
	cmd.Flags().StringVar(&f.server, "server", "", "with --format sql, the script of one server only: old or new")
	cmd.Flags().StringSliceVar(&f.parts, "part", nil, "only these parts: start, cutover, rollback, complete, abort (not for json)")
	return cmd
}

func (f planFlags) check() error {
	switch {
	case !slices.Contains(planFormats, f.format):
		return &usageError{fmt.Errorf("--format is text, markdown, sql or json, not %q", f.format)}
	case f.server != "" && f.server != "old" && f.server != "new":
		return &usageError{fmt.Errorf("--server is old or new, not %q", f.server)}
	case f.server != "" && f.format != "sql":
		return &usageError{fmt.Errorf("--server is for --format sql")}
	}
	known := []string{"start", "cutover", "rollback", "complete", "abort"}
	for _, part := range f.parts {
		if !slices.Contains(known, part) {
			return &usageError{fmt.Errorf("--part is one of %s, not %q", strings.Join(known, ", "), part)}
		}
	}
	return nil
}

func (f planFlags) write(w io.Writer, book step.Runbook) error {
	if len(f.parts) > 0 {
		book = book.Only(f.parts)
	}
	switch f.format {
	case "markdown":
		return book.WriteMarkdown(w)
	case "sql":
		return book.WriteSQL(w, f.server)
	}
	return book.WriteText(w)
}
