package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// differences lists how the roles that existed on new before the move differ
// from those of old: they are left as they are.
func (p *rolePlan) differences(ctx context.Context, new *pg.Server) ([]Notice, error) {
	if len(p.there) == 0 {
		return nil, nil
	}
	now, err := rolesByName(ctx, new, namesOf(p.there))
	if err != nil {
		return nil, err
	}
	var out []Notice
	for _, was := range p.there {
		is, found := now[was.Name]
		if !found || was.Reserved != "" || was.Name == p.me.Name {
			continue // the service's own, or the tool's
		}
		out = append(out, p.compare(was, is)...)
	}
	return out, nil
}

// compare lists how a role on new differs from that of old.
func (p *rolePlan) compare(was, is Role) []Notice {
	name := quoteName(was.Name)
	var out []Notice
	differs := func(seen, fix string) { out = append(out, Notice{Object: was.object(), Seen: seen, Fix: fix + ";"}) }
	if words := was.Attributes.against(is.Attributes); len(words) > 0 {
		differs("existed on new with other attributes: left as it is", "alter role "+name+" "+strings.Join(words, " "))
	}
	for _, m := range was.Memberships {
		if !p.existing[m.Role] && !strings.HasPrefix(m.Role, "pg_") || slices.ContainsFunc(is.Memberships, func(n Membership) bool { return n.Role == m.Role }) {
			continue // the role is going to be made and granted, or is granted already
		}
		m.Grantor = ""
		differs("is a member of "+quoteName(m.Role)+" on old, not on new: left as it is", m.sql(p.major))
	}
	for _, s := range was.Settings {
		at := slices.IndexFunc(is.Settings, func(n Setting) bool { return n.Name == s.Name })
		switch {
		case at < 0:
			differs(fmt.Sprintf("has the setting %s = %s on old, not on new: left as it is", s.Name, s.shown()), s.shownSQL("role "+name))
		case is.Settings[at].Value != s.Value:
			differs(fmt.Sprintf("has the setting %s = %s on old, %s on new: left as it is", s.Name, s.shown(), is.Settings[at].shown()), s.shownSQL("role "+name))
		}
	}
	return out
}

// against returns the words that would make an existing role with the attributes
// is one with the attributes a.
func (a Attributes) against(is Attributes) []string {
	var out []string
	for _, x := range []struct {
		want, have bool
		word       string
	}{
		{a.Login, is.Login, "login"},
		{a.Inherit, is.Inherit, "inherit"},
		{a.Super, is.Super, "superuser"},
		{a.CreateDB, is.CreateDB, "createdb"},
		{a.CreateRole, is.CreateRole, "createrole"},
		{a.Replication, is.Replication, "replication"},
		{a.BypassRLS, is.BypassRLS, "bypassrls"},
	} {
		switch {
		case x.want && !x.have:
			out = append(out, x.word)
		case !x.want && x.have:
			out = append(out, "no"+x.word)
		}
	}
	if a.Connections != is.Connections {
		out = append(out, fmt.Sprintf("connection limit %d", a.Connections))
	}
	if a.valid() != is.valid() {
		out = append(out, "valid until "+quoteLiteral(a.valid()))
	}
	return out
}

// valid is until when the password is, forever included.
func (a Attributes) valid() string {
	if a.Valid == nil {
		return "infinity"
	}
	return *a.Valid
}

// attributesSQL reads the attributes of the given roles.
const attributesSQL = `
select rolname::text, rolcanlogin, rolinherit, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,
       rolconnlimit, rolvaliduntil::text
  from pg_roles
 where rolname = any($1)`

// rolesByName reads roles with attributes, memberships and settings.
func rolesByName(ctx context.Context, s *pg.Server, names []string) (map[string]Role, error) {
	rows, err := s.Pool().Query(ctx, attributesSQL, names)
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	roles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Role, error) {
		r := &Role{}
		a := &r.Attributes
		err := row.Scan(&r.Name, &a.Login, &a.Inherit, &a.Super, &a.CreateDB, &a.CreateRole, &a.Replication, &a.BypassRLS, &a.Connections, &a.Valid)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	at := make(map[string]*Role, len(roles))
	for _, r := range roles {
		at[r.Name] = r
	}
	found := make([]string, 0, len(at))
	for name := range at {
		found = append(found, name)
	}
	if err := readMemberships(ctx, s.Pool(), s.Major(), found, at); err != nil {
		return nil, err
	}
	if err := readRoleSettings(ctx, s.Pool(), found, at); err != nil {
		return nil, err
	}
	out := make(map[string]Role, len(at))
	for name, r := range at {
		out[name] = *r
	}
	return out, nil
}
