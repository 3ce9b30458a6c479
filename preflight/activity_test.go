package preflight

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// session is a client of the application, until the test's end. Its process is
// waited for then: what it held, and its temporary tables, go only with it.
func session(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		c.Close(ctx)
		gone(t, url, c.PgConn().PID())
	})
	return c
}

// gone waits until a session has ended and, which is later, holds no slot any more.
func gone(t *testing.T, url string, pid uint32) {
	t.Helper()
	err := pg.Wait(context.WithoutCancel(t.Context()), "a session to end", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, url, `
select not exists (select 1 from pg_stat_activity where pid = $1) and not exists (select 1 from pg_replication_slots where active_pid = $1)`, int32(pid)), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Fatalf("running %s: %v", sql, err)
	}
}

// preparing is a cluster that takes prepared transactions.
func preparing(t *testing.T, major int) *pgserver.Cluster {
	t.Helper()
	return pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{"max_prepared_transactions": "5"}})
}

func TestPreparedTransactions(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		older := preparing(t, majors.Old)
		url := older.URL("postgres")
		p := pairOf(t, url, pgtest.Database(t, pgtest.Server(t, majors.New)))
		only(t, check(t, "transactions", p), "transactions.prepared-possible", "")
		none(t, gate(t, "transactions", p))

		pgtest.Exec(t, url, `create table t (a int)`, `begin`, `insert into t values (1)`, `prepare transaction 'it''s "mine"'`)
		found := check(t, "transactions", p)
		f := only(t, found, "transactions.prepared", `'it''s "mine"'`)
		if f.Severity != Blocker || f.Server != "old" {
			t.Errorf("got %+v", f)
		}
		only(t, gate(t, "transactions", p), "transactions.prepared", "")
		pgtest.Exec(t, url, `rollback prepared 'it''s "mine"'`)

		// Of another database: the slot waits for it, the freeze does not.
		pgtest.Exec(t, url, `create database elsewhere`)
		pgtest.Exec(t, older.URL("elsewhere"), `create table t (a int)`, `begin`, `insert into t values (1)`, `prepare transaction 'far'`)
		only(t, check(t, "transactions", p), "transactions.prepared", "'far'")
		none(t, gate(t, "transactions", p))
	})
}

func TestLongTransactions(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		p.Settings.LongTransaction = time.Nanosecond
		pgtest.Exec(t, p.oldURL, `create table t (a int primary key)`)
		none(t, check(t, "transactions", p.Pair), "transactions.long")

		reader, writer, waiter, far := session(t, p.oldURL), session(t, p.oldURL), session(t, p.oldURL), session(t, p.oldServer.URL("postgres"))
		exec(t, reader, `begin`)
		exec(t, reader, `select 'a  reader''s' from t`)
		exec(t, writer, `begin`)
		exec(t, writer, `insert into t values (1)`)
		exec(t, waiter, `begin`)
		exec(t, waiter, `update t set a = 2 where a = 99`) // a lock, and no transaction id
		exec(t, far, `begin`)
		exec(t, far, `select txid_current()`)

		found := check(t, "transactions", p.Pair)
		for _, c := range []*pgx.Conn{reader, writer, waiter, far} {
			if f := only(t, found, "transactions.long", pid(c)); f.Severity != Warning || f.Server != "old" {
				t.Errorf("got %+v", f)
			}
		}
		if f := only(t, found, "transactions.long", pid(reader)); !regexp.MustCompile(`idle in transaction, for [0-9]+s: select 'a reader''s' from t`).MatchString(f.Seen) {
			t.Errorf("seen %q", f.Seen)
		}
		found = gate(t, "transactions", p.Pair)
		for c, want := range map[*pgx.Conn]Severity{reader: Note, writer: Blocker, waiter: Blocker} {
			if f := only(t, found, "transactions.long", pid(c)); f.Severity != want {
				t.Errorf("at the cutover: %+v, want %s", f, want)
			}
		}
		if len(found) != 3 {
			t.Errorf("the other database counts at the cutover:\n%s", text(found))
		}
		// The reverse slot on new waits for writers there, of any database.
		newWriter := session(t, p.newServer.URL("postgres"))
		exec(t, newWriter, `begin`)
		exec(t, newWriter, `select txid_current()`)
		if f := only(t, gate(t, "transactions", p.Pair), "transactions.long", pid(newWriter)); f.Server != "new" || f.Severity != Blocker {
			t.Errorf("got %+v", f)
		}
		p.Settings.Rollback = false
		none(t, onSide(gate(t, "transactions", p.Pair), "new"))

		p.Settings.LongTransaction = 0 // a minute
		none(t, check(t, "transactions", p.Pair), "transactions.long")
	})
}

