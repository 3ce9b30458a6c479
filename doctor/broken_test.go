package doctor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// want is a finding that a report must have.
type want struct {
	id, server string
	severity   preflight.Severity
	whose      doctor.Whose
	fix        bool
	object     string   // is part of the object
	seen       []string // are parts of what was seen
}

// expect fails unless the report has exactly the wanted findings. Notes that
// nobody asked for are allowed when notes is set.
func expect(t *testing.T, r doctor.Report, wants ...want) {
	t.Helper()
	left := append([]doctor.Finding{}, r.Findings...)
	for _, w := range wants {
		found := -1
		for i, f := range left {
			if f.ID == w.id && f.Server == w.server && strings.Contains(f.Object, w.object) {
				found = i
			}
		}
		if found < 0 {
			t.Errorf("%s on %s (%s) was not found", w.id, w.server, w.object)
			continue
		}
		f := left[found]
		left = append(left[:found], left[found+1:]...)
		if f.Severity != w.severity || f.Whose != w.whose || f.Fix != w.fix {
			t.Errorf("%s on %s: %s, of %s, --fix %t; want %s, of %s, %t", f.ID, f.Server, f.Severity, f.Whose, f.Fix, w.severity, w.whose, w.fix)
		}
		for _, part := range w.seen {
			if !strings.Contains(f.Seen, part) {
				t.Errorf("%s on %s: %q does not say %q", f.ID, f.Server, f.Seen, part)
			}
		}
		if f.Seen == "" || f.Why == "" || (f.Next == "" && len(f.SQL) == 0) || f.Object == "" {
			t.Errorf("%s on %s says too little: %+v", f.ID, f.Server, f)
		}
	}
	for _, f := range left {
		t.Errorf("found besides: %s on %s: %s: %s", f.ID, f.Server, f.Object, f.Seen)
	}
	if t.Failed() {
		t.Fatalf("the report:\n%s", text(t, r))
	}
}

const (
	blocker = preflight.Blocker
	warning = preflight.Warning
	note    = preflight.Note
)

// system is the system identifier of a server.
func system(t *testing.T, s *pg.Server) string {
	t.Helper()
	id, err := state.Identify(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return id.System
}

// slot makes a logical slot that nobody reads.
func slot(name string) string {
	return "select pg_create_logical_replication_slot('" + name + "', 'pgoutput')"
}

// What is left over of this move before the cutover is found and mended; what
// is somebody else's is found and left alone, and its SQL mends it.
func TestLeftoversBeforeTheCutover(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.breakOurs(t)
		m.breakOthers(t)
		o := doctor.Options{PreparedAge: time.Nanosecond}
		ours, others := m.oursBroken(), m.othersBroken(pair)
		expect(t, m.examined(t, o), append(ours, others...)...)

		o.Fix = true
		r := m.examined(t, o)
		expect(t, r, others...)
		if len(r.Mended) != len(ours) {
			t.Errorf("%d mended, want %d:\n%+v", len(r.Mended), len(ours), r.Mended)
		}
		if err := writable(t, m.newURL); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Errorf("a client's write on new: %v", err)
		}
		for _, f := range r.Findings {
			sql := append([]string{"set default_transaction_read_only = off"}, f.SQL...)
			pgtest.Exec(t, m.url(pg.Side(f.Server)), sql...)
		}
		m.silent(t, "after the SQL for the others'")
		if enabled := pgtest.Value[int](t, m.newURL, `select count(*) from pg_trigger where tgname = $1 and tgenabled = 'A'`, fence.TriggerName(m.name)); enabled != 2 {
			t.Errorf("%d fence triggers on new, want 2", enabled)
		}
	})
}

