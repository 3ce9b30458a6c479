package upgrade

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// warnings keeps what an operator is warned of.
type warnings struct {
	step.NopObserver
	mu   sync.Mutex
	text []string
}

func (w *warnings) Warning(step string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, step+": "+err.Error())
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.text, "\n")
}

// here runs a statement about the current database, whose name replaces %I.
func here(sql string) string {
	return fmt.Sprintf(`do $do$ begin execute format('%s', current_database()); end $do$`, strings.ReplaceAll(sql, "'", "''"))
}

const globalRoles = `pgct_u_owner, pgct_u_team, pgct_u_app, pgct_u_here`

// dropGlobalRoles ends the test's roles on a server, whatever they have there.
func dropGlobalRoles(t *testing.T, url string) {
	t.Helper()
	for _, name := range strings.Split(globalRoles, ", ") {
		if pgtest.Value[bool](t, url, `select to_regrole($1) is not null`, name) {
			pgtest.Exec(t, url, `set default_transaction_read_only to off`, `drop owned by `+name+` cascade`)
		}
	}
	for _, name := range strings.Split(globalRoles, ", ") {
		pgtest.Exec(t, url, `set default_transaction_read_only to off`, `drop role if exists `+name)
	}
}

// globals opens a move whose old database has roles, an extension and settings
// that new knows nothing of.
func globals(t *testing.T, name string) (m *Move, seen *warnings, oldURL, newURL string) {
	t.Helper()
	m, oldURL, newURL = opened(t, name)
	for _, url := range []string{oldURL, newURL} {
		dropGlobalRoles(t, url)
		t.Cleanup(func() { dropGlobalRoles(t, url) })
	}
	pgtest.Exec(t, oldURL, `create role pgct_u_owner`, `create role pgct_u_team`, `create role pgct_u_app login password 'hunter2'`,
		`grant pgct_u_team to pgct_u_app`, `alter table public.item owner to pgct_u_owner`, `grant select, insert on public.item to pgct_u_team`,
		`alter role pgct_u_app set work_mem to '5MB'`, `create schema ext authorization pgct_u_owner`, `create extension hstore schema ext`,
		here(`alter database %I set app.tenant to 'shop'`), here(`alter role pgct_u_app in database %I set statement_timeout to '1min'`),
		here(`comment on database %I is 'the shop'`), here(`revoke connect on database %I from public`),
		here(`grant connect on database %I to pgct_u_team`), here(`alter database %I connection limit 70`))
	seen = &warnings{}
	m.Observer = seen
	return m, seen, oldURL, newURL
}

// globalsSQL describes what a server has of it.
const globalsSQL = `
select string_agg(line, E'\n' order by line)
  from (select format('%s %s %s', rolname, rolcanlogin, rolpassword) as line from pg_authid where rolname ~ '^pgct_u_'
        union all
        select format('%s in %s', member::regrole, roleid::regrole) from pg_auth_members where member::regrole::text ~ '^pgct_u_'
        union all
        select format('%s %s', case setrole when 0 then 'all' else setrole::regrole::text end, array_remove(setconfig, 'default_transaction_read_only=on'))
          from pg_db_role_setting
         where (setdatabase = 0 and setrole::regrole::text ~ '^pgct_u_'
                or setdatabase = (select oid from pg_database where datname = current_database())) and setrole::regrole::text !~ '^pgcutover'
        union all
        select format('%s %s', datconnlimit, shobj_description(oid, 'pg_database')) from pg_database where datname = current_database()
        union all
        select format('%s may %s', x.grantee::regrole, x.privilege_type)
          from pg_database d cross join lateral aclexplode(d.datacl) x where d.datname = current_database() and x.grantee <> 0 or x.privilege_type = 'CONNECT' and d.datname = current_database()
        union all
        select format('%s %s %s', extname, nspname, nspowner::regrole) from pg_extension join pg_namespace n on n.oid = extnamespace where extname = 'hstore'
        union all
        select format('item of %s', relowner::regrole) from pg_class where oid = 'public.item'::regclass) x`

