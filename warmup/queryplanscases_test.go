package warmup

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// An index that new lacks, has under another name, or has and cannot use.
func plansIndex(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t,
		`select * from orders where customer = 5`,
		`select * from orders where created > '2026-10-31' order by created limit 5`,
		`select name from customers where id = 3`,
	)
	pgtest.Exec(t, newURL, `drop index shop.orders_customer`, `alter index shop.orders_created rename to by_time`,
		`update pg_index set indisvalid = false where indexrelid = 'shop.customers_pkey'::regclass`)
	r := comparedPlans(t, oldURL, newURL, PlansOptions{})
	for part, want := range map[string]PlanVerdict{"where customer =": PlanIndexMissing, "where created >": PlanSame, "select name": PlanIndexMissing} {
		if s := comparisonOf(t, r, part); s.Verdict != want {
			t.Errorf("%s is %s, want %s", s.Text, s.Verdict, want)
		}
	}
	s := comparisonOf(t, r, "where customer =")
	if !slices.Equal(s.Missing, []string{"shop.orders_customer on orders"}) || s.CostRatio < 2 ||
		!slices.ContainsFunc(s.Changes, func(c string) bool {
			return strings.HasPrefix(c, "shop.orders: Bitmap Heap Scan, Bitmap Index Scan using orders_customer -> Seq Scan")
		}) {
		t.Errorf("%v %v %v", s.Missing, s.Changes, s.CostRatio)
	}
	if r.Grave() != 2 || r.Statements[0].Verdict != PlanIndexMissing || r.Statements[2].Verdict != PlanSame {
		t.Errorf("%d grave, in the order %s", r.Grave(), textOfReport(t, r))
	}
	if text := textOfReport(t, r); !strings.Contains(text, "WARN INDEX MISSING") || !strings.Contains(text, "index shop.orders_customer on orders") ||
		!strings.Contains(text, "3 statements: 1 same, 0 changed and not dearer, 0 dearer, 2 lack an index, 0 not explained") {
		t.Error(text)
	}
}

// Statistics decide about plans: with those of a near empty table, new reads it
// otherwise; analyzed, as old does. Without any it is said so.
func plansStatistics(t *testing.T, p plansPair) {
	const ask = `select o.id from orders o join customers c on c.id = o.customer where o.state = 's1' and c.name like 'c1%'`
	oldURL, newURL := p.shop(t, ask, `select count(*) from orders where customer = 5`)
	pgtest.Exec(t, newURL, `create table shop.kept as select * from shop.orders`, `truncate shop.orders`,
		`insert into shop.orders select * from shop.kept limit 3`, `vacuum analyze shop.orders`, `delete from shop.orders`, `insert into shop.orders select * from shop.kept`)
	stale := comparedPlans(t, oldURL, newURL, PlansOptions{})
	s := comparisonOf(t, stale, "from orders o join")
	if s.Verdict != PlanChanged && s.Verdict != PlanDearer || !slices.ContainsFunc(s.Notes, func(n string) bool { return strings.HasPrefix(n, "expected rows: ") }) {
		t.Errorf("with stale statistics it is %s, %v", s.Verdict, s.Notes)
	}
	pgtest.Exec(t, newURL, `vacuum full shop.orders`, `analyze shop.orders`)
	fresh := comparedPlans(t, oldURL, newURL, PlansOptions{})
	for _, s := range fresh.Statements {
		if s.Verdict != PlanSame || s.CostRatio < 0.8 || s.CostRatio > 1.25 || len(s.Notes) > 0 {
			t.Errorf("analyzed: %s is %s, %v times the cost, %v, %v", s.Text, s.Verdict, s.CostRatio, s.Changes, s.Notes)
		}
	}
	pgtest.Exec(t, newURL, `delete from pg_statistic where starelid = 'shop.orders'::regclass`)
	none := comparedPlans(t, oldURL, newURL, PlansOptions{})
	s = comparisonOf(t, none, "from orders o join")
	if !slices.Equal(none.WithoutStatistics, []Table{{"shop", "orders"}}) || !strings.Contains(strings.Join(s.Notes, "; "), "no statistics on new for shop.orders") {
		t.Errorf("without statistics: %v, %v", none.WithoutStatistics, s.Notes)
	}
	// A setting that makes new plan otherwise is named, and the plan is dearer.
	pgtest.Exec(t, newURL, `analyze`, `do $$ begin execute format('alter database %I set enable_bitmapscan = off', current_database());
		execute format('alter database %I set enable_indexscan = off', current_database());
		execute format('alter database %I set enable_indexonlyscan = off', current_database());
		execute format('alter database %I set random_page_cost = 1.5', current_database()); end $$`)
	off := comparedPlans(t, oldURL, newURL, PlansOptions{})
	if s := comparisonOf(t, off, "where customer ="); s.Verdict != PlanDearer || s.CostRatio < 2 || off.Grave() == 0 {
		t.Errorf("without index scans it is %s, %v", s.Verdict, s.CostRatio)
	}
	if !slices.Contains(off.Settings, SettingDifference{"enable_indexscan", "on", "off"}) || !strings.Contains(textOfReport(t, off), "same units") {
		t.Errorf("settings: %v, %v", off.Settings, off.Warnings)
	}
}

