package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// foreignOwnersSQL lists the owners of tables whose rights the tool's role has
// not, with how many tables each and three of their names. All tables count, in
// scope or not: each one gets a fence trigger. Those of extensions are a matter
// of their own (unfencedTables).
const foreignOwnersSQL = `
select pg_get_userbyid(c.relowner)::text as owner, count(*)::int as tables,
       (array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname))[1:3] as names,
       pg_has_role(c.relowner, 'member') as member, r.rolsuper as super
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_roles r on r.oid = c.relowner
 where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not pg_has_role(c.relowner, 'usage')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 group by c.relowner, r.rolsuper
 order by 1`

type ownerRow struct {
	Owner  string
	Tables int
	Names  []string
	Member bool
	Super  bool
}

// checkOwnership finds what the tool's roles may not alter, read or restore.
func checkOwnership(ctx context.Context, p *Pair) ([]Finding, error) {
	owners, err := read[ownerRow](ctx, p.Old, "reading who owns the tables", foreignOwnersSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, o := range owners {
		if unlendable(o.Owner, o.Super) {
			continue // superuserOwners
		}
		f := Finding{
			ID: "rights.table-owner", Severity: Blocker, Server: string(pg.Old), Object: "role " + quote(o.Owner),
			Seen: fmt.Sprintf("owns %s (%s), and %s has not its rights", plural(o.Tables, "table"), some(o.Names, o.Tables), quote(p.Old.User())),
			Why:  "Publishing a table and putting the fence on it need the rights of its owner.",
			Fix:  grantRole(p.Old, o.Owner), FixKind: FixSQL,
		}
		if o.Member && p.Old.Major() < 16 {
			f.Seen += ", though it is a member (NOINHERIT)"
			f.Fix = fmt.Sprintf("ALTER ROLE %s INHERIT;", quote(p.Old.User()))
		}
		found = append(found, f)
	}
	unfenced, err := unfencedTables(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	found = append(found, unfenced...)
	unreadable, err := unreadableTables(ctx, p)
	if err != nil {
		return nil, err
	}
	acting, err := actingRights(ctx, p)
	return append(append(found, unreadable...), acting...), err
}

// unlendable tells roles whose rights cannot be lent: a member of a superuser could
// become superuser, and a provider keeps its own roles for itself.
func unlendable(role string, super bool) bool {
	_, reserved := provider.ReservedRole(role)
	return super || reserved
}

// unreadableSQL lists the tables that the role may not read, whoever owns them:
// an owner can take SELECT from itself.
const unreadableSQL = `
select n.nspname::text as schema, c.relname::text as table, has_schema_privilege(n.oid, 'usage') as enters
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not (has_table_privilege(c.oid, 'select') and has_schema_privilege(n.oid, 'usage'))
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

type unreadableRow struct {
	Schema, Table string
	Enters        bool
}

func unreadableTables(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[unreadableRow](ctx, p.Old, "reading rights on the tables", unreadableSQL)
	if err != nil {
		return nil, err
	}
	role := quote(p.Old.User())
	var found []Finding
	closed := map[string]bool{}
	for _, r := range rows {
		if !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		if !r.Enters {
			if !closed[r.Schema] {
				closed[r.Schema] = true
				found = append(found, Finding{
					ID: "rights.schema", Severity: Blocker, Server: string(pg.Old), Object: "schema " + quote(r.Schema),
					Seen: "no USAGE for " + role, Why: "The tables in the schema cannot be read.",
					Fix: fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", quote(r.Schema), role), FixKind: FixSQL,
				})
			}
			continue
		}
		name := quote(r.Schema) + "." + quote(r.Table)
		found = append(found, Finding{
			ID: "rights.select", Severity: Blocker, Server: string(pg.Old), Object: "table " + name,
			Seen: "no SELECT for " + role, Why: "Its rows cannot be copied.",
			Fix: fmt.Sprintf("GRANT SELECT ON %s TO %s;", name, role), FixKind: FixSQL,
		})
	}
	return found, nil
}

// notMineSQL returns those roles of $1 that exist and whose rights the tool's
// role has not.
const notMineSQL = `
select r.rolname::text
  from pg_roles r
 where r.rolname = any ($1::text[]) and not pg_has_role(r.oid, 'usage')
 order by 1`

// notMine16SQL is the same from 16 on, where SET ROLE is a right of its own.
const notMine16SQL = `
select r.rolname::text
  from pg_roles r
 where r.rolname = any ($1::text[]) and not (pg_has_role(r.oid, 'usage') and pg_has_role(r.oid, 'set'))
 order by 1`

// actingRights finds the owners as whom the tool's role cannot act: on the new
// server, where it gives objects to them and (16 and later) applies changes as
// them; and on an old server of 16 or later, which a reverse stream applies to.
func actingRights(ctx context.Context, p *Pair) ([]Finding, error) {
	all, err := read[objectOwner](ctx, p.Old, "reading who owns the objects", objectOwnersSQL)
	if err != nil {
		return nil, err
	}
	var owners, withTables []string
	for _, o := range all {
		if unlendable(o.Name, o.Super) {
			continue // superuserOwners
		}
		owners = append(owners, o.Name)
		if o.Tables {
			withTables = append(withTables, o.Name)
		}
	}
	found, err := notMine(ctx, p.New, owners, "rights.restore-owner",
		"The tool makes the role's objects on the new server and gives them to it; from 16 on changes are applied in its name.")
	if err != nil || !p.Settings.Rollback || p.Old.Major() < 16 {
		return found, err
	}
	reverse, err := notMine(ctx, p.Old, withTables, "rights.apply-owner",
		"The reverse stream applies changes in the name of the tables' owner.")
	return append(found, reverse...), err
}

func notMine(ctx context.Context, s *pg.Server, owners []string, id, why string) ([]Finding, error) {
	sql := notMineSQL
	if s.Major() >= 16 {
		sql = notMine16SQL
	}
	foreign, err := readValues[string](ctx, s, "reading memberships", sql, owners)
	var found []Finding
	for _, owner := range foreign {
		found = append(found, Finding{
			ID: id, Severity: Blocker, Server: string(s.Side()), Object: "role " + quote(owner),
			Seen: fmt.Sprintf("owns objects on old, and %s cannot act as it", quote(s.User())),
			Why:  why, Fix: grantRole(s, owner), FixKind: FixSQL,
		})
	}
	return found, err
}

// some joins the first names of total.
func some(names []string, total int) string {
	text := strings.Join(names, ", ")
	if total > len(names) {
		text += ", ..."
	}
	return text
}
