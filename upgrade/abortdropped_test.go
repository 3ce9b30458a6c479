package upgrade

import (
	"errors"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/schema"
)

// What old has dropped or renamed since start, and since start --sync-schema, is
// the move's all the same: abort needs no force for it, and leaves what is not.
func TestAbortAfterOldHasDroppedThings(t *testing.T) {
	m, oldURL, newURL := opened(t, "dropped")
	before := pgtest.Catalog(t, newURL)
	pgtest.Exec(t, oldURL, `create type public.mood as enum ('ok')`, `create sequence public.lonely`,
		`create table public."D r" (id serial primary key, m public.mood, item bigint references public.item, unique (m, id))`, `create index on public."D r" (item)`,
		`create view public.seen as select id from public."D r"`, `create function public.f(int) returns int language sql as 'select 1'`,
		`create table public.was (id int primary key)`, `create schema gone`, `create domain gone.d as int check (value > 0)`)
	m.startedForTest(t)
	pgtest.Exec(t, oldURL, `create table public.later (id int primary key, t text default 'x')`)
	if _, err := m.SyncSchema(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, oldURL, `drop view public.seen`, `drop table public."D r"`, `drop type public.mood`, `drop sequence public.lonely`,
		`drop function public.f(int)`, `alter table public.was rename to "is"`, `drop schema gone cascade`, `drop table public.later`)
	pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `create table public.theirs (a int)`)
	var foreign *schema.ForeignError
	err := m.Abort(t.Context(), t.Context(), RemoveOptions{})
	if !errors.As(err, &foreign) || len(foreign.Objects) != 1 || foreign.Objects[0].Identity != "public.theirs" {
		t.Fatalf("with a table that the move did not bring: %v", err)
	}
	pgtest.Exec(t, newURL, `set default_transaction_read_only = off`, `drop table public.theirs`)
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if d := pgtest.Diff(before, pgtest.Catalog(t, newURL)); d != "" {
		t.Errorf("new is not as before:\n%s", d)
	}
}
