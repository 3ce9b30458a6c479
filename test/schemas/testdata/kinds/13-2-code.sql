-- Functions, procedures, aggregates, operators, casts and their families.
set role kinds_owner;
set search_path = base, extensions;

create function base.area(w numeric, h numeric default 1) returns numeric language sql immutable strict parallel safe cost 5 as $$ select w * h $$;
create function base.area(r numeric) returns numeric language sql immutable as $$ select 3.14159 * r * r $$;
create function base.area(text, variadic integer[] default '{1,2}') returns text language plpgsql stable as $_$
begin
    -- not the end: $$ and ';' and \. and '
    return $1 || $$ ; $$ || array_to_string($2, ',');
end $_$;
create function base.split(input text, out head text, out tail text, inout n integer default 0) language plpgsql called on null input as $$
begin head := left(input, 1); tail := substr(input, 2); n := n + 1; return; end $$;
create function base.numbers(n integer) returns table (i integer, "Square" bigint) language sql rows 17 set work_mem = '1MB' set search_path = base, "Extra Types", pg_temp as
    'select i, i::bigint * i from generate_series(1, n) i';
create function base.people() returns setof base.person language sql stable security definer as $$ select null::base.person $$;
create function base.any_first(anyarray) returns anyelement language sql immutable as 'select $1[1]';
create function base."Odd Name"("Odd ""Arg""" integer, "select" text) returns void language plpgsql as $$ begin perform "select"; end $$;
create procedure base.noop(inout n integer, text default 'x') language plpgsql as $$ begin n := n; commit; end $$;
create procedure base.noop() language sql as 'select 1';
comment on procedure base.noop() is 'does nothing';
comment on function base.area(numeric) is 'of a circle';
revoke all on function base.area(numeric, numeric) from kinds_writer;
grant execute on function base.area(text, integer[]) to public;
grant execute on procedure base.noop(integer, text) to "kinds Reader";

-- Aggregates: plain, ordered-set, moving, with a final function, parallel.
create function base.sum_step(base.money_amount, base.money_amount) returns base.money_amount language sql immutable as
    'select row(coalesce(($1).amount, 0) + coalesce(($2).amount, 0), coalesce(($2).currency, ($1).currency))::base.money_amount';
create aggregate base.total(base.money_amount) (sfunc = base.sum_step, stype = base.money_amount, initcond = '(0,EUR)', combinefunc = base.sum_step, parallel = safe);
create aggregate base.longest(text) (sfunc = textcat, stype = text, finalfunc = upper, finalfunc_modify = read_only, sortop = operator(pg_catalog.>));
create aggregate base.moving(integer) (sfunc = int4pl, stype = integer, msfunc = int4pl, minvfunc = int4mi, mstype = integer, initcond = '0', minitcond = '0');
create function base.step0(integer) returns integer language sql immutable as 'select $1 + 1';
create aggregate base.counted(*) (sfunc = base.step0, stype = integer, initcond = '0');
comment on aggregate base.total(base.money_amount) is 'of one currency';

-- Operators with all clauses, a family, a class of its own.
create function base.money_lt(base.money_amount, base.money_amount) returns boolean language sql immutable as 'select ($1).amount < ($2).amount';
create function base.money_le(base.money_amount, base.money_amount) returns boolean language sql immutable as 'select ($1).amount <= ($2).amount';
create function base.money_eq(base.money_amount, base.money_amount) returns boolean language sql immutable as 'select ($1).amount = ($2).amount';
create function base.money_ge(base.money_amount, base.money_amount) returns boolean language sql immutable as 'select ($1).amount >= ($2).amount';
create function base.money_gt(base.money_amount, base.money_amount) returns boolean language sql immutable as 'select ($1).amount > ($2).amount';
create function base.money_cmp(base.money_amount, base.money_amount) returns integer language sql immutable as 'select case when ($1).amount < ($2).amount then -1 when ($1).amount > ($2).amount then 1 else 0 end';
create operator base.<# (leftarg = base.money_amount, rightarg = base.money_amount, function = base.money_lt, commutator = operator(base.>#), negator = operator(base.>=#), restrict = scalarltsel, join = scalarltjoinsel);
create operator base.<=# (leftarg = base.money_amount, rightarg = base.money_amount, function = base.money_le);
create operator base.=# (leftarg = base.money_amount, rightarg = base.money_amount, function = base.money_eq, commutator = operator(base.=#), restrict = eqsel, join = eqjoinsel);
create operator base.>=# (leftarg = base.money_amount, rightarg = base.money_amount, function = base.money_ge);
create operator base.># (leftarg = base.money_amount, rightarg = base.money_amount, function = base.money_gt);
create operator base.~|/ (rightarg = integer, function = base.step0);
comment on operator base.<# (base.money_amount, base.money_amount) is 'less';
reset role;
set search_path = base, extensions;
create aggregate base.pick(double precision order by integer) (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
create function base.split_safely(text) returns text language sql leakproof as 'select $1';
create operator family base.money_family using btree;
create operator class base.money_ops for type base.money_amount using btree family base.money_family as
    operator 1 base.<#, operator 2 base.<=#, operator 3 base.=#, operator 4 base.>=#, operator 5 base.>#, function 1 base.money_cmp(base.money_amount, base.money_amount);
comment on operator class base.money_ops using btree is 'by amount';
alter operator family base.money_family using btree owner to kinds_owner;
alter operator class base.money_ops using btree owner to kinds_owner;

-- Casts, of which some need the superuser.
create function base.to_text(base.money_amount) returns text language sql immutable as $$ select ($1).amount || ' ' || ($1).currency $$;
create cast (base.money_amount as text) with function base.to_text(base.money_amount) as assignment;
create cast (base.mood as text) with inout as assignment;
create cast (text as base.mood) with inout;
comment on cast (base.mood as text) is 'saves a cast';
create function base.collect(internal) returns integer language internal as 'pg_backend_pid' volatile;

-- Text search: every piece of a configuration.
create text search dictionary base.stems (template = snowball, language = english, stopwords = english);
create text search dictionary base."plain ""Words""" (template = simple, accept = false);
create text search configuration base.search (copy = pg_catalog.simple);
alter text search configuration base.search alter mapping for asciiword, word with extensions.unaccent, base.stems;
alter text search configuration base.search drop mapping for email, url;
alter text search configuration base.search owner to kinds_owner;
create text search template base.template (init = dsimple_init, lexize = dsimple_lexize);
create text search parser base.parser (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype);
comment on text search configuration base.search is 'without accents';

-- Collations.
create collation base.german (provider = icu, locale = 'de-u-co-phonebk');
create collation base.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create collation base.plain (locale = 'C');
alter collation base.german owner to kinds_owner;
comment on collation base.ci is 'case does not matter';
create conversion base.latin for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;

-- A language's handler, an access method of the server's own code, a server.
create access method heap_again type table handler heap_tableam_handler;
comment on access method heap_again is 'heap by another name';
create foreign data wrapper nothing options (debug 'true');
create server elsewhere type 'postgres' version '9' foreign data wrapper postgres_fdw options (host '192.0.2.1', dbname 'x y', port '5432');
create user mapping for kinds_owner server elsewhere options (user 'u', password 'p''w');
create user mapping for public server elsewhere options (user 'guest');
grant usage on foreign server elsewhere to kinds_writer;
create foreign table reporting.remote (id integer options (column_name 'ID') not null, note text collate "C" default 'far', check (id > 0))
    server elsewhere options (schema_name 'a b', table_name 't"t');
comment on foreign table reporting.remote is 'not here';
