package pg_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Quiet keeps event triggers away, puts the settings back, and does nothing for
// a role that may not have them.
func TestQuiet(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		url := pgtest.Database(t, pgtest.Server(t, major))
		pgtest.Exec(t, url, `create table said (tag text)`,
			`create function hear() returns event_trigger language plpgsql as 'begin insert into public.said values (tg_tag); end'`,
			`create event trigger hear on ddl_command_end execute procedure hear()`,
			`do $$ begin create role quiet_tool login; exception when duplicate_object then null; end $$`,
			`do $$ begin execute format('alter database %I owner to quiet_tool', current_database()); end $$`,
			`grant all on schema public to quiet_tool; grant all on said to quiet_tool`)
		for _, test := range []struct {
			role string
			want int
		}{{"postgres", 0}, {"quiet_tool", 1}} {
			s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: pgtest.WithUser(t, url, test.role, ""), Move: "quiet"})
			if err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, url, `truncate said`)
			var role string
			err = pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), s.Quiet("create table public.made_by_"+test.role+" ()")); err != nil {
					return err
				}
				return tx.QueryRow(t.Context(), `select current_setting('session_replication_role')`).Scan(&role)
			})
			s.Close()
			if err != nil {
				t.Fatal(err)
			}
			if n := pgtest.Value[int](t, url, `select count(*) from said`); n != test.want || role != "origin" {
				t.Errorf("on %d, as %s: the event trigger fired %d times, want %d; the session's role is %s afterwards", major, test.role, n, test.want, role)
			}
		}
	}
}
