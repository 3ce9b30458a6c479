package doctor

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/subscriber"
)

// roleRow is a role that is called like ours.
type roleRow struct {
	Name      string
	Super     bool
	Owns      int      // subscriptions, in all databases
	Elsewhere []string // other databases in which it owns things or has settings
}

// rolesSQL asks the shared catalogs what a role is used for, in this database
// and in others.
const rolesSQL = `
select r.rolname::text as name, r.rolsuper as super,
       (select count(*) from pg_subscription s where s.subowner = r.oid)::int as owns,
       coalesce((select array_agg(distinct d.datname::text)
                   from pg_database d
                  where d.datname <> current_database()
                    and (exists (select 1 from pg_shdepend x where x.refclassid = 'pg_authid'::regclass and x.refobjid = r.oid and x.dbid = d.oid)
                         or exists (select 1 from pg_subscription s where s.subowner = r.oid and s.subdbid = d.oid)
                         or exists (select 1 from pg_db_role_setting x where x.setrole = r.oid and x.setdatabase = d.oid))), '{}') as elsewhere
  from pg_roles r
 where left(r.rolname, 10) = 'pgcutover_'
 order by r.rolname`

func lookRoles(ctx context.Context, s *server, _ Options) error {
	var err error
	s.roles, err = read[roleRow](ctx, s.conn, "reading roles", rolesSQL)
	return err
}

// roleFindings reports roles of ours that own no subscription.
func (e *examination) roleFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.roles {
			if f := e.role(s, r); f != nil {
				found = append(found, *f)
			}
		}
	}
	return found
}

func (e *examination) role(s *server, r roleRow) *Finding {
	ours := e.name != "" && r.Name == subscriber.RoleName(e.name)
	if r.Owns > 0 || ours && s.kind(e.name) == live {
		return nil
	}
	f := Finding{
		ID: "role.leftover", Severity: preflight.Warning, Server: on(s.side), Object: "role " + quote(r.Name), Whose: This,
		Seen: "it owns no subscription",
		Why:  "The role was made to own the subscription of a move, and nobody uses it.",
		SQL:  []string{"DROP ROLE " + quote(r.Name)}, order: orderRole,
	}
	if r.Super {
		f.Why = "It is a superuser, made to own the subscription of a move, and nobody uses it."
	}
	switch {
	case len(r.Elsewhere) > 0:
		f.Severity, f.Whose = preflight.Note, Another
		f.Seen += fmt.Sprintf("; it is used in database %s", some(quoted(r.Elsewhere), len(r.Elsewhere)))
		f.Why = "A move of that database may need it: roles belong to the whole server."
		f.Next, f.SQL = "look at that move: pgcutover doctor with the URL of that database", nil
	case !ours:
		f.Whose = Another
		f.Next = "if no move of that name is under way in any database of this server, drop it"
	default:
		f.Mend = func(ctx context.Context) error { return dropRole(ctx, s, r.Name) }
	}
	return &f
}

func quoted(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = quote(n)
	}
	return out
}

// settingRow is a read-only default of a role.
type settingRow struct {
	Role     string
	Database string // empty: in every database
	On       bool
	Owns     bool // the role owns a subscription of this database
}

// settingsSQL finds the roles whose sessions in this database do not get its
// read-only default.
const settingsSQL = `
select r.rolname::text as role, coalesce(d.datname::text, '') as database, split_part(c, '=', 2)::boolean as "on",
       exists (select 1 from pg_subscription o
                where o.subowner = r.oid and o.subdbid = (select oid from pg_database where datname = current_database())) as owns
  from pg_db_role_setting s
  join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
 cross join lateral unnest(s.setconfig) as c
 where c like 'default\_transaction\_read\_only=%'
   and (s.setdatabase = 0 or d.datname = current_database())
 order by r.rolname, 2`

func lookSettings(ctx context.Context, s *server, _ Options) error {
	var err error
	s.settings, err = read[settingRow](ctx, s.conn, "reading role settings", settingsSQL)
	return err
}

// settingFindings judges them: the owner of a subscription needs its setting,
// others get round the fence's first warning, or cannot write.
func (e *examination) settingFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.settings {
			ours := e.name != "" && r.Role == subscriber.RoleName(e.name)
			if r.Owns || ours || !r.On && s.kind(e.name) == live && r.Role == s.conn.User() {
				continue // needed, or goes with the role
			}
			sql := "ALTER ROLE " + quote(r.Role)
			if r.Database != "" {
				sql += " IN DATABASE " + quote(r.Database)
			}
			f := Finding{
				ID: "role.read-only-setting", Severity: preflight.Note, Server: on(s.side), Object: "role " + quote(r.Role), Whose: e.whose(r.Role, false),
				Seen: "default_transaction_read_only = off, whatever the database says",
				Why:  "Its multihost clients take this server for the one that serves, also when the fence refuses their writes. A move whose role is no superuser sets it for its own role.",
				SQL:  []string{sql + " RESET default_transaction_read_only"},
			}
			if r.On {
				f.Severity = preflight.Warning
				f.Seen = "default_transaction_read_only = on, whatever the database says"
				f.Why = "Its new sessions cannot write here unless they say otherwise. pgcutover never sets it so."
			}
			found = append(found, f)
		}
	}
	return found
}
