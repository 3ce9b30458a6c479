package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestParseTable(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"probe":                 `"probe"`,
		"App.Probe":             `"app"."probe"`,
		`"App"."pro""be"`:       `"App"."pro""be"`,
		`"a.b"`:                 `"a.b"`,
		"größe.t$1":             `"größe"."t$1"`,
		"a.b.c":                 "error",
		"a b":                   "error",
		"1a":                    "error",
		`"a`:                    "error",
		".a":                    "error",
		"a.":                    "error",
		`x"; drop table y; --"`: "error",
	} {
		got, err := parseTable(text)
		if (err != nil) != (want == "error") || (err == nil && string(got) != want) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for name, want := range map[table]string{ownTable: "<nil>", moveTable: "pgcutover", `"a""b"."c"`: `a"b`} {
		got := "<nil>"
		if s := name.schema(); s != nil {
			got = *s
		}
		if got != want {
			t.Errorf("the schema of %s is %s, want %s", name, got, want)
		}
	}
}

// A role that may not make tables is told what to ask for, and probes with that.
func TestRights(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		pgtest.Exec(t, url, `revoke create on schema public from public`)
		mine := role(t, url)
		f := fails(t, Options{URL: mine}, Refused, pg.InsufficientPrivilege)
		if !strings.Contains(f.Hint, "--table") || !strings.Contains(f.Hint, "create table") {
			t.Errorf("hint %q", f.Hint)
		}
		pgtest.Exec(t, url, `create schema ops`, fmt.Sprintf(createSQL, `ops."Probe Table"`))
		f = fails(t, Options{URL: mine, Table: `ops."Probe Table"`}, Refused, pg.InsufficientPrivilege)
		name := strings.TrimSuffix(f.Hint[strings.LastIndex(f.Hint, `"probe_`)+1:], `"`)
		pgtest.Exec(t, url, `grant usage on schema ops to `+name, f.Hint[strings.Index(f.Hint, "grant select"):])
		_, p := works(t, Options{URL: mine, Table: `ops."Probe Table"`})
		if n := pgtest.Value[int](t, url, `select count(*) from ops."Probe Table"`); n != 0 || len(p.warnings) > 0 {
			t.Errorf("%d rows are left, %q", n, p.warnings)
		}

		// Its own schema is as good a place as any.
		pgtest.Exec(t, url, `create schema authorization `+name)
		r, _ := works(t, Options{URL: mine})
		if r.Server == nil || pgtest.Value[bool](t, mine, tableThere) {
			t.Errorf("round %+v, or the table is left", r)
		}
	})
}

// Others' subscribers must not get a table that they do not have.
func TestPublished(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		pgtest.Exec(t, url, `create publication everything for all tables`)
		f := fails(t, Options{URL: url}, Refused, "")
		if !strings.Contains(f.Message, "everything") || !strings.Contains(f.Hint, "--table") {
			t.Errorf("failure %+v", f)
		}
		if pgtest.Value[bool](t, url, tableThere) {
			t.Error("the table was made")
		}
		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "mine"))
		works(t, Options{URL: url, Table: "mine"})
		pgtest.Exec(t, url, `drop publication everything`)
		if pgtest.Value[int](t, url, `select current_setting('server_version_num')::int`) >= 150000 {
			pgtest.Exec(t, url, `create schema other`, `create publication one for tables in schema public`)
			fails(t, Options{URL: url}, Refused, "")
			works(t, Options{URL: url, Table: "other.probe"})
		}
	})
}

// Two probers that find no table: both work, and the one that made it leaves it
// to the other.
func TestTwoProbers(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		var all []*running
		for range 4 {
			all = append(all, start(t, Options{URL: url, Schedule: []Pace{{Every: time.Millisecond}}}))
		}
		for _, p := range all {
			p.until("ten writes", func(r Round) bool { return r.N >= 10 })
		}
		for _, p := range all {
			if r := p.stop(); r.Failed > 0 {
				t.Errorf("%d failed, last %s", r.Failed, r.Last)
			}
		}
	})
}

// loses takes rows away until the probe says so, and waits for two writes, of which
// one began after that. What comes between the probe's looking for its row and its
// writing it anew leaves no trace.
func (p *running) loses(url, sql string) Round {
	p.t.Helper()
	from := len(p.seen())
	var tried time.Time
	lost := p.untilFrom(from, "the loss after "+sql, failing(Lost), func() {
		if time.Since(tried) > time.Second {
			pgtest.Exec(p.t, url, sql)
			tried = time.Now()
		}
	})
	p.until("a write", ok)
	p.until("a write", ok)
	return lost
}

