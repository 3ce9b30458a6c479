package warmup

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// plansPair are the two servers of a pair, with pg_stat_statements on old.
type plansPair struct{ old, new *pgserver.Cluster }

func TestQueryPlans(t *testing.T) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(pair.String(), func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"autovacuum": "off", "max_parallel_workers_per_gather": "0"}
			p := plansPair{new: pgtest.Cluster(t, pgserver.Options{Major: pair.New, Name: "plansnew", Settings: settings})}
			p.old = pgtest.Cluster(t, pgserver.Options{Major: pair.Old, Name: "plansold", Settings: map[string]string{
				"autovacuum": "off", "max_parallel_workers_per_gather": "0", "shared_preload_libraries": "pg_stat_statements",
			}})
			for _, test := range []struct {
				name string
				run  func(*testing.T, plansPair)
			}{
				{"same", plansSame},
				{"both ways", plansBothWays},
				{"index", plansIndex},
				{"statistics", plansStatistics},
				{"rights", plansRights},
				{"kept", plansKept},
				{"nothing is written", plansWriteNothing},
				{"locked", plansLocked},
				{"file", plansOfFile},
				{"queries", queriesRun},
				{"queries of both", queriesCompared},
				{"no statements", plansWithoutView},
			} {
				t.Run(test.name, func(t *testing.T) { test.run(t, p) })
			}
		})
	}
}

// shopSQL makes the same small shop on both servers.
var shopSQL = []string{
	`create schema shop`,
	`create type shop.mood as enum ('good', 'bad')`,
	`create domain shop.positive as int not null check (value > 0)`,
	`create table shop.customers (id int primary key, name text, mood shop.mood)`,
	`create table shop.orders (id bigint primary key, customer int, state text, created timestamptz, amount numeric,
		data jsonb, tags int[], key uuid, at inet, "Odd ""name" text, days daterange, small shop.positive)`,
	`create table shop.events (id int, day date, v int) partition by range (day)`,
	`create table shop.early partition of shop.events for values from ('2026-01-01') to ('2026-02-01')`,
	`create table shop.late partition of shop.events for values from ('2026-02-01') to ('2026-03-01')`,
	`create index early_day on shop.early (day)`,
	`create index late_day on shop.late (day)`,
	`insert into shop.customers select i, 'c' || i, 'good' from generate_series(1, 1000) i`,
	`insert into shop.orders select i, i % 1000, 's' || i % 5, '2026-11-01'::timestamptz - i * interval '1 minute', i, jsonb_build_object('a', i),
		array[i], null, '10.0.0.1', 'x', null, 1 from generate_series(1, 20000) i`,
	`insert into shop.events select i, date '2026-01-01' + i % 59, i from generate_series(1, 5000) i`,
	`create index orders_customer on shop.orders (customer)`,
	`create index orders_created on shop.orders (created)`,
	`analyze`,
}

// reads are what an application asks, with literals of many types and in all
// places where pg_stat_statements makes a text that does not parse.
var reads = []string{
	`select * from orders where id = 5`,
	`select * from orders where created > now() - interval '1 day' order by created limit 5`,
	`select * from orders where created > timestamp with time zone '2026-10-30' - interval '3' day and created < '2026-12-01'::date`,
	`select date_trunc('day', created), count(*) from orders group by date_trunc('day', created) order by date_trunc('day', created) desc`,
	`select data ->> 'a', count(*) from orders group by data ->> 'a'`,
	`select distinct on (left(state, 1)) * from orders order by left(state, 1), id`,
	`select extract(epoch from created), coalesce(amount, 0) * 1.5 from orders where id = 7`,
	`select json_build_object('a', id, 'b', 5, 'c', null) from orders where id in (1, 2, 3)`,
	`select count(*) from orders where tags && array[1, 2] and state like 's%' and data @> '{"a": 1}' and key = '3b241101-e2bb-4255-8caf-4136c566a962'`,
	`select count(*) from orders where at << inet '10.0.0.0/8' and days @> date '2026-01-01' and small = 4`,
	`select o.id, c.name from customers c join orders o on o.customer = c.id where c.id = 44 and c.mood = 'good' and o.amount > 5.5`,
	`with few as (select * from customers where id < 10) select * from few join orders o on o.customer = few.id fetch first 3 rows only`,
	`select count(*) from orders where "Odd ""name" = 'it''s $1 -- no /* comment' or state = $q$dollar's$q$ or state = E'a\'b'`,
	`/* from the /* nested */ web */ select * from orders where id = any('{1,2}'::bigint[])`,
	`select * from events where day = '2026-01-05'`,
	`select * from orders where id = 9 for update`,
	`(select id from orders where id = 1) union all (select id from customers where id = 2)`,
	`table customers limit 1`,
	`select rank() over (partition by customer order by amount desc) from orders where customer between 3 and 4`,
	`select * from orders o where exists (select from customers c where c.id = o.customer and c.name = 'c5') and -o.id =-17`,
}

// untyped are reads whose parameters have no types, or other ones, by themselves.
var untyped = []string{
	`select sum(case when state = 's1' then 1 else 0 end) from orders where created >= date_trunc('month', now()) - interval '3 month'`,
	`with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select * from r join orders o on o.id = r.n`,
	`select * from (values (1, 'a'), (2, 'b')) v(i, t) join orders o on o.id = v.i`,
	`select * from orders where created > now() - '5 days'::interval and created > current_date - 3`,
	`select extract(year from created), date_part('month', created), count(*) from orders group by extract(year from created), date_part('month', created)`,
	`select g, o.id from generate_series(1, 3) g join orders o on o.id = g`,
	`select round(amount, 2), concat('a', 1, id), 5 / 2 + id, nullif(state, '') from orders where id = 4`,
}

