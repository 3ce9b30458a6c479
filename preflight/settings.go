package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// roleSettingsSQL lists what ALTER ROLE and ALTER DATABASE have set of the two
// settings that matter to the fence, for this database. $1 is the role that
// owns our subscriptions, or the tool's own role does: their setting is ours.
const roleSettingsSQL = `
select coalesce(r.rolname::text, '') as role, coalesce(d.datname::text, '') as database,
       split_part(c.pair, '=', 1) as name, substr(c.pair, strpos(c.pair, '=') + 1) as value
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
 cross join lateral unnest(s.setconfig) as c(pair)
 where split_part(c.pair, '=', 1) in ('session_replication_role', 'default_transaction_read_only')
   and (s.setdatabase = 0 or d.datname = current_database())
   and coalesce(r.rolname::text, '') not in ($1, current_user::text)
 order by 1, 2, 3`

type roleSetting struct {
	Role     string // empty: every role, and with an empty Database all of them
	Database string // empty: every database
	Name     string
	Value    string
}

// truth is how a server reads a boolean setting: any beginning of the words
// that is not ambiguous. Postgres manual: 19.1.1, Parameter Names and Values.
func (r roleSetting) truth() bool {
	switch r.Value {
	case "1", "on", "t", "tr", "tru", "true", "y", "ye", "yes", "ON", "TRUE", "YES", "True", "On", "Yes":
		return true
	}
	return false
}

// reset is the statement that takes the setting away.
func (r roleSetting) reset() string {
	switch {
	case r.Role == "" && r.Database == "":
		return fmt.Sprintf("ALTER ROLE ALL RESET %s;", r.Name)
	case r.Role == "":
		return fmt.Sprintf("ALTER DATABASE %s RESET %s;", quote(r.Database), r.Name)
	case r.Database == "":
		return fmt.Sprintf("ALTER ROLE %s RESET %s;", quote(r.Role), r.Name)
	}
	return fmt.Sprintf("ALTER ROLE %s IN DATABASE %s RESET %s;", quote(r.Role), quote(r.Database), r.Name)
}

func (r roleSetting) object() string {
	switch {
	case r.Role == "" && r.Database == "":
		return "every role"
	case r.Role == "":
		return "database " + quote(r.Database)
	case r.Database == "":
		return "role " + quote(r.Role)
	}
	return "role " + quote(r.Role) + " in database " + quote(r.Database)
}

// roleSettingsCheck looks for settings by which clients get round the fence or
// by which the read-only default does not reach them.
func roleSettingsCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		return onBoth(p, func(s *pg.Server) ([]Finding, error) {
			rows, err := read[roleSetting](ctx, s, "reading settings of roles and databases", roleSettingsSQL, streamName(s.Move()))
			if err != nil {
				return nil, err
			}
			move, err := state.Load(ctx, s)
			if err != nil {
				return nil, err
			}
			var found []Finding
			for _, r := range rows {
				// A database's read-only default is ours while a move stands.
				if f, ok := settingFinding(s, r, severity, move != nil); ok {
					found = append(found, f)
				}
			}
			more, err := replicaRights(ctx, s)
			return append(found, more...), err
		})
	}
}

func settingFinding(s *pg.Server, r roleSetting, severity Severity, moving bool) (Finding, bool) {
	f := Finding{
		Severity: severity, Server: string(s.Side()), Object: r.object(),
		Seen: fmt.Sprintf("%s = %s", r.Name, r.Value), Fix: r.reset(), FixKind: FixSQL,
	}
	switch {
	case r.Name == "session_replication_role" && r.Value == "replica":
		f.ID = "role-settings.replica"
		f.Why = "Sessions in the replica role fire no ordinary trigger and no foreign key: what they write is not held to the rules the fence relies on."
	case r.Name == "session_replication_role":
		return f, false
	case r.Role != "" && !r.truth():
		f.ID = "role-settings.read-only-off"
		f.Why = "It overrides the read-only default of the database: clients with target_session_attrs=read-write stay on the closed server."
	case r.Role == "" && r.truth() && (!moving || r.Database == ""):
		f.ID, f.Severity = "role-settings.read-only-database", Warning
		f.Why = "The database refuses writes by default already: somebody, or another tool, left it read-only."
		f.Fix = "SET default_transaction_read_only = off;\n" + f.Fix
	default:
		return f, false
	}
	return f, true
}

// replicaRightsSQL lists the roles that may set session_replication_role though
// they are not superuser (15 and later).
const replicaRightsSQL = `
select distinct coalesce(r.rolname::text, 'PUBLIC')
  from pg_parameter_acl a
 cross join lateral aclexplode(a.paracl) x
  left join pg_roles r on r.oid = x.grantee
 where a.parname = 'session_replication_role' and x.privilege_type = 'SET'
   and not coalesce(r.rolsuper, false) and coalesce(r.rolname::text, '') not in ($1, current_user::text)
 order by 1`

func replicaRights(ctx context.Context, s *pg.Server) ([]Finding, error) {
	if s.Major() < 15 {
		return nil, nil
	}
	roles, err := readValues[string](ctx, s, "reading rights on settings", replicaRightsSQL, streamName(s.Move()))
	if err != nil || len(roles) == 0 {
		return nil, err
	}
	return []Finding{{
		ID: "role-settings.replica-right", Severity: Note, Server: string(s.Side()), Object: "session_replication_role",
		Seen: "may be set by " + list(roles),
		Why:  "Such sessions can switch the application's triggers and foreign keys off; the fence stops them all the same.",
		Fix:  revokes(roles), FixKind: FixSQL,
	}}, nil
}

// revokes takes the right to set session_replication_role from roles.
func revokes(roles []string) string {
	var statements []string
	for _, r := range roles {
		if r != "PUBLIC" {
			r = quote(r)
		}
		statements = append(statements, fmt.Sprintf("REVOKE SET ON PARAMETER session_replication_role FROM %s;", r))
	}
	return strings.Join(statements, "\n")
}