// A start brings roles, extension and settings, an abort takes exactly those
// away again.
func TestAbortTakesRolesAndSettingsBack(t *testing.T) {
	m, seen, oldURL, newURL := globals(t, "globals1")
	// What new already has is left, and told.
	pgtest.Exec(t, newURL, `create role pgct_u_here nologin`)
	pgtest.Exec(t, oldURL, `create role pgct_u_here login`, `grant select on public.item to pgct_u_here`)
	before := [2]string{pgtest.Catalog(t, oldURL), pgtest.Catalog(t, newURL)}
	m.startedForTest(t)
	status, err := m.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := status.WriteText(&text); err != nil || !strings.Contains(text.String(), `role "pgct_u_here": existed on new with other attributes`) || !strings.Contains(seen.String(), `roles: role "pgct_u_here"`) {
		t.Errorf("the status does not tell of a role that was left, %v:\n%s\nwarnings: %s", err, &text, seen)
	}
	pgtest.Exec(t, newURL, `set default_transaction_read_only to off`, `alter role pgct_u_here login`)
	if old, new := pgtest.Value[string](t, oldURL, globalsSQL), pgtest.Value[string](t, newURL, globalsSQL); old != new {
		t.Errorf("on old:\n%s\non new:\n%s", old, new)
	}
	// The role works: it logs in, has its settings and its rights by membership.
	conn, err := pgx.Connect(t.Context(), pgtest.WithUser(t, newURL, "pgct_u_app", "hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	var memory, timeout, tenant string
	if err := conn.QueryRow(t.Context(), `select current_setting('work_mem'), current_setting('statement_timeout'), current_setting('app.tenant') from public.item limit 1`).Scan(&memory, &timeout, &tenant); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil || memory != "5MB" || timeout != "1min" || tenant != "shop" {
		t.Errorf("settings of the role: %q, %q, %q, %v", memory, timeout, tenant, err)
	}
	facts := pgtest.Value[string](t, newURL, `select string_agg(facts::text, E'\n') from pgcutover.journal where step in ('roles', 'database') and event = 'succeeded'`)
	for _, text := range []string{"pgct_u_app", `connection limit 70`} {
		if !strings.Contains(facts, text) {
			t.Errorf("the journal does not tell of %q: %s", text, facts)
		}
	}
	for _, secret := range []string{"SCRAM", "md5", "hunter2"} {
		if strings.Contains(facts, secret) || strings.Contains(seen.String(), secret) {
			t.Errorf("%q is in the journal or was shown:\n%s\n%s", secret, facts, seen)
		}
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	pgtest.Exec(t, newURL, `alter role pgct_u_here nologin`)
	for i, url := range []string{oldURL, newURL} {
		if diff := pgtest.Diff(before[i], pgtest.Catalog(t, url)); diff != "" {
			t.Errorf("after the abort:\n%s", diff)
		}
	}
}

// Complete keeps what start brought.
func TestCompleteKeepsRolesAndSettings(t *testing.T) {
	m, _, oldURL, newURL := globals(t, "globals2")
	want := pgtest.Value[string](t, oldURL, globalsSQL)
	m.startedForTest(t)
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := m.Complete(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if got := pgtest.Value[string](t, newURL, globalsSQL); got != want {
		t.Errorf("after complete:\n%s\nold had:\n%s", got, want)
	}
}

// The plan shows every statement of the new phases, without a password.
func TestPlanShowsRolesAndSettings(t *testing.T) {
	m, _, _, _ := globals(t, "globals3")
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, e := range slices.Concat(plan.Start, plan.Abort) {
		for _, s := range e.Statements {
			shown[e.Name] += s.SQL + "\n"
		}
	}
	for step, texts := range map[string][]string{
		"roles":    {`create role "pgct_u_app" login`, `grant "pgct_u_team" to "pgct_u_app"`, `-- alter role "pgct_u_app" password`, "drop role "},
		"schema":   {`create schema if not exists "ext" authorization "pgct_u_owner"`, `create extension "hstore" with schema "ext" version '`},
		"database": {`set "app"."tenant" to 'shop'`, `revoke connect on database`, `connection limit 70`},
	} {
		for _, text := range texts {
			if !strings.Contains(shown[step], text) {
				t.Errorf("the plan of %s does not show %q:\n%s", step, text, shown[step])
			}
		}
	}
	if strings.Contains(shown["roles"], "SCRAM") || strings.Contains(shown["roles"], "md5") {
		t.Error("the plan shows a password's verifier")
	}
	if strings.Contains(strings.ToLower(shown["schema"]), "create schema ext;") {
		t.Error("the plan makes the extension's schema twice")
	}
}