// breakOurs leaves behind what this move could.
func (m *move) breakOurs(t *testing.T) {
	t.Helper()
	trigger, stream := fence.TriggerName(m.name), "pgcutover_"+m.name+"_12345678"
	asTool(t, m.newURL,
		`alter table public.item disable trigger `+trigger,
		`drop trigger `+trigger+` on public."Odd ""name"`,
		`do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`,
		`update pgcutover.turn set armed = true`,
		`create publication `+stream)
	asTool(t, m.newURL, slot(stream))
	pgtest.Exec(t, m.oldURL,
		fence.AttachSQL(m.name, fence.Table{Schema: "public", Name: "item"}),
		`create publication `+stream,
		`create subscription `+stream+` connection 'host=127.0.0.1 port=1 password=topsecret' publication x with (connect = false, slot_name = '`+stream+`')`,
		`do $$ begin execute format('comment on database %I is %L', current_database(), 'writes are refused: pgcutover moves this database'); end $$`)
	pgtest.Exec(t, m.oldURL, slot("pg_1_sync_2_"+system(t, m.new)))
}

func (m *move) oursBroken() []want {
	stream := "pgcutover_" + m.name + "_12345678"
	return []want{
		{"fence.not-always", "new", warning, doctor.This, true, fence.TriggerName(m.name), []string{"public.item", "disabled"}},
		{"fence.missing", "new", warning, doctor.This, true, "tables", []string{`"public"."Odd ""name"`, "1 of 2 tables"}},
		{"read-only.missing", "new", warning, doctor.This, true, "default_transaction_read_only", nil},
		{"guard.armed", "new", warning, doctor.This, true, "attempt ", nil},
		{"publication.leftover", "new", warning, doctor.This, true, stream, nil},
		{"slot.leftover", "new", blocker, doctor.This, true, stream, []string{"nobody reads it", "of WAL"}},
		{"fence.leftover-trigger", "old", warning, doctor.This, true, fence.TriggerName(m.name), []string{"public.item"}},
		{"publication.leftover", "old", warning, doctor.This, true, stream, nil},
		{"subscription.leftover", "old", blocker, doctor.This, true, stream, []string{"disabled"}},
		{"slot.table-sync", "old", blocker, doctor.This, true, "pg_1_sync_2_", []string{"subscription 1 of the new server, which read it, is gone"}},
		{"database.comment", "old", warning, doctor.This, true, "database", []string{"writes are refused"}},
	}
}

// breakOthers leaves behind what somebody else could.
func (m *move) breakOthers(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, m.oldURL,
		`create table public.other (n integer)`,
		`begin`, `insert into public.other values (1)`, `prepare transaction 'gid''`+m.name+`'`)
	pgtest.Exec(t, m.oldURL,
		`create trigger pgcutover_other_fence before insert on public.item for each statement execute procedure pgcutover.fence()`,
		`create function public.tf() returns trigger language plpgsql as 'begin return null; end'`,
		`create trigger pgcutover_that_fence before insert on public."Odd ""name" for each statement execute procedure public.tf()`,
		`create role `+m.name+`_app`, `create role `+m.name+`_etl`,
		`do $$ begin
		   execute format('alter role `+m.name+`_etl in database %I set default_transaction_read_only = off', current_database());
		   execute format('alter database %I set default_transaction_read_only = on', current_database());
		   execute format('alter role `+m.name+`_app in database %I set default_transaction_read_only = on', current_database());
		 end $$`)
	asTool(t, m.newURL,
		`create role pgcutover_`+m.name+`zz`,
		`create function public.ev() returns event_trigger language plpgsql as 'begin end'`,
		`create event trigger "Watch" on ddl_command_end when tag in ('CREATE TRIGGER') execute procedure public.ev()`,
		`create subscription "Sub" connection 'host=127.0.0.1 port=1 dbname=gone user=u password=topsecret' publication p with (connect = false, slot_name = 'cdc')`,
		`alter subscription "Sub" enable`,
		`insert into pg_replication_origin (roident, roname) values ((20000 + `+m.number()+`)::oid, 'pg_4000000`+m.number()+`')`, // the name is reserved
		`create publication pgcutover_`+m.name+`zz`)
	asTool(t, m.newURL, slot("cdc_"+m.name))
	t.Cleanup(func() {
		asTool(t, m.oldURL, `do $$ begin execute format('alter role `+m.name+`_app in database %I reset all', current_database()); execute format('alter role `+m.name+`_etl in database %I reset all', current_database()); end $$`,
			`drop role `+m.name+`_app`, `drop role `+m.name+`_etl`)
		asTool(t, m.newURL, `drop role if exists pgcutover_`+m.name+`zz`,
			`select pg_replication_origin_drop(roname) from pg_replication_origin where roname = 'pg_4000000`+m.number()+`'`)
	})
}