// What is acknowledged and gone is noticed: later, at once, and when a trigger
// has swallowed it. A table that was made anew has lost nothing.
func TestLost(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "mine"))
		p := start(t, Options{URL: url, Table: "mine"})
		p.until("a write", ok)
		lost := p.loses(url, `delete from mine`)
		// The DELETE may also come between a write and its reading back.
		if m := lost.Failure.Message; !strings.Contains(m, "no longer there") && !strings.Contains(m, "does not find the row") {
			t.Errorf("failure %s", lost.Failure)
		}
		p.loses(url, `update mine set n = n - 10000000`) // restored from yesterday
		pgtest.Exec(t, url, `drop table mine; `+fmt.Sprintf(createSQL, "mine"))
		from := len(p.seen())
		p.until("a write", ok)
		for _, r := range p.seen()[from:] {
			if !r.OK {
				t.Errorf("the table was made anew: %s", r.Failure)
			}
		}
		p.stop()

		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "eaten"),
			`create function eat() returns trigger language plpgsql as 'begin delete from eaten; return null; end'`,
			`create constraint trigger eat after insert on eaten deferrable initially deferred for each row execute procedure eat()`)
		f := fails(t, Options{URL: url, Table: "eaten"}, Lost, "")
		if !strings.Contains(f.Message, "does not find") {
			t.Errorf("failure %s", f)
		}
		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "swallowed"),
			`create function swallow() returns trigger language plpgsql as 'begin return null; end'`,
			`create trigger swallow before insert on swallowed for each row execute procedure swallow()`)
		fails(t, Options{URL: url, Table: "swallowed"}, Lost, "")
	})
}

// A table that is made anew between a write and its reading back has lost nothing,
// also when it is partitioned: a row that is deleted then is lost.
func TestMadeAnewInBetween(t *testing.T) {
	const partitionedSQL = `
create table anew (prober text primary key, n bigint not null, at timestamptz not null) partition by hash (prober);
create table anew_0 partition of anew for values with (modulus 1, remainder 0)`
	eachMajor(t, func(t *testing.T, url string) {
		shapes := []string{fmt.Sprintf(createSQL, "anew")}
		if pgtest.Value[int](t, url, `select current_setting('server_version_num')::int`) >= 110000 {
			shapes = append(shapes, partitionedSQL) // 10 has no primary key of a partitioned table
		}
		for _, shape := range shapes {
			pgtest.Exec(t, url, `drop table if exists anew; `+shape)
			s := newSession(t, Options{URL: url, Table: "anew"})
			between := func(sql string) error {
				s.prober.lastN++
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := s.look(ctx); err != nil {
					t.Fatal(err)
				}
				if err := s.write(ctx); err != nil {
					t.Fatal(err)
				}
				pgtest.Exec(t, url, sql)
				return s.readBack(ctx)
			}
			var lost *lostError
			for sql, right := range map[string]func(error) bool{
				`select`:                         func(err error) bool { return err == nil },
				`drop table anew; ` + shape:      func(err error) bool { return errors.Is(err, errMoved) },
				`drop table anew`:                func(err error) bool { return errors.Is(err, errMoved) },
				`delete from anew`:               func(err error) bool { return errors.As(err, &lost) },
				`update anew set n = n - 1`:      func(err error) bool { return errors.As(err, &lost) },
				`alter table anew rename to was`: func(err error) bool { return errors.Is(err, errMoved) },
			} {
				if err := between(sql); !right(err) {
					t.Errorf("after %s: %v", sql, err)
				}
				pgtest.Exec(t, url, `drop table if exists anew, was; `+shape)
			}
		}
	})
}

// While a move is under way, an ordinary role probes the table that start made,
// and that is closed with the others.
func TestClosedFence(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		closeFence, openFence := moving(t, url)
		mine := role(t, url)
		fails(t, Options{URL: mine}, Refused, pg.InsufficientPrivilege)
		install(t, url)
		p := start(t, Options{URL: mine})
		p.until("a write", ok)
		closeFence(fence.Error)
		f := p.until("the closed fence", failing(Closed)).Failure
		if f.SQLSTATE != pg.ReadOnlyTransaction || !strings.Contains(f.Message, "pgcutover moves this database") || !strings.Contains(f.Hint, "pgcutover status") {
			t.Errorf("failure %+v", f)
		}
		openFence(fence.Error)
		p.next("recovery", func(r Round) bool { return r.Change == Recovered })
		closeFence(fence.Disconnect)
		f = p.until("the session ended", failing(Connection)).Failure
		if f.SQLSTATE != pg.AdminShutdown || !strings.Contains(f.Hint, "on_closed") {
			t.Errorf("failure %+v", f)
		}
		openFence(fence.Error)
		p.next("recovery", func(r Round) bool { return r.Change == Recovered })
		r := p.stop()
		if r.Table != string(moveTable) || len(p.warnings) > 0 {
			t.Errorf("table %s, warnings %q", r.Table, p.warnings)
		}
		if n := pgtest.Value[int](t, url, `select count(*) from pgcutover.probe`); n != 0 {
			t.Errorf("%d rows are left", n)
		}

		// Frozen, it waits at the gate as every writer does, and goes on after.
		gate, err := connect(t, url).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gate.Exec(t.Context(), `lock table pgcutover.gate in exclusive mode`); err != nil {
			t.Fatal(err)
		}
		timesOut(t, Options{URL: mine, Timeout: 300 * time.Millisecond})
		nobodyWaits(t, url)
		released := rollbackBehind(t, url, gate, 100*time.Millisecond)
		if r, _ := works(t, Options{URL: mine}); r.WriteMS < 50 {
			t.Errorf("it did not wait: %+v", r)
		}
		<-released
	})
}