func pid(c *pgx.Conn) string { return fmt.Sprintf("session %d", c.PgConn().PID()) }

// A VACUUM that sleeps at its first pages is there long enough to be seen.
func TestVacuum(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `create table "va c" with (autovacuum_enabled = false) as select generate_series(1, 50000) as a; delete from "va c" where a % 2 = 0`)
		none(t, check(t, "vacuum", p.Pair))
		c := session(t, p.oldURL)
		exec(t, c, `set vacuum_cost_delay = '100ms'; set vacuum_cost_limit = 1`)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := c.Exec(ctx, `vacuum "va c"`)
			ended <- err
		}()
		t.Cleanup(cancel)
		var found []Finding
		err := pg.Wait(t.Context(), "the vacuum", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
			found = check(t, "vacuum", p.Pair)
			return len(found) > 0, "", nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f := only(t, found, "vacuum.running", `public."va c"`)
		if f.Severity != Warning || !strings.Contains(f.Seen, "VACUUM by a client") {
			t.Errorf("got %+v", f)
		}
		if f := only(t, gate(t, "vacuum", p.Pair), "vacuum.running", ""); f.Severity != Blocker {
			t.Errorf("got %+v", f)
		}
		mend(t, p.oldURL, f)
		if err := <-ended; !pg.IsCode(err, pg.QueryCanceled) {
			t.Errorf("the vacuum ended with %v", err)
		}
		none(t, check(t, "vacuum", p.Pair))
	})
}

func TestOthersReplication(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		none(t, check(t, "neighbours", p.Pair))
		// Somebody publishes into the old database.
		sourceURL := pgtest.Database(t, p.oldServer)
		pgtest.Exec(t, sourceURL, `create schema "S x"; create table "S x"."T" (a int primary key); create publication src for table "S x"."T"`)
		pgtest.Exec(t, p.oldURL, `create schema "S x"; create table "S x"."T" (a int primary key)`,
			`create publication pgcutover_shop`, `create publication theirs`)
		source := open(t, pg.New, sourceURL, "")
		pgtest.Exec(t, p.oldURL, fmt.Sprintf(`create subscription "in coming" connection %s publication src with (create_slot = false, slot_name = 'none_such', enabled = false)`,
			literal(source.Conninfo())))
		found := check(t, "neighbours", p.Pair)
		only(t, found, "neighbours.publication", "")
		if f := only(t, found, "neighbours.subscription", `"in coming"`); f.Severity != Note || f.Seen != "disabled, writes 1 table" {
			t.Errorf("got %+v", f)
		}
		if f := only(t, gate(t, "neighbours", p.Pair), "neighbours.subscription", `"in coming"`); f.Severity != Note || f.Server != "old" {
			t.Errorf("got %+v", f)
		}

		pgtest.Exec(t, p.oldURL, `alter subscription "in coming" enable`)
		f := only(t, check(t, "neighbours", p.Pair), "neighbours.subscription-writes", `"in coming"`)
		if f.Severity != Warning || !strings.Contains(f.Seen, `"S x"."T"`) {
			t.Errorf("got %+v", f)
		}
		f = only(t, gate(t, "neighbours", p.Pair), "neighbours.subscription-writes", `"in coming"`)
		if f.Severity != Blocker {
			t.Errorf("got %+v", f)
		}
		p.Scope = Scope{Exclude: []string{"S x.*"}}
		none(t, gate(t, "neighbours", p.Pair))
		p.Scope = Scope{}
		mend(t, p.oldURL, f)
		none(t, gate(t, "neighbours", p.Pair), "neighbours.subscription-writes")

		pgtest.Exec(t, p.newURL, `create subscription theirs connection 'dbname=x' publication p with (connect = false)`)
		only(t, onSide(check(t, "neighbours", p.Pair), "new"), "neighbours.subscription", `"theirs"`)
	})
}