func (m *move) othersBroken(pair pgtest.Pair) []want {
	wants := []want{
		{"prepared-transaction", "old", warning, doctor.Other, false, `'gid''` + m.name + `'`, []string{`by "postgres"`}},
		{"read-only.database", "old", blocker, doctor.Other, false, "default_transaction_read_only", []string{"on, and no fence"}},
		{"role.read-only-setting", "old", warning, doctor.Other, false, m.name + "_app", []string{"= on"}},
		{"role.read-only-setting", "old", note, doctor.Other, false, m.name + "_etl", []string{"= off"}},
		{"fence.other-trigger", "old", warning, doctor.Another, false, "pgcutover_other_fence", []string{"public.item"}},
		{"fence.foreign-trigger", "old", note, doctor.Other, false, "pgcutover_that_fence", []string{`public."Odd ""name"`}},
		{"role.leftover", "new", warning, doctor.Another, false, "pgcutover_" + m.name + "zz", nil},
		{"event-trigger", "new", note, doctor.Other, false, `"Watch"`, []string{"public.ev", "CREATE TRIGGER"}},
		{"subscription.not-running", "new", warning, doctor.Other, false, `"Sub"`, []string{"no apply worker runs", "its publisher 127.0.0.1:1/gone cannot be reached from here"}},
		{"origin.orphan", "new", warning, doctor.Other, false, m.number(), nil},
		{"publication.leftover", "new", warning, doctor.Another, false, "pgcutover_" + m.name + "zz", nil},
		{"slot.inactive", "new", warning, doctor.Other, false, "cdc_" + m.name, []string{"nobody reads it", "of WAL"}},
	}
	if pair.New >= 17 {
		wants[len(wants)-1].seen = append(wants[len(wants)-1].seen, "since")
	}
	return wants
}

// No password of a connection string that doctor tried is in what it says.
func TestNoPasswordIsShown(t *testing.T) {
	t.Parallel()
	pair := pgtest.Pairs(t)[0]
	m := databases(t, pair)
	server := pgtest.Server(t, pair.New)
	asTool(t, m.newURL,
		`create subscription s connection '`+conninfo(server.Port(), "nobody", "topsecret")+`' publication p with (connect = false, slot_name = 'x')`,
		`alter subscription s enable`)
	r := m.examined(t, doctor.Options{New: m.newURL})
	if found := of(r, "subscription.not-running", "new"); len(found) != 1 || !strings.Contains(found[0].Seen, "cannot be reached from here") {
		t.Fatalf("the report:\n%s", text(t, r))
	}
	if all := fmt.Sprintf("%+v %s", r, text(t, r)); strings.Contains(all, "topsecret") {
		t.Errorf("the password is in %s", all)
	}
	asTool(t, m.newURL, `alter subscription s disable`, `alter subscription s set (slot_name = none)`, `drop subscription s`,
		`create subscription s connection '`+conninfo(server.Port(), "postgres", "topsecret")+`' publication p with (connect = false, slot_name = 'x')`,
		`alter subscription s enable`)
	r = m.examined(t, doctor.Options{New: m.newURL})
	if found := of(r, "subscription.not-running", "new"); len(found) != 1 || !strings.Contains(found[0].Seen, `has no slot "x"`) {
		t.Errorf("the report:\n%s", text(t, r))
	}
}

func conninfo(port int, user, password string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres user=%s password=%s", port, user, password)
}

