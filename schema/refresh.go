package schema

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// populatedSQL lists the materialized views that have contents.
const populatedSQL = `
select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and c.relispopulated
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
 order by 1`

// Refresh fills the materialized views of the new database that have contents
// on the old server and none here: a move restores them empty, and logical
// replication does not carry them. Views that need others come after them. Each
// REFRESH is a transaction of its own, may take as long as ctx lets it, and
// needs the role to be the view's owner or a superuser. progress, which may be
// nil, is told each view's name. It may be called again.
// https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html
func Refresh(ctx context.Context, old, new *pg.Server, progress func(string)) error {
	pending, err := unfilled(ctx, old, new)
	if err != nil || len(pending) == 0 {
		return err
	}
	settings := pg.LongRunning()
	maps.Copy(settings, new.QuietSession()) // an event trigger that writes would meet the closed fence
	conn, err := new.Connect(ctx, "refresh", settings)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	for len(pending) > 0 {
		var later []string
		var last error
		for _, view := range pending {
			if progress != nil {
				progress("refreshing " + view)
			}
			_, err := conn.Exec(ctx, "refresh materialized view "+view)
			switch {
			case pg.IsCode(err, pg.ObjectNotInPrerequisite):
				later, last = append(later, view), err // one that it reads is still empty
			case err != nil:
				return fmt.Errorf("refreshing the materialized view %s on the new server: %w", view, new.Redacted(err))
			}
		}
		if len(later) == len(pending) {
			return fmt.Errorf("refreshing the materialized view %s on the new server: %w", later[0], new.Redacted(last))
		}
		pending = later
	}
	return nil
}

// unfilled lists the views that Refresh has to fill.
func unfilled(ctx context.Context, old, new *pg.Server) ([]string, error) {
	there, err := populated(ctx, old)
	if err != nil {
		return nil, err
	}
	here, err := populated(ctx, new)
	if err != nil {
		return nil, err
	}
	filled := make(map[string]bool, len(here))
	for _, view := range here {
		filled[view] = true
	}
	var out []string
	for _, view := range there {
		if !filled[view] {
			out = append(out, view)
		}
	}
	return out, nil
}

func populated(ctx context.Context, s *pg.Server) ([]string, error) {
	rows, err := s.Pool().Query(ctx, populatedSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the %s server: %w", s.Side(), s.Redacted(err))
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the %s server: %w", s.Side(), s.Redacted(err))
	}
	return views, nil
}
