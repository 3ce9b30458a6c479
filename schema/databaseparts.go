package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// databaseSQL reads the database's own row. The privileges are those in force:
// without an access list the default ones.
const databaseSQL = `
select pg_get_userbyid(d.datdba)::text, d.datconnlimit, shobj_description(d.oid, 'pg_database'),
       coalesce((select json_agg(json_build_object(
                            'grantor', pg_get_userbyid(x.grantor),
                            'grantee', case when x.grantee = 0 then '' else pg_get_userbyid(x.grantee) end,
                            'privilege', x.privilege_type, 'grantable', x.is_grantable)
                        order by x.grantee, x.privilege_type)
                   from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) x), '[]')
  from pg_database d
 where d.datname = current_database()`

// databaseSettingsSQL lists the settings of the database, and of roles in it.
const databaseSettingsSQL = `
select coalesce(r.rolname::text, ''), split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  from pg_db_role_setting s
  join pg_database d on d.oid = s.setdatabase
  left join pg_roles r on r.oid = s.setrole
 cross join lateral unnest(s.setconfig) with ordinality x (c, place)
 where d.datname = current_database() and r.rolname is distinct from current_user and coalesce(r.rolname, '') !~ '^pgcutover_'
 order by 1, x.place`

// everywhereSQL lists the settings of all roles in all databases (ALTER ROLE ALL
// SET), which belong to the whole server.
const everywhereSQL = `
select split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
  from pg_db_role_setting s
 cross join lateral unnest(s.setconfig) with ordinality x (c, place)
 where s.setdatabase = 0 and s.setrole = 0
 order by x.place`

const databaseLabelsSQL = `
select l.provider, l.label
  from pg_shseclabel l
  join pg_database d on d.oid = l.objoid
 where l.classoid = 'pg_database'::regclass and d.datname = current_database()
 order by 1`

func readDatabase(ctx context.Context, q querier) (database, error) {
	var d database
	if err := q.QueryRow(ctx, databaseSQL).Scan(&d.Owner, &d.Connections, &d.Comment, &d.Grants); err != nil {
		return d, fmt.Errorf("reading the database's properties: %w", err)
	}
	rows, err := q.Query(ctx, databaseSettingsSQL)
	if err != nil {
		return d, fmt.Errorf("reading the database's settings: %w", err)
	}
	d.Settings, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (databaseSetting, error) {
		var s databaseSetting
		err := row.Scan(&s.Role, &s.Name, &s.Value)
		return s, err
	})
	if err != nil {
		return d, fmt.Errorf("reading the database's settings: %w", err)
	}
	rows, err = q.Query(ctx, everywhereSQL)
	if err != nil {
		return d, fmt.Errorf("reading the settings of all databases: %w", err)
	}
	d.Everywhere, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Setting])
	if err != nil {
		return d, fmt.Errorf("reading the settings of all databases: %w", err)
	}
	rows, err = q.Query(ctx, databaseLabelsSQL)
	if err != nil {
		return d, fmt.Errorf("reading the database's security labels: %w", err)
	}
	d.Labels, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (label, error) {
		var l label
		err := row.Scan(&l.provider, &l.text)
		return l, err
	})
	if err != nil {
		return d, fmt.Errorf("reading the database's security labels: %w", err)
	}
	return d, nil
}

// everywhereOnto lists the settings of the whole old server that new has not:
// they would reach new's other databases too.
func (d database) everywhereOnto(is database) []Notice {
	var out []Notice
	for _, s := range d.Everywhere {
		if !slices.Contains(is.Everywhere, s) {
			out = append(out, Notice{
				Object: "all roles", Fix: s.shownSQL("role all") + ";",
				Seen: fmt.Sprintf("%s = %s is set for all databases of old, not so on new: left as it is, since new's other databases would get it too", s.Name, s.shown()),
			})
		}
	}
	return out
}

// settingsOnto compares the settings.
func (d database) settingsOnto(is database, name string) (todo []change, notices []Notice) {
	for _, s := range d.Settings {
		target := "database " + quoteName(name)
		if s.Role != "" {
			target = "role " + quoteName(s.Role) + " in " + target
		}
		sql := s.shownSQL(target)
		if strings.EqualFold(s.Name, readOnlyDefault) {
			notices = append(notices, Notice{Object: target, Seen: s.Name + " = " + s.shown() + ": not carried over, since the tool sets this parameter itself", Fix: sql + ";"})
			continue
		}
		at := slices.IndexFunc(is.Settings, func(n databaseSetting) bool {
			return n.Role == s.Role && strings.EqualFold(n.Name, s.Name)
		})
		switch {
		case at < 0:
			todo = append(todo, change{statement: s.statement(target, target), undo: resetSQL(target, s.Name)})
		case is.Settings[at].Value != s.Value:
			notices = append(notices, Notice{
				Object: target, Fix: sql + ";",
				Seen: fmt.Sprintf("%s is %s on old, %s on new: left as it is", s.Name, s.shown(), is.Settings[at].shown()),
			})
		}
	}
	return todo, notices
}

// grantsOnto compares the privileges. What the owner of old could do by owning
// the database he gets by a grant, if another role owns it on new. Privileges
// that only new has stay, but for those that PUBLIC has by default.
func (d database) grantsOnto(is database, target string) []change {
	var out []change
	for _, g := range d.Grants {
		if g.Grantee == is.Owner || strings.HasPrefix(g.Grantee, "pgcutover_") {
			continue
		}
		there, grantable := is.grants(g)
		if there && (grantable || !g.Grantable) {
			continue
		}
		on := fmt.Sprintf("%s on %s", strings.ToLower(g.Privilege), target)
		c := change{statement: statement{object: target, sql: "grant " + on + " to " + grantee(g.Grantee)}, undo: "revoke " + on + " from " + grantee(g.Grantee) + " cascade"}
		if g.Grantable {
			c.sql += " with grant option"
		}
		if there {
			c.undo = "revoke grant option for " + on + " from " + grantee(g.Grantee) + " cascade"
		}
		out = append(out, c)
	}
	for _, g := range is.Grants {
		if there, _ := d.grants(g); g.Grantee == "" && !there {
			on := fmt.Sprintf("%s on %s", strings.ToLower(g.Privilege), target)
			out = append(out, change{
				statement: statement{object: target, sql: "revoke " + on + " from public"}, undo: "grant " + on + " to public",
				locksOut: g.Privilege == "CONNECT",
			})
		}
	}
	return out
}

// grants tells whether the database gives the same privilege to the same role.
func (d database) grants(g Grant) (there, grantable bool) {
	for _, x := range d.Grants {
		if x.Grantee == g.Grantee && x.Privilege == g.Privilege {
			there, grantable = true, grantable || x.Grantable
		}
	}
	return there, grantable
}
