package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// refused tries a write as the application, which must be refused.
func refused(t *testing.T, s server) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.app)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(t.Context(), conn)
	if _, err := conn.Exec(t.Context(), `create table public.never (id integer)`); pg.Code(err) != pg.ReadOnlyTransaction {
		t.Errorf("a write to the closed server: %v", err)
	}
}

// says checks what a command that must be refused tells.
func (m *move) says(t *testing.T, code int, want string, args ...string) {
	t.Helper()
	if r := m.run(t, code, args...); !strings.Contains(r.stdout+r.stderr, want) {
		t.Errorf("%v does not say %q:\n%s", args, want, r)
	}
}

// noted gives the shop a table for single rows of a test.
func (m *move) noted(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, m.old.app, `create table public.note (id serial primary key, body text)`)
}

const keepAway = "keep every client away from the "

// TestNewIsLost loses the new server for good after the cutover, when the stream
// back has carried all that clients wrote there. Old is opened by a human's
// word, by a tool that is killed at one moment after the other; then the move is
// ended without new. When new comes back all the same, nothing goes on by itself.
func TestNewIsLost(t *testing.T) {
	parallel(t)
	pair := pgtest.Pairs(t)[0]
	fresh := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Durable: true})
	m := newMoveBetween(t, pgtest.Server(t, pair.Old), fresh)
	m.noted(t)
	before := m.catalog(t, m.old)
	c := m.write(t)
	m.start(t)
	m.says(t, exitFailed, "takes the writes already", "resume", "--new-is-lost", "--yes")
	m.run(t, exitDone, "cutover", "--yes")
	c.expect(pg.Old, pg.New)
	c.serves(t, pg.New, time.Now())
	m.says(t, exitFailed, "pgcutover rollback", "resume", "--new-is-lost", "--yes") // it answers
	c.stop(t)
	pgtest.Exec(t, m.new.app, `insert into public.note (body) values ('the last one')`)
	until(t, "the last row to come back", time.Minute, func() bool {
		return pgtest.Value[int](t, m.old.url, `select count(*) from public.note where body = 'the last one'`) == 1
	}, nil)
	if err := fresh.Kill(); err != nil {
		t.Fatal(err)
	}
	refused(t, m.old)
	m.run(t, exitFailed, "resume")
	m.says(t, exitFailed, "resume --new-is-lost", "status")
	m.says(t, exitFailed, "resume --new-is-lost", "abort", "--old-only", "--yes")
	m.says(t, exitUsage, "new's writes came back up to its position", "resume", "--new-is-lost")
	refused(t, m.old)
	t.Log(m.launch(t, nil, "resume", "--new-is-lost").wait(), m.launch(t, nil, "status").wait())
	m.killedAgain(t, "resume", "--new-is-lost", "--yes")

	r := m.run(t, exitDone, "resume", "--new-is-lost", "--yes", "--json")
	if got := answer[cutoverAnswer](t, r); got.Serving != "old" || got.Direction != "back" {
		t.Errorf("it says %+v\n%s", got, r)
	}
	m.run(t, exitDone, "resume", "--new-is-lost", "--yes")
	c.expect(pg.Old, pg.New, pg.Old)
	c.prove(t, pg.Old) // rows, and sequences that are past them
	pgtest.Exec(t, m.old.app, `create table public.afterwards (id integer)`, `insert into public.note (body) values ('by old again')`,
		`drop table public.afterwards`)
	if s := answer[statusAnswer](t, m.run(t, exitDone, "status", "--json")); s.Serving != "old" || s.Phase != "new was given up" {
		t.Errorf("status says %+v", s)
	}
	if r := m.launch(t, nil, "doctor").wait(); !strings.Contains(r.stdout, "move.given-up") || !strings.Contains(r.stdout, "abort --old-only") || strings.Contains(r.stdout, "pgcutover resume\n") {
		t.Errorf("doctor does not say how the move is ended:\n%s", r)
	}

	if err := fresh.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.says(t, exitDone, keepAway+"new server", "status")
	for _, args := range [][]string{{"resume"}, {"resume", "--new-is-lost", "--yes"}, {"rollback", "--yes"}, {"cutover", "--yes"}, {"complete", "--yes"}, {"abort", "--yes"}} {
		m.run(t, exitFailed, args...)
	}
	for _, args := range [][]string{{"resume"}, {"rollback", "--yes"}, {"complete", "--yes"}} {
		m.says(t, exitFailed, keepAway+"new server", args...)
	}
	t.Log(m.launch(t, nil, "doctor").wait())
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	if diff := pgtest.Diff(before, m.catalog(t, m.old)); diff != "" {
		t.Errorf("old is not what it was before start:\n%s", diff)
	}
	m.run(t, exitDone, "complete", "--new-only", "--yes")
}

