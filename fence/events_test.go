package fence_test

import (
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// audit writes every DDL into a table, as many applications do.
var audit = []string{
	`create table public.t (n integer)`,
	`create table public.ddl (tag text)`,
	`create function public.audit() returns event_trigger language plpgsql as $$ begin insert into public.ddl values (tg_tag); end $$`,
	`create event trigger audit on ddl_command_end execute procedure public.audit()`,
	`create event trigger audit_drop on sql_drop execute procedure public.audit()`,
}

// An event trigger that writes a table fires for none of the tool's DDL: it
// would be refused by the closed fence, and with it whatever the tool does.
func TestEventTriggersThatWrite(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, audit...)
		said := pgtest.Value[int](t, s.url, `select count(*) from public.ddl`)
		s.fenced(t)
		if _, err := fence.DryRunClose(t.Context(), s.Server, s.closing()); err != nil {
			t.Fatal(err)
		}
		s.closeAll(t, s.closing())
		pgtest.Exec(t, s.url, readWrite, `begin; select pgcutover.open_now(); rollback`)
		s.closeAll(t, s.closing())
		if _, err := fence.Detach(t.Context(), s.Server, time.Minute, nil); err != nil {
			t.Fatal(err)
		}
		s.fenced(t)
		pgtest.Exec(t, s.url, readWrite, fence.OpenNowSQL)
		pgtest.Exec(t, s.url, `insert into public.t values (1)`)
		if _, err := fence.Detach(t.Context(), s.Server, time.Minute, nil); err != nil {
			t.Fatal(err)
		}
		if err := state.Drop(t.Context(), s.Server); err != nil {
			t.Fatal(err)
		}
		if now := pgtest.Value[int](t, s.url, `select count(*) from public.ddl`); now != said {
			t.Errorf("%d of the tool's statements were taken for the application's", now-said)
		}
		pgtest.Exec(t, s.url, `create table public.u ()`)
		if now := pgtest.Value[int](t, s.url, `select count(*) from public.ddl`); now != said+1 {
			t.Errorf("the application's own DDL was counted %d times", now-said)
		}
	})
}
