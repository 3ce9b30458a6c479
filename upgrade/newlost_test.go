package upgrade

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/traffic"
)

// besidesSQL makes sequences of every kind beside that of item.
const besidesSQL = `
create sequence public.alone;
create table public.unindexed (name text primary key, id serial);
create sequence public.given;
create table public.byDefault (id bigint primary key default nextval('public.given'));
create table public.sentinel (id serial primary key);
create table public.parts (id bigserial, at int, primary key (id, at))`

// cutOverToOwn starts a move to a new server of the test's own and cuts over.
// Its clients have no CONNECT on the closed server.
func cutOverToOwn(t *testing.T, name string) (m *Move, c *pgserver.Cluster, oldURL, newURL string) {
	t.Helper()
	return cutOverBetween(t, name, pgtest.Server(t, pgtest.Pairs(t)[0].Old))
}

func cutOverBetween(t *testing.T, name string, old *pgserver.Cluster) (m *Move, c *pgserver.Cluster, oldURL, newURL string) {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	c = pgtest.Cluster(t, pgserver.Options{Major: pair.New, Durable: true})
	pgtest.Exec(t, c.URL("postgres"), "create database shop template template0")
	oldURL, newURL = pgtest.Database(t, old), c.URL("shop")
	pgtest.Exec(t, oldURL, itemSQL, besidesSQL, `insert into public.item (name) select 'x' from generate_series(1, 50)`,
		`insert into public.sentinel values (2147483647)`)
	m = reopened(t, name, oldURL, newURL)
	m.Options.Cutover.RevokeConnect = true
	m.startedForTest(t)
	turn, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	turn.Gates = nil
	if err := turn.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	return m, c, oldURL, newURL
}