// A role that owns nothing sees its own statements, with pg_read_all_stats those
// of all, and plans those of roles that it is a member of as these.
func plansRights(t *testing.T, p plansPair) {
	for _, c := range []*pgserver.Cluster{p.old, p.new} {
		pgtest.Exec(t, c.URL("postgres"), `do $$ begin create role plans_app login; create role plans_tool login; exception when duplicate_object then null; end $$`)
	}
	oldURL, newURL := p.shop(t)
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, `create schema plans_app authorization plans_app`, `create table plans_app.own as select i as id from generate_series(1, 2000) i`,
			`alter table plans_app.own owner to plans_app`, `analyze plans_app.own`,
			`do $$ begin execute format('alter role plans_app in database %I set search_path = "$user", public', current_database()); end $$`,
			`grant usage on schema shop to plans_app`, `grant select on shop.customers to plans_app`,
			`alter table shop.customers enable row level security`, `create policy mine on shop.customers to plans_app using (exists (select from plans_app.own where own.id = customers.id))`)
	}
	askAs(t, pgtest.WithUser(t, oldURL, "plans_app", ""), `select * from own where id = 3`, `select name from shop.customers where name = 'c3'`)
	tool := func() PlansReport {
		t.Helper()
		return comparedPlans(t, pgtest.WithUser(t, oldURL, "plans_tool", ""), pgtest.WithUser(t, newURL, "plans_tool", ""), PlansOptions{})
	}
	pgtest.Exec(t, oldURL, `grant usage on schema extra to plans_tool`)
	r := tool()
	if r.Hidden == 0 || len(r.Statements) != 0 || !strings.Contains(textOfReport(t, r), "has counted no query") || !strings.Contains(textOfReport(t, r), `GRANT pg_read_all_stats TO "plans_tool";`) {
		t.Errorf("without rights: %d hidden\n%s", r.Hidden, textOfReport(t, r))
	}
	pgtest.Exec(t, oldURL, `grant pg_read_all_stats to plans_tool`)
	r = tool()
	if s := comparisonOf(t, r, "from own"); s.Verdict != PlanUnexplained || s.Unexplained != pg.Old || r.Hidden != 0 ||
		!strings.Contains(s.Reason, `with search_path "plans_app", public, as role plans_tool`) {
		t.Errorf("without rights on the table: %s on %s, %s", s.Verdict, s.Unexplained, s.Reason)
	}
	pgtest.Exec(t, oldURL, `grant plans_app to plans_tool`)
	if s := comparisonOf(t, tool(), "from own"); s.Verdict != PlanUnexplained || s.Unexplained != pg.New {
		t.Errorf("without rights on new: %s on %s, %s", s.Verdict, s.Unexplained, s.Reason)
	}
	pgtest.Exec(t, newURL, `grant plans_app to plans_tool`)
	r = tool()
	for _, part := range []string{"from own", "from shop.customers"} {
		if s := comparisonOf(t, r, part); s.Verdict == PlanUnexplained || s.Role != "plans_app" {
			t.Errorf("%s is %s, by %s: %s", s.Text, s.Verdict, s.Role, s.Reason)
		}
	}
	queries, err := RunQueries(t.Context(), open(t, pgtest.WithUser(t, newURL, "plans_tool", "")), parsedQueries(t, `table plans_app.own; table shop.orders`), QueriesOptions{})
	if err != nil || !slices.Equal(queries.Queries[0].Rows, []int64{2000}) || len(queries.Queries[1].Errors) != 1 || queries.Queries[1].Errors[0].Code != pg.InsufficientPrivilege {
		t.Errorf("queries of a role with few rights: %+v, %v", queries, err)
	}
	// The policy is for who ran it: the superuser takes on that role.
	for _, report := range []PlansReport{r, comparedPlans(t, oldURL, newURL, PlansOptions{})} {
		s := comparisonOf(t, report, "from shop.customers")
		for side, plan := range map[pg.Side]*Plan{pg.Old: s.Old, pg.New: s.New} {
			if plan == nil || !slices.Contains(plan.Root.tables(), Table{"plans_app", "own"}) {
				t.Errorf("the plan on %s is without the policy: %v", side, plan)
			}
		}
	}
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, `drop owned by plans_app`, `drop owned by plans_tool`)
		pgtest.Exec(t, url, `revoke plans_app from plans_tool`)
	}
	pgtest.Exec(t, oldURL, `revoke pg_read_all_stats from plans_tool`)
}