// Somebody's publication of everything takes the move's own tables along, and
// somebody's subscription may bring them.
func TestOthersCarryTheState(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, `create schema pgcutover`, `create table pgcutover.marker_forward (a int primary key)`, `create table public.t (a int primary key)`)
		}
		pgtest.Exec(t, p.oldURL, `create publication pgcutover_shop for table pgcutover.marker_forward`, `create publication theirs for table public.t`)
		none(t, check(t, "neighbours", p.Pair), "neighbours.publication-state", "neighbours.subscription-state")
		pgtest.Exec(t, p.oldURL, `create publication everything for all tables`, `create publication state for table pgcutover.marker_forward`)
		for _, about := range []string{"everything", "state"} {
			if f := only(t, check(t, "neighbours", p.Pair), "neighbours.publication-state", quote(about)); f.Severity != Note || f.Server != "old" {
				t.Errorf("with no reader: %+v", f)
			}
		}
		pgtest.Exec(t, p.oldURL, `select pg_create_logical_replication_slot('state_reader', 'pgoutput')`)
		f := only(t, check(t, "neighbours", p.Pair), "neighbours.publication-state", quote("everything"))
		if f.Severity != Warning || !strings.Contains(f.Seen, "FOR ALL TABLES") || !strings.Contains(f.Seen, "state_reader") {
			t.Errorf("with a reader: %+v", f)
		}
		pgtest.Exec(t, p.oldURL, `select pg_drop_replication_slot('state_reader')`)
		pgtest.Exec(t, p.newURL, `create publication everything for all tables`)
		only(t, onSide(check(t, "neighbours", p.Pair), "new"), "neighbours.publication-state", "everything")

		pgtest.Exec(t, p.newURL, fmt.Sprintf(`create subscription second connection %s publication everything with (create_slot = false, slot_name = 'none_such', enabled = false, copy_data = false)`,
			literal(p.Old.Conninfo())))
		none(t, gate(t, "neighbours", p.Pair), "neighbours.subscription-state")
		pgtest.Exec(t, p.newURL, `alter subscription second enable`)
		for _, found := range [][]Finding{check(t, "neighbours", p.Pair), gate(t, "neighbours", p.Pair), gate(t, "neighbours", &Pair{Old: p.New, New: p.Old})} {
			f = only(t, found, "neighbours.subscription-state", "second")
			if f.Severity != Blocker || f.Server != "new" || !strings.Contains(f.Seen, "marker_forward") {
				t.Errorf("got %+v", f)
			}
		}
		mend(t, p.newURL, f)
		none(t, gate(t, "neighbours", p.Pair), "neighbours.subscription-state")
	})
}

func TestOthersSlots(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `select pg_create_logical_replication_slot('orphan', 'pgoutput')`,
			`select pg_create_logical_replication_slot('pgcutover_shop', 'pgoutput')`)
		f := only(t, check(t, "neighbours", p.Pair), "neighbours.slot-inactive", `logical replication slot "orphan"`)
		if f.Severity != Warning || !strings.Contains(f.Seen, "of WAL") {
			t.Errorf("got %+v", f)
		}
		stop := stream(t, p.oldURL, "cdc", `START_REPLICATION SLOT "orphan" LOGICAL 0/0 (proto_version '1', publication_names 'none')`)
		f = only(t, check(t, "neighbours", p.Pair), "neighbours.slot-consumer", `"orphan"`)
		if f.Severity != Warning {
			t.Errorf("got %+v", f)
		}
		stop()
		pgtest.Exec(t, p.oldURL, `select pg_drop_replication_slot('orphan')`)
		none(t, check(t, "neighbours", p.Pair))
	})
}

