package workload

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// move is a move made by hand, with the least that a correct one needs, and
// with the mistakes that the proof has to find.
type move struct {
	oldURL, newURL, both string
	database             string
}

// newMove makes shops of one name on both servers and streams old to new.
func newMove(t *testing.T, pair pgtest.Pair) *move {
	t.Helper()
	m := &move{database: fmt.Sprintf("shop_%d", time.Now().UnixNano())}
	oldServer, newServer := pgtest.Server(t, pair.Old), pgtest.Server(t, pair.New)
	for _, c := range []string{oldServer.URL("postgres"), newServer.URL("postgres")} {
		pgtest.Exec(t, c, "create database "+m.database)
	}
	m.oldURL, m.newURL = oldServer.URL(m.database), newServer.URL(m.database)
	t.Cleanup(func() {
		pgtest.Exec(t, newServer.URL("postgres"), "alter database "+m.database+" reset all")
		pgtest.Exec(t, m.newURL, "alter subscription "+m.database+" disable",
			"alter subscription "+m.database+" set (slot_name = none)", "drop subscription "+m.database)
		drop(t, oldServer.URL("postgres"), m.database)
		drop(t, newServer.URL("postgres"), m.database)
	})
	if err := Create(t.Context(), connect(t, m.oldURL), LoadOptions{Rows: 100}); err != nil {
		t.Fatal(err)
	}
	// The schema of old: newer servers would add a generated column.
	for _, sql := range Schema(pair.Old * 10000) {
		pgtest.Exec(t, m.newURL, sql)
	}
	m.stream(t)
	var err error
	if m.both, err = Multihost(m.oldURL, m.newURL); err != nil {
		t.Fatal(err)
	}
	return m
}

// drop drops a database as soon as its sessions and slots have ended.
func drop(t *testing.T, admin, database string) {
	t.Helper()
	conn := connect(t, admin)
	ctx := context.WithoutCancel(t.Context())
	until(t, "dropping "+database, func() bool {
		for _, sql := range []string{
			`select pg_terminate_backend(pid) from pg_stat_activity where datname = '` + database + `'`,
			`select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '` + database + `'`,
			`drop database ` + database,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return false
			}
		}
		return true
	})
	pg.Close(ctx, conn)
}

func (m *move) stream(t *testing.T) {
	t.Helper()
	const leaves = `"SHOP".customers, "SHOP".orders, "SHOP"."Order Items", "SHOP".payments, "SHOP".tickets, "SHOP".events_early,
		"SHOP".events_2024h2, "SHOP".events_late, "SHOP".documents, "SHOP".stock, "SHOP".probe`
	pgtest.Exec(t, m.oldURL, "create publication "+m.database+" for table "+leaves)
	u, err := url.Parse(m.oldURL)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.newURL, fmt.Sprintf("create subscription %s connection 'host=127.0.0.1 port=%s dbname=%s user=postgres' publication %s",
		m.database, u.Port(), m.database, m.database))
	pgtest.Exec(t, m.newURL, "alter database "+m.database+" set default_transaction_read_only = on")
	until(t, "the copy", func() bool {
		return pgtest.Value[int64](t, m.newURL, `select count(*) from pg_subscription_rel where srsubstate <> 'r'`) == 0
	})
}

// closeOld makes new sessions on old read-only and ends the others, except the
// stream's. Those that are just being opened may be missed, so that it waits for
// the writers' first.
func (m *move) closeOld(t *testing.T, w *Writers) {
	t.Helper()
	until(t, "all writers to be connected", func() bool { return w.Ledger().Stats().Connects >= 4 })
	pgtest.Exec(t, m.oldURL, "set default_transaction_read_only = off",
		"alter database "+m.database+" set default_transaction_read_only = on")
	until(t, "the sessions on old to end", func() bool {
		return pgtest.Value[int64](t, m.oldURL, `
			select count(pg_terminate_backend(pid)) from pg_stat_activity
			 where datname = current_database() and application_name like 'shop/%'
			   and backend_start < (select max(backend_start) from pg_stat_activity where pid = pg_backend_pid())`) == 0
	})
}