// A table with many partitions does not fill the screen.
func TestDifferencesAreShort(t *testing.T) {
	plan := func(how string) PlanNode {
		root := PlanNode{Type: "Append"}
		for i := range 1000 {
			root.Plans = append(root.Plans, PlanNode{Type: how, Table: &Table{"public", fmt.Sprintf("part_%04d", i%500)}})
		}
		return root
	}
	if same := differences(plan("Seq Scan"), plan("Seq Scan")); len(same) != 0 {
		t.Errorf("the same plan: %v", same)
	}
	was, isIt := plan("Seq Scan"), plan("Index Scan")
	changes := differences(was, isIt)
	if len(changes) > mostChanges+1 || !strings.Contains(changes[0], "part_0000: Seq Scan, Seq Scan -> Index Scan, Index Scan") {
		t.Errorf("%d changes, the first is %q", len(changes), changes[0])
	}
	isIt.Plans = slices.Clone(was.Plans)
	slices.Reverse(isIt.Plans)
	if changes := differences(was, isIt); len(changes) != 1 || len(changes[0]) > 1000 || !strings.Contains(changes[0], "and 988 more") {
		t.Errorf("another order: %v", changes)
	}
}

// Plans that were kept are compared later, as if old still answered.
func plansKept(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t, reads...)
	set, err := ReadPlans(t.Context(), open(t, oldURL), PlansOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range set.Statements[1:] {
		if s.TotalMS > set.Statements[i].TotalMS {
			t.Errorf("%s comes after %s, and took longer", s.Text, set.Statements[i].Text)
		}
	}
	top, err := ReadPlans(t.Context(), open(t, oldURL), PlansOptions{Top: 7})
	if err != nil || len(top.Statements) != 7 || top.Statements[6].ID != set.Statements[6].ID {
		t.Errorf("the top 7 are %d, %v", len(top.Statements), err)
	}
	var kept bytes.Buffer
	if err := set.Save(&kept); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, newURL, `drop index shop.orders_customer`)
	loaded, err := LoadPlans(&kept)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []PlanSet{set, loaded} {
		r, err := ComparePlansWith(t.Context(), from, open(t, newURL), PlansOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Counts[PlanIndexMissing] == 0 || r.Counts[PlanSame] == 0 || r.Counts[PlanUnexplained] > 0 || len(r.Statements) != len(set.Statements) || r.OldServer != open(t, oldURL).Address() {
			t.Errorf("%v\n%s", r.Counts, textOfReport(t, r))
		}
	}
	if _, err := LoadPlans(strings.NewReader(`{"format": 99}`)); err == nil || !strings.Contains(hint.Of(err), "--save") {
		t.Errorf("another format: %v", err)
	}
	if _, err := LoadPlans(strings.NewReader(`x`)); err == nil {
		t.Error("what is no JSON is read")
	}
}

