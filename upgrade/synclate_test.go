package upgrade

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

const lateRoles = `pgct_l_owner, pgct_l_team, pgct_l_app`

// dropLateRoles ends the test's roles on a server.
func dropLateRoles(t *testing.T, url string) {
	t.Helper()
	for _, name := range strings.Split(lateRoles, ", ") {
		if pgtest.Value[bool](t, url, `select to_regrole($1) is not null`, name) {
			pgtest.Exec(t, url, `set default_transaction_read_only to off`, `drop owned by `+name+` cascade`)
		}
	}
	for _, name := range strings.Split(lateRoles, ", ") {
		pgtest.Exec(t, url, `set default_transaction_read_only to off`, `drop role if exists `+name)
	}
}

const lateRolesSQL = `
select coalesce(string_agg(line, E'\n' order by line), '')
  from (select format('%s %s %s', rolname, rolcanlogin, rolpassword) as line from pg_authid where rolname ~ '^pgct_l_'
        union all
        select format('%s in %s', member::regrole, roleid::regrole) from pg_auth_members where member::regrole::text ~ '^pgct_l_'
        union all
        select format('%s may %s', x.grantee::regrole, x.privilege_type)
          from pg_class c cross join lateral aclexplode(c.relacl) x
         where c.oid = 'public.item'::regclass and x.grantee::regrole::text ~ '^pgct_l_') x`

// Roles that were made on old since start are made by a sync as by start, shown
// before, and taken back by abort. That round fails late, at a name that is taken on
// new; what it has made before is known by then: neither a table that was dropped on
// new as advised, nor one that was made again, is taken for what it was.
func TestSyncSchemaThatFailsLate(t *testing.T) {
	m, oldURL, newURL := opened(t, "late")
	for _, url := range []string{oldURL, newURL} {
		dropLateRoles(t, url)
		t.Cleanup(func() { dropLateRoles(t, url) })
	}
	// With the default every stop of the apply worker may cost five seconds.
	pgtest.Exec(t, newURL, `alter system set wal_retrieve_retry_interval = '200ms'`, `select pg_reload_conf()`)
	t.Cleanup(func() {
		pgtest.Exec(t, newURL, `alter system reset wal_retrieve_retry_interval`, `select pg_reload_conf()`)
	})
	before := pgtest.Catalog(t, newURL)
	pgtest.Exec(t, oldURL, `create table public.again (id integer primary key)`, `create table public.full (id integer primary key, t text)`,
		`insert into public.full values (1, 'x')`, `create role pgct_l_app login password 'hunter2'`, `grant select on public.item to pgct_l_app`)
	m.startedForTest(t)
	pgtest.Exec(t, oldURL, `create role pgct_l_owner`, `create role pgct_l_team`, `grant pgct_l_team to pgct_l_app`,
		`grant insert on public.item to pgct_l_team`, `create table public.owned (id integer primary key)`, `alter table public.owned owner to pgct_l_owner`,
		`drop table public.again`, `create table public.again (id integer primary key)`, `insert into public.again values (7)`,
		`alter table public.full alter column t type text using upper(t)`, `create index taken on public.item (name)`)
	m.forget()
	if text, err := m.Rewritten(t.Context()); err != nil || !strings.Contains(text, "public.full") {
		t.Errorf("rewritten: %q, %v", text, err)
	}
	onNew := `set default_transaction_read_only = off`
	pgtest.Exec(t, newURL, onNew, `drop table public.again cascade`, `drop table public.full cascade`, `create table public.taken (id integer)`)
	var shown []string
	report := &SyncReport{}
	sync := func() error { // nothing is taken away: nothing need be waited for long
		return m.locked(t.Context(), "start", func(ctx context.Context) error {
			defer m.forget()
			y, err := m.newSync(ctx)
			if err != nil {
				return err
			}
			y.report, y.still = report, time.Second
			y.ask = func(p SyncPlan) error {
				shown = append(shown, p.Text())
				return nil
			}
			return y.run(ctx)
		})
	}
	if err := sync(); err == nil || !strings.Contains(err.Error(), "taken") || errors.Is(err, ErrDrift) {
		t.Fatalf("with the name of an index taken: %v", err)
	}
	for _, text := range []string{`create role "pgct_l_team" nologin;`, `grant "pgct_l_team" to "pgct_l_app"`, `insert into pgcutover.made_role`} {
		if !strings.Contains(shown[0], text) {
			t.Errorf("not shown before it was done: %s\n%s", text, shown[0])
		}
	}
	if slices.Sort(report.Roles); !slices.Equal(report.Roles, []string{"pgct_l_owner", "pgct_l_team"}) {
		t.Errorf("the report names the roles %q", report.Roles)
	}
	wantReplaced(t, m)
	pgtest.Exec(t, newURL, onNew, `drop table public.taken`)
	if err := sync(); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := m.schemaGate(t.Context(), state.Forward); err != nil {
		t.Errorf("the gate afterwards: %v", err)
	}
	if text, err := m.Rewritten(t.Context()); err != nil || text != "" {
		t.Errorf("rewritten, after the rows were copied anew: %q, %v", text, err)
	}
	for _, sql := range []string{lateRolesSQL, `select string_agg(x::text, ' ') from (select id::text from public.again union all select t from public.full order by 1) x`} {
		if old, new := pgtest.Value[string](t, oldURL, sql), pgtest.Value[string](t, newURL, sql); old != new {
			t.Errorf("on old:\n%s\non new:\n%s", old, new)
		}
	}
	rounds := len(shown)
	if err := sync(); err != nil || len(shown) != rounds {
		t.Errorf("once more: %v, %v", shown[rounds:], err)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if diff := pgtest.Diff(before, pgtest.Catalog(t, newURL)); diff != "" {
		t.Errorf("abort left on new:\n%s", diff)
	}
}
