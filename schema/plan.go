package schema

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Script returns what Restore runs for a section on a new server that has
// nothing of it yet but what MakeExtensions made, as SQL for psql: pg_restore writes it from the same choice
// of entries, each script in one transaction. new is asked for the role's rights;
// nothing changes there.
func (a *Archive) Script(ctx context.Context, new *pg.Server, section Section) ([]string, error) {
	choices := [][]entry{a.withoutExtensions(a.sections[section])}
	if section == PreData {
		first, rest, err := a.schemasApart(ctx, new, choices[0])
		if err != nil {
			return nil, err
		}
		choices = [][]entry{first, rest}
	}
	var out []string
	for _, entries := range choices {
		if len(entries) == 0 {
			continue
		}
		text, err := a.script(ctx, entries)
		if err != nil {
			return nil, fmt.Errorf("writing the %s section of the schema as SQL: %w", section, err)
		}
		out = append(out, text)
	}
	return out, nil
}

func (a *Archive) script(ctx context.Context, entries []entry) (string, error) {
	choice, err := a.writeList(entries)
	if err != nil {
		return "", err
	}
	defer os.Remove(choice)
	text, err := invocation{
		path: a.tools.restore,
		args: []string{"--single-transaction", "--use-list=" + choice, "--file=-", a.path},
	}.run(ctx)
	return strings.Trim(text, "\n"), err
}

// filledSQL lists the materialized views that have contents, in the order in
// which they were made: one that reads another comes after it, unless somebody
// has replaced a view between them.
const filledSQL = `
select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and c.relispopulated
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
 order by c.oid`

// RefreshStatements are what Refresh runs on a new server whose materialized
// views are empty.
func RefreshStatements(ctx context.Context, old *pg.Server) ([]string, error) {
	rows, err := old.Pool().Query(ctx, filledSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the old server: %w", old.Redacted(err))
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the old server: %w", old.Redacted(err))
	}
	for i, view := range views {
		views[i] = "refresh materialized view " + view
	}
	return views, nil
}
