package rights

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// admin is who administers a hosted server: no superuser, whatever its provider
// calls it.
const admin = "hosted_admin"

// service is a provider's server, made of PostgreSQL as it is: the roles that it
// has, and no superuser within reach. What a provider has changed in the server
// itself cannot be had here, but for what patched does.
type service struct {
	name string
	// roles makes the provider's roles, and makes hosted_admin what the provider
	// makes it.
	roles string
	// database is run in the database as superuser.
	database string
	// drop are the provider's roles.
	drop []string
	// replicates is the role that stands for REPLICATION.
	replicates string
	// replication is what a finding advises where it is missing.
	replication string
	// publisherOnly says that the provider allows no subscriptions.
	publisherOnly bool
	// whole says that a move is made, too.
	whole bool
}

// lendable are the predefined roles that providers let their admin grant.
const lendable = "pg_monitor, pg_signal_backend, pg_create_subscription"

var services = []service{
	{
		name: "rds",
		roles: `create role rds_superuser nologin; create role rds_replication nologin;
grant rds_replication, ` + lendable + ` to rds_superuser with admin option;
grant rds_superuser to hosted_admin`,
		drop: []string{"rds_superuser", "rds_replication"}, replicates: "rds_replication",
		replication: `GRANT "rds_replication" TO "mover";`,
	},
	{
		name: "aurora",
		roles: `create role rds_superuser nologin; create role rds_replication nologin;
grant rds_replication, ` + lendable + ` to rds_superuser with admin option;
grant rds_superuser to hosted_admin`,
		database: `create function pg_catalog.aurora_version() returns text language sql as 'select ''16.4.1'''`,
		drop:     []string{"rds_superuser", "rds_replication"}, replicates: "rds_replication",
		replication: `GRANT "rds_replication" TO "mover";`,
	},
	{
		name: "cloudsql",
		roles: `create role cloudsqlsuperuser nologin createdb createrole;
grant ` + lendable + ` to cloudsqlsuperuser with admin option;
grant cloudsqlsuperuser to hosted_admin; alter role hosted_admin replication`,
		drop:        []string{"cloudsqlsuperuser"},
		replication: `ALTER ROLE "mover" REPLICATION;`,
	},
	{
		name: "azure",
		roles: `create role azure_pg_admin nologin;
grant ` + lendable + ` to azure_pg_admin with admin option;
grant azure_pg_admin to hosted_admin; alter role hosted_admin replication bypassrls`,
		// Its template gives schema public to the admins.
		database:    `alter schema public owner to azure_pg_admin`,
		drop:        []string{"azure_pg_admin"},
		replication: `ALTER ROLE "mover" REPLICATION;`, whole: true,
	},
	{
		name: "supabase",
		roles: `create role supabase_admin superuser nologin;
grant pg_monitor, pg_signal_backend to hosted_admin with admin option; alter role hosted_admin replication bypassrls`,
		drop: []string{"supabase_admin"}, publisherOnly: true,
		replication: `ALTER ROLE "mover" REPLICATION;`,
	},
	{
		name: "neon",
		roles: `create role neon_superuser nologin createdb createrole bypassrls replication;
grant ` + lendable + ` to neon_superuser with admin option;
grant neon_superuser to hosted_admin with admin option`,
		drop: []string{"neon_superuser"}, replicates: "neon_superuser",
		replication: `GRANT "neon_superuser" TO "mover";`,
	},
}

// TestProviders follows, on servers that are restricted as a provider restricts
// them, what --grants prints and, by itself, what the findings advise; both as the
// role that administers such a server.
func TestProviders(t *testing.T) {
	t.Parallel()
	clusters := map[int]*pgserver.Cluster{}
	for _, major := range []int{16, 17} {
		clusters[major] = pgtest.Cluster(t, pgserver.Options{
			Major: major, Name: fmt.Sprintf("hosted-%d", major), Password: adminPassword, Durable: true, Settings: settings,
		})
	}
	for _, s := range services {
		t.Run(s.name, func(t *testing.T) {
			m := s.move(t, clusters[16], clusters[17])
			t.Run("grants", func(t *testing.T) { m.byScript(t, s) })
			if s.name != "aurora" { // whose roles are those of rds
				t.Run("findings", func(t *testing.T) { m.byFindings(t, s) })
			}
		})
	}
}

// move makes a database on a service's server of 16, and one on 17; a service that
// allows no subscriptions is on old only.
func (s service) move(t *testing.T, older, newer *pgserver.Cluster) *move {
	t.Helper()
	m := &move{dir: t.TempDir(), hosted: true}
	m.old.cluster, m.new.cluster = older, newer
	for _, at := range []*server{&m.old, &m.new} {
		roles, database := s.roles, s.database
		if s.publisherOnly && at == &m.new {
			roles, database = `grant `+lendable+` to hosted_admin with admin option; alter role hosted_admin replication`, "select 1"
		}
		s.host(t, at, roles, database)
	}
	pgtest.Exec(t, m.old.admin, `set role "shop owner"`,
		`create table public.item (id int primary key, name text)`, `create sequence public.numbers`,
		`set role billing`, `create schema billing`, `create table billing.invoice (id int primary key)`)
	more := ""
	if s.publisherOnly {
		more = withoutWayBack
	}
	m.configure(t, "pgcutover.yaml", m.old.tool, m.new.tool, more)
	m.configure(t, "admin.yaml", pgtest.WithUser(t, m.old.admin, admin, password), pgtest.WithUser(t, m.new.admin, admin, password), more)
	return m
}