// stream opens a replication connection that streams until the returned
// function, which waits for the server to see its end, is called.
func stream(t *testing.T, url, application, command string) func() {
	t.Helper()
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "true"
	if strings.Contains(command, "LOGICAL") {
		config.RuntimeParams["replication"] = "database"
	}
	config.RuntimeParams["application_name"] = application
	c, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(command, "PHYSICAL") {
		id, err := pglogrepl.IdentifySystem(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		command += " " + id.XLogPos.String()
	}
	c.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := c.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	err = pg.Wait(t.Context(), "the stream "+application, 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, url, `select exists (select 1 from pg_stat_replication where pid = $1 and state in ('catchup', 'streaming'))`, int32(c.PID())), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var closed bool
	end := func() {
		if !closed {
			closed = true
			c.Conn().Close()
			gone(t, url, c.PID())
		}
	}
	t.Cleanup(end)
	return end
}

func TestRoleSettings(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		database := quote(p.Old.Database())
		role(t, p.oldURL, "et l", "login")
		role(t, p.oldURL, "reporter", "login")
		role(t, p.oldURL, "pgcutover_shop", "nologin")
		t.Cleanup(func() { // goes before the roles do
			pgtest.Exec(t, p.oldURL, `alter role "et l" reset all; alter role pgcutover_shop reset all`)
		})
		none(t, check(t, "role-settings", p.Pair))
		pgtest.Exec(t, p.oldURL,
			`alter role "et l" set session_replication_role = replica`,
			`alter role "et l" in database `+database+` set default_transaction_read_only = 'of'`,
			`alter role reporter set default_transaction_read_only = on`, // overrides nothing
			`alter role pgcutover_shop in database `+database+` set default_transaction_read_only = off`,
			`alter database `+database+` set default_transaction_read_only = on`)
		found := check(t, "role-settings", p.Pair)
		for id, object := range map[string]string{
			"role-settings.replica": `role "et l"`, "role-settings.read-only-off": `role "et l" in database`,
			"role-settings.read-only-database": "database " + database,
		} {
			if f := only(t, found, id, object); f.Severity != Warning || f.Server != "old" {
				t.Errorf("got %+v", f)
			}
		}
		if len(found) != 3 {
			t.Errorf("got\n%s", text(found))
		}
		found = gate(t, "role-settings", p.Pair)
		for _, f := range found {
			if f.ID != "role-settings.read-only-database" && f.Severity != Blocker {
				t.Errorf("at the cutover: %+v", f)
			}
			pgtest.Exec(t, p.oldURL, `set default_transaction_read_only = off`, f.Fix)
		}
		none(t, check(t, "role-settings", p.Pair))
	})
}

// A setting of all roles in all databases is one too.
func TestSettingOfAllRoles(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		c := pgtest.Cluster(t, pgserver.Options{Major: majors.Old})
		p := pairOf(t, c.URL("postgres"), pgtest.Database(t, pgtest.Server(t, majors.New)))
		pgtest.Exec(t, c.URL("postgres"), `alter role all set session_replication_role = replica`)
		f := only(t, gate(t, "role-settings", p), "role-settings.replica", "every role")
		if f.Severity != Blocker || f.Fix != "ALTER ROLE ALL RESET session_replication_role;" {
			t.Errorf("got %+v", f)
		}
		mend(t, c.URL("postgres"), f)
		none(t, gate(t, "role-settings", p))
	})
}

// A rollback runs the gates with the servers' roles exchanged.
func TestGatesOfARollback(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		p.Settings.LongTransaction = time.Nanosecond
		pgtest.Exec(t, p.newURL, `create table t (a int primary key)`, `create subscription theirs connection 'dbname=x' publication p with (connect = false)`,
			`select lo_from_bytea(0, 'x')`)
		reader := session(t, p.newURL)
		exec(t, reader, `begin; select * from t`)
		back := &Pair{Old: p.New, New: p.Old, Settings: p.Settings}
		if f := only(t, gate(t, "transactions", back), "transactions.long", pid(reader)); f.Server != "new" || f.Severity != Note {
			t.Errorf("got %+v", f)
		}
		if f := only(t, gate(t, "neighbours", back), "neighbours.subscription", "theirs"); f.Server != "new" {
			t.Errorf("got %+v", f)
		}
		f := only(t, gate(t, "large-objects", back), "not-carried.large-object", "")
		if f.Server != "new" || f.Severity != Warning || !strings.Contains(f.Seen, "1 large object,") || !strings.Contains(f.Seen, "and 0 on the old server") {
			t.Errorf("got %+v", f)
		}
		if refuses := !strings.Contains(f.Why, "nothing keeps superusers"); refuses != (majors.New >= 16) {
			t.Errorf("%d: %s", majors.New, f.Why)
		}
		none(t, gate(t, "large-objects", p.Pair))
	})
}