// A new server whose check() somebody replaced takes writes that are lost: it
// is closed again. Two turns that both say yes are for people.
func TestTurnAndCheckDisagree(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		asTool(t, m.newURL, fence.OpenSQL)
		disagrees := want{"turn.disagrees", "new", blocker, doctor.This, true, "pgcutover.turn", []string{"may not write here", "is open"}}
		expect(t, m.examined(t, doctor.Options{}), disagrees)
		if r := m.examined(t, doctor.Options{Fix: true}); len(r.Mended) != 1 {
			t.Fatalf("the report:\n%s", text(t, r))
		}
		if err := writable(t, m.newURL); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Errorf("a client's write on new: %v", err)
		}
		m.silent(t, "after the fence is closed")

		asTool(t, m.newURL, `select pgcutover.open_now()`)
		r := m.examined(t, doctor.Options{Fix: true})
		if found := of(r, "writes.both", preflight.Both); len(found) != 1 || found[0].Fix || r.Healthy {
			t.Fatalf("the report:\n%s", text(t, r))
		}
		asTool(t, m.newURL, `update pgcutover.turn set open = false`)
		m.examined(t, doctor.Options{Fix: true}) // closes it again, and sets the default
		m.silent(t, "after new is closed again")

		pgtest.Exec(t, m.oldURL, fence.ClosedSQL(m.old, fence.Error, pgtest.Value[uint32](t, m.oldURL, `select oid from pg_database where datname = current_database()`), time.Now()))
		r = m.examined(t, doctor.Options{Fix: true})
		expect(t, r,
			want{"turn.disagrees", "old", blocker, doctor.This, false, "pgcutover.turn", []string{"refuses writes here"}},
			want{"writes.nowhere", "old", blocker, doctor.This, false, "writes", []string{"both servers refuse"}})
		if n := pgtest.Value[int](t, m.oldURL, `select count(*) from pg_trigger where tgname = $1`, fence.TriggerName(m.name)); n != 0 {
			t.Errorf("--fix has made %d triggers on the server that serves", n)
		}
		asTool(t, m.oldURL, of(r, "writes.nowhere", "old")[0].SQL...)
		m.silent(t, "after the SQL")
	})
}

