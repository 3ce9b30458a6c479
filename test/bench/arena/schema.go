package arena

import "fmt"

// The sizes of the small tables. As many branches as there are clients and
// more, so that what is measured is the cutover and not the queue at one row.
const (
	Branches = 100
	Tellers  = 1000
)

// The seven tables. bulk is for the large transaction; marker is what the floor
// waits for.
const tablesSQL = `
create schema bench;
create table bench.branches (bid integer primary key, bbalance bigint not null default 0, filler text);
create table bench.tellers  (tid integer primary key, tbalance bigint not null default 0, filler text);
create table bench.accounts (aid integer primary key, abalance bigint not null default 0, filler text);
create table bench.history (
    id bigserial primary key, token bigint not null, aid integer not null, tid integer not null,
    bid integer not null, delta bigint not null, at timestamptz not null default now());
create table bench.orders (
    id bigserial primary key, token bigint not null, note text, at timestamptz not null default now());
create table bench.bulk (id bigserial primary key, token bigint not null, note text);
create table bench.marker (id integer primary key)`

// sequencesSQL makes sequences that no column owns; %d is their number.
const sequencesSQL = `
do $$
begin
  for n in 1 .. %d loop
    execute format('create sequence bench.%%I', 'free_' || n);
  end loop;
end $$`

// usedSQL gives each of them another value, as if it had been in use.
const usedSQL = `
select count(setval(c.oid::regclass, 1000 + c.oid::bigint % 977, true))
  from pg_class as c
 where c.relkind = 'S'
   and c.relname like 'free\_%'`

// rowsSQL fills the tables; $1 cannot be used in a DO block or with several
// statements, so the numbers are put in: branches, tellers, accounts.
const rowsSQL = `
insert into bench.branches (bid, filler) select n, repeat('b', 60) from generate_series(1, %d) as n;
insert into bench.tellers (tid, filler) select n, repeat('t', 60) from generate_series(1, %d) as n;
insert into bench.accounts (aid, filler) select n, repeat('a', 60) from generate_series(1, %d) as n;
insert into bench.orders (token, note) select -n, 'an order from before' from generate_series(1, 10000) as n;
insert into bench.history (token, aid, tid, bid, delta) select -n, 1, 1, 1, 0 from generate_series(1, 10000) as n`

// Seed returns the statements that make the schema with its rows, for a
// database of one's own.
func (a *Arena) Seed() []string { return a.seedStatements() }

// schemaStatements are what the application's schema is made with.
func (a *Arena) schemaStatements() []string {
	return []string{tablesSQL, fmt.Sprintf(sequencesSQL, a.Sequences)}
}

// seedStatements make the schema with its rows.
func (a *Arena) seedStatements() []string {
	return append(a.schemaStatements(), fmt.Sprintf(rowsSQL, Branches, Tellers, a.Accounts), usedSQL)
}
