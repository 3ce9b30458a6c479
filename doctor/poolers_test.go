package doctor_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/traffic"
)

// pooled is a pooler before the two servers of a move.
func pooled(t *testing.T, m *move, pair pgtest.Pair) (*pgbouncer.Pooler, doctor.Pooler) {
	t.Helper()
	p, err := pgbouncer.Start(t.Context(), pgbouncer.Options{Databases: map[string]pgbouncer.Endpoint{
		"shop": {Host: pgserver.Loopback, Port: pgtest.Server(t, pair.Old).Port(), Database: databaseName(m.oldURL)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p, doctor.Pooler{AdminURL: p.AdminURL(), Databases: []string{"shop"}, Driver: traffic.NewPgBouncer(traffic.PgBouncerOptions{
		AdminURL: p.AdminURL(), Databases: []string{"shop"}, File: p.ConfigFile(), ClientURL: m.oldURL,
	})}
}

func pause(t *testing.T, p *pgbouncer.Pooler) {
	t.Helper()
	conn := connect(t, p.AdminURL())
	defer pg.Close(t.Context(), conn)
	if _, err := conn.Exec(t.Context(), "PAUSE shop"); err != nil {
		t.Fatal(err)
	}
}

// reaches says which major a client of the pooler lands on.
func reaches(t *testing.T, p *pgbouncer.Pooler) int {
	t.Helper()
	config, err := pgx.ParseConfig(p.URL("shop"))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context(), conn)
	var version int
	if err := conn.QueryRow(t.Context(), `select current_setting('server_version_num')::int / 10000`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

// A pooler that a tool left paused is found, and let go the way that the
// decision says.
func TestPausedPooler(t *testing.T) {
	t.Parallel()
	pair := pgtest.Pairs(t)[0]
	m := started(t, pair)
	p, entry := pooled(t, m, pair)
	o := doctor.Options{Poolers: doctor.LookAtPoolers([]doctor.Pooler{entry})}
	if r := m.examined(t, o); len(r.Findings) != 0 {
		t.Fatalf("nothing is paused, and the report is:\n%s", text(t, r))
	}

	// Undecided: the pause ends where it was.
	pause(t, p)
	paused := want{"pooler.paused", "both", blocker, doctor.This, true, "pgbouncer", []string{`"shop"`}}
	r := m.examined(t, o)
	expect(t, r, paused)
	if strings.Join(r.Findings[0].SQL, "") != `RESUME "shop"` {
		t.Errorf("the commands are %q", r.Findings[0].SQL)
	}
	// While a tool is at work the pause is its own.
	_, release, err := pg.HoldLock(t.Context(), m.old, "lease", 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	o.Fix = true
	r = m.examined(t, o)
	release()
	if found := of(r, "pooler.paused", "both"); len(found) != 1 || found[0].Severity != note || found[0].Fix || len(r.Mended) > 0 {
		t.Errorf("with a tool at work:\n%s", text(t, r))
	}
	if r = m.examined(t, o); len(r.Mended) != 1 || len(r.Findings) != 0 {
		t.Fatalf("after --fix:\n%s", text(t, r))
	}
	if got := reaches(t, p); got != pair.Old {
		t.Errorf("clients reach %d, want %d", got, pair.Old)
	}

	// Decided, with no driver to move the pooler: it is paused and leads to the
	// server that refuses.
	m.turn(t, state.Forward)
	pause(t, p)
	o.Fix = false
	astray := want{"pooler.astray", "both", blocker, doctor.This, true, "pgbouncer", []string{`the clients of shop are sent to the old server`}}
	expect(t, m.examined(t, o), paused, astray)
	o.Fix = true
	if r = m.examined(t, o); len(r.Mended) != 2 || len(r.Findings) != 0 {
		t.Fatalf("after --fix:\n%s", text(t, r))
	}
	if got := reaches(t, p); got != pair.New {
		t.Errorf("clients reach %d, want %d", got, pair.New)
	}

	// With no server in reach the pause ends, and nothing else changes.
	pause(t, p)
	proxies := [2]*pgtest.Proxy{}
	for i, major := range []int{pair.Old, pair.New} {
		proxies[i] = pgtest.NewProxy(t, pgtest.Server(t, major).Addr())
		proxies[i].Cut()
	}
	o.Old, o.New = proxies[0].URL(t, m.oldURL), proxies[1].URL(t, m.newURL)
	r = m.examined(t, o)
	if len(r.Mended) != 1 || len(of(r, "server.unreachable", "old")) != 1 || len(of(r, "server.unreachable", "new")) != 1 || len(r.Findings) != 2 {
		t.Errorf("without servers:\n%s", text(t, r))
	}
	if got := reaches(t, p); got != pair.New {
		t.Errorf("clients reach %d, want %d", got, pair.New)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	r = m.examined(t, doctor.Options{Poolers: o.Poolers})
	expect(t, r, want{"pooler.unreachable", "both", warning, doctor.This, false, "pgbouncer", []string{"refused"}})
}

func failing(context.Context, doctor.Standing) ([]doctor.Finding, error) {
	return nil, hint.With(errors.New("no console"), "look for one")
}

// A hook of the caller's that fails is a finding, not the end.
func TestPoolersCannotBeLookedAt(t *testing.T) {
	t.Parallel()
	m := databases(t, pgtest.Pairs(t)[0])
	r := m.examined(t, doctor.Options{Poolers: failing})
	expect(t, r, want{"pooler.could-not-look", "both", warning, doctor.This, false, "poolers", []string{"no console"}})
}
