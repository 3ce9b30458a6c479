package load_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/load"
)

const accounts = 200

func start(t *testing.T, url string, change func(*load.Options)) *load.Load {
	t.Helper()
	o := load.Options{
		Dial:    func(ctx context.Context) (*pgconn.PgConn, error) { return pgconn.Connect(ctx, url) },
		Clients: 4, Rate: 200, Accounts: accounts, Tellers: arena.Tellers, Branches: arena.Branches,
	}
	change(&o)
	l, err := load.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop() }) //nolint:errcheck // stopped already unless the test failed
	return l
}

func bench(t *testing.T) string {
	t.Helper()
	url := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	pgtest.Exec(t, url, (&arena.Arena{Options: arena.Options{Accounts: accounts, Sequences: 2}}).Seed()...)
	return url
}

func written(t *testing.T, url string) int {
	t.Helper()
	return pgtest.Value[int](t, url, `select (select count(*) from bench.orders where token > 0)::int + (select count(*) from bench.history where token > 0)::int`)
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) { return done(), "", nil })
	if err != nil {
		t.Fatal(err)
	}
}

func prove(t *testing.T, url string, ledger load.Ledger) load.Proof {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	proof, err := load.Prove(t.Context(), conn, ledger)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func TestLedgerSaysWhatTheServerHas(t *testing.T) {
	url := bench(t)
	l := start(t, url, func(*load.Options) {})
	waitFor(t, "writes", func() bool { return written(t, url) > 100 })
	ledger, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	counts, proof := ledger.Counts(), prove(t, url, ledger)
	if counts.Acknowledged != written(t, url) || counts.Failed != 0 || counts.Transactions != counts.Acknowledged {
		t.Errorf("the clients counted %+v, the server has %d", counts, written(t, url))
	}
	if !proof.Good() || proof.Looked != counts.Acknowledged {
		t.Errorf("the proof is %+v", proof)
	}
	// The rate is kept: 200 a second, for as long as it ran; never more, and less on
	// a busy machine only.
	if want := ledger.Stopped.Sub(ledger.Began).Seconds() * 200; float64(counts.Transactions) < want*0.3-2 || float64(counts.Transactions) > want+2 {
		t.Errorf("%d transactions, want about %.0f", counts.Transactions, want)
	}
}

// A proof that cannot fail proves nothing.
func TestProofSeesSabotage(t *testing.T) {
	url := bench(t)
	l := start(t, url, func(*load.Options) {})
	waitFor(t, "writes", func() bool { return written(t, url) > 20 })
	ledger, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, url, `delete from bench.orders where token = 2`)
	if p := prove(t, url, ledger); p.Missing != 1 || p.Doubled != 0 || p.Off != 0 {
		t.Errorf("one order deleted: %+v", p)
	}
	pgtest.Exec(t, url, `insert into bench.orders (token) values (4)`)
	if p := prove(t, url, ledger); p.Missing != 1 || p.Doubled != 1 {
		t.Errorf("one order twice: %+v", p)
	}
	pgtest.Exec(t, url, `update bench.orders set id = id + 1000000 where token = 6`)
	if p := prove(t, url, ledger); p.Missing != 2 {
		t.Errorf("one order under another id: %+v", p)
	}
	pgtest.Exec(t, url, `update bench.tellers set tbalance = tbalance - 7 where tid = 3`)
	if p := prove(t, url, ledger); p.Off != 7 {
		t.Errorf("half a transaction: %+v", p)
	}
}

// Clients that wait are measured: the schedule goes on while the server stands.
func TestGapAndLatencyOfAStandstill(t *testing.T) {
	url := bench(t)
	l := start(t, url, func(*load.Options) {})
	waitFor(t, "writes", func() bool { return written(t, url) > 50 })
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	began := time.Now()
	if _, err := conn.Exec(t.Context(), `begin; lock table bench.orders, bench.history in exclusive mode; select pg_sleep(0.4); commit`); err != nil {
		t.Fatal(err)
	}
	before := written(t, url)
	waitFor(t, "writes afterwards", func() bool { return written(t, url) > before+20 })
	ledger, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	from, to := ledger.Gap(began, ledger.Stopped)
	if gap := to.Sub(from); gap < 300*time.Millisecond || gap > 30*time.Second {
		t.Errorf("a gap of %s, want 400 ms", gap)
	}
	if worst, _ := ledger.Latency(began, ledger.Stopped); worst < 300*time.Millisecond {
		t.Errorf("the longest latency is %s, want 400 ms", worst)
	}
	if c := ledger.Counts(); c.Failed != 0 || c.Acknowledged != c.Transactions {
		t.Errorf("%+v", c)
	}
}

// Whether clients repeat what failed is what tells their kinds apart.
func TestRetries(t *testing.T) {
	for name, retry := range map[string]time.Duration{"never": 0, "for a while": time.Minute} {
		t.Run(name, func(t *testing.T) {
			url := bench(t)
			l := start(t, url, func(o *load.Options) { o.RetryFor = retry })
			waitFor(t, "writes", func() bool { return written(t, url) > 50 })
			database := pgtest.Value[string](t, url, `select current_database()::text`)
			pgtest.Exec(t, url, `alter database `+database+` set default_transaction_read_only = on`,
				`select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
			pgtest.Exec(t, url, `set default_transaction_read_only = off`, `alter database `+database+` reset default_transaction_read_only`)
			before := written(t, url)
			if retry == 0 {
				// Its sessions are read-only still.
				pgtest.Exec(t, url, `select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
			}
			waitFor(t, "writes afterwards", func() bool { return written(t, url) > before+20 })
			ledger, err := l.Stop()
			if err != nil {
				t.Fatal(err)
			}
			c := ledger.Counts()
			if c.Failed == 0 || c.Attempts < c.Failed {
				t.Errorf("nobody saw a failure: %+v", c)
			}
			if lost := c.GaveUp - c.Unknown; (retry == 0) != (lost > 0) {
				t.Errorf("%d transactions were given up: %+v", lost, c)
			}
			if p := prove(t, url, ledger); !p.Good() {
				t.Errorf("%+v", p)
			}
		})
	}
}