// noReads are counted too, and are not to be explained.
var noReads = []string{
	`insert into orders (id, small) values (-1, 1)`,
	`with gone as (delete from orders where id = -1 returning *) select count(*) from gone`,
	`update orders set state = 'x' where id = -1`,
	`create table into_it as select 1`,
	`select * into another from customers where id = 1`,
	`set work_mem = '4MB'`,
	`explain select * from orders where id = 3`,
	`select 1`,
	`select count(*) from pg_class where relname = 'x'`,
	`select setting from pg_settings where name = 'port'`,
	// Not to be planned without its literals, and none of the application's.
	`with held (objid, sub) as (select n.oid, 0 from pg_namespace n, pg_catalog.pg_am union all select oid, 0 from pg_type union all select objid, objsubid::smallint from pg_depend) select * from held`,
	`begin`, `commit`,
}

// shop makes a shop on each server, and lets an application of old ask.
func (p plansPair) shop(t *testing.T, ask ...string) (oldURL, newURL string) {
	t.Helper()
	oldURL, newURL = pgtest.Database(t, p.old), pgtest.Database(t, p.new)
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, shopSQL...)
		database := pgtest.Value[string](t, url, `select current_database()::text`)
		pgtest.Exec(t, url, `alter database `+pgx.Identifier{database}.Sanitize()+` set search_path = shop, public`)
	}
	pgtest.Exec(t, oldURL, `create schema extra`, `create extension pg_stat_statements schema extra`, `select extra.pg_stat_statements_reset()`)
	askAs(t, oldURL, ask...)
	return oldURL, newURL
}

// askAs asks in one session, as an application does.
func askAs(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func comparedPlans(t *testing.T, oldURL, newURL string, o PlansOptions) PlansReport {
	t.Helper()
	r, err := ComparePlans(t.Context(), open(t, oldURL), open(t, newURL), o)
	if err != nil {
		t.Fatalf("%v; %s", err, hint.Of(err))
	}
	return r
}

func textOfReport(t *testing.T, r PlansReport) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// comparisonOf finds the comparison of the statement that holds a text.
func comparisonOf(t *testing.T, r PlansReport, part string) PlanComparison {
	t.Helper()
	at := slices.IndexFunc(r.Statements, func(c PlanComparison) bool { return strings.Contains(c.Text, part) })
	if at < 0 {
		t.Fatalf("no statement with %q in\n%s", part, textOfReport(t, r))
	}
	return r.Statements[at]
}

// Every read is planned on both servers, whatever its literals were, and nothing
// else is.
func plansSame(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t, slices.Concat(reads, untyped, noReads)...)
	askAs(t, oldURL, `prepare by_customer (int) as select * from orders where customer = $1 and state = 's2'`, `execute by_customer (5)`)
	r := comparedPlans(t, oldURL, newURL, PlansOptions{})
	want := len(reads) + len(untyped) + 1
	if p.old.Major() < 13 {
		want-- // then SELECT FOR UPDATE counts as the SELECT
	}
	if len(r.Statements) != want {
		t.Errorf("%d statements, want %d", len(r.Statements), want)
	}
	for _, s := range r.Statements {
		if s.Verdict == PlanUnexplained {
			t.Errorf("%s\nis not explained on %s: %s", s.Text, s.Unexplained, s.Reason)
		}
		if s.Calls < 1 || s.MeanMS <= 0 || s.Role != "postgres" {
			t.Errorf("%s: %d calls of %v ms by %q", s.Text, s.Calls, s.MeanMS, s.Role)
		}
		if strings.Contains(s.Text, "dollar") || strings.Contains(s.Text, "'day'") {
			t.Errorf("a literal is told: %s", s.Text)
		}
	}
	if r.LeftOut < 2 {
		t.Errorf("%d left out", r.LeftOut)
	}
	for part, want := range map[string]string{
		"select * from orders where id = $1": "Index Scan using orders_pkey on shop.orders",
		"where customer = $1 and state":      "orders_customer",
		"from events":                        "shop.late",
		"where id = any":                     "orders_pkey",
	} {
		s := comparisonOf(t, r, part)
		if s.Verdict != PlanSame || !strings.Contains(s.New.Root.String(), want) || !strings.Contains(s.Old.Root.String(), want) {
			t.Errorf("%s: %s, %v\nold\n%snew\n%s", s.Text, s.Verdict, s.Changes, &s.Old.Root, &s.New.Root)
		}
	}
	if t.Failed() {
		t.Log(textOfReport(t, r))
	}
}

// Sub-selects in the place of parameters give the plans that prepared statements
// have: what is done where there are no generic plans to be had.
func plansBothWays(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t, slices.Concat(reads, untyped)...)
	set, err := ReadPlans(t.Context(), open(t, oldURL), PlansOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := openExplainer(t.Context(), open(t, newURL), PlansOptions{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	defer e.conn.Close(t.Context())
	compared := 0
	for _, s := range set.Statements {
		var plans []Plan
		var partitions int
		for _, method := range []PlanMethod{GenericPlan, SubselectPlan} {
			q := s.Asked
			q.Method = method
			raw, err := e.explain(t.Context(), &q)
			if err != nil {
				t.Fatalf("%s: %v", s.Text, err)
			}
			partitions += raw.removed()
			plans = append(plans, raw.plan(method == SubselectPlan))
		}
		if changes := differences(plans[0].Root, plans[1].Root); len(changes) > 0 && partitions == 0 {
			t.Errorf("%s\n%v\n%s%s", s.Asked.Text, changes, &plans[0].Root, &plans[1].Root)
		}
		compared++
	}
	if compared < len(reads) {
		t.Errorf("%d compared", compared)
	}
}
