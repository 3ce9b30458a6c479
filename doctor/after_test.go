package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/doctor"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// After the cutover a gap in old's fence loses rows, and the way back can break
// in three ways. In the end the state itself is gone, and what bears the move's
// name is found and removed all the same.
func TestAfterTheCutover(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		m.turn(t, state.Forward)
		trigger := fence.TriggerName(m.name)
		asTool(t, m.oldURL, `alter table public.item enable trigger `+trigger, `create table public.late (n integer)`,
			`do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`)
		gaps := []want{
			{"fence.not-always", "old", blocker, doctor.This, true, trigger, []string{"session_replication_role = replica gets past it"}},
			{"fence.missing", "old", blocker, doctor.This, true, "tables", []string{`"public"."late"`}},
			{"read-only.missing", "old", warning, doctor.This, true, "default_transaction_read_only", nil},
		}
		expect(t, m.examined(t, doctor.Options{}), gaps...)
		if r := m.examined(t, doctor.Options{Fix: true}); len(r.Mended) != len(gaps) || len(r.Findings) != 0 {
			t.Fatalf("the report:\n%s", text(t, r))
		}
		if err := writable(t, m.oldURL); pg.Code(err) != pg.ReadOnlyTransaction {
			t.Errorf("a client's write on old: %v", err)
		}
		event := `update pgcutover.journal set event = '%s' where run <> 0 and step = 'follow' and event = '%s'`
		asTool(t, m.newURL, fmt.Sprintf(event, "failed", "succeeded"))
		r := m.examined(t, doctor.Options{Fix: true})
		if found := of(r, "cutover.interrupted", preflight.Both); len(found) != 1 || !strings.Contains(found[0].Seen, "follow failed") || len(r.Findings) != 1 {
			t.Errorf("with an unfinished cutover:\n%s", text(t, r))
		}
		asTool(t, m.newURL, fmt.Sprintf(event, "succeeded", "failed"))
		m.wayBackBreaks(t)
		m.stateIsGone(t)
	})
}

// wayBackBreaks disables, then ruins the stream back.
func (m *move) wayBackBreaks(t *testing.T) {
	t.Helper()
	pos, err := state.Locate(t.Context(), m.old, m.new)
	if err != nil {
		t.Fatal(err)
	}
	back := pos.Stream(state.Back).Name()
	asTool(t, m.oldURL, `alter subscription `+back+` disable`)
	m.until(t, "the slot to be idle", `select not active from pg_replication_slots where slot_name = '`+back+`'`)
	r := m.examined(t, doctor.Options{Fix: true})
	expect(t, r,
		want{"subscription.disabled", "old", blocker, doctor.This, false, back, []string{"disabled"}},
		want{"slot.inactive", "new", blocker, doctor.This, false, back, []string{"nobody reads it"}})
	if found := of(r, "slot.inactive", "new")[0]; found.Bytes == nil || (m.new.Major() >= 17) != (found.Age != nil) {
		t.Errorf("numbers of the slot: %+v", found)
	}
	asTool(t, m.oldURL, of(r, "subscription.disabled", "old")[0].SQL...)
	m.until(t, "the slot to be read", `select active from pg_replication_slots where slot_name = '`+back+`'`)
	m.silent(t, "after the SQL")

	asTool(t, m.oldURL, `alter subscription `+back+` disable`)
	m.until(t, "the slot to be idle", `select not active from pg_replication_slots where slot_name = '`+back+`'`)
	asTool(t, m.newURL, `select pg_drop_replication_slot('`+back+`')`)
	asTool(t, m.oldURL, `alter subscription `+back+` enable`)
	r = m.examined(t, doctor.Options{Fix: true})
	expect(t, r, want{"subscription.no-slot", "old", blocker, doctor.This, false, back, []string{"the new server has no slot", "can be reached from here, and has no slot"}})
	if next := r.Findings[0].Next; !strings.Contains(next, "pgcutover complete") {
		t.Errorf("advice: %s", next)
	}
}

// until waits for a condition on new.
func (m *move) until(t *testing.T, what, sql string) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 10*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		var met bool
		err := m.new.Pool().QueryRow(ctx, sql).Scan(&met)
		return met, "", err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stateIsGone drops schema pgcutover on both servers under a move.