// Both servers' catalogs stay as they are, no row changes, and nothing goes to the WAL.
func plansWriteNothing(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t, append(append([]string{}, reads...), noReads...)...)
	type state struct {
		catalog string
		changed int64
	}
	const changedSQL = `select n_tup_ins + n_tup_upd + n_tup_del from pg_stat_all_tables where relid = 'shop.orders'::regclass`
	now := func(url string) state {
		return state{pgtest.Catalog(t, url), pgtest.Value[int64](t, url, changedSQL)}
	}
	for _, url := range []string{oldURL, newURL} {
		waitForCollector(t, url)
	}
	before := map[string]state{oldURL: now(oldURL), newURL: now(newURL)}
	xids := map[string]int64{}
	for url := range before {
		xids[url] = pgtest.Value[int64](t, url, `select txid_snapshot_xmax(txid_current_snapshot())`)
	}
	r := comparedPlans(t, oldURL, newURL, PlansOptions{})
	if len(r.Statements) < 15 {
		t.Fatalf("%d statements", len(r.Statements))
	}
	for url, was := range before {
		// Without a transaction id nothing was written.
		if xid := pgtest.Value[int64](t, url, `select txid_snapshot_xmax(txid_current_snapshot())`); xid != xids[url] {
			t.Errorf("transactions with an id: %d before, %d after", xids[url], xid)
		}
		if is := now(url); is != was {
			t.Errorf("changed: %s%d rows before, %d after", pgtest.Diff(was.catalog, is.catalog), was.changed, is.changed)
		}
		noSessions(t, url)
	}
	counted := `select count(*) from extra.pg_stat_statements where query ilike 'explain (verbose, format json)%'`
	if n := pgtest.Value[int](t, oldURL, counted); n != 0 {
		t.Errorf("%d EXPLAINs of ours are counted on old", n)
	}
}

// A table that somebody has locked stops one statement, not the others.
func plansLocked(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t, `select * from orders where id = 5`, `select * from customers where id = 5`)
	_, release := lock(t, newURL, `lock table shop.orders in access exclusive mode`)
	defer release()
	r := comparedPlans(t, oldURL, newURL, PlansOptions{})
	if s := comparisonOf(t, r, "from orders"); s.Verdict != PlanUnexplained || s.Unexplained != pg.New || !strings.Contains(s.Reason, "locked by another session") {
		t.Errorf("locked: %s on %s: %s", s.Verdict, s.Unexplained, s.Reason)
	}
	if s := comparisonOf(t, r, "from customers"); s.Verdict != PlanSame {
		t.Errorf("not locked: %s", s.Verdict)
	}
}

// Where there is no pg_stat_statements, it is said how to have it.
func plansWithoutView(t *testing.T, p plansPair) {
	oldURL, newURL := pgtest.Database(t, p.old), pgtest.Database(t, p.new)
	_, err := ComparePlans(t.Context(), open(t, oldURL), open(t, newURL), PlansOptions{})
	if !errors.Is(err, ErrNoStatements) || !strings.Contains(hint.Of(err), "CREATE EXTENSION pg_stat_statements;") || !strings.Contains(hint.Of(err), "--queries FILE") {
		t.Errorf("without the extension: %v; %s", err, hint.Of(err))
	}
	pgtest.Exec(t, newURL, `create extension pg_stat_statements`) // not loaded there
	_, err = ReadPlans(t.Context(), open(t, newURL), PlansOptions{})
	if !errors.Is(err, ErrNoStatements) || !strings.Contains(hint.Of(err), "shared_preload_libraries") {
		t.Errorf("not loaded: %v; %s", err, hint.Of(err))
	}
	pgtest.Exec(t, newURL, `drop extension pg_stat_statements`)
	noSessions(t, oldURL)
}
