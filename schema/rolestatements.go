package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

func (r Role) object() string { return "role " + quoteName(r.Name) }

// createPlain makes the role with what any maker of roles may give.
func (r Role) createPlain() string {
	return "create role " + quoteName(r.Name) + " " + strings.Join(r.Attributes.plain(), " ")
}

// attributes are the statements for the others, one each: which of them the
// tool's role may give depends on the version, on its own attributes and, on
// managed services, on their patches. What is refused is left off and listed.
func (r Role) attributes() []statement {
	var out []statement
	for _, word := range r.Attributes.privileged() {
		out = append(out, statement{object: r.object(), sql: "alter role " + quoteName(r.Name) + " " + word})
	}
	return out
}

// actingSQL records in which of the roles it made the tool's role is a member.
const actingSQL = `
update pgcutover.made_role m
   set acting = true
 where not m.acting
   and exists (select from pg_auth_members a
                where a.roleid = m.oid and a.member = current_user::regrole and a.grantor = current_user::regrole)`

// acting are the statements by which a role that is no superuser becomes a
// member of the owners it made: giving them objects, and applying changes in
// their name from 16 on, needs that.
func (p *rolePlan) acting(made []Role) []statement {
	if p.me.Super {
		return nil
	}
	var out []statement
	for _, r := range made {
		if r.Owner {
			out = append(out, statement{object: r.object(), sql: ActAsSQL(p.major, r.Name, p.me.Name)})
		}
	}
	return out
}

// ActAsSQL is the statement by which member gets the rights of role and may SET
// ROLE to it.
func ActAsSQL(major int, role, member string) string {
	text := fmt.Sprintf("grant %s to %s", quoteName(role), quoteName(member))
	if major >= 16 {
		text += " with inherit true, set true"
	}
	return text
}

// memberships are the statements that make the roles members of each other.
// Where both existed before, nothing is changed: a difference is among the
// notices. Before 16 the grantor was for the record only, and the member's
// INHERIT attribute decided: from there no options are given, so that 16 and
// later derive them from that same attribute. From 16 on, grantors and options
// are carried over; the bootstrap superuser of new takes the place of old's.
func (p *rolePlan) memberships() []statement {
	var list []Membership
	for _, r := range slices.Concat(p.roles, p.there, p.earlier) {
		there := p.existing[r.Name] || slices.Contains(p.report.Earlier, r.Name)
		for _, m := range r.Memberships {
			if there && (p.existing[m.Role] || !p.makes(m.Role)) || strings.HasPrefix(m.Role, "pgcutover_") {
				continue
			}
			if m.Role == p.me.Name || m.Member == m.Role {
				continue // the tool's own role is not the application's to be a member of
			}
			if owner, reserved := provider.ReservedRole(m.Role); reserved && !strings.HasPrefix(m.Role, "pg_") {
				p.notice(Notice{Object: r.object(), Seen: fmt.Sprintf("member of %s, whose name belongs to %s: not carried over", quoteName(m.Role), owner), Fix: m.sql(p.major) + ";"})
				continue
			}
			if !p.me.Super || !p.makes(m.Grantor) && !p.existing[m.Grantor] {
				m.Grantor = ""
			}
			list = append(list, m)
		}
	}
	var out []statement
	for _, m := range sortMemberships(list) {
		out = append(out, statement{object: "role " + quoteName(m.Member), sql: m.sql(p.major)})
	}
	return out
}

// makes tells whether the plan makes the role.
func (p *rolePlan) makes(name string) bool {
	return slices.ContainsFunc(p.roles, func(r Role) bool { return r.Name == name })
}

// details are the comments, labels, settings and passwords of the roles.
func (p *rolePlan) details(made []Role) []statement {
	var out []statement
	for _, r := range made {
		name := quoteName(r.Name)
		if r.verifier != "" {
			out = append(out, statement{object: r.object(), sql: "alter role " + name + " password " + quoteLiteral(r.verifier), secret: r.verifier})
		}
		if r.Comment != nil {
			out = append(out, statement{object: r.object(), sql: "comment on role " + name + " is " + quoteLiteral(*r.Comment)})
		}
		for _, l := range r.labels {
			out = append(out, statement{object: r.object(), sql: fmt.Sprintf("security label for %s on role %s is %s", quoteName(l.provider), name, quoteLiteral(l.text))})
		}
		for _, s := range r.Settings {
			if strings.EqualFold(s.Name, readOnlyDefault) {
				p.notice(Notice{Object: r.object(), Seen: s.Name + " = " + s.shown() + ": not carried over, since the tool sets this parameter itself", Fix: s.shownSQL("role "+name) + ";"})
				continue
			}
			out = append(out, s.statement(r.object(), "role "+name))
		}
	}
	return out
}

// unreadable lists the roles that log in and have got no password, because the
// tool's role on old may not read them.
func (p *rolePlan) unreadable(made []Role) {
	if p.readable {
		return
	}
	for _, r := range made {
		if r.Attributes.Login {
			p.notice(Notice{
				Object: r.object(), Seen: "made without a password: that of old cannot be read there (pg_authid)",
				Fix: "alter role " + quoteName(r.Name) + " password '...'; or in psql: \\password " + quoteName(r.Name),
			})
		}
	}
}

// RoleStatements are the statements of MakeRoles, for a plan: from the beginning,
// also when some roles are made already. The verifiers of passwords are left out:
// what sets one is a comment.
func RoleStatements(ctx context.Context, old, new *pg.Server) ([]string, error) {
	p, err := planRoles(ctx, old, new, true)
	if err != nil {
		return nil, err
	}
	return p.statements(), nil
}

// MissingRoleStatements are the statements of MakeRoles as they would be now, for
// roles that were made on old since; empty when it would make none, or when the
// tool's role may not.
func MissingRoleStatements(ctx context.Context, old, new *pg.Server) ([]string, error) {
	p, err := planRoles(ctx, old, new, false)
	if err != nil || len(p.roles) == 0 || !p.me.Super && !p.me.CreateRole {
		return nil, err
	}
	return p.statements(), nil
}

func (p *rolePlan) statements() []string {
	list := []statement{{sql: strings.TrimSpace(keepRolesSQL)}, {sql: strings.TrimSpace(carriedSQL)}}
	for _, r := range p.roles {
		list = append(list, statement{sql: r.createPlain()}, statement{sql: strings.TrimSpace(pg.Fill(keepRoleSQL, r.Name))})
		list = append(list, r.attributes()...)
	}
	list = append(list, p.acting(p.roles)...)
	list = append(list, statement{sql: strings.TrimSpace(actingSQL)})
	list = slices.Concat(list, p.memberships(), p.details(p.roles))
	for _, c := range p.changes(p.roles) {
		list = append(list, c.statement, c.record())
	}
	return shownAll(list)
}

// shownAll returns the statements for a plan.
func shownAll(list []statement) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		if s.secret != "" {
			out = append(out, "-- "+s.text())
			continue
		}
		out = append(out, s.sql)
	}
	return out
}

// Script is the statements that make the roles by hand, one a line: with all
// attributes, without passwords.
func Script(roles []Role) string {
	var lines []string
	for _, r := range roles {
		lines = append(lines, r.Create())
	}
	for _, r := range roles {
		lines = append(lines, r.Grants()...)
	}
	return strings.Join(lines, "\n")
}
