package probe

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// pooled is a pooler whose database "shop" leads to one of two databases.
type pooled struct {
	*pgbouncer.Pooler
	t    *testing.T
	to   map[pg.Side]pgbouncer.Endpoint
	urls map[pg.Side]string
}

func pooler(t *testing.T, settings map[string]string) *pooled {
	t.Helper()
	p := &pooled{t: t, to: map[pg.Side]pgbouncer.Endpoint{}, urls: map[pg.Side]string{}}
	pair := pgtest.Pairs(t)[0]
	for side, major := range map[pg.Side]int{pg.Old: pair.Old, pg.New: pair.New} {
		c := pgtest.Server(t, major)
		p.urls[side] = pgtest.Database(t, c)
		name := pgtest.Value[string](t, p.urls[side], `select current_database()::text`)
		p.to[side] = pgbouncer.Endpoint{Host: pgserver.Loopback, Port: c.Port(), Database: name}
	}
	var err error
	p.Pooler, err = pgbouncer.Start(t.Context(), pgbouncer.Options{
		PoolSize: 1, Settings: settings, Databases: map[string]pgbouncer.Endpoint{"shop": p.to[pg.Old]},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pooled) admin(command string) {
	p.t.Helper()
	if _, err := connect(p.t, p.AdminURL()).Exec(p.t.Context(), command); err != nil {
		p.t.Fatal(err)
	}
}

// lead lets the pooler's database lead to a side.
func (p *pooled) lead(side pg.Side) {
	p.t.Helper()
	text := fmt.Sprintf("[databases]\nshop = %s\n", p.to[side])
	if err := os.WriteFile(p.ConfigFile(), []byte(text), 0o644); err != nil { //nolint:gosec // the pooler's user reads it
		p.t.Fatal(err)
	}
	p.admin("RELOAD")
}

const pooledPIDs = `
select coalesce(string_agg(pid::text, ' ' order by pid), '')
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`

// A pooler in transaction mode that refuses what it does not know, with one
// connection to the server.
func TestPooler(t *testing.T) {
	p := pooler(t, map[string]string{"ignore_startup_parameters": ""})
	old := p.urls[pg.Old]
	q := start(t, Options{URL: p.URL("shop"), Timeout: 4 * time.Second})
	q.until("a write", ok)
	if pids := pgtest.Value[string](t, old, pooledPIDs); pids == "" || strings.Contains(pids, " ") {
		t.Errorf("the pooler's connections are %q, want one", pids)
	}
	p.admin("PAUSE")
	if f := q.until("the pause", failing(Timeout)).Failure; f.SQLSTATE != "" || f.Hint == "" {
		t.Errorf("failure %+v", f)
	}
	p.admin("RESUME")
	q.next("recovery", func(r Round) bool { return r.Change == Recovered })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	q.until("the loss of the pooler", failing(Connection))
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.next("recovery", func(r Round) bool { return r.Change == Recovered })
	p.lead(pg.New)
	if r := q.next("a write on new", func(r Round) bool { return r.OK && r.Moved }); fmt.Sprint(p.to[pg.New].Port) != r.Server.Port {
		t.Errorf("moved to %s", r.Server)
	}
	p.lead(pg.Old)
	q.next("a write on old again", func(r Round) bool { return r.OK && r.Moved })
	r := q.stop()
	if len(r.Servers) != 3 || r.Servers[0].Server.identity() != r.Servers[2].Server.identity() || len(r.Outages) != 2 || r.Failing {
		t.Errorf("report %+v", r)
	}
	for _, round := range q.seen() {
		if !round.OK && round.Failure.Kind == Lost {
			t.Errorf("round %d: %s", round.N, round.Failure)
		}
	}
}

// A refused write must not cost the pooler its connection to the server.
func TestRefusalBehindPooler(t *testing.T) {
	p := pooler(t, nil)
	old := p.urls[pg.Old]
	works(t, Options{URL: p.URL("shop")})
	pids := pgtest.Value[string](t, old, pooledPIDs)
	pgtest.Exec(t, old, fmt.Sprintf(createSQL, "pgcutover_probe"),
		`create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '25006'; end $$`,
		`create trigger refuse before insert on pgcutover_probe execute procedure refuse()`)
	for range 5 {
		fails(t, Options{URL: p.URL("shop")}, ReadOnly, pg.ReadOnlyTransaction)
	}
	if after := pgtest.Value[string](t, old, pooledPIDs); after != pids || pids == "" {
		t.Errorf("the pooler's connections were %s, now %s", pids, after)
	}
}

// Switched between the write and the reading back, the probe finds no row where
// it looks. It must not call that a loss: it writes once more.
func TestMovedInTheMiddle(t *testing.T) {
	p := pooler(t, nil)
	old := p.urls[pg.Old]
	pgtest.Exec(t, old, fmt.Sprintf(createSQL, "pgcutover_probe"),
		`create function dawdle() returns trigger language plpgsql as $$
		 begin
		   while not pg_try_advisory_xact_lock(1) loop perform pg_sleep(0.01); end loop;
		   return null;
		 end $$`,
		`create constraint trigger dawdle after insert on pgcutover_probe deferrable initially deferred for each row execute procedure dawdle()`)
	switching := connect(t, old)
	if _, err := switching.Exec(t.Context(), `select pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	q := start(t, Options{URL: p.URL("shop"), Count: 1})
	const committing = `
		select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and query = 'commit'`
	until(t, "the commit", func() bool { return pgtest.Value[int](t, old, committing) == 1 })
	p.lead(pg.New)
	if _, err := switching.Exec(t.Context(), `select pg_advisory_unlock(1)`); err != nil {
		t.Fatal(err)
	}
	<-q.done
	q.stop()
	if r := q.seen(); len(r) != 1 || !r[0].OK || r[0].Server.Port != fmt.Sprint(p.to[pg.New].Port) {
		t.Errorf("rounds %+v", r)
	}
	if n := pgtest.Value[int](t, old, `select count(*) from pgcutover_probe`); n != 1 {
		t.Errorf("%d rows on old: the switch did not come in the middle", n)
	}
	if pgtest.Value[bool](t, p.urls[pg.New], tableThere) {
		t.Error("the table is left on new")
	}
	if len(q.warnings) != 1 || !strings.Contains(q.warnings[0], "no longer reached") {
		t.Errorf("warnings %q, want one about the row on old", q.warnings)
	}
}

// sameName makes a database of one name on two servers, as a connection string
// for both needs it.
func sameName(t *testing.T) (oldURL, newURL string) {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	oldServer, newServer := pgtest.Server(t, pair.Old), pgtest.Server(t, pair.New)
	name := fmt.Sprintf("both_%d", time.Now().UnixNano())
	for _, c := range []*pgserver.Cluster{oldServer, newServer} {
		admin := c.URL("postgres")
		pgtest.Exec(t, admin, "create database "+name+" template template0")
		t.Cleanup(func() {
			pgtest.Exec(t, admin, `select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+name+`'`, "drop database "+name)
		})
	}
	return oldServer.URL(name), newServer.URL(name)
}