// Without that table the probe makes it, if it may; and a table without a fence
// is asked about.
func TestFenceOfOtherTables(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		closeFence, openFence := moving(t, url)
		works(t, Options{URL: url})
		const fenced = `select count(*) from pg_trigger where tgrelid = 'pgcutover.probe'::regclass and tgenabled = 'A'`
		if n := pgtest.Value[int](t, url, fenced); n != 1 {
			t.Errorf("%d fences on the table that the probe made", n)
		}
		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "mine"), `grant all on mine to public`)
		mine := role(t, url)
		_, p := works(t, Options{URL: mine, Table: "mine"})
		if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], "no fence") {
			t.Errorf("warnings %q", p.warnings)
		}
		closeFence(fence.Error)
		fails(t, Options{URL: url}, Closed, pg.ReadOnlyTransaction)
		fails(t, Options{URL: url, Table: "mine"}, Closed, pg.ReadOnlyTransaction)
		pgtest.Exec(t, url, `grant usage on schema pgcutover to public`)
		fails(t, Options{URL: mine, Table: "mine"}, Closed, pg.ReadOnlyTransaction)
		openFence(fence.Error)
		if _, p := works(t, Options{URL: mine, Table: "mine"}); len(p.warnings) > 0 {
			t.Errorf("warnings %q", p.warnings)
		}
		// At the end of a move the schema goes, under a running probe.
		q := start(t, Options{URL: url})
		q.until("a write", ok)
		pgtest.Exec(t, url, `drop schema pgcutover cascade`)
		q.until("the round that was under way, or the next", ok)
		q.until("a write", ok)
		if r := q.stop(); r.Failed > 0 || r.Table != string(ownTable) || pgtest.Value[bool](t, url, tableThere) {
			t.Errorf("report %+v, last %v", r, r.Last)
		}
	})
}

func TestExpect(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	oldURL, newURL := pgtest.Database(t, pgtest.Server(t, pair.Old)), pgtest.Database(t, pgtest.Server(t, pair.New))
	servers := map[pg.Side]Server{}
	for side, url := range map[pg.Side]string{pg.Old: oldURL, pg.New: newURL} {
		s, err := Identify(t.Context(), pg.Options{Side: side, URL: url, Move: "m"})
		if err != nil {
			t.Fatal(err)
		}
		servers[side] = s
	}
	o := Options{URL: newURL, Servers: servers, Expect: pg.New}
	if r, _ := works(t, o); r.Server.Side != pg.New {
		t.Errorf("server %+v", r.Server)
	}
	o.Expect = pg.Old
	f := fails(t, o, WrongServer, "")
	if !strings.Contains(f.Message, "the new server (system "+servers[pg.New].System) || !strings.Contains(f.Message, "not the old server") || !strings.Contains(f.Message, "took the write") {
		t.Errorf("failure %s", f)
	}
	name := pgtest.Value[string](t, newURL, `select current_database()::text`)
	pgtest.Exec(t, newURL, "alter database "+name+" set default_transaction_read_only = on")
	if f = fails(t, o, WrongServer, pg.ReadOnlyTransaction); !strings.Contains(f.Message, "did not take the write") {
		t.Errorf("failure %s", f)
	}
	delete(o.Servers, pg.New)
	if f = fails(t, o, WrongServer, pg.ReadOnlyTransaction); strings.Contains(f.Message, "new") {
		t.Errorf("failure %s", f)
	}
	// The other database of the right server is a wrong one, too.
	o.URL = pgtest.Database(t, pgtest.Server(t, pair.Old))
	fails(t, o, WrongServer, "")
}
