package preflight

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// mayReadAccessSQL tells whether the role may read the access rules: superusers
// may, and who was granted the function.
const mayReadAccessSQL = `select has_function_privilege('pg_hba_file_rules()', 'execute')`

// accessRulesSQL reads pg_hba.conf in its order. Lines with errors are not in
// force. Postgres manual: 20.1, The pg_hba.conf File; 53.9, pg_hba_file_rules.
const accessRulesSQL = `
select type, database as databases, user_name as users, coalesce(address, '') as address, coalesce(netmask, '') as mask,
       auth_method as method
  from pg_hba_file_rules()
 where error is null
 order by %s`

type accessRule struct {
	Type             string
	Databases, Users []string
	Address, Mask    string
	Method           string
}

// comersSQL lists who is connected to the old database from where.
const comersSQL = `
select distinct usename::text as role, host(client_addr) as address
  from pg_stat_activity
 where datname = current_database() and client_addr is not null
   and coalesce(backend_type, 'client backend') = 'client backend'
   and coalesce(application_name, '') not like 'pgcutover/%'
 order by 1, 2`

type comer struct{ Role, Address string }

// mayReadPasswordsSQL tells whether the role may see how passwords are stored,
// and md5RolesSQL which roles' passwords the method scram-sha-256 cannot check.
const (
	mayReadPasswordsSQL = `select has_table_privilege('pg_authid', 'select')`

	md5RolesSQL = `select rolname::text from pg_authid where rolpassword like 'md5%' order by 1`
)

// checkAccess asks whether those who are connected to old right now would be let
// in by new's access rules. What it cannot judge, it takes for let in: host names,
// groups, patterns, and whether a client would use TLS.
func checkAccess(ctx context.Context, p *Pair) ([]Finding, error) {
	may, err := readValues[bool](ctx, p.New, "reading the role's rights", mayReadAccessSQL)
	if err != nil || !may[0] {
		return nil, err
	}
	comers, err := read[comer](ctx, p.Old, "looking for clients", comersSQL)
	if err != nil || len(comers) == 0 {
		return nil, err
	}
	order := "line_number"
	if p.New.Major() >= 16 {
		order = "rule_number"
	}
	rules, err := read[accessRule](ctx, p.New, "reading access rules", fmt.Sprintf(accessRulesSQL, order))
	if err != nil {
		return nil, err
	}
	weak, err := md5Roles(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	return accessFindings(p.New.Database(), comers, rules, weak), nil
}

func md5Roles(ctx context.Context, s *pg.Server) ([]string, error) {
	may, err := readValues[bool](ctx, s, "reading the role's rights", mayReadPasswordsSQL)
	if err != nil || !may[0] {
		return nil, err
	}
	return readValues[string](ctx, s, "looking at passwords", md5RolesSQL)
}

func accessFindings(database string, comers []comer, rules []accessRule, weak []string) []Finding {
	var found []Finding
	for _, c := range comers {
		rule, ok := decisive(rules, database, c)
		f := Finding{Severity: Warning, Server: string(pg.New), Object: fmt.Sprintf("role %s from %s", quote(c.Role), c.Address)}
		switch {
		case !ok || rule.Method == "reject":
			f.ID = "access.refused"
			f.Seen = "connected to old now; no line of pg_hba.conf on new lets it in"
			if ok {
				f.Seen = "connected to old now; a line of pg_hba.conf on new rejects it"
			}
			f.Why = "These clients are refused by new after the cutover."
			found = append(found, f.told(fmt.Sprintf("in pg_hba.conf of the new server: host %s %s %s scram-sha-256\nthen, there: SELECT pg_reload_conf();",
				quote(database), quote(c.Role), single(c.Address))))
		case rule.Method == "scram-sha-256" && slices.Contains(weak, c.Role):
			f.ID = "access.md5"
			f.Seen = "new asks for scram-sha-256, and the password of the role is stored as md5"
			f.Why = "The password, carried over as it is, cannot be checked by that method: these clients are refused by new."
			found = append(found, f.told(fmt.Sprintf("set the password anew on old, with password_encryption = 'scram-sha-256': \\password %s; or let pg_hba.conf on new say md5, which takes both", c.Role)))
		}
	}
	return found
}

// single is an address as pg_hba.conf writes it when it stands for itself.
func single(address string) string {
	if strings.Contains(address, ":") {
		return address + "/128"
	}
	return address + "/32"
}

// decisive returns the first rule that matches; it alone decides.
func decisive(rules []accessRule, database string, c comer) (accessRule, bool) {
	for _, r := range rules {
		if r.Type != "local" && !strings.Contains(r.Type, "gss") && r.matchesDatabase(database, c.Role) && r.matchesRole(c.Role) && r.matchesAddress(c.Address) {
			return r, true
		}
	}
	return accessRule{}, false
}

func (r accessRule) matchesDatabase(database, role string) bool {
	return slices.ContainsFunc(r.Databases, func(d string) bool {
		switch {
		case d == "all", d == database, d == "samerole", d == "samegroup", strings.HasPrefix(d, "/"):
			return true
		case d == "sameuser":
			return database == role
		}
		return false
	})
}

func (r accessRule) matchesRole(role string) bool {
	return slices.ContainsFunc(r.Users, func(u string) bool {
		return u == "all" || u == role || strings.HasPrefix(u, "+") || strings.HasPrefix(u, "/")
	})
}

func (r accessRule) matchesAddress(address string) bool {
	ip, err := netip.ParseAddr(address)
	base, notIP := netip.ParseAddr(r.Address)
	if err != nil || notIP != nil {
		return true // all, samehost, samenet, or a host name
	}
	mask, err := netip.ParseAddr(r.Mask)
	if err != nil || base.Is4() != ip.Is4() {
		return err != nil
	}
	a, b, m := ip.AsSlice(), base.AsSlice(), mask.AsSlice()
	for i := range a {
		if a[i]&m[i] != b[i]&m[i] {
			return false
		}
	}
	return true
}
