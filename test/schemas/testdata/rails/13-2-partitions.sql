-- Partitioned tables of every kind, a hundred partitions in all.
set role rails_app;

-- By month, five years, with a default partition that has rows.
create table events (
    id bigint generated always as identity,
    account_id uuid references accounts (id),
    name character varying not null,
    payload jsonb not null default '{}',
    created_at timestamp(6) without time zone not null,
    primary key (id, created_at)
) partition by range (created_at);
do $$
begin
    for i in 0..47 loop
        execute format('create table %I partition of events for values from (%L) to (%L)',
            'events_' || to_char('2021-01-01'::date + i * interval '1 month', 'YYYY_MM'),
            '2021-01-01'::date + i * interval '1 month', '2021-01-01'::date + (i + 1) * interval '1 month');
    end loop;
end $$;
create table events_default partition of events default;
create index index_events_on_name on events (name, created_at desc);
create index index_events_on_payload on events using gin (payload);
create index index_events_2024_12_on_account on events_2024_12 (account_id) where account_id is not null;
create trigger touch_nothing after insert on events for each row when (new.name = 'never') execute function counter_cache('accounts', 'account_id', 'users_count');

-- A partition that was a table of its own, with its columns in another order,
-- a dropped one, and an index that became part of the parent's.
create table events_archive (
    gone text,
    created_at timestamp(6) without time zone not null,
    payload jsonb not null default '{"archived": true}',
    name character varying not null,
    id bigint not null,
    account_id uuid references accounts (id),
    constraint archive_range check (created_at < '2021-01-01')
);
alter table events_archive drop column gone;
create unique index events_archive_unique on events_archive (id, created_at);
create index archived_names on events_archive (name, created_at desc);
alter table events attach partition events_archive for values from (minvalue) to ('2021-01-01');

-- By list, sub-partitioned by hash, with a default.
create table orders (
    id bigserial,
    region text not null,
    account_id uuid not null,
    status order_status not null default 'cart',
    total numeric(12,2) not null default 0,
    placed_on date,
    constraint orders_pkey primary key (id, region, account_id)
) partition by list (region);
create table orders_eu partition of orders for values in ('de', 'fr', 'nl') partition by hash (account_id);
create table orders_us partition of orders for values in ('us', 'ca') partition by hash (account_id);
create table orders_rest partition of orders default partition by range (id);
create table orders_rest_old partition of orders_rest for values from (minvalue) to (200);
create table orders_rest_new partition of orders_rest for values from (200) to (400);
create table orders_rest_none partition of orders_rest default;
do $$
begin
    for i in 0..7 loop
        execute format('create table orders_eu_%s partition of orders_eu for values with (modulus 8, remainder %s)', i, i);
    end loop;
    for i in 0..3 loop
        execute format('create table orders_us_%s partition of orders_us for values with (modulus 4, remainder %s)', i, i);
    end loop;
end $$;
alter table orders add constraint orders_total check (total >= 0);
alter table orders_us add constraint orders_us_total check (total < 1000000);
create index index_orders_on_status on orders (status) where status <> 'cart';
create index index_orders_us_on_total on orders_us (total);
create index only_on_parent on only orders (placed_on); -- never made on the partitions: stays invalid
create table line_items (
    id bigserial primary key,
    order_id bigint not null, region text not null, account_id uuid not null,
    product_id bigint references products (id),
    quantity integer not null default 1,
    constraint line_items_order foreign key (order_id, region, account_id) references orders on delete cascade
);
create trigger order_total after insert on line_items for each row execute function counter_cache('products', 'product_id', 'order');

-- By hash.
create table sessions (
    session_id character varying not null,
    data bytea,
    updated_at timestamp not null default now()
) partition by hash (session_id);
do $$
begin
    for i in 0..15 loop
        execute format('create table sessions_p%s partition of sessions (primary key (session_id)) for values with (modulus 16, remainder %s)', to_char(i, 'fm00'), i);
    end loop;
end $$;
create index index_sessions_on_updated_at on sessions (updated_at);
alter table sessions_p03 set (fillfactor = 60);

-- By several columns, by an expression, with rows that fit nowhere else.
create table readings (
    device integer not null, slot integer not null, at timestamptz not null, value double precision default 'NaN',
    primary key (device, slot, at)
) partition by range (device, slot);
create table readings_low partition of readings for values from (minvalue, minvalue) to (10, 5);
create table readings_mid partition of readings for values from (10, 5) to (10, maxvalue);
create table readings_high partition of readings for values from (10, maxvalue) to (maxvalue, maxvalue);
create table words (word text collate "C" not null, length integer) partition by list (lower(left(word, 1)));
create table words_a partition of words (primary key (word)) for values in ('a', 'ä');
create table words_none partition of words (primary key (word)) for values in (null, '');
create table words_rest partition of words (word not null, constraint words_rest_pk primary key (word)) default;
-- A tree without a leaf.
create table no_partitions (id integer primary key, name text) partition by range (id);
grant select (id, region) on orders to rails_analytics;
grant all on events_2021_01 to rails_analytics with grant option;
reset role;

insert into events (account_id, name, payload, created_at)
select md5('account ' || (i % 60 + 1))::uuid, 'event ' || i % 9, jsonb_build_object('i', i), '2019-06-01'::timestamp + i * interval '1 day'
  from generate_series(1, 2600) i;
insert into orders (region, account_id, status, total, placed_on)
select (array['de', 'us', 'br', 'nl', 'ca', 'jp'])[i % 6 + 1], md5('account ' || (i % 60 + 1))::uuid,
       (enum_range(null::order_status))[i % 7 + 1], i * 1.01, case when i % 17 <> 0 then '2023-06-01'::date + i end
  from generate_series(1, 600) i;
insert into line_items (order_id, region, account_id, product_id, quantity)
select id, region, account_id, id % 80 + 1, id % 5 + 1 from orders;
insert into sessions select md5(i::text), decode(md5((i * 7)::text), 'hex') from generate_series(1, 300) i;
insert into readings select i % 20, i % 11, '2024-01-01 00:00:00+00'::timestamptz + i * interval '1 s', sqrt(i) from generate_series(1, 300) i;
insert into words values ('apple', 5), ('Ärger', 5), ('', 0), ('zoo', 3), ('ж', 1);
