-- A database with one of everything, as PostgreSQL 10 knows it. The roles
-- exist already. Names are odd on purpose: quotes, blanks, capitals, line ends.
create schema "Ext";
create schema "Odd ""name"" it's; --";
comment on schema "Odd ""name"" it's; --" is 'a comment; with ''quotes''';
comment on schema public is 'changed';
grant usage on schema public to pgct_reader;
grant usage, create on schema "Odd ""name"" it's; --" to "pgct Odd ""role""";
revoke create on schema public from public;

create extension hstore schema "Ext";
create extension pg_trgm schema "Ext";
create extension citext;
create extension btree_gist schema "Ext";

create type public.mood as enum ('sad', 'o''k', 'very "happy"');
create type public.pair as (a integer, "B b" text);
create domain public.email as citext constraint has_at check (value ~ '@') not null;
create domain "Odd ""name"" it's; --"."do main" as numeric(12, 2) default 1.5;
create type public.floatrange as range (subtype = float8, subtype_diff = float8mi);
create collation public.mine (lc_collate = 'C', lc_ctype = 'C');

create function public.next_number() returns integer language sql volatile as 'select 1';
create function public.clean(t text, "Odd arg" integer default 3) returns text
    language plpgsql immutable strict as $$ begin return lower(t); end $$;
create function public.clean(t integer) returns setof public.pair language sql security definer as $$ select $1, 'x'::text $$;
create function public.variadic_sum(variadic n integer[]) returns integer language sql immutable as $$ select 1 $$;
create function public.touch() returns trigger language plpgsql as $$ begin new.changed = now(); return new; end $$;
create function public.nothing() returns trigger language plpgsql as $$ begin return null; end $$;
create function public.watch_ddl() returns event_trigger language plpgsql as $$ begin end $$;
create aggregate public.total (integer) (sfunc = int4pl, stype = integer, initcond = '0');
create function public.pair_eq(public.pair, public.pair) returns boolean language sql immutable as $$ select $1.a = $2.a $$;
create operator public.=== (leftarg = public.pair, rightarg = public.pair, procedure = public.pair_eq, commutator = operator(public.===));
create function public.pair_text(public.pair) returns text language sql immutable as $$ select $1.a::text $$;
create cast (public.pair as text) with function public.pair_text(public.pair) as assignment;
create operator family public.numbers using btree;
create operator class public.my_int_ops for type integer using btree family public.numbers as
    operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 btint4cmp(integer, integer);
create default conversion public.my_conversion for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
create text search dictionary public.my_dictionary (template = simple, stopwords = english);
create text search configuration public.my_search (copy = pg_catalog.english);
alter text search configuration public.my_search alter mapping for asciiword with public.my_dictionary;
create foreign data wrapper "my wrapper";
create server "my server" foreign data wrapper "my wrapper";
create user mapping for pgct_reader server "my server" options ("user" 'x');
create foreign table public.far (id integer not null, "x y" text) server "my server";

create table public.customers (
    id serial primary key,
    email public.email unique,
    feeling public.mood not null default 'sad',
    tags "Ext".hstore,
    position public.pair,
    notes text collate public.mine,
    price "Odd ""name"" it's; --"."do main",
    changed timestamptz(3) not null default now(),
    amounts numeric(10, 3)[] default array[1.5, 2],
    constraint "positive price" check (price > 0)
);
alter table public.customers alter column tags set statistics 500;
alter table public.customers add constraint later check (length(notes) < 100) not valid;
comment on table public.customers is 'people';
comment on column public.customers.email is 'their address';
grant select on public.customers to pgct_reader;
grant update (notes) on public.customers to "pgct Odd ""role""" with grant option;
grant select on public.customers to public;
create index on public.customers (lower(notes), id desc nulls last) where price is not null;
create index trgm on public.customers using gin (notes "Ext".gin_trgm_ops);
comment on index public.trgm is 'for search';
create statistics public.my_statistics (dependencies) on feeling, price from public.customers;
create trigger touch before update on public.customers for each row execute procedure public.touch();
create trigger "Quiet ""one""" after insert on public.customers for each statement execute procedure public.nothing();
comment on trigger "Quiet ""one""" on public.customers is 'hush';
alter table public.customers disable trigger "Quiet ""one""";
create trigger always_on after delete on public.customers for each row when (old.id > 3) execute procedure public.nothing();
alter table public.customers enable always trigger always_on;

