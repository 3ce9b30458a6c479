package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

const tableThere = `select to_regclass('pgcutover_probe') is not null`

// The prober writes in one row of one page, and leaves nothing.
func TestWorks(t *testing.T) {
	checkLeaks(t)
	eachMajor(t, func(t *testing.T, url string) {
		p := start(t, Options{URL: url, Schedule: []Pace{{Every: time.Millisecond}}})
		const rounds = 150
		until(t, "rounds", func() bool { return len(p.seen()) >= rounds })
		type shape struct {
			Rows, Size int64
			Prober     string
		}
		var s shape
		err := connect(t, url).QueryRow(t.Context(), `
			select count(*), pg_relation_size('pgcutover_probe'), min(prober) from pgcutover_probe`).Scan(&s.Rows, &s.Size, &s.Prober)
		if err != nil {
			t.Fatal(err)
		}
		if text := pgtest.Value[string](t, url, `select obj_description('pgcutover_probe'::regclass)`); !strings.Contains(text, "may be dropped") {
			t.Errorf("the table says %q", text)
		}
		if s.Rows != 1 || s.Size > 8192 {
			t.Errorf("after %d rounds %d rows in %d bytes, want one row in one page", rounds, s.Rows, s.Size)
		}
		r := p.stop()
		if r.Failed != 0 || r.Failing || r.Err() != nil || r.Rounds != len(p.seen()) || r.Rounds < rounds || len(p.warnings) != 0 {
			t.Errorf("report %+v, warnings %q", r, p.warnings)
		}
		if r.Prober != s.Prober || r.Table != string(ownTable) || len(r.Servers) != 1 || r.Servers[0].Rounds != r.Rounds || r.UnavailableMS != 0 {
			t.Errorf("report %+v of prober %s", r, s.Prober)
		}
		if l := r.Latency; l.Min <= 0 || l.Min > l.Mean || l.Mean > l.Max {
			t.Errorf("latency %+v", l)
		}
		if pgtest.Value[bool](t, url, tableThere) {
			t.Error("the table is left")
		}
		for i, round := range p.seen() {
			if round.N != i+1 || !round.OK || round.WriteMS <= 0 || round.ReadMS <= 0 || round.ConnectMS <= 0 || round.TookMS < round.WriteMS+round.ReadMS {
				t.Fatalf("round %+v", round)
			}
			if got, want := round.Server.Database, pgtest.Value[uint32](t, url, `select oid from pg_database where datname = current_database()`); i == 0 && got != want {
				t.Errorf("database %d, want %d", got, want)
			}
		}
	})
}

func TestReadOnlyDatabase(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		name := pgtest.Value[string](t, url, `select current_database()::text`)
		p := start(t, Options{URL: url})
		p.until("a write", ok)
		pgtest.Exec(t, url, "alter database "+name+" set default_transaction_read_only = on")
		first := p.next("a refusal", failing(ReadOnly))
		if first.Failure.SQLSTATE != pg.ReadOnlyTransaction || !strings.Contains(first.Failure.Hint, "pg_db_role_setting") {
			t.Errorf("failure %+v", first.Failure)
		}
		more := p.until("further refusals", func(r Round) bool { return r.FailedRounds >= 4 })
		if first.Change != Failing || more.Change != "" || more.FailingMS <= first.FailingMS || !more.Since.Equal(first.At) {
			t.Errorf("first %+v, later %+v", first, more)
		}
		pgtest.Exec(t, url, "set default_transaction_read_only = off", "alter database "+name+" reset default_transaction_read_only")
		again := p.next("a write again", ok)
		if again.Change != Recovered || again.FailedRounds < 4 || again.FailingMS <= more.FailingMS {
			t.Errorf("recovered %+v", again)
		}
		p.until("a write later", func(r Round) bool { return r.OK && r.Change == "" && r.Since == nil })
		r := p.stop()
		if len(r.Outages) != 1 || !r.Outages[0].Over || r.Outages[0].Rounds != again.FailedRounds || r.Outages[0].LastedMS != again.FailingMS || r.UnavailableMS != again.FailingMS {
			t.Errorf("report %+v, want the outage of %+v", r, again)
		}
		if err := r.Err(); !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "works again") {
			t.Errorf("error %v: an outage that is over is one all the same", err)
		}
		if pgtest.Value[bool](t, url, tableThere) {
			t.Error("the table is left")
		}
	})
}

