create schema shop;
create schema "Odd; schema";
create type shop.state as enum ('new', 'paid', 'it''s sent');
create domain shop.email as text check (value ~ '@');
create table shop.customers (
  id bigint generated always as identity primary key,
  email shop.email not null unique,
  note text default E'back\\slash and ''quote'''
);
comment on table shop.customers is 'people; and "others"';
create table shop.orders (
  id serial primary key,
  customer bigint not null references shop.customers on delete cascade,
  state shop.state not null default 'new',
  total numeric(10, 2) not null default 0,
  at timestamptz not null default now()
);
create index orders_by_customer on shop.orders (customer, at desc);
create table shop.events (id bigint not null, at date not null, what text, primary key (id, at)) partition by range (at);
create table shop.events_2025 partition of shop.events for values from ('2025-01-01') to ('2026-01-01');
create table shop.events_2026 partition of shop.events for values from ('2026-01-01') to ('2027-01-01');
create sequence shop.numbers increment by 5 start with 100;
create table "Odd; schema"."Table; ""x""" ("Id" int primary key, "$1" text);
create table public.lines (a int not null, b text not null);
create unique index lines_a on public.lines (a);
alter table public.lines replica identity using index lines_a;
create view shop.paid as select o.id, c.email from shop.orders o join shop.customers c on c.id = o.customer where o.state = 'paid';
create materialized view shop.totals as select customer, sum(total) as total from shop.orders group by customer;
create unique index totals_customer on shop.totals (customer);
create materialized view shop.best as select max(total) as most from shop.totals;
create function shop.touch() returns trigger language plpgsql as $body$
begin
  -- a body with a semicolon; and a $ in it
  new.at := coalesce(new.at, now());
  return new;
end
$body$;
create trigger orders_touch before insert or update on shop.orders for each row execute procedure shop.touch();
create rule no_delete as on delete to public.lines do instead nothing;
alter table shop.customers enable row level security;
create policy everybody on shop.customers using (true);
create statistics shop.orders_stats (dependencies) on customer, state from shop.orders;
grant select on shop.paid to public;
insert into shop.customers (email) select 'c' || i || '@example.com' from generate_series(1, 40) i;
insert into shop.orders (customer, total, state, at) select 1 + i % 40, i, case when i % 3 = 0 then 'paid' else 'new' end::shop.state, '2026-01-02' from generate_series(1, 300) i;
insert into shop.events select i, date '2025-06-01' + i, 'x' || i from generate_series(1, 300) i;
insert into "Odd; schema"."Table; ""x""" select i, repeat('y', i) from generate_series(1, 50) i;
insert into public.lines select i, 'line ' || i from generate_series(1, 50) i;
select setval('shop.numbers', 1005);
refresh materialized view shop.totals;
refresh materialized view shop.best;
