-- Tables, views, rules, policies and what watches over them.
set role kinds_owner;
set search_path = base, extensions;

create table app.room (
    id uuid primary key default extensions.uuid_generate_v5('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 'room'),
    slug base.slug unique,
    path extensions.ltree not null,
    sizes base.positives,
    attributes extensions.hstore not null default ''::extensions.hstore,
    tags integer[] default '{}',
    owner base.person,
    owners base.person[],
    price base.money_amount default row(1, 'EUR'),
    mood base.mood default 'OK',
    moods base.mood[] not null default '{OK,sad}',
    hours base.office_hours,
    german text collate base.german,
    ci text collate base.ci unique,
    square integer generated always as (coalesce(array_length(tags, 1), 0) * 2) stored,
    label text generated always as (upper((slug)::text) || ' ' || coalesce((price).currency, '?')) stored not null,
    empty base.nothing,
    constraint room_path check (extensions.nlevel(path) < 10),
    constraint room_price check ((price).amount >= 0) not valid
);
create index room_path on app.room using gist (path extensions.gist_ltree_ops);
create index room_attributes on app.room using gin (attributes);
create index room_tags on app.room using gin (tags extensions.gin__int_ops);
create index room_slug_trgm on app.room using gin ((slug::text) extensions.gin_trgm_ops);
create index room_price on app.room (price base.money_ops desc);
create index room_mixed on app.room using gin (mood, (attributes -> 'colour'));
create index room_where on app.room (((owner).nick)) where (owner).name <> 'nobody' and mood in ('sad', 'OK');
create index room_hash on app.room using hash (german);
alter index app.room_where alter column 1 set statistics 700;
create statistics app.room_stats (ndistinct, mcv) on mood, german from app.room;
alter statistics app.room_stats set statistics 222;
comment on statistics app.room_stats is 'they go together';
comment on column app.room.square is E'twice\ttags';
comment on constraint room_path on app.room is 'not too deep';
comment on index app.room_hash is '';

-- No room twice at one time.
create table app.booking (
    room uuid not null references app.room on update cascade,
    during tstzrange not null,
    day_time base.time_range,
    guest base.email not null,
    cancelled boolean not null default false,
    id bigint generated always as identity (start 100 increment 10) primary key,
    constraint booking_overlap exclude using gist (room with =, during with &&) where (not cancelled),
    constraint booking_day exclude using gist (guest extensions.gist_trgm_ops with operator(extensions.%), day_time with &&) initially deferred,
    constraint booking_during check (not isempty(during))
);
alter table app.booking drop constraint booking_day;
alter table app.booking add constraint booking_day exclude using gist (day_time with &&, id with <>) where (id < 0) deferrable initially deferred;
create table app.booking_note (booking bigint not null, line integer not null, note text, primary key (booking, line) include (note),
    foreign key (booking) references app.booking match full on delete cascade not valid);
alter table app.booking_note alter column note set storage external;

create table app.copied (like app.room including all excluding statistics);
alter table app.copied add constraint copied_slug_word check (slug <> 'word');
create table app.typed of base.person (primary key (name), nick with options default 'nick');
create table app.in_other_method (id integer primary key, v text) using heap_again;
create table app.positions (at "Extra Types".earth primary key, box "Extra Types".cube, near double precision generated always as ("Extra Types".cube_dim(box) * 1.5) stored);

-- Views on views, recursive, updatable; materialized on materialized.
create view app.free as select r.id, r.slug, r.owner, (r.price).amount as price from app.room r
    where not exists (select from app.booking b where b.room = r.id and not b.cancelled) with cascaded check option;
create view app.cheap (id, slug, "The Price") with (security_barrier) as select f.id, f.slug, f.price from app.free f where f.price < 10;
create recursive view app.tree (path, depth) as
    select path, 1 from app.room where extensions.nlevel(path) = 1
    union all select r.path, t.depth + 1 from app.room r join tree t on r.path operator(extensions.<@) t.path and extensions.nlevel(r.path) = t.depth + 1;
create view reporting.everything as
    with totals as materialized (select room, count(*) filter (where not cancelled) as n, base.total(row(1, 'EUR')::base.money_amount) as sum from app.booking group by grouping sets ((room), ()))
    select c.slug, t.n, (t.sum).amount, rank() over w, lag(c.slug, 1, 'none') over (w rows between 2 preceding and current row exclude ties) as before,
           x.*, j.value ->> 'a' as a, case c.slug when 'a' then 1 else 2 end as k, array(select 1 union all select 2) as list
      from app.cheap c left join totals t on t.room = c.id
      cross join lateral (select extract(year from now()), current_date, localtime(2)) x(year, today, clock)
      cross join jsonb_array_elements('[{"a": 1}]') with ordinality j(value, position)
     where c.slug like 'a%' or (c.slug, t.n) in (values ('b', 2)) or c.slug similar to '%c'
    window w as (partition by c."The Price" order by c.slug desc nulls last)
     order by 1 using operator(pg_catalog.>) limit 10 offset 1;
create materialized view reporting.per_room as select room, count(*) as n, base.longest(guest::text) as guests from app.booking group by room;
create unique index per_room_room on reporting.per_room (room);
create materialized view reporting.summary with (fillfactor = 80) as select n, count(*) as rooms from reporting.per_room join app.room on id = room group by n;
create index summary_n on reporting.summary (n);
create materialized view reporting.never as select 1 as x with no data;
create view reporting.over_summary as select * from reporting.summary s join reporting.never on true;
comment on materialized view reporting.summary is 'of a summary';
alter view app.free alter column price set default 3;

-- Rules.
create table app.log (at timestamptz not null default '2024-01-01 00:00:00+00', who text default current_user, what text, id serial primary key);
create rule log_delete as on delete to app.booking_note do also insert into app.log (what) values ('gone ' || old.booking || coalesce(old.note, ''));
create rule free_insert as on insert to app.cheap do instead (insert into app.room (slug, path) values (new.slug, 'via.view'); notify inserted);
create rule "Never" as on update to app.log where old.what is not distinct from new.what do instead nothing;
alter table app.log disable rule "Never";
comment on rule log_delete on app.booking_note is 'keeps them';

-- Policies.
alter table app.room enable row level security;
create policy readers on app.room for select to "kinds Reader", kinds_auditor using (mood <> 'sad' or current_user = 'kinds_owner');
create policy writers on app.room as restrictive for all to kinds_writer using (square < 10) with check (exists (select from app.log where what = 'x'));
comment on policy readers on app.room is 'the sad ones are hidden';
alter table app.booking_note enable row level security;

-- Grants of all shapes.
grant select, references (id) on app.room to kinds_writer;
grant select (slug, "label"), update (slug) on app.room to "kinds Reader" with grant option;
grant insert (guest) on app.booking to public;
revoke delete on app.booking from kinds_writer;
revoke truncate on app.booking from kinds_owner;
grant usage on sequence app.log_id_seq to kinds_writer;
grant truncate, trigger on app.log to kinds_auditor;
set role "kinds Reader";
grant select (slug) on app.room to kinds_auditor;
reset role;

-- Triggers of all kinds, one of them for constraints.
create function app.check_booking() returns trigger language plpgsql security definer set search_path = app, pg_temp as $$
begin
    if new.guest = 'nobody@nowhere' then raise exception 'no'; end if;
    return new;
end $$;
create constraint trigger booking_checked after insert or update of guest, cancelled on app.booking from app.room deferrable initially deferred
    for each row when (new.cancelled is not true) execute function app.check_booking();
create trigger instead instead of update on app.cheap for each row execute function app.check_booking();
create trigger truncated before truncate on app.log execute function app.check_booking();
alter function app.check_booking() owner to kinds_owner;
comment on trigger truncated on app.log is 'on truncate';

-- What sees DDL. The first writes a table, which is closed on the new server and, at
-- the end, on the old one; of the move's own statements it must see none.
create table audit.ddl (id bigint generated always as identity primary key, tag text, object text, at timestamptz default '2024-01-01 00:00:00+00');
alter table audit.ddl owner to kinds_auditor;
create function audit.log_ddl() returns event_trigger language plpgsql security definer as $$
begin
    insert into audit.ddl (tag, object) select command_tag, object_identity from pg_event_trigger_ddl_commands() where schema_name <> 'pg_temp';
end $$;
create function audit.no_drop() returns event_trigger language plpgsql as $$
begin
    if exists (select from pg_event_trigger_dropped_objects() where object_type = 'table' and schema_name = 'app') then raise exception 'no table of app is dropped'; end if;
end $$;
create event trigger log_ddl on ddl_command_end execute function audit.log_ddl();
create event trigger keep_tables on sql_drop execute function audit.no_drop();
create event trigger sleeping on ddl_command_start execute function audit.log_ddl();
alter event trigger sleeping disable;
comment on event trigger log_ddl is 'all of it';

-- Sequences that belong to nobody, of every shape.
create sequence app.loose as smallint increment 3 minvalue -5 maxvalue 30000 start 7 cache 5 cycle;
create sequence app.down increment -1 start -1;
alter sequence app.loose owner to kinds_writer;
select nextval('app.loose'), nextval('app.down'), nextval('app.down');
create domain app.numbered as bigint default nextval('app.down');
create table app.by_domain (id app.numbered primary key, v integer);

insert into app.room (id, slug, path, sizes, attributes, tags, owner, owners, price, mood, moods, hours, german, ci)
select extensions.uuid_generate_v5('6ba7b810-9dad-11d1-80b4-00c04fd430c8', i::text), 'room-' || i, ('house.floor' || i % 3 || '.r' || i)::extensions.ltree,
       array[i, i + 1], extensions.hstore(array['colour', 'c' || i % 4, 'none', null]), array[i, i % 5],
       row('Owner' || i, row('street', 'city', point(i, 2), 'a=>1')::base.address, array[row(null, null, null, null)::base.address], row(i, 'EUR')::base.money_amount, 'Nick' || i)::base.person,
       array[null, row('Two', null, '{}', null, null)::base.person], row(i / 4.0, 'EUR')::base.money_amount,
       (enum_range(null::base.mood))[i % 5 + 1], enum_range(null::base.mood), base.time_range('09:00', '17:30', '[]'), 'Öl ' || i, 'Ci' || i
  from generate_series(1, 60) i;
insert into app.room (slug, path, owner) values ('default', 'top', null);
insert into app.booking (room, during, day_time, guest, cancelled)
select r.id, tstzrange('2024-01-01 00:00:00+00'::timestamptz + i * interval '1 day', '2024-01-01 00:00:00+00'::timestamptz + (i + 1) * interval '1 day'), base.time_range('10:00', '11:00'), 'Guest' || i || '@Example.org', i % 7 = 0
  from generate_series(1, 150) i join app.room r on r.slug = 'room-' || (i % 40 + 1);
insert into app.booking_note select id, l, 'note ' || l from app.booking, generate_series(1, 2) l;
insert into app.typed (name, nick) values ('One', default), ('Two', null);
insert into app.in_other_method values (1, 'v');
set search_path = base, extensions, "Extra Types";
insert into app.positions (at, box) values ("Extra Types".ll_to_earth(52.5, 13.4), '(1,2),(3,4)'), ("Extra Types".ll_to_earth(0, 0), '(0)');
insert into app.log (what) select 'line ' || i from generate_series(1, 20) i;
insert into app.by_domain (v) values (1), (2);
insert into app.copied (id, slug, path, tags) values ('00000000-0000-0000-0000-000000000001', 'copied', 'a.b', '{1,2,3}');
delete from app.booking_note where line = 2 and booking < 200;
refresh materialized view reporting.per_room;
refresh materialized view reporting.summary;
