package schema

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// Role is a role that a database needs, as the catalogs describe it.
//
// The catalogs are read and turned into statements here, rather than taking
// what pg_dumpall --roles-only prints: that is the text of every role of the
// server, among them those of other databases and of the hosting service, to be
// cut up before it could be used; it stops at the first attribute that the new
// server does not grant; and with passwords it can only be had by a superuser.
type Role struct {
	Name string `json:"name"`
	// Why says what needs it: it owns objects, rights were granted to it, it is a
	// member of such a role, or such a role is a member of it.
	Why string `json:"why"`
	// Owner tells that it owns objects or default privileges.
	Owner bool `json:"owner,omitempty"`
	// Reserved names the service that keeps the name for itself; such a role is
	// never made. See [provider.ReservedRole].
	Reserved    string       `json:"reserved,omitempty"`
	Attributes  Attributes   `json:"attributes"`
	Comment     *string      `json:"comment,omitempty"`
	Settings    []Setting    `json:"settings,omitempty"`    // of the role everywhere
	Memberships []Membership `json:"memberships,omitempty"` // what it is a member of

	labels   []label
	verifier string // of the password; never shown, logged or kept
}

// Attributes are what CREATE ROLE sets.
// https://www.postgresql.org/docs/current/sql-createrole.html
type Attributes struct {
	Login       bool    `json:"login"`
	Inherit     bool    `json:"inherit"`
	Super       bool    `json:"superuser"`
	CreateDB    bool    `json:"createdb"`
	CreateRole  bool    `json:"createrole"`
	Replication bool    `json:"replication"`
	BypassRLS   bool    `json:"bypassrls"`
	Connections int     `json:"connection_limit"` // -1: no limit
	Valid       *string `json:"valid_until,omitempty"`
}

// Membership is a role's being a member of another one.
type Membership struct {
	Role    string `json:"role"` // the group
	Member  string `json:"member"`
	Grantor string `json:"grantor,omitempty"` // empty: the bootstrap superuser, or unknown
	Admin   bool   `json:"admin,omitempty"`
	// Inherit and Set are options of the membership from 16 on; nil before, where
	// the member's INHERIT attribute decides.
	Inherit *bool `json:"inherit,omitempty"`
	Set     *bool `json:"set,omitempty"`
}

// label is a security label.
type label struct{ provider, text string }

// privileged returns the attributes that only some roles may give, each with
// the word that gives it.
func (a Attributes) privileged() []string {
	var out []string
	for _, x := range []struct {
		on   bool
		word string
	}{
		{a.Super, "superuser"},
		{a.CreateDB, "createdb"},
		{a.CreateRole, "createrole"},
		{a.Replication, "replication"},
		{a.BypassRLS, "bypassrls"},
	} {
		if x.on {
			out = append(out, x.word)
		}
	}
	return out
}

// plain returns the attributes that whoever makes a role may give it.
func (a Attributes) plain() []string {
	words := []string{"nologin"}
	if a.Login {
		words[0] = "login"
	}
	if !a.Inherit {
		words = append(words, "noinherit")
	}
	if a.Connections >= 0 {
		words = append(words, fmt.Sprintf("connection limit %d", a.Connections))
	}
	if a.Valid != nil {
		words = append(words, "valid until "+quoteLiteral(*a.Valid))
	}
	return words
}

// Create is the statement that makes the role with all of its attributes, but
// without a password.
func (r Role) Create() string {
	words := append(r.Attributes.plain(), r.Attributes.privileged()...)
	return "create role " + quoteName(r.Name) + " " + strings.Join(words, " ") + ";"
}

// sql is the statement that makes m.
func (m Membership) sql(major int) string {
	text := fmt.Sprintf("grant %s to %s", quoteName(m.Role), quoteName(m.Member))
	var options []string
	switch {
	case major >= 16 && m.Inherit != nil:
		options = append(options, fmt.Sprintf("admin %t, inherit %t, set %t", m.Admin, *m.Inherit, *m.Set))
	case m.Admin:
		options = append(options, "admin option")
	}
	if len(options) > 0 {
		text += " with " + options[0]
	}
	if major >= 16 && m.Grantor != "" {
		text += " granted by " + quoteName(m.Grantor)
	}
	return text
}