// The read-only default of a database that takes part in a move is the move's.
func TestReadOnlyDefaultOfOurs(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	if err := state.Create(t.Context(), p.New, state.Move{Name: move}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, p.newURL, `alter database `+quote(p.New.Database())+` set default_transaction_read_only = on`)
	none(t, check(t, "role-settings", p.Pair))
}

func TestStandbys(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		older := pgtest.Cluster(t, pgserver.Options{Major: majors.Old})
		url := older.URL("postgres")
		p := pairOf(t, url, pgtest.Database(t, pgtest.Server(t, majors.New)))
		pgtest.Exec(t, url, `select pg_create_logical_replication_slot('logical', 'pgoutput')`)
		stream(t, url, "logical", `START_REPLICATION SLOT "logical" LOGICAL 0/0 (proto_version '1', publication_names 'none')`)
		none(t, check(t, "standbys", p))

		stop := stream(t, url, "walreceiver", `START_REPLICATION PHYSICAL`)
		f := only(t, check(t, "standbys", p), "standbys.unfenced", "")
		if f.Severity != Warning || !strings.Contains(f.Seen, "application walreceiver, address 127.0.0.1") {
			t.Errorf("got %+v", f)
		}
		if f := only(t, gate(t, "standbys", p), "standbys.unfenced", ""); f.Severity != Blocker {
			t.Errorf("got %+v", f)
		}
		stop()
		none(t, gate(t, "standbys", p))
		pgtest.Exec(t, url, `select pg_create_physical_replication_slot('away')`)
		if f := only(t, gate(t, "standbys", p), "standbys.unfenced", ""); !strings.Contains(f.Seen, "slot away, not connected") {
			t.Errorf("got %+v", f)
		}
		p.Settings.FailoverPaused = true
		none(t, gate(t, "standbys", p))

		// The decision's COMMIT would wait for a standby that is not there.
		pgtest.Exec(t, url, `alter system set synchronous_standby_names = 'absent'`, `select pg_reload_conf()`)
		settled(t, p, 1)
		f = only(t, gate(t, "standbys", p), "standbys.sync-missing", "")
		if f.Severity != Blocker || !strings.Contains(f.Seen, `"absent"`) {
			t.Errorf("got %+v", f)
		}
	})
}

// From 17 on a standby whose slot synchronized_standby_slots names is safe.
func TestSynchronizedStandby(t *testing.T) {
	majors := pgtest.Pairs(t)[0]
	if majors.New < 17 {
		majors.New = 18
	}
	c := pgtest.Cluster(t, pgserver.Options{Major: majors.New})
	url := c.URL("postgres")
	p := pairOf(t, url, pgtest.Database(t, pgtest.Server(t, majors.New)))
	pgtest.Exec(t, url, `select pg_create_physical_replication_slot('one')`, `select pg_create_physical_replication_slot('two')`)
	for range 2 {
		found := gate(t, "standbys", p)
		statement, _, _ := strings.Cut(found[0].Fix, "; SELECT")
		pgtest.Exec(t, url, statement, `select pg_reload_conf()`)
		settled(t, p, len(found)-1)
	}
	stop := stream(t, url, "slotless", `START_REPLICATION PHYSICAL`)
	if f := only(t, gate(t, "standbys", p), "standbys.unfenced", ""); !strings.Contains(f.Fix, "primary_slot_name") {
		t.Errorf("got %+v", f)
	}
	stop()
}

// settled waits for a reload to arrive in the sessions of the pool.
func settled(t *testing.T, p *Pair, standbys int) {
	t.Helper()
	err := pg.Wait(t.Context(), "the setting to arrive", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return len(gate(t, "standbys", p)) == standbys, "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