// A crash and a restart in the middle: the outage is told, its length is right,
// and no write is called lost.
func TestServerRestart(t *testing.T) {
	checkLeaks(t)
	c := pgtest.Cluster(t, pgserver.Options{Major: pgtest.Majors(t)[0], Durable: true})
	p := start(t, Options{URL: c.URL("postgres"), Timeout: patience})
	p.until("a write", ok)
	for _, stop := range []func() error{c.Crash, func() error { return c.Stop(t.Context()) }} {
		seen := p.seen()
		from, began := len(seen), seen[len(seen)-1].ended // the next round may have begun
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		down := p.until("a failure", failing(Connection))
		if down.Failure.Hint == "" {
			t.Errorf("no hint with %s", down.Failure)
		}
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		up := p.untilFrom(from, "recovery", func(r Round) bool { return r.Change == Recovered })
		if most := milliseconds(time.Since(began)); up.FailingMS <= 0 || up.FailingMS > most {
			t.Errorf("an outage of %.0f ms, and there was one of at most %.0f", up.FailingMS, most)
		}
	}
	r := p.stop()
	if len(r.Outages) != 2 || r.Failing {
		t.Errorf("report %+v", r)
	}
	for _, round := range p.seen() {
		if !round.OK && round.Failure.Kind != Connection {
			t.Errorf("round %d failed: %s", round.N, round.Failure)
		}
	}
}

func TestNobody(t *testing.T) {
	port, err := pgserver.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Release()
	url := "postgres://me:s3cr%2Ft@" + port.Addr() + "/shop?sslmode=disable"
	f := fails(t, Options{URL: url}, Connection, "")
	if !strings.Contains(f.Hint, port.Addr()) {
		t.Errorf("the hint %q does not say where nobody listens", f.Hint)
	}
	_, p := ask(t, Options{URL: url})
	text, err := json.Marshal(p.report)
	if err != nil {
		t.Fatal(err)
	}
	if all := string(text) + fmt.Sprint(p.report.Err(), p.warnings, p.seen()); strings.Contains(all, "s3cr") {
		t.Errorf("the password is shown: %s", all)
	}
	if p.report.Rounds != 1 || p.report.Failed != 1 || !p.report.Failing || p.report.Err() == nil {
		t.Errorf("report %+v", p.report)
	}

	url = pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	name := pgtest.Value[string](t, url, `select current_database()::text`)
	fails(t, Options{URL: strings.Replace(url, name, "nothing", 1)}, Connection, pg.InvalidCatalogName)
	fails(t, Options{URL: pgtest.WithUser(t, url, "nobody", "")}, Connection, pg.InvalidAuthorization)
}