// TestNewIsLostInRollback loses tool and new server in the middle of a rollback
// that has drained everything and is not decided.
func TestNewIsLostInRollback(t *testing.T) {
	parallel(t)
	pair := pgtest.Pairs(t)[0]
	fresh := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Durable: true})
	m := newMoveBetween(t, pgtest.Server(t, pair.Old), fresh)
	m.noted(t)
	before := m.catalog(t, m.old)
	m.start(t)
	m.run(t, exitDone, "cutover", "--yes")
	pgtest.Exec(t, m.new.app, `insert into public.note (body) values ('by new')`)
	m.hook(t, "before-decide", "kill")
	m.run(t, killed, "rollback", "--yes")
	m.unhook(t, "before-decide")
	if err := fresh.Kill(); err != nil {
		t.Fatal(err)
	}
	m.gone(t)
	refused(t, m.old)
	m.says(t, exitUsage, "a rollback was under way: old has all that new acknowledged before it held its writers", "resume", "--new-is-lost")
	m.run(t, exitDone, "resume", "--new-is-lost", "--yes")
	pgtest.Exec(t, m.old.app, `insert into public.note (body) values ('by old again')`)
	if got := pgtest.Value[string](t, m.old.url, `select string_agg(body, ', ' order by id) from public.note`); got != "by new, by old again" {
		t.Errorf("old has %s", got)
	}
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	if diff := pgtest.Diff(before, m.catalog(t, m.old)); diff != "" {
		t.Errorf("old is not what it was before start:\n%s", diff)
	}
	if err := fresh.Restart(t.Context()); err != nil { // for the test's own cleaning up
		t.Fatal(err)
	}
}

// TestNewIsLostBehindPooler leads the clients of a pooler back to old.
func TestNewIsLostBehindPooler(t *testing.T) {
	parallel(t)
	pair := pgtest.Pairs(t)[0]
	fresh := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Durable: true})
	m := behindPooler(t, newMoveBetween(t, pgtest.Server(t, pair.Old), fresh))
	m.noted(t)
	m.start(t)
	m.run(t, exitDone, "cutover", "--yes")
	client := m.pooler.URL(m.name)
	pgtest.Exec(t, client, `insert into public.note (body) values ('by new')`)
	noted := func(url string) int { return pgtest.Value[int](t, url, `select count(*) from public.note`) }
	until(t, "the row to come back", time.Minute, func() bool { return noted(m.old.url) == 1 }, nil)
	if err := fresh.Kill(); err != nil {
		t.Fatal(err)
	}
	m.run(t, exitDone, "resume", "--new-is-lost", "--yes")
	pgtest.Exec(t, client, `insert into public.note (body) values ('by old again')`)
	if n := noted(m.old.url); n != 2 {
		t.Errorf("old has %d rows, want 2", n)
	}
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	pgtest.Exec(t, client, `insert into public.note (body) values ('an ordinary server')`)
	if err := fresh.Restart(t.Context()); err != nil { // for the test's own cleaning up
		t.Fatal(err)
	}
}

// TestNewIsLostUnopened loses the tool and the new server between the decision
// and its arrival there. A new server that comes back is armed for that decision,
// which must never reach it: old serves by then.
func TestNewIsLostUnopened(t *testing.T) {
	parallel(t)
	pair := pgtest.Pairs(t)[0]
	fresh := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Durable: true})
	m := newMoveBetween(t, pgtest.Server(t, pair.Old), fresh)
	m.noted(t)
	m.start(t)
	m.unheard(t)
	// Ending, the server would end that session first, and the worker would go on.
	following := "alter subscription pgcutover_" + m.name
	pgtest.Exec(t, m.new.url, "set default_transaction_read_only = off", following+" disable")
	m.forget(t)
	if err := fresh.Kill(); err != nil {
		t.Fatal(err)
	}
	m.gone(t)
	refused(t, m.old)
	m.says(t, exitUsage, "nothing has come back", "resume", "--new-is-lost")
	m.run(t, exitDone, "resume", "--new-is-lost", "--yes")
	pgtest.Exec(t, m.old.app, `insert into public.note (body) values ('by old again')`)

	if err := fresh.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.new.url, "set default_transaction_read_only = off", following+" enable")
	until(t, "new to miss its stream", time.Minute, func() bool {
		return strings.Contains(fresh.LogTail(50), `replication slot "pgcutover_`+m.name+`" does not exist`)
	}, func() string { return fresh.LogTail(50) })
	m.says(t, exitDone, "is back, closed", "status")
	for _, args := range [][]string{{"resume"}, {"rollback", "--yes"}, {"cutover", "--yes"}, {"complete", "--yes"}, {"abort", "--yes"}} {
		m.run(t, exitFailed, args...)
	}
	if got := m.launch(t, nil, "doctor", "--fix").wait(); !strings.Contains(got.stdout, "move.given-up") {
		t.Errorf("doctor does not say that new was given up:\n%s", got)
	}
	refused(t, m.new)
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	refused(t, m.new)
}

// unheard runs a cutover whose tool dies with the decision, while the session
// that it returns keeps everybody from opening new.
func (m *move) unheard(t *testing.T) *pgx.Conn {
	t.Helper()
	m.hook(t, "before-decide", "hold")
	m.hook(t, "after-decide", "kill")
	turning := m.launch(t, nil, "cutover", "--yes")
	until(t, "the cutover to come to the decision", time.Minute, func() bool {
		_, err := os.Stat(filepath.Join(m.dir, "held"))
		return err == nil
	}, func() string { return turning.err.String() })
	conn := connect(t, m.new.url)
	if _, err := conn.Exec(t.Context(), `begin read write; select from pgcutover.turn for update`); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	turning.must(killed)
	m.unhook(t, "before-decide")
	m.unhook(t, "after-decide")
	return conn
}

