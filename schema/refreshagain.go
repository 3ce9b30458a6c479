package schema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// viewsSQL lists the materialized views of the new server in an order in which
// none comes before one that it reads, also through ordinary views: one that reads
// another reaches more of them. A view can be refreshed concurrently, without
// locking its readers out, when it is filled and has a unique index on all of its
// rows and on plain columns.
// https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html
const viewsSQL = `
with recursive edge as (
  select distinct r.ev_class as upper, d.refobjid as lower
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
   where d.refobjid <> r.ev_class
), reach as (
  select e.upper, e.lower from edge e
  union
  select r.upper, e.lower from reach r join edge e on e.upper = r.lower
)
select format('%I.%I', n.nspname, c.relname),
       c.relispopulated and exists (select 1 from pg_index i
                                     where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indisvalid
                                       and i.indpred is null and 0 <> all (i.indkey))
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm'
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend e
                    where e.classid = 'pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
 order by (select count(*) from reach r join pg_class k on k.oid = r.lower where r.upper = c.oid and k.relkind = 'm'), 1`

type matview struct {
	Name       string
	Concurrent bool
}

// Refreshed says what RefreshAgain did.
type Refreshed struct {
	Views      int       `json:"views"`
	Concurrent int       `json:"concurrently"` // of them, without locking readers out
	At         time.Time `json:"at"`
	Seconds    float64   `json:"seconds"`
}

// RefreshSQL is the statement that refreshes one view, given as a quoted name.
func RefreshSQL(view string, concurrently bool) string {
	if concurrently {
		return "refresh materialized view concurrently " + view
	}
	return "refresh materialized view " + view
}

// refreshable lists what RefreshAgain refreshes.
func refreshable(ctx context.Context, old, new *pg.Server) ([]matview, error) {
	filled, err := populated(ctx, old)
	if err != nil || len(filled) == 0 {
		return nil, err
	}
	rows, err := new.Pool().Query(ctx, viewsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the %s server: %w", new.Side(), new.Redacted(err))
	}
	views, err := pgx.CollectRows(rows, pgx.RowToStructByPos[matview])
	if err != nil {
		return nil, fmt.Errorf("listing the materialized views on the %s server: %w", new.Side(), new.Redacted(err))
	}
	there := make(map[string]bool, len(filled))
	for _, name := range filled {
		there[name] = true
	}
	var out []matview
	for _, v := range views {
		if there[v.Name] {
			out = append(out, v)
		}
	}
	return out, nil
}

// RefreshAgainSQL returns what RefreshAgain would run now, in order.
func RefreshAgainSQL(ctx context.Context, old, new *pg.Server) ([]string, error) {
	views, err := refreshable(ctx, old, new)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(views))
	for i, v := range views {
		out[i] = RefreshSQL(v.Name, v.Concurrent)
	}
	return out, nil
}

// RefreshAgain refreshes every materialized view on the new server that has
// contents on the old one, with what the new server's tables have by now: those
// that others read come first. Each REFRESH is a transaction of its own, bounded
// by ctx, and does not lock readers out where the view allows it. It needs the
// role to be the views' owner or a superuser (or, from 17, MAINTAIN). progress,
// which may be nil, is told each view's name.
func RefreshAgain(ctx context.Context, old, new *pg.Server, progress func(string)) (Refreshed, error) {
	began := time.Now()
	views, err := refreshable(ctx, old, new)
	done := Refreshed{At: began.UTC()}
	if err != nil || len(views) == 0 {
		return done, err
	}
	conn, err := new.Connect(ctx, "refresh", pg.LongRunning())
	if err != nil {
		return done, err
	}
	defer pg.Close(ctx, conn)
	for i, v := range views {
		if progress != nil {
			progress(fmt.Sprintf("refreshing the materialized view %s (%d of %d)", v.Name, i+1, len(views)))
		}
		if _, err := conn.Exec(ctx, RefreshSQL(v.Name, v.Concurrent)); err != nil {
			return done, fmt.Errorf("refreshing the materialized view %s on the %s server: %w", v.Name, new.Side(), new.Redacted(err))
		}
		done.Views++
		if v.Concurrent {
			done.Concurrent++
		}
	}
	done.Seconds = time.Since(began).Seconds()
	return done, nil
}
