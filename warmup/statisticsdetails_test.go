package warmup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

var carryDetails = []struct {
	name string
	run  func(*testing.T, *pgserver.Cluster)
}{
	{"too old", carryTooOld},
	{"keeps what the target has", carryKeeps},
	{"source without good ones", carryNothing},
	{"other types", carryOtherTypes},
	{"other order", carryOtherOrder},
	{"other default order", carryOtherDefault},
	{"locks", carryLocked},
	{"rights", carryRights},
	{"values stay out of sight", carryQuiet},
	{"rows and pages", carryCounts},
	{"foreign tables and domains", carryForeign},
	{"many tables", carryMany},
	{"no encoding", carryBytes},
	{"cancelled", carryCancelled},
	{"silent server", carrySilent},
}

// carryPair makes two databases of the cluster, and runs the statements on both.
func carryPair(t *testing.T, c *pgserver.Cluster, both ...string) (old, new *pg.Server, oldURL, newURL string) {
	t.Helper()
	oldURL, newURL = pgtest.Database(t, c), pgtest.Database(t, c)
	pgtest.Exec(t, oldURL, both...)
	pgtest.Exec(t, newURL, both...)
	return openSide(t, pg.Old, oldURL), openSide(t, pg.New, newURL), oldURL, newURL
}

func carry(t *testing.T, old, new *pg.Server, o CarryOptions) map[string]TableCarry {
	t.Helper()
	if o.Stale == 0 {
		o.Stale = 1e6 // what was inserted may be told to the server's statistics after the ANALYZE
	}
	report, err := CarryStatistics(t.Context(), old, new, o)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]TableCarry{}
	for _, c := range report.Tables {
		found[c.Name] = c
	}
	return found
}

func expectOutcome(t *testing.T, found map[string]TableCarry, table string, want CarryOutcome) {
	t.Helper()
	if got := found[table]; got.Outcome != want {
		t.Errorf("%s is %q, want %q: %+v", table, got.Outcome, want, got)
	}
}

