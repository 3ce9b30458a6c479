package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// settle gives what is left in the database the owners, comments and privileges
// of the state before.
func settle(ctx context.Context, tx pgx.Tx, before State) error {
	now, err := snapshot(ctx, tx)
	if err != nil {
		return fmt.Errorf("reading what is left: %w", err)
	}
	if err := settleSchemas(ctx, tx, before.Schemas, now.Schemas); err != nil {
		return err
	}
	// A new owner has taken the former one's place in the privileges.
	if now, err = snapshot(ctx, tx); err != nil {
		return fmt.Errorf("reading what is left: %w", err)
	}
	for _, c := range compareRights(before.Rights, now.Rights) {
		if err := execute(ctx, tx, c.statements()); err != nil {
			return fmt.Errorf("putting back the privileges on %s: %w", c.On, err)
		}
	}
	for _, c := range compareRights(before.Defaults, now.Defaults) {
		if err := execute(ctx, tx, c.defaultStatements()); err != nil {
			return fmt.Errorf("putting back the default privileges %s: %w", c.On, err)
		}
	}
	return nil
}

// commentSQL makes the statement that sets a schema's comment, quoted by the
// server.
const commentSQL = `select format('comment on schema %I is %L', $1::text, $2::text)`

func settleSchemas(ctx context.Context, tx pgx.Tx, before, now []Namespace) error {
	for _, b := range before {
		at := slices.IndexFunc(now, func(n Namespace) bool { return n.Name == b.Name })
		if at < 0 {
			continue // gone; the comparison at the end says so
		}
		var statements []string
		if now[at].Owner != b.Owner {
			statements = append(statements, fmt.Sprintf("alter schema %s owner to %s",
				pgx.Identifier{b.Name}.Sanitize(), pgx.Identifier{b.Owner}.Sanitize()))
		}
		if text(now[at].Comment) != text(b.Comment) {
			var comment string
			if err := tx.QueryRow(ctx, commentSQL, b.Name, b.Comment).Scan(&comment); err != nil {
				return fmt.Errorf("putting back the comment on schema %s: %w", b.Name, err)
			}
			statements = append(statements, comment)
		}
		if err := execute(ctx, tx, statements); err != nil {
			return fmt.Errorf("putting back schema %s: %w", b.Name, err)
		}
	}
	return nil
}

// grantee returns how GRANT and REVOKE name a role.
func grantee(role string) string {
	if role == "" {
		return "PUBLIC"
	}
	return pgx.Identifier{role}.Sanitize()
}

// grantees lists the roles that have something, each once.
func grantees(grants []Grant) []string {
	var out []string
	for _, g := range grants {
		if !slices.Contains(out, g.Grantee) {
			out = append(out, g.Grantee)
		}
	}
	return out
}

// statements revokes everything on the object and grants, in the former order,
// what is wanted. What others than the owner granted goes with CASCADE and is
// granted again in their name.
func (c rightsChange) statements() []string {
	columns := ""
	if c.Part != "" {
		columns = " (" + c.Part + ")"
	}
	var out []string
	for _, role := range grantees(c.Grants) {
		out = append(out, fmt.Sprintf("revoke all%s on %s from %s cascade", columns, c.On, grantee(role)))
	}
	for _, g := range c.want {
		grant := fmt.Sprintf("grant %s%s on %s to %s", g.Privilege, columns, c.On, grantee(g.Grantee))
		if g.Grantable {
			grant += " with grant option"
		}
		if g.Grantor == c.Owner {
			out = append(out, grant)
		} else {
			out = append(out, "set local role "+pgx.Identifier{g.Grantor}.Sanitize(), grant, "reset role")
		}
	}
	return out
}

// defaultStatements does the same for default privileges. Postgres forgets
// about them when they are what they would be anyway.
func (c rightsChange) defaultStatements() []string {
	var out []string
	for _, role := range grantees(c.Grants) {
		out = append(out, fmt.Sprintf("alter default privileges %s revoke all on %s from %s", c.On, c.Part, grantee(role)))
	}
	for _, g := range c.want {
		grant := fmt.Sprintf("alter default privileges %s grant %s on %s to %s", c.On, g.Privilege, c.Part, grantee(g.Grantee))
		if g.Grantable {
			grant += " with grant option"
		}
		out = append(out, grant)
	}
	return out
}