// Grants are the statements that make the role a member of others.
func (r Role) Grants() []string {
	out := make([]string, 0, len(r.Memberships))
	for _, m := range r.Memberships {
		m.Grantor = ""
		out = append(out, m.sql(16)+";")
	}
	return out
}

// RolesNeeded lists the roles that the old database needs, by name: those that
// own or are granted anything in it or on it, the members of these (a login role
// often has its rights by membership alone) and what all these are members of.
// Predefined roles (pg_*) are every server's own and are not listed, nor is the
// role that the tool connects as, unless the database names it. Passwords are
// read where the tool's role may (pg_authid); readable tells.
func RolesNeeded(ctx context.Context, old *pg.Server) (roles []Role, readable bool, err error) {
	if roles, readable, err = rolesNeeded(ctx, old.Pool(), old.Major()); err != nil {
		return nil, false, fmt.Errorf("reading the old database's roles: %w", old.Redacted(err))
	}
	return roles, readable, nil
}

func rolesNeeded(ctx context.Context, q querier, major int) ([]Role, bool, error) {
	roles, err := rolesOf(ctx, q)
	if err != nil {
		return nil, false, err
	}
	readable, err := complete(ctx, q, major, roles)
	return roles, readable, err
}

// roleNamesSQL lists which of the given roles exist.
const roleNamesSQL = `select rolname::text from pg_roles where rolname = any($1)`

// RolesMissing lists the roles of RolesNeeded that do not exist on the new
// server, each after those that it is to be a member of: what [MakeRoles] would
// make, and those that it skips.
func RolesMissing(ctx context.Context, old, new *pg.Server) ([]Role, error) {
	roles, _, err := RolesNeeded(ctx, old)
	if err != nil {
		return nil, err
	}
	missing, err := missingOn(ctx, new, roles)
	if err != nil {
		return nil, fmt.Errorf("comparing roles: %w", new.Redacted(err))
	}
	return groupsFirst(missing), nil
}

func missingOn(ctx context.Context, new *pg.Server, roles []Role) ([]Role, error) {
	rows, err := new.Pool().Query(ctx, roleNamesSQL, namesOf(roles))
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the new server's roles: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(roles), func(r Role) bool { return slices.Contains(there, r.Name) }), nil
}

func namesOf(roles []Role) []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.Name
	}
	return names
}

// groupsFirst orders roles so that each comes after those that it is to be a
// member of. Memberships have no circles: Postgres refuses them.
func groupsFirst(roles []Role) []Role {
	waiting := make(map[string]Role, len(roles))
	for _, r := range roles {
		waiting[r.Name] = r
	}
	var ordered []Role
	var place func(string)
	place = func(name string) {
		r, found := waiting[name]
		if !found {
			return
		}
		delete(waiting, name)
		for _, m := range r.Memberships {
			place(m.Role)
		}
		ordered = append(ordered, r)
	}
	for _, r := range roles {
		place(r.Name)
	}
	return ordered
}

// sortMemberships orders them so that a grantor has become a member, with the
// right to pass the role on, before it grants: those of the bootstrap superuser
// first, then round by round.
func sortMemberships(list []Membership) []Membership {
	slices.SortStableFunc(list, func(a, b Membership) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Member, b.Member), cmp.Compare(a.Grantor, b.Grantor))
	})
	admin := map[[2]string]bool{}
	var out []Membership
	for left := list; len(left) > 0; {
		var later []Membership
		for _, m := range left {
			if m.Grantor != "" && !admin[[2]string{m.Role, m.Grantor}] {
				later = append(later, m)
				continue
			}
			if m.Admin {
				admin[[2]string{m.Role, m.Member}] = true
			}
			out = append(out, m)
		}
		if len(later) == len(left) { // the grantor has lost the right since
			for i := range later {
				later[i].Grantor = ""
			}
		}
		left = later
	}
	return out
}

// reserved fills Role.Reserved.
func reserved(roles []Role) {
	for i, r := range roles {
		roles[i].Reserved, _ = provider.ReservedRole(r.Name)
	}
}
