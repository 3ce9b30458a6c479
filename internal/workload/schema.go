package workload

// Schema returns the statements that make the shop, in order, for a server of
// the given server_version_num. The shop is odd on purpose: names that need
// quotes, identity, serial and unowned sequences, one of them cached and one
// descending, a table without a primary key, partitions with primary keys of
// their own, values stored out of line, a generated column (from 12), a
// trigger, a domain, an enum, views. All of it loads into newer majors through
// pg_dump and pg_restore.
func Schema(version int) []string {
	items := itemsTable
	if version >= 120000 {
		items = itemsTableGenerated
	}
	return []string{
		schemaAndTypes, functions, customersTable, ordersTable, items, paymentsTable, ticketsTable,
		eventsTable, documentsTable, stockTable, probeTable, indexes, triggers, views, comments, grants,
	}
}

// The server function names the server that runs it. It is called inside the
// transactions that it speaks of, because behind a pooler a session is no
// server. Postgres manual: 9.28.12, Control Data Functions; they are open to
// everybody.
const schemaAndTypes = `
create schema "SHOP";
create type "SHOP".order_status as enum ('new', 'paid', 'shipped', 'cancelled');
create domain "SHOP".email as text check (value ~ '^[^@[:space:]]+@[^@[:space:]]+$');
create sequence "SHOP".payment_numbers cache 20;
create sequence "SHOP".ticket_numbers increment by -1;
create sequence "SHOP"."Coupon No" start with 1000 increment by 10`

const functions = `
create function "SHOP".server() returns text language sql stable as $$
  select system_identifier::text || ':' || current_setting('port') from pg_catalog.pg_control_system()
$$;
create function "SHOP".set_updated_at() returns trigger language plpgsql as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end
$$;
create function "SHOP".domain_of(address text) returns text language sql immutable strict as $$
  select lower(substr(address, strpos(address, '@') + 1))
$$`

const customersTable = `
create table "SHOP".customers (
  id         serial primary key,
  email      "SHOP".email not null,
  name       text not null,
  note       text,
  version    int not null default 0,
  touched    uuid,
  nonce      uuid,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
)`

const ordersTable = `
create table "SHOP".orders (
  id          bigint generated always as identity primary key,
  customer_id int not null references "SHOP".customers (id),
  status      "SHOP".order_status not null default 'new',
  amount      numeric(12,2) not null check (amount >= 0),
  note        text,
  version     int not null default 0,
  touched     uuid,
  nonce       uuid,
  updated_at  timestamptz not null default now()
)`

const itemsTable = `
create table "SHOP"."Order Items" (
  order_id bigint not null references "SHOP".orders (id) on delete cascade,
  line     int not null,
  sku      text not null,
  qty      int not null,
  price    numeric(10,2) not null default 9.99,
  note     text,
  version  int not null default 0,
  touched  uuid,
  nonce    uuid,
  primary key (order_id, line)
)`

const itemsTableGenerated = `
create table "SHOP"."Order Items" (
  order_id bigint not null references "SHOP".orders (id) on delete cascade,
  line     int not null,
  sku      text not null,
  qty      int not null,
  price    numeric(10,2) not null default 9.99,
  total    numeric(14,2) generated always as (qty * price) stored,
  note     text,
  version  int not null default 0,
  touched  uuid,
  nonce    uuid,
  primary key (order_id, line)
)`

const paymentsTable = `
create table "SHOP".payments (
  id       bigint primary key default nextval('"SHOP".payment_numbers'),
  order_no bigint,
  amount   numeric(12,2) not null,
  note     text,
  version  int not null default 0,
  touched  uuid,
  nonce    uuid
)`

const ticketsTable = `
create table "SHOP".tickets (
  id      bigint primary key default nextval('"SHOP".ticket_numbers') check (id < 0),
  topic   text not null,
  note    text,
  version int not null default 0,
  touched uuid,
  nonce   uuid
)`

