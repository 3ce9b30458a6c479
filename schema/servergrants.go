package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// serverGrant is a right that a role has on something that belongs to the whole
// server: a tablespace or, from 15 on, a parameter.
type serverGrant struct {
	On        string // TABLESPACE "fast", PARAMETER "session_replication_role"
	Privilege string
	Grantable bool
	Role      string
}

// serverGrants10SQL lists the rights of the given roles on tablespaces.
const serverGrants10SQL = `
select format('tablespace %I', t.spcname), lower(x.privilege_type), x.is_grantable, r.rolname::text
  from pg_tablespace t
 cross join lateral aclexplode(t.spcacl) x
  join pg_roles r on r.oid = x.grantee
 where r.rolname = any($1) and x.grantee <> t.spcowner
 order by 1, 2, 4`

// serverGrants15SQL adds those on parameters.
// https://www.postgresql.org/docs/current/catalog-pg-parameter-acl.html
const serverGrants15SQL = `
select format('tablespace %I', t.spcname), lower(x.privilege_type), x.is_grantable, r.rolname::text
  from pg_tablespace t
 cross join lateral aclexplode(t.spcacl) x
  join pg_roles r on r.oid = x.grantee
 where r.rolname = any($1) and x.grantee <> t.spcowner
union all
select 'parameter ' || p.parname, lower(x.privilege_type), x.is_grantable, r.rolname
  from pg_parameter_acl p
 cross join lateral aclexplode(p.paracl) x
  join pg_roles r on r.oid = x.grantee
 where r.rolname = any($1)
 order by 1, 2, 4`

// readServerGrants reads them on old.
func readServerGrants(ctx context.Context, old *pg.Server, names []string) ([]serverGrant, error) {
	sql := serverGrants10SQL
	if old.Major() >= 15 {
		sql = serverGrants15SQL
	}
	rows, err := old.Pool().Query(ctx, sql, names)
	if err != nil {
		return nil, fmt.Errorf("reading rights on tablespaces and parameters: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByPos[serverGrant])
	if err != nil {
		return nil, fmt.Errorf("reading rights on tablespaces and parameters: %w", err)
	}
	return grants, nil
}

// change is the statement that gives the right, with its undo: DROP ROLE refuses
// a role that has one.
func (g serverGrant) change() change {
	right := g.Privilege + " on " + g.On
	c := change{
		statement: statement{object: "role " + quoteName(g.Role), sql: "grant " + right + " to " + quoteName(g.Role)},
		undo:      "revoke " + right + " from " + quoteName(g.Role) + " cascade",
	}
	if g.Grantable {
		c.sql += " with grant option"
	}
	return c
}

// changes are those of the roles that are made.
func (p *rolePlan) changes(made []Role) []change {
	var out []change
	for _, g := range p.grants {
		for _, r := range made {
			if r.Name == g.Role {
				out = append(out, g.change())
			}
		}
	}
	return out
}

// record is the statement that remembers how to take c back, for a plan.
func (c change) record() statement {
	return statement{sql: strings.TrimSpace(pg.Fill(recordUndoSQL, c.undo))}
}
