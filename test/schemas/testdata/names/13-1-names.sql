-- Names that are legal and that nobody expects: in every place that has a name.
create role "пользователь";
create role "Rôle with ""quotes"", $dollars$ & 'apostrophes'";
create role "role;drop table x;--";
create role "User";
create role "user";
grant "User" to "user";

create function pg_temp.awkward() returns text[] language sql as $f$
    select array[
        'кириллица', '中文表', 'جدول عربي', 'emoji 😀 👩‍👩‍👧', 'naïve Ünïcödé', E'e\u0301 is not é',
        'single''quote', 'double"quote', '"fully quoted"', 'dot.ted.name', E'back\\slash', E'\\', '100% percent %s %I $1', E'new\nline', E'tab\there', E'carriage\rreturn',
        ' leading', 'trailing ', ' ', '  two  blanks  ', repeat('x', 63), repeat('я', 31), repeat('長', 21), '😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀',
        'select', 'table', 'user', 'order', 'all', 'null', 'ctid_', 'pg_temp_table', 'information_schema', 'public', 'CamelCase', 'camelcase', 'CAMELCASE',
        '$', '$1', 'a$b', '$$', '$body$', ';', 'a;b', '--', 'a -- b', '/*', '*/', '/* a */', '(', ')', '()', '{a,b}', '[1:2]', '=', 'a=b', 'dbname=x', '-n', '--table=x', '*', '?', 'a*', '~', '!x', '@', ':v', ':"v"', ':''v''',
        '1', '123abc', '007', '0x1F', '1e5', 'true', 'NaN', '\N', '\.', '.', '..', '../x', '/', 'a/b', '`', '´', '“”', E'\u200b', E'zero\u200bwidth', E'\u202etfel ot thgir', E'\u00a0', E'bell\u0007', E'\u0001',
        'pgcutover_x', 'pgcutover_names_extra', 'PGCUTOVER', 'pg-cutover', 'Type: TABLE; Schema: public; Owner: x', '-- Name: x; Type: TABLE', 'public.x', '"', '""', '''', ''''''
    ]
$f$;

-- Each is a schema, with a table, columns and everything of that name in it.
do $$
declare
    names text[] := pg_temp.awkward();
    schemas text[] := '{}';
    name text;
    n integer := 0;
    other text;
begin
    foreach name in array names loop
        n := n + 1;
        other := names[n % array_length(names, 1) + 1];
        -- Every fifth has a schema of its own, the others are in the last one.
        if n % 5 = 1 and name not in ('public', 'information_schema') and name !~ '^pg_' then
            execute format('create schema %I', name);
            execute format('comment on schema %I is %L', name, name);
            -- Who owns a table must reach it: from 16 on it is copied as him.
            execute format('grant usage on schema %I to public', name);
            schemas := schemas || name;
        end if;
        execute format('create table %1$I.%2$I (id serial primary key, %3$I text default %4$L, "the other" integer, constraint %5$I check (%3$I <> %6$L))',
            schemas[array_length(schemas, 1)], name, case when name = 'id' then 'id_' else name end, name, 'c' || left(name, 12), other || 'x');
        execute format('create index %1$I on %2$I.%3$I ((%3$I || %4$L)) where %3$I <> %4$L', left(name, 12) || ' i' || n, schemas[array_length(schemas, 1)], name, other);
        execute format('insert into %1$I.%2$I (%2$I) select %3$L || i from generate_series(1, 4) i', schemas[array_length(schemas, 1)], name, name);
        execute format('comment on table %I.%I is %L', schemas[array_length(schemas, 1)], name, other);
        execute format('comment on column %1$I.%2$I.%2$I is %3$L', schemas[array_length(schemas, 1)], name, name);
        if n % 3 = 0 then
            execute format('create view %1$I.%2$I as select l.%3$I, r.%3$I as %4$I from %1$I.%3$I l join %1$I.%3$I r on l.%3$I < r.%3$I and r.%3$I <> %5$L', schemas[array_length(schemas, 1)], left(name, 12) || ' view' || n, name, 'as ' || left(other, 12), other);
            execute format('create type %1$I.%2$I as enum (%3$L, %4$L)', schemas[array_length(schemas, 1)], left(name, 12) || ' enum' || n, left(name, 14), left(other, 14) || '2');
            execute format('create function %1$I.%2$I() returns trigger language plpgsql as %3$L', schemas[array_length(schemas, 1)], left(name, 12) || ' f' || n, 'begin return new; end; /' || '* ' || replace(replace(name, '*/', ''), '/*', '') || ' *' || '/');
            execute format('create trigger %1$I before update on %2$I.%3$I for each row when (new.%3$I <> %4$L) execute function %2$I.%5$I()', left(name, 12) || ' t' || n, schemas[array_length(schemas, 1)], name, other, left(name, 12) || ' f' || n);
            execute format('create sequence %I.%I', schemas[array_length(schemas, 1)], left(name, 12) || ' s' || n);
        end if;
        if n % 4 = 0 then
            execute format('create domain %1$I.%2$I as text constraint %3$I check (value <> %4$L)', schemas[array_length(schemas, 1)], left(name, 12) || ' d' || n, name, name);
            execute format('alter table %1$I.%2$I add column %3$I %1$I.%4$I', schemas[array_length(schemas, 1)], name, left(other, 12) || ' c' || n, left(name, 12) || ' d' || n);
            execute format('alter table %I.%I owner to %I', schemas[array_length(schemas, 1)], name, (array['пользователь', 'User', 'user'])[n % 3 + 1]);
        end if;
        if n % 6 = 0 then
            execute format('grant select (%1$I), update on %2$I.%1$I to %3$I, %4$I', name, schemas[array_length(schemas, 1)], 'Rôle with "quotes", $dollars$ & ''apostrophes''', 'role;drop table x;--');
            execute format('create policy %1$I on %2$I.%3$I using (%3$I <> %4$L)', left(name, 12) || ' p' || n, schemas[array_length(schemas, 1)], name, name);
            execute format('create rule %1$I as on delete to %2$I.%3$I do also nothing', left(name, 12) || ' r' || n, schemas[array_length(schemas, 1)], name);
            execute format('create statistics %2$I.%1$I on id, "the other" from %2$I.%3$I', left(name, 12) || ' s2' || n, schemas[array_length(schemas, 1)], name);
        end if;
        if n % 7 = 0 then
            execute format('create materialized view %1$I.%2$I as select l.id, r.%3$I from %1$I.%3$I l join %1$I.%3$I r on l.id = r.id', schemas[array_length(schemas, 1)], left(name, 12) || ' mv' || n, name);
        end if;
    end loop;
end $$;