// A partitioned table can have no primary key in 10; leaves can, in every
// version.
const eventsTable = `
create table "SHOP".events (
  id      bigserial,
  at      timestamptz not null,
  kind    text not null,
  payload jsonb,
  note    text,
  version int not null default 0,
  touched uuid,
  nonce   uuid
) partition by range (at);
create table "SHOP".events_early partition of "SHOP".events
  for values from (minvalue) to ('2024-07-01 00:00:00+00');
create table "SHOP".events_2024h2 partition of "SHOP".events
  for values from ('2024-07-01 00:00:00+00') to ('2025-01-01 00:00:00+00');
create table "SHOP".events_late partition of "SHOP".events
  for values from ('2025-01-01 00:00:00+00') to (maxvalue);
alter table "SHOP".events_early add primary key (id, at);
alter table "SHOP".events_2024h2 add primary key (id, at);
alter table "SHOP".events_late add primary key (id, at)`

// body is stored out of line and uncompressed, and no update touches it: the
// stream carries such a value as "unchanged", which must not become null.
const documentsTable = `
create table "SHOP".documents (
  id      bigint generated by default as identity (increment by 5) primary key,
  body    text not null,
  attrs   jsonb not null default '{}',
  tags    text[] not null default '{}',
  raw     bytea,
  note    text,
  version int not null default 0,
  touched uuid,
  nonce   uuid
);
alter table "SHOP".documents alter column body set storage external`

const stockTable = `
create table "SHOP".stock (
  warehouse int not null,
  sku       text not null,
  qty       int not null,
  note      text,
  version   int not null default 0,
  touched   uuid,
  nonce     uuid
);
create unique index stock_warehouse_sku on "SHOP".stock (warehouse, sku);
alter table "SHOP".stock replica identity using index stock_warehouse_sku`

// probe belongs to the Prober. The key holds the server, so that rows written
// on both by mistake cannot collide in the stream.
const probeTable = `
create table "SHOP".probe (
  server text not null,
  n      bigint not null,
  at     timestamptz not null default clock_timestamp(),
  primary key (server, n)
)`

const indexes = `
create unique index customers_email on "SHOP".customers (lower(email));
create index customers_domain on "SHOP".customers ("SHOP".domain_of(email));
create index orders_customer on "SHOP".orders (customer_id);
create index orders_open on "SHOP".orders (id desc) where status = 'new';
create index "Items By SKU" on "SHOP"."Order Items" (sku, qty);
create index events_late_kind on "SHOP".events_late (kind, at);
create index documents_attrs on "SHOP".documents using gin (attrs);
create index payments_amount on "SHOP".payments (amount) where amount > 500`

// Written with PROCEDURE, which 10 insists on and 18 still takes.
const triggers = `
create trigger set_updated_at before update on "SHOP".customers
  for each row execute procedure "SHOP".set_updated_at();
create trigger set_updated_at before update on "SHOP".orders
  for each row when (old.* is distinct from new.*) execute procedure "SHOP".set_updated_at()`

const views = `
create view "SHOP".open_orders as
  select o.id, o.amount, c.name, "SHOP".domain_of(c.email) as mail_domain
    from "SHOP".orders o
    join "SHOP".customers c on c.id = o.customer_id
   where o.status = 'new';
create materialized view "SHOP".revenue as
  select status, count(*) as orders, sum(amount) as amount
    from "SHOP".orders
   group by status;
create unique index revenue_status on "SHOP".revenue (status)`

const comments = `
comment on schema "SHOP" is 'A shop that writes while it moves';
comment on table "SHOP"."Order Items" is 'Lines of an order; it''s "quoted"';
comment on column "SHOP".orders.nonce is 'Chosen by the client; null in loaded rows';
comment on function "SHOP".server() is 'The server that runs this, as system identifier and port';
comment on sequence "SHOP".ticket_numbers is 'Counts downwards'`

// Whoever may connect may shop: tests and the demo choose their own roles.
const grants = `
grant usage on schema "SHOP" to public;
grant select, insert, update, delete on all tables in schema "SHOP" to public;
grant usage, select on all sequences in schema "SHOP" to public`
