package schema

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

const superuserSQL = `select rolsuper from pg_roles where rolname = current_user`

// schemasFirst restores the schemas and their privileges, and returns the other
// entries, when the tool is no superuser on the new server. ALTER ... OWNER TO
// asks whether the new owner may create in the schema, of everybody but a
// superuser, and pg_restore keeps all privileges for the end of a run.
// https://www.postgresql.org/docs/current/sql-altertable.html
func (a *Archive) schemasFirst(ctx context.Context, new *pg.Server, entries []entry, o RestoreOptions) ([]entry, error) {
	first, rest, err := a.schemasApart(ctx, new, entries)
	if err != nil {
		return nil, err
	}
	return rest, a.run(ctx, new, first, o, "--single-transaction")
}

// schemasApart divides the entries: none come first for a superuser.
func (a *Archive) schemasApart(ctx context.Context, new *pg.Server, entries []entry) (first, rest []entry, err error) {
	var super bool
	if err := new.Pool().QueryRow(ctx, superuserSQL).Scan(&super); err != nil {
		return nil, nil, fmt.Errorf("asking for rights: %w", err)
	}
	if super {
		return nil, entries, nil
	}
	for _, e := range entries {
		if e.desc == "SCHEMA" || e.desc == "ACL" && strings.HasPrefix(e.rest, "- SCHEMA ") {
			first = append(first, e)
		} else {
			rest = append(rest, e)
		}
	}
	return first, rest, nil
}