// killedAgain runs a command that is killed one moment later each time, until it
// comes to its end before that.
func (m *move) killedAgain(t *testing.T, args ...string) {
	t.Helper()
	kills := 0
	// On a busy machine a command takes long: later moments lie further apart.
	for after, last := 20*time.Millisecond, time.Duration(0); ; after, last = after+max(25*time.Millisecond, after/10), after {
		p := m.launch(t, nil, args...)
		timer := time.AfterFunc(after, func() { p.signal(syscall.SIGKILL) })
		r := p.wait()
		timer.Stop()
		if r.code != killed {
			p.must(exitDone)
			t.Logf("killed %d times, the last time after %s", kills, last)
			return
		}
		kills++
	}
}

// TestOldComesBack gives the old server up in the middle of a cutover. It was
// not gone: whether it serves on or is closed, nothing of the move opens it, and
// the only commands left are those that end the move.
func TestOldComesBack(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"before-decide", "after-decide", "unheard"} {
		t.Run(event, func(t *testing.T) {
			parallel(t)
			pair := pgtest.Pairs(t)[0]
			old := pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Durable: true})
			m := newMoveBetween(t, old, pgtest.Server(t, pair.New))
			m.noted(t)
			m.start(t)
			if event == "unheard" {
				conn := m.unheard(t)
				if err := old.Kill(); err != nil {
					t.Fatal(err)
				}
				m.forget(t)
				pg.Close(t.Context(), conn) // new is closed, and nobody is left who could tell it
			} else {
				m.hook(t, event, "kill")
				m.run(t, killed, "cutover", "--yes")
				m.unhook(t, event)
				if err := old.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			m.says(t, exitFailed, "resume --old-is-lost", "resume")
			m.run(t, exitFailed, "status")
			m.run(t, exitDone, "resume", "--old-is-lost", "--yes")
			m.run(t, exitDone, "resume", "--old-is-lost", "--yes")
			m.run(t, exitFailed, "resume")
			if err := old.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			closed := pgtest.Value[bool](t, m.old.url, `select not open from pgcutover.turn`)
			if closed != (event != "before-decide") {
				t.Fatalf("killed %s, old is closed: %t", event, closed)
			}
			m.says(t, exitFailed, "answers", "resume", "--old-is-lost", "--yes")
			promised := pgtest.Value[bool](t, m.new.url, `select exists (select 1 from pgcutover.decision_forward where stream = -1)`)
			if event != "after-decide" && !promised {
				t.Error("no promise was recorded")
			}
			m.oldCameBack(t, closed, promised)
		})
	}
}

const applyingSQL = `select coalesce(max(pid), 0) from pg_stat_subscription where subname = $1`

const aliveSQL = `select count(*) from pg_stat_activity where pid = $1`

// forget ends new's apply worker, which has received the decision and waits for
// the turn to act on it.
func (m *move) forget(t *testing.T) {
	t.Helper()
	pid := pgtest.Value[int32](t, m.new.url, applyingSQL, "pgcutover_"+m.name)
	pgtest.Value[bool](t, m.new.url, `select pg_terminate_backend($1)`, pid)
	until(t, "the apply worker to end", time.Minute, func() bool {
		return pgtest.Value[int](t, m.new.url, aliveSQL, pid) == 0
	}, nil)
}

func (m *move) oldCameBack(t *testing.T, closed, promised bool) {
	t.Helper()
	t.Log(m.launch(t, nil, "doctor").wait())
	t.Log(m.launch(t, nil, "status").wait())
	if closed {
		// The guard may have opened new before old was lost: then nothing was
		// promised, and the cutover is finished as any other.
		if promised {
			m.says(t, exitFailed, "pgcutover complete --keep-fence", "resume")
		} else {
			m.run(t, exitDone, "resume")
		}
		refused(t, m.old)
		m.run(t, exitFailed, "abort", "--yes")
		m.run(t, exitFailed, "abort", "--old-only", "--yes")
		refused(t, m.old)
		m.run(t, exitDone, "complete", "--yes")
		return
	}
	m.says(t, exitDone, keepAway+"old server", "status")
	for _, args := range [][]string{{"resume"}, {"rollback", "--yes"}, {"cutover", "--yes"}, {"complete", "--yes"}} {
		m.says(t, exitFailed, keepAway+"old server", args...)
	}
	m.run(t, exitFailed, "abort", "--yes")
	pgtest.Exec(t, m.new.app, `insert into public.note (body) values ('new serves')`)
	m.run(t, exitDone, "complete", "--new-only", "--yes")
	m.run(t, exitDone, "abort", "--old-only", "--yes")
	if n := pgtest.Value[int](t, m.new.url, `select count(*) from public.note where body = 'new serves'`); n != 1 {
		t.Error("new was emptied")
	}
}