create table "Odd ""name"" it's; --"."Ta ble
2" (
    "I d" bigint generated always as identity (start 7 increment 3),
    "Co""l" integer generated by default as identity primary key,
    customer integer references public.customers on delete cascade deferrable initially deferred,
    during tstzrange,
    constraint "no overlap" exclude using gist (customer with =, during with &&)
);
alter table "Odd ""name"" it's; --"."Ta ble
2" owner to "pgct Odd ""role""";
create rule "no delete" as on delete to "Odd ""name"" it's; --"."Ta ble
2" where old."Co""l" = 1 do instead nothing;
alter table "Odd ""name"" it's; --"."Ta ble
2" enable row level security;
create policy "own rows" on "Odd ""name"" it's; --"."Ta ble
2" for select to pgct_reader using ("Co""l" > 0);
create policy all_rows on "Odd ""name"" it's; --"."Ta ble
2" using (true) with check (customer is not null);
comment on policy all_rows on "Odd ""name"" it's; --"."Ta ble
2" is 'p';

-- Every kind of replica identity.
create table public.by_index (a integer not null, b integer not null, c text);
create unique index by_index_key on public.by_index (b, a);
create unique index by_index_other on public.by_index (a);
alter table public.by_index replica identity using index by_index_key;
create table public.by_constraint (a integer not null, b integer primary key, constraint by_constraint_key unique (a));
alter table public.by_constraint replica identity using index by_constraint_key;
create table public.in_full (a integer);
alter table public.in_full replica identity full;
create table public.by_nothing (a integer primary key);
alter table public.by_nothing replica identity nothing;
alter table public.by_constraint cluster on by_constraint_key;

create unlogged table public.scratch (a integer) with (fillfactor = 70);
create table public.wide (a integer, gone integer, b text);
alter table public.wide alter column b set storage external;
alter table public.wide drop column gone;
create table public.typed of public.pair (a primary key);

-- Inheritance.
create table public.animals (id integer primary key, name text check (name <> ''));
create table public.dogs (breed text not null) inherits (public.animals);
create table public.puppies (name text default 'rex') inherits (public.dogs);
alter table public.dogs add primary key (id);

-- Partitions, two levels.
create table public.events (id integer not null, at date not null, kind text) partition by range (at);
create table public.events_2020 partition of public.events for values from ('2020-01-01') to ('2021-01-01');
create table public.events_2021 (kind text, at date not null, id integer not null) partition by list (kind);
alter table public.events attach partition public.events_2021 for values from ('2021-01-01') to ('2022-01-01');
create table public."events 2021 a" partition of public.events_2021 for values in ('a', null);
alter table public.events_2020 add primary key (id, at);
create index on public.events_2020 (kind);

-- Sequences of their own.
create sequence public."S ""q" as smallint increment -2 minvalue -500 maxvalue 100 start 50 cache 5 cycle;
create sequence "Odd ""name"" it's; --".owned;
alter table public.in_full add column n bigint default nextval('"Odd ""name"" it''s; --".owned');
alter sequence "Odd ""name"" it's; --".owned owner to "pgct Odd ""role""";
create table public.numbered (n integer default public.next_number());

-- Views; one needs the primary key, two need each other's types.
create view public.names as select id, lower(notes) as notes from public.customers with cascaded check option;
create view public.grouped as select c.*, count(*) as n from public.customers c group by c.id;
create materialized view public."Sum mary" as select feeling, count(*) as n from public.customers group by feeling;
create unique index on public."Sum mary" (feeling);
create materialized view public.second as select n from public."Sum mary" with no data;
create materialized view public.grouped_copy as select c.id, c.notes from public.customers c group by c.id;
create index on public.grouped_copy (notes);
create rule insert_names as on insert to public.names do instead insert into public.customers (notes) values (new.notes);
create trigger view_trigger instead of update on public.grouped for each row execute procedure public.nothing();
comment on view public.names is 'n';
create function public.of_view(public.names) returns integer language sql as $$ select 1 $$;

create event trigger "my event" on ddl_command_end when tag in ('CREATE TABLE') execute procedure public.watch_ddl();
alter event trigger "my event" disable;

alter default privileges for role "pgct Odd ""role""" in schema public grant select on tables to pgct_reader;
alter default privileges for role "pgct Odd ""role""" revoke execute on functions from public;
alter default privileges grant usage on sequences to pgct_reader;
grant usage on language plpgsql to pgct_reader;
grant usage on type public.mood to pgct_reader;
revoke execute on function public.clean(integer) from public;
grant select on pg_catalog.pg_authid to pgct_reader;
revoke execute on function pg_catalog.pg_sleep(double precision) from public;

-- What the tool itself makes and never moves.
create schema pgcutover;
create table pgcutover.gate ();
create function pgcutover.pass() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger pgcutover_test_fence before insert or update or delete on public.customers for each statement execute procedure pgcutover.pass();
alter table public.customers enable always trigger pgcutover_test_fence;
create trigger pgcutover_test_fence before insert or update or delete on "Odd ""name"" it's; --"."Ta ble
2" for each statement execute procedure pgcutover.pass();
comment on trigger pgcutover_test_fence on public.customers is 'ours';
create publication pgcutover_test for table public.customers;
comment on publication pgcutover_test is 'ours';
create publication theirs for table public.customers;