// A server that accepts the connection and says no more must not hold the probe
// up for longer than it was told.
func TestSilence(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		pgtest.Exec(t, url, `create table pgcutover_probe (prober text primary key, n bigint not null, at timestamptz not null)`)
		lock, err := connect(t, url).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Exec(t.Context(), `lock table pgcutover_probe in exclusive mode`); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		f := timesOut(t, Options{URL: url, Timeout: 500 * time.Millisecond})
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %s", took)
		}
		if !strings.Contains(f.Message, "500ms") || f.Hint == "" {
			t.Errorf("failure %+v", f)
		}
		const waiting = `select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pgcutover-probe' and state = 'active'`
		until(t, "the write to end on the server", func() bool { return pgtest.Value[int](t, url, waiting) == 0 })

		// Interrupted while it waits, a probe ends at once, and the round counts for
		// nothing.
		p := start(t, Options{URL: url, Timeout: 2 * time.Minute})
		until(t, "a write that waits", func() bool { return pgtest.Value[int](t, url, waiting) == 1 })
		began = time.Now()
		if r := p.stop(); r.Rounds != 0 || r.Err() != nil || time.Since(began) > 30*time.Second {
			t.Errorf("report %+v after %s", r, time.Since(began))
		}
		until(t, "the interrupted write to end on the server", func() bool { return pgtest.Value[int](t, url, waiting) == 0 })

		// A shorter wait is slow, and no failure.
		released := rollbackBehind(t, url, lock, 200*time.Millisecond)
		r, slow := works(t, Options{URL: url, Slow: 100 * time.Millisecond})
		if !r.Slow || slow.report.Slow != 1 || slow.report.Failed != 0 || r.WriteMS < 100 {
			t.Errorf("round %+v, report %+v", r, slow.report)
		}
		<-released
		if !pgtest.Value[bool](t, url, tableThere) {
			t.Error("a table that the probe did not make is gone")
		}
		if n := pgtest.Value[int](t, url, `select count(*) from pgcutover_probe`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

func TestOnce(t *testing.T) {
	url := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	nobody := &running{t: t}
	r, err := Once(t.Context(), Options{URL: url}, nobody)
	if err != nil || !r.OK {
		t.Errorf("round %+v, %v", r, err)
	}
	r, err = Once(t.Context(), Options{URL: url, Table: "nowhere.probe"}, nobody)
	if !errors.Is(err, ErrFailed) || r.OK || r.Failure == nil {
		t.Errorf("round %+v, %v", r, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Once(ended, Options{URL: url}, nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("a probe that could not ask says %v", err)
	}
}

func TestWrongOptions(t *testing.T) {
	const url = "postgres://me:s3cr3t@127.0.0.1/x"
	for name, o := range map[string]Options{
		"no url":         {},
		"bad url":        {URL: "postgres://me:s3cr3t@[/x"},
		"no pace":        {URL: url, Schedule: []Pace{{}}},
		"negative":       {URL: url, Schedule: []Pace{{Every: -time.Second}}},
		"endless middle": {URL: url, Schedule: []Pace{{Every: time.Second}, {Every: time.Second}}},
		"table":          {URL: url, Table: "a.b.c"},
		"table injected": {URL: url, Table: "t; drop table x"},
		"stranger":       {URL: url, Expect: pg.New},
		"webhook":        {URL: url, Webhook: "ftp://s3cr3t.example/hook"},
		"webhook path":   {URL: url, Webhook: "/s3cr3t"},
	} {
		_, err := Run(t.Context(), o, &running{t: t})
		if err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchedule(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	after := func(d time.Duration) time.Time { return began.Add(d) }
	due := func(paces []Pace, took time.Duration, upTo int) (out []time.Duration) {
		s := schedule{paces: paces, began: began}
		at, more := began, true
		for more && len(out) < upTo {
			out = append(out, at.Sub(began))
			at, more = s.next(at, at.Add(took))
		}
		return out
	}
	all := due(AfterCutover(), time.Millisecond, 200)
	if all[1] != 5*time.Second || all[120] != 10*time.Minute || all[121] != 11*time.Minute || all[199] != 89*time.Minute {
		t.Errorf("after a cutover: %s, %s ... %s, %s, ... %s", all[0], all[1], all[120], all[121], all[199])
	}
	for _, test := range []struct {
		paces []Pace
		took  time.Duration
		want  string
	}{
		{[]Pace{{time.Second, 3 * time.Second}}, 0, "[0s 1s 2s]"},
		{[]Pace{{time.Second, 2 * time.Second}, {2 * time.Second, 4 * time.Second}}, 0, "[0s 1s 2s 4s]"},
		{[]Pace{{time.Second, 5 * time.Second}}, 2 * time.Second, "[0s 2s 4s]"}, // rounds never overlap
		{[]Pace{{time.Minute, time.Second}}, 0, "[0s]"},
	} {
		if got := fmt.Sprint(due(test.paces, test.took, 50)); got != test.want {
			t.Errorf("%v, rounds of %s: %s, want %s", test.paces, test.took, got, test.want)
		}
	}
	if waitUntil(t.Context(), after(0)) != true {
		t.Error("a moment that has passed is waited for")
	}

	url := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	p := start(t, Options{URL: url, Schedule: []Pace{{Every: 50 * time.Millisecond, For: 400 * time.Millisecond}}})
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Error("the schedule has no end")
	}
	if r := p.stop(); r.Rounds < 1 || r.Rounds > 8 || r.Failed != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestReportStaysSmall(t *testing.T) {
	r := Report{}
	since := time.Now()
	server := Server{System: "1"}
	for range maxKept + 100 {
		at := since
		r.add(Round{At: at, Since: &at, Change: Failing, Failure: &Failure{}, FailingMS: 1, FailedRounds: 1})
		r.add(Round{At: at, Since: &at, Change: Recovered, OK: true, Moved: true, Server: &server, FailingMS: 2, FailedRounds: 1, TookMS: 5})
		since = since.Add(time.Second)
	}
	if len(r.Outages) != maxKept || len(r.Servers) != maxKept || r.UnavailableMS != 2*(maxKept+100) || r.Failed != maxKept+100 {
		t.Errorf("%d outages of %.0f ms, %d visits, %d failed", len(r.Outages), r.UnavailableMS, len(r.Servers), r.Failed)
	}
	if l := r.Latency; l.Min != 5 || l.Mean != 5 || l.Max != 5 {
		t.Errorf("latency %+v", l)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), "1100 failed") {
		t.Errorf("%v\n%.300s", err, text.String())
	}
}
