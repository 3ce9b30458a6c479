package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// rowSecuritySQL lists the tables with row-level security that bears on the
// tool's role, or that is forced upon their owners.
const rowSecuritySQL = `
select n.nspname::text as schema, c.relname::text as table, row_security_active(c.oid) as hides,
       c.relrowsecurity and c.relforcerowsecurity as forced, o.rolname::text as owner,
       o.rolbypassrls or o.rolsuper as owner_passes
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_roles o on o.oid = c.relowner
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384 and c.relrowsecurity
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
 order by n.nspname, c.relname`

type rowSecurityRow struct {
	Schema, Table string
	Hides         bool
	Forced        bool
	Owner         string
	OwnerPasses   bool
}

func (r rowSecurityRow) name() string { return quote(r.Schema) + "." + quote(r.Table) }

// passingSQL tells, of the roles in $1 that exist, who is above row-level
// security.
const passingSQL = `
select rolname::text as name, rolbypassrls or rolsuper as passes from pg_roles where rolname = any ($1::text[])`

type passingRow struct {
	Name   string
	Passes bool
}

// checkRowSecurity finds tables of which the copy would see only some rows, and
// tables that the apply worker could not write.
// Postgres manual: 5.9, Row Security Policies; 29.11, Security.
func checkRowSecurity(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[rowSecurityRow](ctx, p.Old, "reading row-level security", rowSecuritySQL)
	if err != nil {
		return nil, err
	}
	var forced []rowSecurityRow
	var found []Finding
	for _, r := range rows {
		if !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		if r.Hides {
			found = append(found, Finding{
				ID: "row-security.copy", Severity: Blocker, Server: string(pg.Old), Object: r.name(),
				Seen: "row-level security applies to role " + quote(p.Old.User()),
				Why:  "The copy would see only the rows that the policies let through.",
				Fix:  fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", quote(p.Old.User())), FixKind: FixSQL,
			})
		}
		if r.Forced {
			forced = append(forced, r)
		}
	}
	apply, err := forcedFindings(ctx, p.New, forced)
	return append(found, apply...), err
}

// forcedFindings looks at tables that hold their own owner to the policies:
// from 16 on the apply worker acts as the table's owner, and refuses (measured
// on 17 and 18; BYPASSRLS cures it at once).
func forcedFindings(ctx context.Context, s *pg.Server, forced []rowSecurityRow) ([]Finding, error) {
	if len(forced) == 0 || s.Major() < 16 {
		return nil, nil
	}
	owners := make([]string, len(forced))
	for i, r := range forced {
		owners[i] = r.Owner
	}
	rows, err := read[passingRow](ctx, s, "reading roles", passingSQL, owners)
	if err != nil {
		return nil, err
	}
	passes := make(map[string]bool, len(rows))
	for _, r := range rows {
		passes[r.Name] = r.Passes
	}
	var found []Finding
	for _, r := range forced {
		on, exists := passes[r.Owner]
		if on || (!exists && r.OwnerPasses) {
			continue
		}
		f := Finding{
			ID: "row-security.apply", Severity: Blocker, Server: string(s.Side()), Object: r.name(),
			Seen: fmt.Sprintf("FORCE ROW LEVEL SECURITY, owner %s", quote(r.Owner)),
			Why:  "The apply worker acts as the owner and refuses such a table: the stream stops at its first row.",
		}
		sql := fmt.Sprintf("ALTER ROLE %s BYPASSRLS; -- on new, until the move is complete", quote(r.Owner))
		if f = f.mended(sql); !exists {
			f = f.told("let start make the role, with its password: pgcutover start --until roles --ignore row-security.apply\n" +
				"then, on new: " + makeWritable + sql)
		}
		found = append(found, f)
	}
	return found, nil
}
