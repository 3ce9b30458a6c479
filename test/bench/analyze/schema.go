package main

import (
	"fmt"
	"strings"
)

// A large table as pgbench has it, one of the usual mix of types with skewed and
// correlated columns, a partitioned one, and many small ones.
const tablesSQL = `
create schema bench;
create table bench.accounts (aid integer not null, bid integer not null, abalance integer not null, filler char(84));
create table bench.orders (
    id bigint not null, account integer not null, status text not null, country text not null, city text not null,
    amount numeric(12,2) not null, note text, tags text[], payload jsonb, created_at timestamptz not null);
create table bench.readings (device integer not null, at timestamptz not null, value double precision)
    partition by range (at)`

const partitionSQL = `
create table bench.readings_%[1]d partition of bench.readings
    for values from ('2026-01-01'::timestamptz + interval '%[1]d days') to ('2026-01-01'::timestamptz + interval '%[2]d days')`

// smallSQL makes small table %[1]d.
const smallSQL = `
create table bench.small_%[1]d (id serial primary key, kind text not null, owner integer not null, at timestamptz not null, note text);
create index on bench.small_%[1]d (owner);
create index on bench.small_%[1]d (at)`

// indexesSQL are made when the rows are there; statistics objects and an index
// of an expression are what only ANALYZE knows how to fill.
var indexesSQL = []string{
	"alter table bench.accounts add primary key (aid)",
	"alter table bench.orders add primary key (id)",
	"create index orders_account on bench.orders (account)",
	"create index orders_created_at on bench.orders (created_at)",
	"create index orders_note on bench.orders (lower(note))",
	"create index readings_device on bench.readings (device, at)",
	"create statistics bench.orders_place (dependencies, mcv) on country, city from bench.orders",
	"create statistics bench.small_1_kinds (ndistinct) on kind, owner from bench.small_1",
}

const partitions = 12

func (w *world) schema() []string {
	statements := []string{tablesSQL}
	for n := range partitions {
		statements = append(statements, fmt.Sprintf(partitionSQL, n, n+1))
	}
	for n := range w.Small {
		statements = append(statements, fmt.Sprintf(smallSQL, n+1))
	}
	return statements
}

func (w *world) tables() []string {
	all := []string{"bench.accounts", "bench.orders"}
	for n := range partitions {
		all = append(all, fmt.Sprintf("bench.readings_%d", n))
	}
	for n := range w.Small {
		all = append(all, fmt.Sprintf("bench.small_%d", n+1))
	}
	return all
}

func (w *world) orders() int { return max(w.Rows*2/5, 100) }

// readings are the rows of each partition.
func (w *world) readings() int { return max(w.Rows/100, 50) }

// rows fills the tables on old.
func (w *world) rows() []string {
	all := []string{
		fmt.Sprintf(`insert into bench.accounts
			select n, 1 + n / 1000 %% 500, case when n %% 5 = 0 then n %% 10000 else 0 end, 'f'
			  from generate_series(1, %d) as n`, w.Rows),
		fmt.Sprintf(`insert into bench.orders
			select n, 1 + (n * 7919) %% %[2]d,
			       case when n %% 100 = 0 then 'open' when n %% 20 = 0 then 'paid' else 'done' end,
			       'country' || n %% 20, 'city' || (n %% 20) * 10 + n %% 3,
			       (n * 104729 %% 100000) / 100.0, case when n %% 4 > 0 then 'Note ' || n %% 5000 end,
			       case when n %% 10 = 0 then array['rush', 'tag' || n %% 50] end, jsonb_build_object('n', n %% 7),
			       '2026-01-01'::timestamptz + n * interval '1 year' / %[1]d
			  from generate_series(1::bigint, %[1]d) as n`, w.orders(), w.Rows),
		fmt.Sprintf(`insert into bench.readings
			select n * 7 %% 300, '2026-01-01'::timestamptz + (n %% %[2]d) * interval '1 day' + interval '1 hour', sqrt(n)
			  from generate_series(1, %[1]d) as n`, w.readings()*partitions, partitions),
	}
	var small strings.Builder
	for n := range w.Small {
		fmt.Fprintf(&small, `insert into bench.small_%[1]d (kind, owner, at, note)
			select 'kind' || i %% 6, i * i %% 97, now() - i * interval '1 hour', md5(i::text) from generate_series(1, %[2]d) as i;`, n+1, 500+(n*37)%4000)
	}
	return append(all, small.String())
}

// queries are what the planner is asked for the number of rows of.
func (w *world) queries() []string {
	return []string{
		"select from bench.accounts where abalance = 0",
		"select from bench.accounts where bid = 7",
		fmt.Sprintf("select from bench.accounts where aid < %d", w.Rows/10),
		"select from bench.orders where status = 'open'",
		"select from bench.orders where status = 'done'",
		"select from bench.orders where country = 'country3' and city = 'city32'",
		"select from bench.orders where created_at > '2026-12-01'",
		"select from bench.orders where amount > 900",
		"select from bench.orders where note is null",
		"select from bench.orders where lower(note) = 'note 17'",
		"select from bench.orders where tags @> array['rush']",
		fmt.Sprintf("select from bench.orders where id between 100 and %d", w.orders()/3),
		"select from bench.accounts as a join bench.orders as o on o.account = a.aid where a.bid = 3 and o.status = 'paid'",
		"select distinct account % 10, status from bench.orders",
		"select distinct status, country from bench.orders",
		"select from bench.readings_3 where device = 5",
		"select from bench.readings where device = 5 and at > '2026-01-05'",
		"select distinct device from bench.readings",
		"select from bench.small_1 where kind = 'kind2'",
		"select distinct kind, owner from bench.small_1",
		"select from bench.small_2 as a join bench.small_3 as b on b.owner = a.owner where a.kind = 'kind1'",
		"select from bench.small_3 where at > now() - interval '2 days' and note < '5'",
	}
}