// skipped returns the reasons why a column's statistics were left out.
func skipped(c TableCarry, column string) string {
	var reasons []string
	for _, s := range c.Skipped {
		if s.Column == column {
			reasons = append(reasons, s.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// statOf reads one field of pg_stats as text; "none" when there is no row.
func statOf(t *testing.T, url, table, column, field string) string {
	t.Helper()
	return pgtest.Value[string](t, url, fmt.Sprintf(
		`select coalesce((select coalesce(to_jsonb(s) ->> '%s', 'null') from pg_stats s where s.tablename = '%s' and s.attname = '%s'), 'none')`, field, table, column))
}

func carryTooOld(t *testing.T, c *pgserver.Cluster) {
	old, new := openSide(t, pg.Old, pgtest.Database(t, pgtest.Server(t, 15))), openSide(t, pg.New, pgtest.Database(t, c))
	if _, err := CarryStatistics(t.Context(), new, old, CarryOptions{}); !errors.Is(err, ErrNoCarrying) {
		t.Errorf("carrying to 15: %v", err)
	}
}

func carryKeeps(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create table own (n int)", "create table bare (n int, email text)",
		"insert into own select i % 7 from generate_series(1, 100) i", "insert into bare select i % 7, 'A' || i % 9 from generate_series(1, 100) i",
		"create index lowered on bare (lower(email))")
	pgtest.Exec(t, oldURL, "update own set n = 1", "analyze")
	pgtest.Exec(t, newURL, "analyze own", "drop index lowered", "analyze bare", "create index lowered on bare (lower(email))")
	found := carry(t, old, new, CarryOptions{})
	expectOutcome(t, found, "own", Kept)
	expectOutcome(t, found, "bare", Carried)
	if found["bare"].Columns != 1 {
		t.Errorf("beside the index's expression something was written: %+v", found["bare"])
	}
	if got := statOf(t, newURL, "own", "n", "n_distinct"); got != "7" {
		t.Errorf("the target's own statistics are gone: n_distinct %s", got)
	}
	if got := statOf(t, newURL, "lowered", "lower", "n_distinct"); got != "9" {
		t.Errorf("the expression has n_distinct %s", got)
	}
	expectOutcome(t, carry(t, old, new, CarryOptions{}), "bare", Kept)
	expectOutcome(t, carry(t, old, new, CarryOptions{Overwrite: true}), "own", Carried)
	if got := statOf(t, newURL, "own", "n", "n_distinct"); got != "1" {
		t.Errorf("the target's statistics were to be overwritten: n_distinct %s", got)
	}
}

func carryNothing(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create table never (n int)", "create table changed (n int)", "create table gone (n int)", "create table other (n int)", "create table untold (n int)",
		"alter table untold alter n set statistics 0",
		"insert into never select generate_series(1, 100)", "insert into changed select generate_series(1, 300)",
		"insert into gone select generate_series(1, 100)", "insert into other select generate_series(1, 100)")
	pgtest.Exec(t, oldURL, "analyze changed, gone, other, untold", "update changed set n = 0", "update changed set n = 1")
	pgtest.Exec(t, newURL, "drop table gone", "drop table other", "create view other as select 1 as n")
	// What was changed is told to the statistics collector a little later.
	err := pg.Wait(t.Context(), "the changes to be counted", 20*time.Millisecond, 30*time.Second, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[int64](t, oldURL, "select n_mod_since_analyze from pg_stat_user_tables where relname = 'changed'") >= 600, "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found := carry(t, old, new, CarryOptions{Stale: 1})
	for table, want := range map[string]CarryOutcome{"never": NoneOnSource, "changed": StaleOnSource, "gone": NotOnTarget, "other": NotOnTarget, "untold": NothingToCarry} {
		expectOutcome(t, found, table, want)
	}
	expectOutcome(t, carry(t, old, new, CarryOptions{Stale: 9}), "changed", Carried)
}

func carryOtherTypes(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create type mood as enum ('a', 'b', 'c')", "create type inner_pair as (x int, y mood)",
		"create table t (same int, wider int, longer varchar(5), feeling mood, feelings mood[], pair inner_pair, missing int, cash money)",
		"insert into t select i % 9, i % 9, i % 9, 'a', array['b'::mood], row(i % 3, 'a')::inner_pair, i, i from generate_series(1, 100) i")
	pgtest.Exec(t, oldURL, "analyze")
	pgtest.Exec(t, newURL, "alter table t alter wider type bigint, alter longer type varchar(6), drop column missing", "alter type mood add value 'z' before 'a'",
		fmt.Sprintf("alter database %q set lc_monetary = 'POSIX'", new.Database()))
	found := carry(t, old, openSide(t, pg.New, newURL), CarryOptions{})
	expectOutcome(t, found, "t", PartlyCarried)
	for column, want := range map[string]string{
		"same": "", "wider": "the type differs", "longer": "the type differs", "feeling": "the type differs", "feelings": "the type differs",
		"pair": "the type differs", "missing": "not on the target", "cash": "lc_monetary differs",
	} {
		if got := skipped(found["t"], column); got != want {
			t.Errorf("%s: %q, want %q", column, got, want)
		}
		if got := statOf(t, newURL, "t", column, "null_frac"); (got == "none") != (want != "") {
			t.Errorf("%s has null_frac %s", column, got)
		}
	}
}

// carryOtherOrder has a collation by which one server sorts as people do and the
// other by bytes: histograms are carried only where both find them in order.
func carryOtherOrder(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c)
	for url, words := range map[string]string{oldURL: "provider = icu, locale = 'en'", newURL: "provider = libc, locale = 'C'"} {
		pgtest.Exec(t, url, fmt.Sprintf("create collation words (%s)", words),
			`create table t (plain text collate words, mixed text collate words, few text collate words, bytes text collate "C",
				lists text[] collate words, cased text collate "en-x-icu", nested jsonb)`,
			`insert into t select 'w' || lpad(i::text, 4, '0'),
				case i % 5 when 0 then 'W' else 'w' end || lpad(i::text, 4, '0'), case i % 3 when 0 then 'A' when 1 then 'a' else 'b' end,
				'b' || i, array['x' || lpad(i::text, 4, '0')], 'c' || i, to_jsonb('j' || i) from generate_series(1, 600) i`)
	}
	pgtest.Exec(t, oldURL, "analyze")
	found := carry(t, old, new, CarryOptions{})
	expectOutcome(t, found, "t", PartlyCarried)
	for column, kept := range map[string]bool{"plain": true, "mixed": false, "bytes": true, "lists": true, "cased": true, "nested": true} {
		if got := statOf(t, newURL, "t", column, "histogram_bounds"); (got != "null") != kept {
			t.Errorf("%s has the histogram %.60s", column, got)
		}
		if got := statOf(t, newURL, "t", column, "correlation"); (got != "null") != kept {
			t.Errorf("%s has the correlation %s", column, got)
		}
		if got := skipped(found["t"], column); (got == "") != kept {
			t.Errorf("%s: %q", column, got)
		}
	}
	if got := statOf(t, newURL, "t", "few", "most_common_vals"); len(strings.Split(got, ",")) != 3 {
		t.Errorf("common values need no order, and are %s", got)
	}
}

// carryOtherDefault has a database of another provider: everything that follows
// its own collation is in doubt, and nothing else.
func carryOtherDefault(t *testing.T, c *pgserver.Cluster) {
	oldURL := pgtest.Database(t, c)
	pgtest.Exec(t, oldURL, "create database carried_icu template template0 locale_provider icu icu_locale 'en' locale 'C'")
	t.Cleanup(func() { dropDatabase(t, oldURL, "carried_icu") })
	newURL := c.URL("carried_icu")
	const table = `create table t (n int, plain text, mixed text, nested jsonb, words text[], name name, vector tsvector)`
	pgtest.Exec(t, newURL, table)
	pgtest.Exec(t, oldURL, table, `insert into t select i, 'w' || lpad(i::text, 4, '0'), m, to_jsonb(m), array['a', 'B', 'b' || i % 5], m, to_tsvector('simple', 'a B' || i % 5)
		from (select i, case i % 5 when 0 then 'W' else 'w' end || lpad(i::text, 4, '0') as m from generate_series(1, 600) i) x`, "analyze")
	found := carry(t, openSide(t, pg.Old, oldURL), openSide(t, pg.New, newURL), CarryOptions{})
	expectOutcome(t, found, "t", PartlyCarried)
	for column, kept := range map[string]bool{"n": true, "plain": true, "mixed": false, "nested": false, "name": true} {
		if got := statOf(t, newURL, "t", column, "histogram_bounds"); (got != "null") != kept {
			t.Errorf("%s has the histogram %.60s", column, got)
		}
	}
	for column, kept := range map[string]bool{"words": false, "vector": true} {
		if got := statOf(t, newURL, "t", column, "most_common_elems"); (got != "null") != kept {
			t.Errorf("%s has the elements %s", column, got)
		}
	}
}

func carryLocked(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create table busy (n int)", "create table free (n int)", "create index on busy ((n + 1))",
		"insert into busy select generate_series(1, 100)", "insert into free select generate_series(1, 100)")
	pgtest.Exec(t, oldURL, "analyze")
	_, releaseOld := lock(t, oldURL, "lock table busy")
	_, releaseNew := lock(t, newURL, "lock table busy in share update exclusive mode")
	found := carry(t, old, new, CarryOptions{LockTimeout: 500 * time.Millisecond})
	expectOutcome(t, found, "busy", CarryLocked)
	expectOutcome(t, found, "free", Carried)
	releaseNew()
	found = carry(t, old, new, CarryOptions{})
	expectOutcome(t, found, "busy", PartlyCarried)
	if got := skipped(found["busy"], "expr"); !strings.Contains(got, "was locked") {
		t.Errorf("the expression of a table that is locked on old: %q", got)
	}
	releaseOld()
	found = carry(t, old, new, CarryOptions{})
	expectOutcome(t, found, "busy", Carried)
	expectOutcome(t, found, "free", Kept)
}

