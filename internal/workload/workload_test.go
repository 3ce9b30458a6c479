package workload

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// eachMajor runs a test on every major, with goroutines checked for leaks.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	t.Helper()
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprintf("pg%d", major), func(t *testing.T) {
			pgtest.Server(t, major)
			checkLeaks(t)
			test(t, major)
		})
	}
}

func checkLeaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		// A session that is broken off sends a cancel request, which ends when a busy
		// server has answered it.
		err := pg.Wait(context.WithoutCancel(t.Context()), "goroutines to end", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
			left := goleak.Find(ignore)
			return left == nil, fmt.Sprint(left), nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// newShop makes a database with a shop and returns its URL.
func newShop(t *testing.T, major, rows int) string {
	t.Helper()
	url := pgtest.Database(t, pgtest.Server(t, major))
	if err := Create(t.Context(), connect(t, url), LoadOptions{Rows: rows}); err != nil {
		t.Fatal(err)
	}
	return url
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(context.WithoutCancel(t.Context()), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}

func start(t *testing.T, o Options) *Writers {
	t.Helper()
	if o.Rate == 0 {
		o.Rate = 400
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 30 * time.Second // nobody counts it among the failures
	}
	w, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, w) })
	return w
}

func stop(t *testing.T, w *Writers) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := w.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// until waits for a condition, with a bound.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), what, 5*time.Millisecond, 2*time.Minute, nil, func(context.Context) (bool, string, error) {
		return met(), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// more waits for n more acknowledged transactions.
func more(t *testing.T, w *Writers, n int) {
	t.Helper()
	before := w.Ledger().Stats().Transactions
	until(t, fmt.Sprintf("%d more transactions", n), func() bool { return w.Ledger().Stats().Transactions >= before+n })
}

func prove(t *testing.T, url string, l *Ledger) Proof {
	t.Helper()
	p, err := Prove(t.Context(), connect(t, url), l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCreateLoadsWhatItSays(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 1000)
		for table, want := range map[string]int64{
			"customers": 100, "orders": 1000, `"Order Items"`: 2000, "payments": 1000, "tickets": 101,
			"events": 1000, "documents": 25, "stock": 110, "revenue": 4, "probe": 0,
			"events_early": 1, "events_2024h2": 1, "events_late": 1,
		} {
			got := pgtest.Value[int64](t, url, `select count(*) from "SHOP".`+table)
			if strings.HasPrefix(table, "events_") && got > 0 {
				got = 1 // rows lie in every partition
			}
			if got != want {
				t.Errorf("%s has %d rows, want %d", table, got, want)
			}
		}
		if err := Create(t.Context(), connect(t, url), LoadOptions{Rows: 10}); !pg.IsCode(err, "42P06") {
			t.Errorf("a second Create returned %v, want duplicate_schema", err)
		}
		if n := pgtest.Value[int64](t, url, `select count(*) from "SHOP".orders`); n != 1000 {
			t.Errorf("the second Create left %d orders, want the 1000 of the first", n)
		}
		if n := pgtest.Value[int64](t, url, `select count(*) from "SHOP".documents where pg_column_size(body) > 2000`); n != 25 {
			t.Errorf("%d documents are stored out of line, want 25", n)
		}
	})
}

func TestWritersAndProof(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 1000)
		began := time.Now()
		w := start(t, Options{URL: url})
		more(t, w, 800)
		if _, err := Prove(t.Context(), connect(t, url), w.Ledger()); !errors.Is(err, ErrRunning) {
			t.Errorf("proving while the writers run returned %v, want ErrRunning", err)
		}
		stop(t, w)
		p := prove(t, url, w.Ledger())
		if err := p.Err(); err != nil {
			t.Error(err)
		}
		s := w.Ledger().Stats()
		t.Log(p, s)
		if s.Failed != 0 || s.Unknown != 0 || s.Connects != 4 {
			t.Errorf("on a quiet server: %d failed, %d unknown, %d connects; want 0, 0, 4", s.Failed, s.Unknown, s.Connects)
		}
		if p.Acknowledged < 800 || p.Acknowledged != s.Writes || p.Transactions != s.Transactions {
			t.Errorf("the proof counts %d writes in %d transactions, the writers %d in %d", p.Acknowledged, p.Transactions, s.Writes, s.Transactions)
		}
		if p.SequenceValuesChecked != s.Draws || p.SequencesChecked != 6 {
			t.Errorf("%d values of %d sequences checked, want %d of 6", p.SequenceValuesChecked, p.SequencesChecked, s.Draws)
		}
		checkVariety(t, w.Ledger())
		now := time.Now()
		if gap := w.Ledger().LongestGap(began, now); gap <= 0 || gap > now.Sub(began) {
			t.Errorf("the longest gap is %s of a run of %s", gap, now.Sub(began))
		}
	})
}

