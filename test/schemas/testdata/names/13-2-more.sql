-- Names that mean something elsewhere.

-- Columns called as system columns of other systems and releases, as functions,
-- as words of SQL, as the tool's own.
create table public."table" (
    "oid" integer primary key, "ctid_" tid, "user" name default current_user, "current_user" text, "rownum" integer, "rowid" bigint, "xmin_" xid, "all" boolean, "desc" text,
    "end" date, "limit" integer, "offset" integer, "order" integer unique, "group" integer, "references" integer references public."table" ("order"), "check" integer check ("check" > 0),
    "default" integer default 5, "collate" text collate "C", "Primary" integer, "primary" integer, "PRIMARY" integer, "new" integer, "old" integer, "value" integer, "nonce" uuid, "count" integer,
    "timestamp" timestamp, "interval" interval, "array" integer[], "row" integer, "public" text, "a.b" integer, "a""b" integer, "a,b" integer, "(a)" integer, "a b" integer, "$1" integer
);
create unique index "index" on public."table" ("Primary", "primary" desc, "PRIMARY", "a.b") where "all";
create rule "rule" as on update to public."table" where new."new" <> old."old" do also nothing;
create view public."view" as select t."new", t."old", t."user", t."current_user", current_user as "c" from public."table" t;
insert into public."table" ("oid", "order", "references", "array", "a.b") select i, i, case when i > 1 then i - 1 end, array[i], i from generate_series(1, 20) i;

-- Names that differ only by case, or only by what cannot be seen.
create table public.customers (id integer primary key, name text, "Name" text, "NAME" text);
create table public."Customers" (id integer primary key, "ID" integer unique references public.customers);
create table public."CUSTOMERS" (id integer primary key, "Id" integer references public."Customers" ("ID"));
create table public."customers " (id integer primary key);
create table public."customers​" (id integer primary key); -- a zero width space at the end
insert into public.customers values (1, 'a', 'b', 'c');
insert into public."Customers" values (2, 1);
insert into public."CUSTOMERS" values (3, 1);
insert into public."customers " values (4);
insert into public."customers​" values (5);
create schema "Public";
create table "Public".customers (id integer primary key);
create schema "PUBLIC";
create table "PUBLIC".customers (id integer primary key, up integer references "Public".customers);
insert into "Public".customers values (6);
insert into "PUBLIC".customers values (7, 6);

-- Schemas and objects that look like the tool's and are not.
create schema pgcutover_x;
create schema "pgcutover " authorization "User";
create schema "Pgcutover";
create schema "pgcutover.state";
create table pgcutover_x.turn (id integer primary key);
create table pgcutover_x.move (id integer primary key);
create table "pgcutover ".journal (id integer primary key);
create table "Pgcutover".marker_forward (id integer primary key, nonce uuid);
create table "pgcutover.state".decision_forward (id integer primary key);
create table public.pgcutover (id serial primary key);
create table public.pgcutover_move (id integer primary key, pgcutover text default 'pgcutover');
create function public.pgcutover() returns text language sql as $$ select 'pgcutover' $$;
create function public.my_fence() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger my_pgcutover_fence before insert on public.pgcutover for each row execute function public.my_fence();
create trigger fence before insert on public.pgcutover_move for each row execute function public.my_fence();
create type public.pgcutover_names as enum ('pgcutover');
insert into pgcutover_x.turn values (1);
insert into pgcutover_x.move values (1);
insert into "pgcutover ".journal values (1);
insert into "Pgcutover".marker_forward values (1, null);
insert into "pgcutover.state".decision_forward values (1);
insert into public.pgcutover select from generate_series(1, 3);
insert into public.pgcutover_move values (1), (2);

-- Constraints, sequences and types of one name in several places; names that
-- Postgres made itself and cut off.
create schema one;
create schema two;
create table one.same (same serial constraint same_pkey primary key, constraint same check (same > 0));
create table two.same (same serial constraint same_pkey primary key, constraint same check (same > 1 or same = 1));
create type one.same_type as enum ('same');
create type two.same_type as enum ('same');
create table one.both (a one.same_type primary key, b two.same_type not null);
create function one.same(one.same) returns text language sql stable as 'select ''one''';
create function one.same(two.same) returns text language sql stable as 'select ''two''';
create view one.uses as select one.same(s) as a, one.same(t) as b from one.same s, two.same t;
insert into one.same default values;
insert into two.same default values;
insert into one.both values ('same', 'same');
create table one.a_table_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12 (
    a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12 serial primary key,
    a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_13 integer unique
);
alter table one.a_table_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12
    add a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_14 serial unique;
alter table one.a_table_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12
    add a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_15 bigint generated always as identity unique check (a_column_with_a_name_that_is_nearly_as_long_as_a_name_may_be_15 > 0);
insert into one.a_table_with_a_name_that_is_nearly_as_long_as_a_name_may_be_12 default values;
create table one."renamed from" (id serial primary key, v integer not null check (v > 0) unique);
alter table one."renamed from" rename to "renamed to";
alter table one."renamed to" rename column v to "W";
alter sequence one."renamed from_id_seq" rename to "another; name";
insert into one."renamed to" ("W") values (1), (2);

-- Values and settings that need quoting.
create function one.settings() returns text language sql set search_path = one, "two", "a b", "$user", pg_temp set datestyle = 'ISO, DMY' set application_name = 'it''s "x"' as $_$ select '$$ $_ \ '' " ;' $_$;
create table one.defaults (
    id integer primary key, a text default E'back\\slash ''quote'' "double" %s $1 ; -- \n', b text default $$dollar$$, c bytea default '\xdeadbeef', d text[] default array['a,b', '{c}', '"', E'\\', null, 'NULL', ''],
    e jsonb default '{"a": "\u00e9 \" \\ ''"}', f date default 'infinity', g double precision default '-Infinity', h numeric default 'NaN', i bit varying default B'101', j "char" default 'x', k interval default '1 year -2 days', l text default U&'\0441\043B', m timestamptz default ('2024-01-01 00:00:00'::timestamp at time zone 'Europe/Berlin')
);
insert into one.defaults (id) values (1);