func carryRights(t *testing.T, c *pgserver.Cluster) {
	_, _, oldURL, newURL := carryPair(t, c,
		`do $$begin if not exists (select from pg_roles where rolname = 'stats reader') then create role "stats reader" login; end if; end$$`,
		"create table mine (n int)", "create table columns (n int, hidden int)", "create table rows (n int)", "create table theirs (n int)",
		"insert into mine select generate_series(1, 100)", "insert into columns select 1, generate_series(1, 100)",
		"insert into rows select generate_series(1, 100)", "insert into theirs select generate_series(1, 100)",
		`alter table mine owner to "stats reader"`, "alter table rows enable row level security",
		`grant select (n) on columns to "stats reader"`, `grant select on rows, theirs to "stats reader"`)
	pgtest.Exec(t, oldURL, "analyze")
	pgtest.Exec(t, newURL, `grant maintain on columns, rows to "stats reader"`)
	found := carry(t, openSide(t, pg.Old, pgtest.WithUser(t, oldURL, "stats reader", "")), openSide(t, pg.New, pgtest.WithUser(t, newURL, "stats reader", "")), CarryOptions{})
	for table, want := range map[string]CarryOutcome{"mine": Carried, "columns": PartlyCarried, "rows": NoneOnSource, "theirs": CarryNotAllowed} {
		expectOutcome(t, found, table, want)
	}
	if got := skipped(found["columns"], "hidden"); !strings.Contains(got, "may not read") {
		t.Errorf("a column that this role may not read: %q", got)
	}
	if got := found["rows"].Reason; !strings.Contains(got, "may not read") {
		t.Errorf("a table under row security: %q", got)
	}
	if got := statOf(t, newURL, "columns", "hidden", "null_frac"); got != "none" {
		t.Errorf("the hidden column has null_frac %s", got)
	}
}