// checkVariety looks whether every table had every kind of write.
func checkVariety(t *testing.T, l *Ledger) {
	t.Helper()
	kinds := map[string]int{}
	for _, c := range l.Commits() {
		for _, w := range c.Writes {
			kinds[w.Table+" "+string(w.Kind)]++
		}
	}
	for _, tb := range tables {
		for _, k := range []Kind{Insert, Update, Delete} {
			if kinds[tb.name+" "+string(k)] == 0 {
				t.Errorf("no %s in %s among %v", k, tb.name, kinds)
			}
		}
	}
	given := map[string]bool{}
	for _, d := range l.Draws() {
		given[d.Sequence] = true
	}
	if len(given) != len(sequences) {
		t.Errorf("values drawn from %v, want all %d sequences", given, len(sequences))
	}
}

func TestWritersNeedNoSuperuser(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 100)
		role := fmt.Sprintf("shopper_%d", time.Now().UnixNano())
		pgtest.Exec(t, url, "create role "+role+" login")
		t.Cleanup(func() { pgtest.Exec(t, url, "drop role "+role) })
		w := start(t, Options{URL: pgtest.WithUser(t, url, role, ""), Pooled: true})
		more(t, w, 100)
		stop(t, w)
		if err := prove(t, pgtest.WithUser(t, url, role, ""), w.Ledger()).Err(); err != nil {
			t.Error(err)
		}
		if s := w.Ledger().Stats(); s.Failed != 0 {
			t.Errorf("%d transactions failed: %v", s.Failed, s.Errors)
		}
	})
}

func TestKilledSessions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 200)
		w := start(t, Options{URL: url, Rate: 1000})
		more(t, w, 20)
		conn := connect(t, url)
		until(t, "sessions killed at work", func() bool {
			_, err := conn.Exec(t.Context(), `
				select pg_terminate_backend(pid) from pg_stat_activity
				 where datname = current_database() and application_name like 'shop/%' and state <> 'idle'`)
			if err != nil {
				t.Fatal(err)
			}
			s := w.Ledger().Stats()
			return s.Unknown >= 5 && s.Failed >= 5 && s.Connects >= 30
		})
		more(t, w, 50)
		stop(t, w)
		p := prove(t, url, w.Ledger())
		t.Log(p, w.Ledger().Stats())
		if err := p.Err(); err != nil {
			t.Error(err)
		}
		if p.Unknown == 0 {
			t.Error("the proof resolved no write of unknown outcome")
		}
	})
}

// TestStopBreaksOff stops writers that wait for a lock which never comes.
func TestStopBreaksOff(t *testing.T) {
	major := pgtest.Majors(t)[0]
	pgtest.Server(t, major)
	checkLeaks(t)
	url := newShop(t, major, 100)
	w := start(t, Options{URL: url})
	more(t, w, 20)
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `begin; lock table "SHOP".orders in exclusive mode`); err != nil {
		t.Fatal(err)
	}
	until(t, "all writers waiting", func() bool {
		return pgtest.Value[int64](t, url, `
			select count(*) from pg_stat_activity
			 where datname = current_database() and application_name like 'shop/%' and wait_event_type = 'Lock'`) == 4
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Stop(ctx); err == nil {
		t.Error("Stop returned nil although the writers could not finish")
	}
	if _, err := conn.Exec(t.Context(), "commit"); err != nil {
		t.Fatal(err)
	}
	// The server may still run what the clients gave up.
	until(t, "the writers' sessions to end", func() bool {
		return pgtest.Value[int64](t, url, `
			select count(*) from pg_stat_activity
			 where datname = current_database() and application_name like 'shop/%'`) == 0
	})
	if err := prove(t, url, w.Ledger()).Err(); err != nil {
		t.Error(err)
	}
}