func (m *move) drain(t *testing.T) {
	t.Helper()
	lsn := pgtest.Value[string](t, m.oldURL, `select pg_current_wal_lsn()::text`)
	until(t, "new to have everything", func() bool {
		return pgtest.Value[bool](t, m.oldURL, `
			select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2::text`, lsn, m.database)
	})
}

func (m *move) carrySequences(t *testing.T) {
	t.Helper()
	for _, s := range sequences {
		last := pgtest.Value[int64](t, m.oldURL, "select last_value from "+s.name)
		step := int64(1000)
		if !s.ascending {
			step = -1000
		}
		pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off",
			fmt.Sprintf("select setval('%s', %d)", s.name, last+step))
	}
}

func (m *move) openNew(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off",
		"alter database "+m.database+" reset default_transaction_read_only")
}

func (m *move) onNew(t *testing.T, w *Writers, n int) {
	t.Helper()
	until(t, "writes on new", func() bool { return w.Ledger().Sides().TransactionsOnNew >= n })
}

func TestHandover(t *testing.T) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(pair.String(), func(t *testing.T) {
			m := newMove(t, pair)
			checkLeaks(t)
			prober := startProber(t, ProberOptions{OldURL: m.oldURL, NewURL: m.newURL, Every: 10 * time.Millisecond})
			w := start(t, Options{URL: m.both})
			more(t, w, 200)
			moreProbes(t, prober, pg.Old, Accepted, 1)
			m.closeOld(t, w)
			m.drain(t)
			m.carrySequences(t)
			m.openNew(t)
			opened := time.Now()
			m.onNew(t, w, 200)
			stop(t, w)
			stopProber(t, prober)

			p := prove(t, m.newURL, w.Ledger())
			if err := p.Err(); err != nil {
				t.Error(err)
			}
			if p.SequenceValuesReissued != 0 {
				t.Errorf("%d values reissued", p.SequenceValuesReissued)
			}
			if err := prober.Err(); err != nil {
				t.Error(err)
			}
			if missing, err := prober.Missing(t.Context(), connect(t, m.newURL)); err != nil || len(missing) > 0 {
				t.Errorf("%d probes missing, %v", len(missing), err)
			}
			checkSides(t, m, w.Ledger())
			s := w.Ledger().Stats()
			t.Logf("%v\n%+v\npause %s, neither for %s, first on new %s after it was opened", p, s,
				w.Ledger().Handovers()[0].Pause(), prober.NeitherFor(), w.Ledger().Sides().FirstOnNew.Sub(opened))
			if s.Failed == 0 || s.Connects < 8 {
				t.Errorf("%d failed, %d connects: the clients did not move", s.Failed, s.Connects)
			}
		})
	}
}

func checkSides(t *testing.T, m *move, l *Ledger) {
	t.Helper()
	oldServer, err := Identify(t.Context(), connect(t, m.oldURL))
	if err != nil {
		t.Fatal(err)
	}
	newServer, err := Identify(t.Context(), connect(t, m.newURL))
	if err != nil {
		t.Fatal(err)
	}
	s := l.Sides()
	if s.Old != oldServer || s.New != newServer || s.TransactionsOnOld < 200 || s.TransactionsOnNew < 200 || s.OnOld < 200 || s.OnNew < 200 {
		t.Errorf("%+v; want writes on %s, then on %s", s, oldServer, newServer)
	}
	h := l.Handovers()
	if len(h) != 1 || h[0].Last != s.LastOnOld || h[0].First != s.FirstOnNew || h[0].Pause() <= 0 {
		t.Fatalf("handovers %+v, sides %+v", h, s)
	}
	if gap := l.LongestGap(s.LastOnOld.Add(-time.Second), s.FirstOnNew); gap < h[0].Pause() {
		t.Errorf("the longest gap is %s, shorter than the handover's %s", gap, h[0].Pause())
	}
	l.Expect(newServer, oldServer)
	if len(l.SplitBrain()) == 0 {
		t.Error("no write out of turn although the order is the other one")
	}
	l.Expect()
}

