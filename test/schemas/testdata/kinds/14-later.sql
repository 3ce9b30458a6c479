-- What came with 14: bodies in SQL that are parsed when they are made, procedures
-- with OUT parameters, multiranges, statistics on expressions.
set role kinds_owner;
create function base.parsed(r app.room, n integer default 2) returns text language sql immutable
    return upper(r.slug::text) || n::text;
create function base.parsed_block(n integer) returns setof app.log language sql volatile
begin atomic
    insert into app.log (what) select 'parsed ' || n where n > 0;
    select l.* from app.log l where l.id < n order by l.id;
end;
create procedure base.with_out(in a integer, out b integer) language plpgsql as $$ begin b := a * 2; end $$;
create procedure base.parsed_procedure(a integer) begin atomic
    delete from app.log where id = -a;
    update app.log set what = what where id = -a;
end;
create view app.uses_parsed as select base.parsed(r) as p, base.parsed(r, 3) as q from app.room r;
create table app.spans (id integer primary key, spans datemultirange not null default '{}', mine base.time_multirange, check (not isempty(spans) or id > 0));
create index spans_gist on app.spans using gist (spans);
create statistics app.spans_stats on (id % 10), (upper(spans)) from app.spans;
create view app.with_cycle as
    with recursive t(id, parent) as (select 1, 2 union all select parent, id from t where id < 3) cycle id set is_cycle using path
    select id, is_cycle from t;
create aggregate base.appended(anycompatible) (sfunc = array_append, stype = anycompatiblearray, initcond = '{}');
reset role;
create function base.subscript_free(anycompatible, anycompatiblemultirange) returns boolean language sql as $$ select true $$;
insert into app.spans values (1, '{[2024-01-01,2024-02-01),[2024-03-01,)}', '{[08:00,09:00)}'), (2, '{}', null);
