package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgcutover/pgcutover/internal/provider"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/upgrade"
)

// grantFlags are those of check that ask for scripts in place of findings.
type grantFlags struct {
	side      string // empty: not asked for
	providers []string
	roles     []string
}

const grantHelp = `
--grants prints instead, for psql, what the tool's roles need on old and on new and no more,
each line with its reason; --grants=old or --grants=new prints the one. It changes nothing,
and may be asked as any role: name those of the move with --role when they are not in the
URLs, or are not there yet. Who runs a server is read from its catalogs unless --provider
says so: ` + "community, rds, aurora, cloudsql, azure, supabase, neon."

const grantExample = `
  pgcutover check --grants --old postgres://admin@old/shop --new postgres://admin@new/shop --role mover
  pgcutover check --grants=new --provider old=rds,new=community`

func (g *grantFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&g.side, "grants", "", "print what the roles need, for psql: both, old or new")
	f.Lookup("grants").NoOptDefVal = "both"
	f.StringSliceVar(&g.providers, "provider", nil, "who runs the servers, one for both or old=...,new=... (with --grants)")
	f.StringSliceVar(&g.roles, "role", nil, "what the tool connects as, one for both or old=...,new=... (with --grants)")
	cmd.Long += grantHelp
	cmd.Example += grantExample
}

// asked says that scripts are wanted, or that flags do not fit.
func (g *grantFlags) asked() (bool, error) {
	switch g.side {
	case "both", "old", "new":
		return true, nil
	case "":
		if len(g.providers)+len(g.roles) > 0 {
			return false, &usageError{fmt.Errorf("--provider and --role go with --grants")}
		}
		return false, nil
	}
	return false, &usageError{fmt.Errorf("--grants is both, old or new, not %q", g.side)}
}

// perSide reads a flag that names one value for both servers or one for each.
func perSide(flag string, values []string) (old, new string, err error) {
	for _, v := range values {
		side, value, named := strings.Cut(v, "=")
		switch {
		case named && side == "old" && value != "" && old == "":
			old = value
		case named && side == "new" && value != "" && new == "":
			new = value
		case !named && len(values) == 1 && v != "":
			return v, v, nil
		default:
			return "", "", &usageError{fmt.Errorf("%s %s: give one for both servers, or old=<one>,new=<another>", flag, strings.Join(values, ","))}
		}
	}
	return old, new, nil
}

func (g *grantFlags) options() (o preflight.GrantOptions, err error) {
	if o.OldRole, o.NewRole, err = perSide("--role", g.roles); err != nil {
		return o, err
	}
	old, new, err := perSide("--provider", g.providers)
	if err != nil {
		return o, err
	}
	for _, side := range []struct {
		name string
		into *provider.Flavor
	}{{old, &o.OldFlavor}, {new, &o.NewFlavor}} {
		if side.name == "" {
			continue
		}
		if *side.into, err = provider.Parse(side.name); err != nil {
			return o, &usageError{fmt.Errorf("--provider: %w", err)}
		}
	}
	return o, nil
}

// grantsAnswer is what check --grants prints with --json.
type grantsAnswer struct {
	Old *preflight.GrantScript `json:"old,omitempty"`
	New *preflight.GrantScript `json:"new,omitempty"`
}

// grants prints the scripts.
func (a *app) grants(ctx context.Context, g *grantFlags) error {
	o, err := g.options()
	if err != nil {
		return err
	}
	return a.withMoves(ctx, func(m *upgrade.Move) error {
		old, new, err := m.Grants(ctx, o)
		if err != nil {
			return err
		}
		var answer grantsAnswer
		var scripts []string
		if g.side != "new" {
			answer.Old, scripts = &old, append(scripts, old.SQL)
		}
		if g.side != "old" {
			answer.New, scripts = &new, append(scripts, new.SQL)
		}
		return a.print(answer, func(w io.Writer) error {
			_, err := io.WriteString(w, strings.Join(scripts, "\n"))
			return err
		})
	}, func(*upgrade.Cluster) error { return onlyOne("--grants") })
}
