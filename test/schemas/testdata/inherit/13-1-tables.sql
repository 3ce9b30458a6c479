-- Inheritance as it was before partitions: several parents, columns of the
-- children's own, constraints that stay with the parent, and parents without rows.
create role inherit_owner;
create role inherit_reader;

create schema asset;
alter schema asset owner to inherit_owner;
grant usage on schema asset to inherit_reader;
set role inherit_owner;

create table asset.thing (
    id bigserial primary key,
    label text not null default 'thing' constraint thing_label_short check (length(label) < 80),
    made timestamptz not null default '2024-01-01 00:00:00+00',
    constraint thing_is_abstract check (false) no inherit
);
comment on table asset.thing is 'no row of its own: see thing_is_abstract';
comment on constraint thing_is_abstract on asset.thing is 'kept by the parent only';

create table asset.priced (
    price numeric(12, 2) not null default 0 check (price >= 0),
    currency char(3) not null default 'EUR'
);
alter table asset.priced replica identity full;

create table asset.located (
    place numeric(9, 6)[],
    label text not null default 'somewhere'
);
alter table asset.located replica identity full;

create table asset.book (
    isbn text unique,
    pages integer check (pages > 0),
    primary key (id)
) inherits (asset.thing, asset.priced);

-- label comes from two parents and is merged, with a default of its own.
create table asset.house (
    rooms integer not null,
    label text not null default 'house',
    primary key (id)
) inherits (asset.thing, asset.located, asset.priced);

create table asset.castle (
    towers integer not null default 1,
    primary key (id),
    constraint castle_rooms check (rooms > 20)
) inherits (asset.house);

-- A child that was a table of its own before, columns in another order.
create table asset.ship (
    tonnage real,
    made timestamptz not null default '2023-12-31 12:00:00+00',
    label text not null default 'ship' constraint thing_label_short check (length(label) < 80),
    id bigint primary key default nextval('asset.thing_id_seq'),
    currency char(3) not null default 'NOK',
    price numeric(12, 2) not null default 0,
    constraint priced_price_check check (price >= 0)
);
alter table asset.ship inherit asset.thing;
alter table asset.ship inherit asset.priced;

-- A child that has left its parent keeps what it had.
create table asset.island (label text not null default 'island', primary key (id)) inherits (asset.thing, asset.located);
alter table asset.island no inherit asset.thing;

-- Dropped columns, on the parent and on the child.
alter table asset.thing add column temporary integer;
alter table asset.house add column gone text, add column stays text default 'stays';
alter table asset.house drop column gone;
alter table asset.thing drop column temporary;
alter table asset.thing add column weight double precision;
alter table only asset.book alter column weight set default 0.5;
alter table asset.castle alter column label set default 'castle';

create table asset.empty_parent (id integer primary key, note text);
create table asset.empty_child (primary key (id)) inherits (asset.empty_parent);

create index thing_made on asset.thing (made);
create index house_rooms on asset.house (rooms) where rooms > 3;

create rule book_pages as on update to asset.book
    where new.pages < old.pages do instead nothing;

create function asset.touch() returns trigger language plpgsql as $$
begin
    new.label := trim(new.label);
    return new;
end $$;
create trigger touch before insert or update of label on asset.thing for each row execute procedure asset.touch();
create trigger touch before insert or update of label on asset.ship for each row when (new.label <> 'raw') execute procedure asset.touch();

grant select on asset.thing, asset.book, asset.house to inherit_reader;
grant update (label) on asset.house to inherit_reader;
reset role;

insert into asset.book (label, price, isbn, pages) select 'book ' || i, i / 3.0, 'isbn-' || i, i from generate_series(1, 40) i;
insert into asset.house (label, rooms, place) select ' house ' || i, i % 7 + 1, array[i, -i] from generate_series(1, 30) i;
insert into asset.castle (rooms, towers, price, currency) values (21, 3, 10, 'GBP'), (99, 12, 0, 'DKK');
insert into asset.ship (tonnage, label) values (1.5, 'raw'), ('Infinity', ' trimmed '), ('NaN', '');
insert into asset.island (id, label) values (1, 'alone'), (2, 'alone too');
insert into asset.priced (price) values (1), (1), (2);
insert into asset.located (place) values (null), ('{1.5,NaN}');