func setReadOnly(t *testing.T, url string, on bool) {
	t.Helper()
	what := "reset default_transaction_read_only"
	if on {
		what = "set default_transaction_read_only = on"
	}
	name := pgtest.Value[string](t, url, `select current_database()::text`)
	pgtest.Exec(t, url, `set default_transaction_read_only = off`, "alter database "+name+" "+what)
}

func TestMultihost(t *testing.T) {
	oldURL, newURL := sameName(t)
	both, err := workload.Multihost(oldURL, newURL)
	if err != nil {
		t.Fatal(err)
	}
	setReadOnly(t, newURL, true)
	p := start(t, Options{URL: both})
	first := p.until("a write on old", ok)
	setReadOnly(t, oldURL, true)
	f := p.until("no host that takes writes", failing(ReadOnly)).Failure
	if f.SQLSTATE != "" || !strings.Contains(f.Hint, "no host of the connection string") {
		t.Errorf("failure %+v", f)
	}
	setReadOnly(t, newURL, false)
	r := p.next("a write on new", func(r Round) bool { return r.Change == Recovered })
	if !r.Moved || r.Server.identity() == first.Server.identity() {
		t.Errorf("round %+v after %+v", r, first)
	}
	if report := p.stop(); len(report.Servers) != 2 || len(report.Outages) != 1 {
		t.Errorf("report %+v", report)
	}
}
