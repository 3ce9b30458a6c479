package upgrade

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

const waitsSQL = `
create table public.less (id integer primary key, gone integer not null, t text);
create table public.former (id integer primary key, a text);
create table public.part (id integer primary key, was text)`

// Clients go on writing after a migration: rows without a column that was NOT NULL,
// and rows of tables and columns under their new names. The stream stands still at
// them until new has what --sync-schema would take away, or rename, only when the
// stream has come past.
func TestSyncSchemaLetsTheStreamGoOn(t *testing.T) {
	m, oldURL, newURL := opened(t, "waits")
	pgtest.Exec(t, oldURL, waitsSQL)
	m.startedForTest(t)
	for _, sql := range []string{
		`insert into public.less values (1, 1, 'x')`, `insert into public.former values (1, 'x')`, `insert into public.part values (1, 'x')`,
		`alter table public.less drop column gone`, `insert into public.less values (2, 'y')`,
		`alter table public.former rename to latter`, `alter table public.latter add column b text`,
		`create table public.made (id integer primary key)`, `insert into public.made values (1)`,
		`insert into public.latter values (2, 'y', 'b')`,
		`alter table public.part rename column was to "Is"`, `insert into public.part values (2, 'y')`,
	} {
		pgtest.Exec(t, oldURL, sql)
	}
	err := ErrDrift
	for tries := 0; tries < 20 && errors.Is(err, ErrDrift); tries++ { // a worker may rest longer than that between two attempts
		err = m.locked(t.Context(), "start", func(ctx context.Context) error {
			y, err := m.newSync(ctx)
			if err != nil {
				return err
			}
			y.ask, y.report, y.still = silent, &SyncReport{}, 2*time.Second
			return y.run(ctx)
		})
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if all, err := (&schemaSync{Move: m}).seen(t.Context()); err != nil || !all {
		t.Fatal(all, err)
	}
	const rows = `select (select string_agg(r::text, ' ' order by id) from public.less r) || (select string_agg(r::text, ' ' order by id) from public.latter r)
		|| (select string_agg(r::text, ' ' order by id) from public.part r) || (select string_agg(r::text, ' ') from public.made r)`
	if old, new := pgtest.Value[string](t, oldURL, rows), pgtest.Value[string](t, newURL, rows); old != new {
		t.Errorf("rows on old: %s, on new: %s", old, new)
	}
	if err := m.schemaGate(t.Context(), state.Forward); err != nil {
		t.Errorf("the gate afterwards: %v", err)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Errorf("abort: %v\n%s", err, hint.Of(err))
	}
}