// onlyOldOf opens the move as a fresh machine does that cannot reach new.
func onlyOldOf(t *testing.T, m *Move, newURL string) *Move {
	t.Helper()
	o := m.Options
	o.New.URL = newURL
	o.Traffic = []traffic.Driver{traffic.Multihost{}}
	out, err := OpenOld(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	return out
}

// onceGone reads what old has when it has noticed that new was killed, which may
// take a moment.
func onceGone(t *testing.T, m *Move) (seen OldRemains) {
	t.Helper()
	err := pg.Wait(t.Context(), "old to lose new", 20*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		var err error
		if seen, err = m.OldRemains(ctx); errors.Is(err, ErrAnswers) {
			return false, err.Error(), nil
		}
		return true, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

const nobodyListens = "postgres://postgres@127.0.0.1:1/shop?connect_timeout=2"

const aclSQL = `
select coalesce(datacl::text, '') || coalesce(shobj_description(oid, 'pg_database'), '')
  from pg_database
 where datname = current_database()`

// nextval is what a client would get, from a session that may write.
func nextval(t *testing.T, url, sequence string) int64 {
	t.Helper()
	return pgtest.Value[int64](t, url, `select nextval($1::regclass)`, sequence)
}

// TestNewLostStepByStep ends a tool behind each step of it in turn, as a kill
// does, and runs the command again: each time it finds what is left to do.
func TestNewLostStepByStep(t *testing.T) {
	m, cluster, oldURL, newURL := cutOverToOwn(t, "lost1")
	pgtest.Exec(t, newURL, `insert into public.item (name) select 'new' from generate_series(1, 300)`,
		`insert into public.byDefault select from generate_series(1, 7)`)
	back := func() int {
		return pgtest.Value[int](t, oldURL, `select (select count(*) from public.item) + (select count(*) from public.byDefault)`)
	}
	if err := pg.Wait(t.Context(), "the rows to come back", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return back() == 357, "", nil
	}); err != nil {
		t.Fatal(err)
	}
	greatest := pgtest.Value[int64](t, oldURL, `select max(id) from public.item`)
	turnedRound(t, m)

	// It answers, and when it does not answer here, old is still in touch with it.
	for _, url := range []string{newURL, nobodyListens} {
		cut := onlyOldOf(t, m, url)
		if _, err := cut.OldRemains(t.Context()); !errors.Is(err, ErrAnswers) {
			t.Errorf("with new at %s: %v", url, err)
		}
	}
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	closed := pgtest.Value[string](t, oldURL, aclSQL)
	if !strings.Contains(closed, "writes are refused") {
		t.Fatalf("the closed database has %q", closed)
	}

	first := onlyOldOf(t, m, newURL)
	seen := onceGone(t, first)
	if !seen.Back.Flowed || seen.Back.Position == "" || seen.Closed == nil {
		t.Errorf("old has %+v", seen)
	}
	var named []string
	for _, p := range seen.NotRaised {
		named = append(named, p.Name)
	}
	if got := strings.Join(named, " "); got != "alone sentinel_id_seq unindexed_id_seq" {
		t.Errorf("not raised: %s", got)
	}
	steps := (&givingUp{Move: first, remains: seen, out: &GivenUp{}}).steps()
	if len(steps) != 6 {
		t.Fatalf("%d steps", len(steps))
	}
	for n := 1; n <= len(steps); n++ {
		again := onlyOldOf(t, m, newURL)
		now, err := again.OldRemains(t.Context())
		if err != nil {
			t.Fatalf("after %d steps: %v", n-1, err)
		}
		if n <= 4 && (now.Open || now.Back.Position != seen.Back.Position || !now.Back.Flowed) {
			t.Errorf("after %d steps old has %+v, had %+v", n-1, now, seen)
		}
		if n > 4 && (!now.Open || now.Promise == nil) {
			t.Errorf("after %d steps old has %+v", n-1, now)
		}
		g := &givingUp{Move: again, remains: now, out: &GivenUp{}}
		for i, s := range g.steps() {
			if i == n && !now.Open {
				break
			}
			if _, err := s.Do(t.Context()); err != nil {
				t.Fatalf("step %s of run %d: %v", s.Name, n, err)
			}
		}
		again.Close()
	}
	last := onlyOldOf(t, m, newURL)
	now, err := last.OldRemains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := last.OpenWithoutNew(t.Context(), t.Context(), now); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	last.checkOpened(t, oldURL, greatest)
	if err := last.Abort(t.Context(), t.Context(), RemoveOptions{OldOnly: true}); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// checkOpened looks whether old is a server again that takes writes.
func (m *Move) checkOpened(t *testing.T, oldURL string, greatest int64) {
	t.Helper()
	if got := pgtest.Value[string](t, oldURL, aclSQL); strings.Contains(got, "refused") || !strings.Contains(got, "=Tc/") {
		t.Errorf("the open database has %q", got)
	}
	if n := pgtest.Value[int](t, oldURL, `select (select count(*) from pg_subscription where subname like 'pgcutover_lost%') + (select count(*) from pg_replication_slots where slot_name like 'pgcutover_lost%')`); n != 0 {
		t.Errorf("%d ends of streams are left on old", n)
	}
	pgtest.Exec(t, oldURL, `insert into public.item (name) values ('old again')`, `insert into public.byDefault default values`)
	if got := nextval(t, oldURL, "public.item_id_seq"); got <= greatest+m.Options.Margin {
		t.Errorf("item's sequence gives %d, rows go up to %d", got, greatest)
	}
	if got := nextval(t, oldURL, "public.sentinel_id_seq"); got > 10 {
		t.Errorf("the sequence beside a row with its greatest number gives %d", got)
	}
	status, err := m.Status(t.Context())
	if err != nil || status.Serving != "old" || !status.GivenUp {
		t.Errorf("status: %+v, %v", status, err)
	}
}

// TestNewLostRefuses has nothing to do before the cutover, and must not meddle
// with the server of another move.
func TestNewLostRefuses(t *testing.T) {
	m, oldURL, _ := opened(t, "lost2")
	alone := onlyOldOf(t, m, nobodyListens)
	if _, err := alone.OldRemains(t.Context()); hint.Of(err) != "correct old.url" {
		t.Errorf("before start: %v (%s)", err, hint.Of(err))
	}
	m.startedForTest(t)
	if _, err := alone.OldRemains(t.Context()); !errors.Is(err, ErrServes) {
		t.Errorf("before the cutover: %v", err)
	}
	other := onlyOldOf(t, &Move{Options: Options{Name: "another", Old: Endpoint{URL: oldURL}}}, nobodyListens)
	if _, err := other.OldRemains(t.Context()); err == nil {
		t.Error("another move's server was accepted")
	}
	status, err := alone.Status(t.Context())
	if err != nil || status.Serving != "old" || !strings.Contains(status.Verdict.Next, "abort --old-only") {
		t.Errorf("status: %+v, %v", status, err)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A rollback whose decision has arrived, and whose tool died with new, is
// finished: nothing is missing, nothing is promised.
func TestNewLostAfterARollback(t *testing.T) {
	m, cluster, oldURL, newURL := cutOverToOwn(t, "lost3")
	pgtest.Exec(t, newURL, `insert into public.item (name) values ('new')`)
	turn, err := m.NewRollback(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	turn.Gates = nil
	if err := turn.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	alone := onlyOldOf(t, m, newURL)
	seen := onceGone(t, alone)
	if !seen.Open || !seen.Decided || seen.Promise != nil {
		t.Fatalf("old has %+v", seen)
	}
	if _, err := alone.OpenWithoutNew(t.Context(), t.Context(), seen); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if n := pgtest.Value[int](t, oldURL, `select count(*) from public.item where name = 'new'`); n != 1 {
		t.Errorf("%d rows of new are on old", n)
	}
	if n := pgtest.Value[int](t, oldURL, `select count(*) from pgcutover.decision_back where stream = -1`); n != 0 {
		t.Error("a promise was recorded although the decision was there")
	}
	if err := alone.Abort(t.Context(), t.Context(), RemoveOptions{OldOnly: true}); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
}

// A write that is refused until the promise is recorded: the step that opens is
// one transaction.
func TestNewLostOpensWithTheRecord(t *testing.T) {
	dated := pgtest.Cluster(t, pgserver.Options{Major: pgtest.Pairs(t)[0].Old, Durable: true, Settings: map[string]string{"track_commit_timestamp": "on", "autovacuum": "off"}})
	m, cluster, oldURL, newURL := cutOverBetween(t, "lost4", dated)
	pgtest.Exec(t, newURL, `insert into public.item (name) values ('new')`)
	if err := pg.Wait(t.Context(), "the row to come back", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[int](t, oldURL, `select count(*) from public.item where name = 'new'`) == 1, "", nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	alone := onlyOldOf(t, m, newURL)
	seen := onceGone(t, alone)
	if at := seen.Back.At; m.Old.Major() >= 14 && (at == nil || time.Since(*at) > 10*time.Minute || at.Before(*seen.Closed)) {
		t.Errorf("the last transaction that came back was committed at %v, old was closed at %v", at, seen.Closed)
	}
	// Another attempt has the turn by the time that it opens.
	pgtest.Exec(t, oldURL, `set default_transaction_read_only = off`, `update pgcutover.turn set attempt = attempt + 1`)
	g := &givingUp{Move: alone, remains: seen, out: &GivenUp{}}
	for _, s := range g.steps()[1:4] {
		if s.Name == "sequences" {
			continue
		}
		if _, err := s.Do(t.Context()); err == nil {
			t.Errorf("step %s went on although another attempt has the turn", s.Name)
		}
	}
	if _, err := alone.OpenWithoutNew(t.Context(), t.Context(), seen); err == nil {
		t.Error("it went on with what was shown before")
	}
	conn, err := pgx.Connect(t.Context(), oldURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context(), conn)
	if _, err := conn.Exec(t.Context(), `insert into public.item (name) values ('never')`); pg.Code(err) != pg.ReadOnlyTransaction {
		t.Errorf("a write to the closed server: %v", err)
	}
	seen, err = alone.OldRemains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone.OpenWithoutNew(t.Context(), t.Context(), seen); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if err := alone.Abort(t.Context(), t.Context(), RemoveOptions{OldOnly: true}); err != nil {
		t.Fatal(err)
	}
}