// host makes the provider's and the application's roles, and the database, on one
// server; the end of the test takes them away.
func (s service) host(t *testing.T, at *server, roles, database string) {
	t.Helper()
	super := at.cluster.URL("postgres")
	at.admin = at.cluster.URL("shop")
	at.tool = pgtest.WithUser(t, at.admin, tool, password)
	secret := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	pgtest.Exec(t, super, `create role hosted_admin login createdb createrole password `+secret, roles)
	t.Cleanup(func() {
		pgtest.Exec(t, super, `select pg_terminate_backend(pid) from pg_stat_activity where datname = 'shop'`, `drop database if exists shop`)
		for _, role := range append([]string{tool, "billing", "shop owner", admin}, s.drop...) {
			pgtest.Exec(t, super, fmt.Sprintf(`drop role if exists %q`, role))
		}
	})
	pgtest.Exec(t, pgtest.WithUser(t, super, admin, password),
		`create role "shop owner"`, `grant "shop owner" to hosted_admin`,
		`create role billing`, `grant billing to hosted_admin`,
		`create database shop template template0 owner "shop owner"`, `grant create on database shop to billing`)
	pgtest.Exec(t, at.admin, database, `grant usage, create on schema public to "shop owner"`)
	if s.name == "azure" && at.cluster.Major() == 17 {
		pgtest.Exec(t, at.admin, `revoke create on schema public from "shop owner"`)
	}
}

// patched does what a provider's own change in the server does: members of a role
// may open replication connections.
func (m *move) patched(t *testing.T, s service) {
	t.Helper()
	if s.replicates == "" {
		return
	}
	for _, at := range []server{m.old, m.new} {
		if pgtest.Value[bool](t, at.admin, `select pg_has_role('mover', $1, 'member')`, s.replicates) {
			pgtest.Exec(t, at.admin, `alter role mover replication`)
		}
	}
}

// as is the URL of who administers a server; that beside a service which is on
// old only is nobody's service.
func (m *move) as(t *testing.T, s service, at server) string {
	t.Helper()
	if s.publisherOnly && at == m.new {
		return at.admin
	}
	return pgtest.WithUser(t, at.admin, admin, password)
}

// byScript runs what --grants prints.
func (m *move) byScript(t *testing.T, s service) {
	got := m.grant(t, m.as(t, s, m.old), m.as(t, s, m.new))
	if got.Old.Provider != s.name || !got.Old.Detected {
		t.Errorf("the catalogs of old show %s, not %s", got.Old.Provider, s.name)
	}
	if want := s.replication; !strings.Contains(got.Old.SQL, want) {
		t.Errorf("the script of old has no %s:\n%s", want, got.Old.SQL)
	}
	m.patched(t, s)
	m.noSuperuser(t)
	m.clean(t)
	for _, at := range []server{m.old, m.new} { // for what comes next
		pgtest.Exec(t, at.admin, `drop owned by mover`, `drop role mover`)
	}
}

// byFindings follows the advice of the findings, round by round.
func (m *move) byFindings(t *testing.T, s service) {
	for _, at := range []server{m.old, m.new} {
		pgtest.Exec(t, m.as(t, s, at),
			fmt.Sprintf(`create role mover login password '%s'`, strings.ReplaceAll(password, "'", "''")))
	}
	advised := map[string]bool{}
	for range 5 {
		found := aboutRights(answer[report](t, m.any(t, "check", "--json")).Findings)
		if len(found) == 0 {
			break
		}
		for _, f := range found {
			at := m.side(pg.Side(f.Server))
			if f.FixOn != "" {
				at = m.side(pg.Side(f.FixOn))
			}
			advised[f.Fix] = true
			if strings.HasPrefix(f.ID, "peer.") {
				continue // goes with the others
			}
			m.psql(t, m.as(t, s, at), f.Fix)
		}
		m.patched(t, s)
	}
	if !advised[s.replication] {
		t.Errorf("%s is not advised; what is: %q", s.replication, slices.Collect(maps.Keys(advised)))
	}
	m.clean(t)
	if s.whole {
		m.thereAndBack(t)
	}
}

// thereAndBack is a move on a provider's servers, as far as they can be had here.
func (m *move) thereAndBack(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"start"}, {"cutover", "--yes"}, {"rollback", "--yes"}, {"cutover", "--yes"}, {"complete", "--yes"}} {
		m.run(t, exitDone, args...)
	}
	if n := pgtest.Value[int](t, m.new.admin, `select count(*) from pg_class where relname in ('item', 'invoice') and relkind = 'r'`); n != 2 {
		t.Errorf("%d of 2 tables are on new", n)
	}
}

// any runs the tool, however it ends.
func (m *move) any(t *testing.T, args ...string) result {
	t.Helper()
	return execute(t, m.dir, []string{"TMPDIR=" + m.dir}, "", binary, args...)
}