// A cutover that nobody finishes is resume's: what it left behind is named, and
// nothing of it is touched.
func TestInterruptedCutover(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		ctx := t.Context()
		attempt, err := state.TakeAttempt(ctx, m.old, m.new)
		if err != nil {
			t.Fatal(err)
		}
		if err := fence.Arm(ctx, m.new, attempt); err != nil {
			t.Fatal(err)
		}
		err = state.Journal{Server: m.new}.Append(ctx, journal.Record{List: "cutover", Run: attempt, Seq: 1, Step: "gates", Event: journal.Started, At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		back := state.WayBack(m.name, state.Forward, attempt).Name()
		asTool(t, m.newURL, slot(back))
		pgtest.Exec(t, m.oldURL, fence.AttachSQL(m.name, fence.Table{Schema: "public", Name: "item"}))
		wants := []want{
			{"cutover.interrupted", preflight.Both, blocker, doctor.This, false, fmt.Sprintf("attempt %d", attempt), []string{"gates started", "neither decided nor undone"}},
			{"guard.armed", "new", warning, doctor.This, false, "attempt", nil},
			{"slot.unfinished", "new", warning, doctor.This, false, back, nil},
			{"fence.leftover-trigger", "old", warning, doctor.This, false, "_fence", nil},
		}
		expect(t, m.examined(t, doctor.Options{}), wants...)
		r := m.examined(t, doctor.Options{Fix: true})
		expect(t, r, wants...)
		if len(r.Mended) > 0 || !strings.Contains(r.Findings[0].Next, "pgcutover resume") {
			t.Errorf("the report:\n%s", text(t, r))
		}

		// A tool that is at work on it makes all that no finding of anybody's.
		held, release, err := pg.HoldLock(ctx, m.old, "lease", 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		r = m.examined(t, doctor.Options{Fix: true})
		if !r.Healthy || r.Warnings > 0 || len(r.Mended) > 0 || !strings.Contains(r.Tool, "/lease") || len(of(r, "tool.at-work", "old")) != 1 || held.Err() != nil {
			t.Errorf("with a tool at work:\n%s", text(t, r))
		}
		release()

		// Without a journal the guard is disarmed, since its attempt is nobody's.
		asTool(t, m.newURL, `delete from pgcutover.journal where run <> 0`)
		r = m.examined(t, doctor.Options{Fix: true})
		if len(r.Findings) != 0 || len(r.Mended) != 3 {
			t.Errorf("without a journal:\n%s", text(t, r))
		}
	})
}

// A tool that was stopped keeps its session, and everybody out.
func TestSilentTool(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	m := databases(t, pair)
	conn := connect(t, m.oldURL)
	if _, err := conn.Exec(t.Context(), `set application_name = 'pgcutover/x/lease'`); err != nil {
		t.Fatal(err)
	}
	if err := pg.TryLock(t.Context(), conn, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	r := m.examined(t, doctor.Options{Old: m.oldURL})
	expect(t, r, want{"tool.at-work", "old", note, doctor.This, false, "session ", []string{"pgcutover/x/lease"}})
	doctor.QuietBound(t, 0.001)
	r = m.examined(t, doctor.Options{Old: m.oldURL})
	expect(t, r, want{"tool.silent", "old", blocker, doctor.This, false, "session ", []string{"has said nothing for"}})
	pgtest.Exec(t, m.oldURL, r.Findings[0].SQL...)
	err := pg.Wait(t.Context(), "the session to end", 10*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		return conn.Ping(ctx) != nil, "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m.silent(t, "after its session was ended")
}

// What mends itself between two looks is nobody's business.
func TestWhatPassesIsNotReported(t *testing.T) {
	t.Parallel()
	m := databases(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, m.oldURL, `do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
	done := make(chan doctor.Report, 1)
	go func() { // joined below
		r, err := doctor.Run(t.Context(), doctor.Options{Old: m.oldURL, Settle: 7 * time.Second})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	watch := connect(t, m.oldURL)
	err := pg.Wait(t.Context(), "the first look to end", 5*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		var ended bool // one session may rest while another one looks
		err := watch.QueryRow(ctx, `
			select coalesce(bool_and(state = 'idle' and clock_timestamp() - state_change > '2s'), false)
			  from pg_stat_activity
			 where datname = current_database() and application_name like 'pgcutover/%'`).Scan(&ended)
		return ended, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
	// What appears in the meantime has not been looked at twice.
	asTool(t, m.oldURL, `do $$ begin
	  execute format('alter database %I reset default_transaction_read_only', current_database());
	  execute format('alter database %I connection limit 0', current_database());
	end $$`)
	if r := m.ownOnly(t, <-done); len(r.Findings) != 0 {
		t.Errorf("the report:\n%s", text(t, r))
	}
}

// What closing a server does to its database, and opening it has not taken back,
// is taken back from what the server remembers.
func TestClosingWasNotTakenBack(t *testing.T) {
	t.Parallel()
	m := started(t, pgtest.Pairs(t)[0])
	comment := func(is string) string {
		return `do $$ begin execute format('comment on database %I is %L', current_database(), '` + is + `'); end $$`
	}
	pgtest.Exec(t, m.oldURL, comment("the shop"), fence.CommentSQL(m.old, time.Now()))
	if _, err := fence.RevokeConnect(t.Context(), m.old.Pool(), m.old); err != nil {
		t.Fatal(err)
	}
	if locked, err := fence.LockObjects(t.Context(), m.old.Pool()); err != nil || !locked {
		t.Fatalf("taking EXECUTE: %t, %v", locked, err)
	}
	expect(t, m.examined(t, doctor.Options{}),
		want{"database.connect-revoked", "old", blocker, doctor.This, true, "database", nil},
		want{"database.execute-revoked", "old", blocker, doctor.This, true, "database", []string{"lo_put", "lowrite"}},
		want{"database.comment", "old", warning, doctor.This, true, "database", []string{"writes are refused: pgcutover moves this database"}})
	if r := m.examined(t, doctor.Options{Fix: true}); len(r.Findings) != 0 || len(r.Mended) != 3 {
		t.Fatalf("after --fix:\n%s", text(t, r))
	}
	if is := pgtest.Value[string](t, m.oldURL, `select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()`); is != "the shop" {
		t.Errorf("the comment is %q", is)
	}
	if !pgtest.Value[bool](t, m.oldURL, `select exists (select 1 from pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
		where d.datname = current_database() and a.grantee = 0 and a.privilege_type = 'CONNECT')`) {
		t.Error("clients still may not connect")
	}
	const writesSQL = `p.proname in ('lo_put', 'lowrite', 'lo_create') and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)`
	if n := pgtest.Value[int](t, m.oldURL, `select count(*) from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and (`+writesSQL+`)`); n != 3 {
		t.Errorf("clients may write large objects by %d functions of 3", n)
	}
}