func (m *move) stateIsGone(t *testing.T) {
	t.Helper()
	for _, url := range []string{m.oldURL, m.newURL} {
		asTool(t, url, `drop schema pgcutover cascade`, `do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`)
	}
	asTool(t, m.newURL, slot("pgcutover_"+m.name))
	o := doctor.Options{Move: m.name, Fix: true}
	r := m.examined(t, o)
	var mended []string
	for _, f := range r.Mended {
		mended = append(mended, f.Server+" "+f.ID)
	}
	got := strings.Join(mended, ", ")
	for _, part := range []string{"old subscription.leftover", "new publication.leftover", "new slot.leftover", "old role.leftover", "new role.leftover"} {
		if !strings.Contains(got, part) {
			t.Errorf("%s was not mended", part)
		}
	}
	if len(r.Findings) != 0 || t.Failed() {
		t.Fatalf("mended: %s; the report:\n%s", got, text(t, r))
	}
	for _, s := range []*pg.Server{m.old, m.new} {
		if left, err := state.Leftovers(t.Context(), s, nil); err != nil || len(left) != 0 {
			t.Errorf("left on %s: %v, %v", s.Side(), left, err)
		}
	}
}

// A stream that still flows is not dropped, though the state of its move is
// gone.
func TestFlowingStreamIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := started(t, pgtest.Pairs(t)[0])
	for _, url := range []string{m.oldURL, m.newURL} {
		asTool(t, url, `drop schema pgcutover cascade`, `do $$ begin execute format('alter database %I reset default_transaction_read_only', current_database()); end $$`)
	}
	name := "pgcutover_" + m.name
	o := doctor.Options{Move: m.name, Fix: true}
	r := m.examined(t, o)
	for _, f := range append(of(r, "slot.leftover", "old"), of(r, "subscription.leftover", "new")...) {
		if f.Fix || f.Whose != doctor.This {
			t.Errorf("%+v", f)
		}
	}
	if roles := of(r, "role.leftover", "new"); len(roles) != 0 {
		t.Errorf("the role that owns it: %+v", roles)
	}
	if n := pgtest.Value[int](t, m.newURL, `select count(*) from pg_subscription where subname = $1`, name); n != 1 {
		t.Errorf("%d subscriptions on new\n%s", n, text(t, r))
	}
	if n := pgtest.Value[int](t, m.oldURL, `select count(*) from pg_replication_slots where slot_name = $1`, name); n != 1 {
		t.Errorf("%d slots on old\n%s", n, text(t, r))
	}
}

