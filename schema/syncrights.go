package schema

import (
	"fmt"
	"slices"
	"strings"
)

// ownerFix gives an object the owner that it has on the old server.
func ownerFix(d Difference) (Fix, error) {
	if d.Old == "" {
		return Fix{}, byHand("the owner of the schema public is left to each server")
	}
	kind := d.Kind
	switch kind {
	case "function", "procedure":
		kind = "routine"
	case kindStatistics:
		kind = "statistics"
	}
	return Fix{Statements: []string{fmt.Sprintf("alter %s %s owner to %s", strings.ReplaceAll(kind, "-", " "), d.Identity, d.Old)}, Order: orderRights}, nil
}

// grantsOn returns what stands behind the privilege in GRANT.
func grantsOn(o Object) (columns, on string, err error) {
	switch o.Kind {
	case kindTable, kindView, kindMatview, "foreign table":
		return "", "table " + o.Identity, nil
	case kindColumn:
		return " (" + strings.TrimPrefix(o.Identity, o.On+".") + ")", "table " + o.On, nil
	case "function", "procedure", "aggregate":
		return "", "routine " + o.Identity, nil
	case kindSequence, kindSchema, kindType:
		return "", o.Kind + " " + o.Identity, nil
	case "server":
		return "", "foreign server " + o.Identity, nil
	case "foreign-data wrapper":
		return "", "foreign data wrapper " + o.Identity, nil
	}
	return "", "", byHand("grant and revoke on the new server by hand")
}

// privilegeStatements turns the privileges on an object from those that it has
// to those that it should have, both as privilegesSQL tells them.
func privilegeStatements(o Object, have, want string) ([]string, error) {
	if have == want {
		return nil, nil
	}
	columns, on, err := grantsOn(o)
	if err != nil {
		return nil, err
	}
	had, wants := splitRights(have), splitRights(want)
	var out []string
	for _, r := range had {
		if slices.Contains(wants, r) {
			continue
		}
		sql, err := rightStatement(r, columns, on, o, true)
		if err != nil {
			return nil, err
		}
		out = append(out, sql)
	}
	for _, r := range wants {
		if slices.Contains(had, r) {
			continue
		}
		sql, err := rightStatement(r, columns, on, o, false)
		if err != nil {
			return nil, err
		}
		out = append(out, sql)
	}
	return out, nil
}

func splitRights(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "; ")
}

// rightStatement makes one statement of "grant SELECT* to reader" or of
// "revoke EXECUTE from public"; back takes back what it says.
func rightStatement(right, columns, on string, o Object, back bool) (string, error) {
	what, rest, _ := strings.Cut(right, " ")
	privilege, rest, _ := strings.Cut(rest, " ")
	_, role, _ := strings.Cut(rest, " ")
	if strings.Contains(role, " by ") {
		return "", byHand("somebody else than the owner has granted it: grant it on the new server in that role's name")
	}
	if role == "owner" {
		if role = o.text(Owner); role == "" {
			return "", byHand("grant and revoke on the new server by hand: the owner's own privileges differ")
		}
	}
	option := ""
	if privilege, _ = strings.CutSuffix(privilege, "*"); strings.Contains(right, "* ") {
		option = " with grant option"
	}
	if (what == "grant") != back {
		return fmt.Sprintf("grant %s%s on %s to %s%s", privilege, columns, on, role, option), nil
	}
	return fmt.Sprintf("revoke %s%s on %s from %s", privilege, columns, on, role), nil
}

// commentStatement sets a comment, or takes it away.
func commentStatement(o Object, comment string) ([]string, error) {
	kind, identity := o.Kind, o.Identity
	switch kind {
	case "function", "procedure":
		kind = "routine"
	case kindStatistics:
		kind = "statistics"
	case kindConstraint:
		kind = "constraint"
	case "domain constraint":
		kind = "constraint"
		identity = strings.TrimSuffix(identity, " on "+o.On) + " on domain " + o.On
	}
	text := "null"
	if comment != "" {
		text = quoteText(comment)
	}
	return []string{fmt.Sprintf("comment on %s %s is %s", strings.ReplaceAll(kind, "-", " "), identity, text)}, nil
}

// quoteText is a literal whose meaning no setting changes.
func quoteText(s string) string {
	if strings.ContainsRune(s, '\\') {
		return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// defaultPrivileges gives one role's default privileges the value that they have
// on the old server. For a whole database they begin with the built-in ones, which
// only the server knows.
func defaultPrivileges(d Difference) ([]string, error) {
	at := strings.LastIndex(d.Identity, " on ")
	scope, objects := d.Identity[:at], d.Identity[at+len(" on "):]
	if !strings.Contains(scope, " in schema ") && d.What != Changed {
		return nil, byHand("run ALTER DEFAULT PRIVILEGES on the new server by hand, as it was run on the old one: %s", strings.TrimSpace(d.Old))
	}
	alter := "alter default privileges " + scope
	var out []string
	var seen []string
	for _, g := range strings.Split(d.New, ", ") {
		if _, role, found := strings.Cut(g, " to "); found && !slices.Contains(seen, role) {
			seen = append(seen, role)
			out = append(out, fmt.Sprintf("%s revoke all on %s from %s", alter, objects, role))
		}
	}
	for _, g := range strings.Split(d.Old, ", ") {
		privilege, role, found := strings.Cut(g, " to ")
		if !found {
			continue
		}
		option := ""
		if p, with := strings.CutSuffix(privilege, "*"); with {
			privilege, option = p, " with grant option"
		}
		out = append(out, fmt.Sprintf("%s grant %s on %s to %s%s", alter, privilege, objects, role, option))
	}
	return out, nil
}
