package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// tablespacesSQL lists the tablespaces that tables, indexes and materialized
// views of the old database name, with how many do. What lies in the database's
// own tablespace names none, and goes wherever the new database is.
const tablespacesSQL = `
select t.spcname::text as name, count(*)::int as objects, (array_agg(c.oid::regclass::text order by c.oid))[1:3] as first
  from pg_class c
  join pg_tablespace t on t.oid = c.reltablespace
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'm', 'i', 'I') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
 group by t.spcname
 order by t.spcname`

type tablespaceRow struct {
	Name    string
	Objects int
	First   []string
}

// namedTablespacesSQL lists what temp_tablespaces and default_tablespace name on
// the server, its databases and roles.
const namedTablespacesSQL = `
select split_part(c.pair, '=', 1) as setting, substr(c.pair, strpos(c.pair, '=') + 1) as names,
       coalesce(r.rolname::text, '') as role
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
 cross join lateral unnest(s.setconfig) as c(pair)
 where s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
   and split_part(c.pair, '=', 1) in ('temp_tablespaces', 'default_tablespace')
union
select name, setting, ''
  from pg_settings
 where name in ('temp_tablespaces', 'default_tablespace') and setting <> ''
   and source not in ('database', 'user', 'database user', 'global')
 order by 1, 2, 3`

type namedTablespaces struct{ Setting, Names, Role string }

const allTablespacesSQL = `select spcname::text from pg_tablespace`

// checkTablespaces looks for tablespaces that new lacks: a cluster has its own.
func checkTablespaces(ctx context.Context, p *Pair) ([]Finding, error) {
	there, err := readValues[string](ctx, p.New, "reading tablespaces", allTablespacesSQL)
	if err != nil {
		return nil, err
	}
	used, err := read[tablespaceRow](ctx, p.Old, "reading tablespaces in use", tablespacesSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range used {
		if slices.Contains(there, r.Name) {
			continue
		}
		found = append(found, Finding{
			ID: "space.tablespace", Severity: Blocker, Server: string(pg.New), Object: "tablespace " + quote(r.Name),
			Seen: fmt.Sprintf("%s on old are in it, such as %s; new does not have it", plural(r.Objects, "object"), strings.Join(r.First, ", ")),
			Why:  "The schema does not load: what is to go there cannot be made.",
		}.told(fmt.Sprintf("on the new server's host make a folder that belongs to the server, then: CREATE TABLESPACE %s LOCATION '/that/folder'; or move the objects on old: ALTER TABLE ... SET TABLESPACE pg_default", quote(r.Name))))
	}
	named, err := read[namedTablespaces](ctx, p.Old, "reading settings of tablespaces", namedTablespacesSQL)
	for _, r := range named {
		for _, name := range nameList(r.Names) { // a list of names alike
			if slices.Contains(there, name) || slices.ContainsFunc(used, func(u tablespaceRow) bool { return u.Name == name }) {
				continue
			}
			found = append(found, settingTablespace(r, name))
		}
	}
	return found, err
}

func settingTablespace(r namedTablespaces, name string) Finding {
	f := Finding{
		ID: "space.tablespace-setting", Severity: Warning, Server: string(pg.New), Object: "tablespace " + quote(name),
		Seen: fmt.Sprintf("%s names it on old, and new does not have it", r.Setting),
		Why:  "Temporary tables and sorts go to the database's own tablespace on new, which may have no room for them.",
	}
	if r.Role != "" {
		f.Seen = fmt.Sprintf("%s of role %s names it on old, and new does not have it", r.Setting, quote(r.Role))
	}
	if r.Setting == "default_tablespace" {
		f.Why = "What is made without a word about its tablespace goes to the database's own on new."
	}
	return f.told(fmt.Sprintf("on the new server's host make a folder that belongs to the server, then: CREATE TABLESPACE %s LOCATION '/that/folder'; or take it out of %s on old", quote(name), r.Setting))
}