// A stream of which nothing is left, not even what would tell of it.
func TestStreamIsGone(t *testing.T) {
	t.Parallel()
	m := started(t, pgtest.Pairs(t)[0])
	name := "pgcutover_" + m.name
	pgtest.Exec(t, m.oldURL, `drop publication `+name)
	expect(t, m.examined(t, doctor.Options{}), want{"publication.missing", "old", blocker, doctor.This, false, name, nil})
	asTool(t, m.newURL, `alter subscription `+name+` disable`, `alter subscription `+name+` set (slot_name = none)`, `drop subscription `+name)
	err := pg.Wait(t.Context(), "the slot to be idle", 10*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		_, err := m.old.Pool().Exec(ctx, `select pg_drop_replication_slot('`+name+`')`)
		return !pg.IsCode(err, pg.ObjectInUse), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r := m.examined(t, doctor.Options{Fix: true})
	expect(t, r, want{"stream.missing", preflight.Both, blocker, doctor.This, false, name, []string{"though start made both"}})
	if !strings.Contains(r.Findings[0].Next, "pgcutover abort") {
		t.Errorf("advice: %s", r.Findings[0].Next)
	}
}

// Failures that are over are for the record.
func TestSubscriptionThatHasFailed(t *testing.T) {
	t.Parallel()
	pair := pgtest.Pairs(t)[0]
	if pair.New < 15 {
		return // nobody counts them
	}
	m := started(t, pair)
	trigger := fence.TriggerName(m.name)
	around := func(sql string) {
		asTool(t, m.newURL, `alter table public.item disable trigger `+trigger, sql, `alter table public.item enable always trigger `+trigger)
	}
	around(`insert into public.item values (999, 'in the way')`)
	pgtest.Exec(t, m.oldURL, `insert into public.item values (999, 'x')`)
	m.until(t, "an error", `select apply_error_count > 0 from pg_stat_subscription_stats where subname = 'pgcutover_`+m.name+`'`)
	around(`delete from public.item where id = 999`)
	m.until(t, "the row", `select exists (select 1 from public.item where name = 'x' and id = 999)`)
	r := m.examined(t, doctor.Options{})
	expect(t, r, want{"subscription.errors", "new", note, doctor.This, false, "pgcutover_" + m.name, []string{"failures of its workers so far: "}})
	if !r.Healthy {
		t.Error("that is not healthy")
	}
}

// What needs a server of the test's own: slots that are behind, in danger and
// lost, a whole server that is read-only, a standby.
func TestOwnServer(t *testing.T) {
	t.Parallel()
	majors := pgtest.Majors(t)
	major := majors[len(majors)-1]
	settings := map[string]string{"max_wal_size": "1GB"}
	if major >= 13 {
		settings["max_slot_wal_keep_size"] = "1MB"
	}
	c := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: settings})
	url := pgtest.Database(t, c)
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: "own"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	id, err := state.Identify(t.Context(), s)
	if err == nil {
		err = state.Create(t.Context(), s, state.Move{Name: "own", Old: id, New: id})
	}
	if err != nil {
		t.Fatal(err)
	}
	examined := func(wants ...want) {
		t.Helper()
		r, err := doctor.Run(t.Context(), doctor.Options{Old: url, Settle: settle, WALWarn: 1, Fix: true})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, wants...)
	}
	pgtest.Exec(t, url, `create table public.t (n integer)`, `create publication pgcutover_own for table public.t`)
	pgtest.Exec(t, url, slot("gone"))
	pgtest.Exec(t, url, slot("pgcutover_own"))
	reader := reading(t, s, "pgcutover_own")
	pgtest.Exec(t, url, `insert into public.t values (1)`)
	inactive := want{"slot.inactive", "old", blocker, doctor.Other, false, `"gone"`, []string{"nobody reads it", "of WAL"}}
	examined(inactive, want{"slot.behind", "old", warning, doctor.This, false, `"pgcutover_own"`, []string{"read by process"}})
	for range 3 {
		pgtest.Exec(t, url, `insert into public.t values (1)`, `select pg_switch_wal()`)
	}
	if major >= 13 {
		examined(inactive, want{"slot.at-risk", "old", blocker, doctor.This, false, `"pgcutover_own"`, []string{"the next checkpoint may remove"}})
		reader.Close(t.Context())
		pgtest.Exec(t, url, `checkpoint`)
		lost := []want{
			{"slot.lost", "old", warning, doctor.Other, false, `"gone"`, []string{"its WAL is gone"}},
			{"slot.lost", "old", blocker, doctor.This, false, `"pgcutover_own"`, []string{"its WAL is gone"}},
		}
		if major >= 17 {
			lost[0].seen = append(lost[0].seen, "wal_removed")
		}
		examined(lost...)
	}
	m := &move{old: s, oldURL: url}
	m.readOnlyServer(t, c, examined)
}

// readOnlyServer makes the whole server read-only, and then a standby.
func (m *move) readOnlyServer(t *testing.T, c *pgserver.Cluster, examined func(...want)) {
	t.Helper()
	pgtest.Exec(t, m.oldURL, `select pg_terminate_backend(active_pid) from pg_replication_slots where active`)
	err := pg.Wait(t.Context(), "the slots to be dropped", 10*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
		_, err := m.old.Pool().Exec(ctx, `select pg_drop_replication_slot(slot_name) from pg_replication_slots`)
		return err == nil, fmt.Sprint(err), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.oldURL, `do $$ begin execute format('alter database %I connection limit 0', current_database()); end $$`)
	pgtest.Exec(t, m.oldURL, `alter system set default_transaction_read_only = on`)
	pgtest.Exec(t, m.oldURL, `select pg_reload_conf()`)
	limit := want{"database.connection-limit", "old", warning, doctor.Other, false, "database", nil}
	examined(want{"read-only.server", "old", blocker, doctor.Other, false, "default_transaction_read_only", []string{"configuration file"}}, limit)
	asTool(t, m.oldURL, `alter system reset default_transaction_read_only`)
	pgtest.Exec(t, m.oldURL, `select pg_reload_conf()`)
	examined(limit)

	if c.Major() < 12 {
		return // another way to make a standby
	}
	if err := os.WriteFile(filepath.Join(c.DataDir(), "standby.signal"), nil, 0o644); err != nil { //nolint:gosec // the server's user reads it
		t.Fatal(err)
	}
	m.old.Close()
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	examined(limit, want{"server.standby", "old", blocker, doctor.Other, false, "server", nil})
	if !pgtest.Value[bool](t, m.oldURL, `select pg_promote()`) {
		t.Fatal("not promoted")
	}
	examined(limit, want{"identity.timeline", "old", blocker, doctor.This, false, "server", []string{"it is on timeline 2, the move was started on 1"}})
}