// carryQuiet looks for a value of the data everywhere it must not be.
func carryQuiet(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create domain code as text", "create table t (name text, code code, n int)",
		"insert into t select 'Sesame ' || i % 5, 'Sesame ' || i % 5, i from generate_series(1, 300) i")
	pgtest.Exec(t, oldURL, "analyze")
	pgtest.Exec(t, newURL, "create function refuses(text) returns boolean language plpgsql as $$begin raise exception 'no'; end$$",
		"alter domain code add constraint c check (refuses(value)) not valid",
		fmt.Sprintf("alter database %q set log_min_duration_statement = 0", new.Database()),
		fmt.Sprintf("alter database %q set log_statement = 'all'", new.Database()))
	again := openSide(t, pg.New, newURL)
	before, err := os.ReadFile(c.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	report, err := CarryStatistics(t.Context(), old, again, CarryOptions{Stale: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(c.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	said := string(log[len(before):])
	if !strings.Contains(said, "pg_restore_attribute_stats") {
		t.Error("the server logs nothing: this proves nothing")
	}
	if strings.Contains(said, "Sesame") || strings.Contains(string(text), "Sesame") {
		t.Errorf("a value is in the server's log or in the report:\n%.2000s\n%s", said, text)
	}
	got := report.Tables[0]
	if got.Outcome != PartlyCarried || got.Columns != 2 || !strings.Contains(skipped(got, "code"), "P0001") {
		t.Errorf("a column whose values the target refuses: %+v", got)
	}
	if got := statOf(t, newURL, "t", "name", "n_distinct"); got != "5" {
		t.Errorf("the columns beside it: n_distinct %s", got)
	}
}

func carryCounts(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create table grown (n int primary key, t text)", "create table counted (n int)", "create materialized view later as select 1 as n with no data")
	pgtest.Exec(t, oldURL, "insert into grown select i, repeat('x', 100) from generate_series(1, 2000) i", "delete from grown where n % 4 <> 0",
		"insert into counted select generate_series(1, 70)", "refresh materialized view later", "vacuum analyze")
	pgtest.Exec(t, newURL, "insert into grown select i, repeat('x', 100) from generate_series(1, 500) i",
		"insert into counted select generate_series(1, 90)", "vacuum counted")
	found := carry(t, old, new, CarryOptions{})
	for _, table := range []string{"grown", "counted", "later"} {
		expectOutcome(t, found, table, Carried)
	}
	// old has four times the blocks: its density is not new's.
	for sql, want := range map[string]bool{
		`select reltuples = 500 and relpages = pg_relation_size(oid) / 8192 from pg_class where relname = 'grown'`: true,
		`select reltuples = 90 from pg_class where relname = 'counted'`:                                            true,
		`select reltuples = -1 from pg_class where relname = 'later'`:                                              true,
		`select relallvisible = 0 from pg_class where relname = 'grown'`:                                           true,
	} {
		if got := pgtest.Value[bool](t, newURL, sql); got != want {
			t.Errorf("%t: %s", got, sql)
		}
	}
}

func carryForeign(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c,
		"create foreign data wrapper none", "create server away foreign data wrapper none", "create foreign table remote (n int) server away",
		"create domain spans as int4range", "create domain words as tsvector", "create table d (span spans, word words)",
		"insert into d select int4range(i, i + 9), to_tsvector('simple', 'a b' || i % 3) from generate_series(1, 300) i")
	pgtest.Exec(t, oldURL, "analyze d",
		"select pg_restore_relation_stats('schemaname', 'public', 'relname', 'remote', 'relpages', 77, 'reltuples', 5000::real)",
		"select pg_restore_attribute_stats('schemaname', 'public', 'relname', 'remote', 'attname', 'n', 'inherited', false, 'null_frac', 0.25::real, 'n_distinct', 42::real)")
	found := carry(t, old, new, CarryOptions{})
	expectOutcome(t, found, "remote", Carried)
	expectOutcome(t, found, "d", PartlyCarried)
	if got := skipped(found["d"], "span"); !strings.Contains(got, "for a domain") {
		t.Errorf("a domain over a range: %q", got)
	}
	if got := skipped(found["d"], "word"); !strings.Contains(got, "for a domain") {
		t.Errorf("a domain over tsvector: %q", got)
	}
	if got := pgtest.Value[string](t, newURL, "select relpages || '/' || reltuples from pg_class where relname = 'remote'"); got != "77/5000" {
		t.Errorf("the foreign table has %s", got)
	}
	if got := statOf(t, newURL, "remote", "n", "n_distinct"); got != "42" {
		t.Errorf("the foreign table's column has n_distinct %s", got)
	}
}

func carryMany(t *testing.T, c *pgserver.Cluster) {
	const n = 130
	old, new, oldURL, newURL := carryPair(t, c, fmt.Sprintf(
		`do $$begin for i in 1..%d loop execute format('create table t%%s as select g as a, mod(g, 5) as b, ''v'' || g as c from generate_series(1, 20) g', i); end loop; end$$`, n))
	pgtest.Exec(t, oldURL, "analyze")
	report, err := CarryStatistics(t.Context(), old, new, CarryOptions{Jobs: 3, Stale: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Count(Carried); got != n {
		t.Errorf("%d of %d tables were carried", got, n)
	}
	if got := pgtest.Value[int64](t, newURL, "select count(*) from pg_stats where schemaname = 'public'"); got != 3*n {
		t.Errorf("%d rows of statistics, want %d", got, 3*n)
	}
	noSessions(t, newURL)
}

// carryBytes has values in no encoding: the target takes what it can.
func carryBytes(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create database carried_ascii encoding 'SQL_ASCII' template template0")
	t.Cleanup(func() { dropDatabase(t, url, "carried_ascii") })
	oldURL := c.URL("carried_ascii")
	table := "create table t (n int, t text, clean text)"
	pgtest.Exec(t, oldURL, table, `insert into t select i, convert_from('\xe9ff', 'SQL_ASCII') || i % 3, 'c' || i from generate_series(1, 300) i`, "analyze")
	pgtest.Exec(t, url, table)
	found := carry(t, openSide(t, pg.Old, oldURL), openSide(t, pg.New, url), CarryOptions{})
	expectOutcome(t, found, "t", PartlyCarried)
	if got := skipped(found["t"], "t"); got == "" {
		t.Error("the column with values that are no UTF8 was not skipped")
	}
	for _, column := range []string{"n", "clean"} {
		if got := statOf(t, url, "t", column, "histogram_bounds"); got == "null" || got == "none" {
			t.Errorf("%s has the histogram %s", column, got)
		}
	}
}

func dropDatabase(t *testing.T, url, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	s, err := pg.Open(ctx, pg.Options{Side: pg.New, URL: url, Move: "shop"})
	if err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	if _, err := s.Pool().Exec(ctx, fmt.Sprintf("drop database %s with (force)", name)); err != nil {
		t.Error(err)
	}
}

func carryCancelled(t *testing.T, c *pgserver.Cluster) {
	old, new, oldURL, newURL := carryPair(t, c, "create table t (n int)", "insert into t select generate_series(1, 100)")
	pgtest.Exec(t, oldURL, "analyze")
	_, release := lock(t, newURL, "lock table t in share update exclusive mode")
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := CarryStatistics(ctx, old, new, CarryOptions{LockTimeout: time.Minute, Stale: 1e6})
		done <- err
	}()
	err := pg.Wait(t.Context(), "the call to wait for the lock", 10*time.Millisecond, 30*time.Second, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, newURL, "select exists (select from pg_locks where not granted and relation = 't'::regclass)"), "", nil
	})
	if err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
	release()
	noSessions(t, newURL)
	noSessions(t, oldURL)
}

// carrySilent: a server that says nothing any more is not waited for without end.
func carrySilent(t *testing.T, c *pgserver.Cluster) {
	old, _, oldURL, newURL := carryPair(t, c, "create table t (n int)", "insert into t select generate_series(1, 100)")
	pgtest.Exec(t, oldURL, "analyze")
	proxy := pgtest.NewProxy(t, c.Addr())
	new := openSide(t, pg.New, proxy.URL(t, newURL))
	proxy.OnFrontend(func(_ int, _ byte, payload []byte) pgtest.Action {
		if bytes.Contains(payload, []byte("pg_restore_attribute_stats")) {
			proxy.Stall()
		}
		return pgtest.Forward
	})
	defer proxy.Restore(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := CarryStatistics(ctx, old, new, CarryOptions{Answer: time.Second, Stale: 1e6}); !errors.Is(err, errSilent) {
		t.Errorf("error %v, want %v", err, errSilent)
	}
}

func TestSliceSize(t *testing.T) {
	for _, c := range []struct {
		tables, jobs int
		bytes        int64
		want         int
	}{
		{1, 4, 0, 24}, {10_000, 4, 50 << 20, 834}, {10_000, 1, 50 << 20, 3334}, {10_000, 4, 4 << 30, 79}, {10_000, 4, 1 << 40, 24},
	} {
		if got := sliceSize(c.tables, c.jobs, c.bytes); got != c.want {
			t.Errorf("%d tables, %d jobs, %d bytes: %d at once, want %d", c.tables, c.jobs, c.bytes, got, c.want)
		}
	}
}
