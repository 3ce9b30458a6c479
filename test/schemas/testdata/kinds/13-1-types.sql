-- Every kind of object that a database can hold, in many schemas: types.
create role kinds_owner;
create role kinds_writer;
create role "kinds Reader";
create role kinds_auditor nologin noinherit;
grant "kinds Reader" to kinds_writer;
grant kinds_auditor to kinds_writer with admin option;

create schema extensions;
create schema base authorization kinds_owner;
create schema app authorization kinds_owner;
create schema audit authorization kinds_auditor;
create schema reporting;
create schema "Extra Types";
comment on schema base is 'types and functions that all others use';
comment on schema public is null;
revoke all on schema public from public;
grant usage on schema public to "kinds Reader";
grant usage on schema extensions, base to public;
grant usage on schema app, reporting to "kinds Reader", kinds_writer;
grant create, usage on schema reporting, "Extra Types" to kinds_owner;
grant create on schema app to kinds_writer with grant option;

create extension hstore schema extensions;
create extension pg_trgm schema extensions;
create extension citext schema extensions;
create extension btree_gist schema extensions;
create extension btree_gin schema extensions;
create extension "uuid-ossp" schema extensions;
create extension intarray schema extensions;
create extension ltree schema extensions;
create extension unaccent schema extensions;
create extension tablefunc schema extensions;
create extension pgcrypto schema extensions;
create extension cube schema "Extra Types";
create extension earthdistance schema "Extra Types";
create extension postgres_fdw schema extensions;

set role kinds_owner;
set search_path = base, extensions;
alter default privileges in schema base grant execute on functions to kinds_writer;
alter default privileges in schema app grant select on tables to "kinds Reader" with grant option;
alter default privileges in schema app grant insert, update, delete on tables to kinds_writer;
alter default privileges revoke execute on functions from public;
alter default privileges revoke usage on types from public;
alter default privileges grant usage on types to kinds_writer, "kinds Reader";
reset role;
alter default privileges for role kinds_auditor in schema audit grant select on sequences to kinds_auditor;
alter default privileges for role kinds_owner grant create, usage on schemas to kinds_auditor;
set role kinds_owner;

-- Domains over domains.
create domain base.text_short as text collate "C" constraint short check (length(value) <= 40);
create domain base.word as base.text_short default 'word' not null constraint one_word check (value !~ '\s');
create domain base.slug as base.word default 'slug' check (value = lower(value)) check (value ~ '^[a-z0-9-]+$');
create domain base.positive as integer check (value > 0);
alter domain base.positive add constraint not_huge check (value < 1000000) not valid;
create domain base.positives as base.positive[] check (array_length(value, 1) < 5);
create domain base.email as extensions.citext check (value ~ '@');
comment on domain base.slug is 'for URLs';
comment on constraint one_word on domain base.word is 'without blanks';

-- Enumerations, labels added in the middle, renamed.
create type base.mood as enum ('sad', 'ok', 'happy');
alter type base.mood add value 'so-so' after 'sad';
alter type base.mood add value 'it''s "complicated"' before 'happy';
alter type base.mood rename value 'ok' to 'OK';
create type base.empty_enum as enum ();

-- Composites, of each other, and arrays of them.
create type base.money_amount as (amount numeric(20, 4), currency char(3));
create type base.address as (street text, city text collate "POSIX", geo point, tags extensions.hstore);
create type base.person as (name base.word, home base.address, others base.address[], moods base.mood[], owes base.money_amount);
alter type base.person add attribute nick extensions.citext, drop attribute moods;
comment on column base.person.nick is 'as friends say';
create type base.nothing as ();

-- Ranges with a difference, with a canonical function, over a domain's type.
create function base.time_diff(a time, b time) returns double precision language sql immutable strict parallel safe as 'select extract(epoch from (a - b))::double precision';
create type base.time_range as range (subtype = time, subtype_diff = base.time_diff);
create type base.c_range as range (subtype = text, collation = "C");
create type base.float_range as range (subtype = float8, subtype_diff = float8mi);
create domain base.office_hours as base.time_range check (value <@ '[08:00,20:00]');
comment on type base.time_range is 'of one day';



grant usage on type base.mood to kinds_writer with grant option;
revoke all on type base.address from public;
reset role;