// reading begins to read a slot, and confirms nothing.
func reading(t *testing.T, s *pg.Server, name string) *pgconn.PgConn {
	t.Helper()
	conn, err := s.Replication(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(t.Context(), conn, name, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + name + "'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// With one server only, the other one is not asked for; with one that cannot be
// reached, that is the worst finding. In both cases the move is left alone.
func TestOneServer(t *testing.T) {
	t.Parallel()
	m := started(t, pgtest.Pairs(t)[0])
	stale := "pgcutover_" + m.name + "_12345678"
	pgtest.Exec(t, m.oldURL, slot(stale))
	pgtest.Exec(t, m.oldURL, fence.AttachSQL(m.name, fence.Table{Schema: "public", Name: "item"}))
	leftover := []want{
		{"slot.leftover", "old", blocker, doctor.This, false, stale, nil},
		{"fence.leftover-trigger", "old", warning, doctor.This, false, "_fence", nil},
	}
	r := m.examined(t, doctor.Options{Old: m.oldURL, Fix: true})
	expect(t, r, leftover...)
	if len(r.Servers) != 1 || r.Move != m.name {
		t.Errorf("the report: %+v", r)
	}
	proxy := pgtest.NewProxy(t, pgtest.Server(t, pgtest.Pairs(t)[0].New).Addr())
	proxy.Cut()
	r = m.examined(t, doctor.Options{Old: m.oldURL, New: proxy.URL(t, m.newURL), Fix: true})
	expect(t, r, append(leftover, want{"server.unreachable", "new", blocker, doctor.This, false, "server", []string{"connecting to the new server"}})...)
	r = m.examined(t, doctor.Options{New: proxy.URL(t, m.newURL)})
	expect(t, r, want{"server.unreachable", "new", blocker, doctor.This, false, "server", nil})
	if r.Healthy || len(r.Servers) != 1 || r.Servers[0].Reached {
		t.Errorf("the report: %+v", r)
	}
	for _, o := range []doctor.Options{{}, {Old: m.oldURL, Move: "(no"}} {
		if _, err := doctor.Run(t.Context(), o); !errors.Is(err, doctor.ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	r = m.examined(t, doctor.Options{Fix: true})
	if len(r.Mended) != 2 || len(r.Findings) != 0 {
		t.Errorf("with both servers:\n%s", text(t, r))
	}
}

// Whoever is not the server that the move knows is called by name.
func TestWrongServers(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := opened(t, pair)
		if _, err := m.upgrade.Start(t.Context(), t.Context(), "prepare"); err != nil {
			t.Fatal(err)
		}
		r := m.examined(t, doctor.Options{Old: m.newURL, New: m.oldURL, Fix: true})
		expect(t, r,
			want{"identity.swapped", "old", blocker, doctor.This, false, "schema", []string{"the server given as old is the new server"}},
			want{"identity.swapped", "new", blocker, doctor.This, false, "schema", []string{"the server given as new is the old server"}})
		r = m.examined(t, doctor.Options{Move: "someone", Old: m.oldURL, New: m.newURL, Fix: true})
		if len(of(r, "identity.another-move", "old")) != 1 || len(of(r, "identity.another-move", "new")) != 1 || len(r.Mended) != 0 {
			t.Errorf("under another name:\n%s", text(t, r))
		}
		asTool(t, m.newURL, `update pgcutover.move set identity = jsonb_set(identity, '{old,database}', '1')`)
		r = m.examined(t, doctor.Options{Fix: true})
		if found := of(r, "identity.another-move", "new"); len(found) != 1 || !strings.Contains(found[0].Seen, "between other databases") || len(r.Mended) != 0 {
			t.Errorf("of two moves of one name:\n%s", text(t, r))
		}
		asTool(t, m.newURL, fmt.Sprintf(`update pgcutover.move set identity = jsonb_set(identity, '{old,database}', '%d')`,
			pgtest.Value[uint32](t, m.oldURL, `select oid from pg_database where datname = current_database()`)))
		other := pgtest.Database(t, pgtest.Server(t, pair.New))
		stale := "pgcutover_" + m.name + "_12345678"
		pgtest.Exec(t, m.oldURL, slot(stale))
		r = m.examined(t, doctor.Options{Old: m.oldURL, New: other, Fix: true}) // perhaps the wrong URL
		expect(t, r, want{"state.one-sided", "old", warning, doctor.This, false, "schema", []string{"the new server does not"}},
			want{"slot.leftover", "old", blocker, doctor.This, false, stale, nil})
		pgtest.Exec(t, m.oldURL, `select pg_drop_replication_slot('`+stale+`')`)
		// Which server is gone decides what may be removed.
		next := func(o doctor.Options, side, text string) {
			t.Helper()
			if found := of(m.examined(t, o), "state.one-sided", side); len(found) != 1 || !strings.Contains(found[0].Next, text) {
				t.Errorf("state.one-sided on %s does not advise %q: %+v", side, text, found)
			}
		}
		otherOld := pgtest.Database(t, pgtest.Server(t, pair.Old))
		next(doctor.Options{Old: m.oldURL, New: other}, "old", "pgcutover abort --old-only")
		next(doctor.Options{Old: otherOld, New: m.newURL}, "new", "pgcutover resume --old-is-lost")
		decide := func(sql string) {
			asTool(t, m.oldURL, sql)
			asTool(t, m.newURL, sql)
		}
		decide(`insert into pgcutover.decision_forward (attempt, stream) values (1, 0)`)
		next(doctor.Options{Old: m.oldURL, New: other}, "old", "pgcutover resume --new-is-lost")
		next(doctor.Options{Old: otherOld, New: m.newURL}, "new", "pgcutover complete --new-only")
		decide(`delete from pgcutover.decision_forward`)

		tamper := func(sql, id string) {
			t.Helper()
			asTool(t, m.oldURL, sql)
			r := m.examined(t, doctor.Options{Fix: true})
			if len(of(r, id, "old")) != 1 || len(r.Mended) != 0 {
				t.Errorf("after %s:\n%s", sql, text(t, r))
			}
		}
		tamper(`update pgcutover.move set identity = jsonb_set(identity, '{old,timeline}', '9')`, "identity.timeline")
		was := pgtest.Value[string](t, m.oldURL, `select identity #>> '{old,system}' from pgcutover.move`)
		asTool(t, m.oldURL, `update pgcutover.move set identity = jsonb_set(identity, '{old,system}', '"1"')`)
		if r := m.examined(t, doctor.Options{}); len(of(r, "fence.restored-dump", "old")) != 1 {
			t.Errorf("of another cluster:\n%s", text(t, r))
		}
		asTool(t, m.oldURL, `update pgcutover.move set identity = jsonb_set(identity, '{old,system}', '"`+was+`"')`)
		tamper(`update pgcutover.move set format = 99`, "identity.newer")
		tamper(`delete from pgcutover.move`, "schema.without-move")
		tamper(`alter table pgcutover.turn rename to bend`, "schema.without-move")
		asTool(t, m.oldURL, `drop schema pgcutover cascade`, `create schema pgcutover`, `create table pgcutover.move (n integer)`, `create table pgcutover.turn ()`, `create table pgcutover.decision_forward ()`)
		r = m.examined(t, doctor.Options{Fix: true})
		if found := of(r, "schema.without-move", "old"); len(found) != 1 || found[0].Whose != doctor.Other || found[0].Severity != preflight.Warning {
			t.Errorf("somebody else's schema:\n%s", text(t, r))
		}
	})
}

// A role with no rights but to connect learns what it may, is told what it may
// not, and nothing crashes.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Majors(t) {
		c := pgtest.Server(t, major)
		url := pgtest.Database(t, c)
		role := fmt.Sprintf("weak%d", major)
		pgtest.Exec(t, url, `create role `+role+` login`)
		t.Cleanup(func() { pgtest.Exec(t, c.URL("postgres"), `drop role `+role) })
		m := &move{oldURL: url, newURL: url, name: "none"}
		s, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: url, Move: "weak"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		weak := pgtest.WithUser(t, url, role, "")
		r := m.examined(t, doctor.Options{Old: weak})
		if len(r.Findings) != 0 {
			t.Errorf("%d: the report:\n%s", major, text(t, r))
		}
		id, err := state.Identify(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Create(t.Context(), s, state.Move{Name: "weak", Old: id, New: id}); err != nil {
			t.Fatal(err)
		}
		r = m.examined(t, doctor.Options{Old: weak, Fix: true})
		if found := of(r, "server.could-not-look", "old"); len(found) != 1 || found[0].Object != "state" || !strings.Contains(found[0].Next, "superuser") {
			t.Errorf("%d: the report:\n%s", major, text(t, r))
		}
	}
}