// TestHandoverMistakes makes the classic mistakes of a move.
func TestHandoverMistakes(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	for _, mistake := range []struct {
		name  string
		make  func(t *testing.T, m *move, w *Writers)
		found func(p Proof, s Stats) bool
	}{
		{"sequences forgotten", func(t *testing.T, m *move, w *Writers) {
			m.closeOld(t, w)
			m.drain(t)
			m.openNew(t)
			until(t, "writers to run into it", func() bool { return w.Ledger().Stats().Errors[uniqueViolation] > 20 })
		}, func(p Proof, s Stats) bool { return p.SequenceValuesDuplicated > 20 && len(p.SequencesBehind) > 0 }},
		{"opened before it has everything", func(t *testing.T, m *move, w *Writers) {
			pgtest.Exec(t, m.newURL, "set default_transaction_read_only = off", "alter subscription "+m.database+" disable")
			more(t, w, 100)
			m.closeOld(t, w)
			m.carrySequences(t)
			m.openNew(t)
			m.onNew(t, w, 100)
		}, func(p Proof, s Stats) bool { return p.Lost > 50 && p.Stale > 0 }},
		{"opened before old is closed", func(t *testing.T, m *move, w *Writers) {
			m.carrySequences(t)
			m.openNew(t)
			// Some clients go to new, the others stay in the sessions they have.
			pgtest.Exec(t, m.oldURL, "alter database "+m.database+" set default_transaction_read_only = on",
				`select pg_terminate_backend(pid) from pg_stat_activity
				  where datname = current_database() and application_name in ('shop/0', 'shop/1')`)
			m.onNew(t, w, 100)
			m.closeOld(t, w)
			m.drain(t)
		}, func(p Proof, s Stats) bool { return p.SplitBrains > 0 }},
	} {
		t.Run(mistake.name, func(t *testing.T) {
			m := newMove(t, pair)
			w := start(t, Options{URL: m.both})
			more(t, w, 200)
			mistake.make(t, m, w)
			stop(t, w)
			p := prove(t, m.newURL, w.Ledger())
			if !mistake.found(p, w.Ledger().Stats()) || p.Err() == nil {
				t.Errorf("the proof found %s\n%v", counts(p), p.Details)
			}
			t.Log(counts(p))
		})
	}
}

func TestMultihost(t *testing.T) {
	for _, test := range []struct{ a, b, want string }{
		{
			"postgres://app:s'e%5Cc@h1:5433/shop?sslmode=disable", "host=h2 port=5434 user=app password='s\\'e\\\\c' dbname=shop",
			`dbname='shop' host='h1,h2' password='s\'e\\c' port='5433,5434' sslmode='disable' target_session_attrs='read-write' user='app'`,
		},
		{"postgres://app@h1/shop", "postgres://app@h2/other", ""},
		{"postgres://app@h1/shop", "postgres://other@h2/shop", ""},
		{"postgres://app:x@h1/shop", "postgres://app:y@h2/shop", ""},
	} {
		got, err := Multihost(test.a, test.b)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("Multihost(%q, %q) = %q, %v", test.a, test.b, got, err)
		}
		if test.want == "" {
			continue
		}
		config, err := pgx.ParseConfig(got)
		if err != nil || config.Password != `s'e\c` || config.Fallbacks[len(config.Fallbacks)-1].Host != "h2" {
			t.Errorf("pgx reads %q as %v, %v", got, config, err)
		}
	}
	if _, err := Start(context.Background(), Options{URL: "postgres://u:secret@h:notaport/d"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a malformed connection string: %v", err)
	}
}
