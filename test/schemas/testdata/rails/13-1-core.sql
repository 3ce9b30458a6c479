-- A shop on Rails that is fifteen years old: the tables that everything hangs on.
create role rails_app;
create role rails_readonly;
create role rails_analytics in role rails_readonly;

create extension if not exists plpgsql;
create extension citext;
create extension pg_trgm;
create extension pgcrypto;
create extension pg_stat_statements;
comment on extension citext is 'addresses of people who hold the shift key';

alter default privileges for role rails_app in schema public grant select on tables to rails_readonly;
alter default privileges for role rails_app in schema public grant usage, select on sequences to rails_readonly;
alter schema public owner to rails_app;
set role rails_app;

create table schema_migrations (version character varying not null primary key);
create table ar_internal_metadata (
    key character varying not null primary key,
    value character varying,
    created_at timestamp(6) without time zone not null,
    updated_at timestamp(6) without time zone not null
);
insert into schema_migrations select to_char('2009-03-01 10:00:00'::timestamp + i * interval '17 hours', 'YYYYMMDDHH24MISS') from generate_series(1, 2500) i;
insert into ar_internal_metadata values ('environment', 'production', '2020-01-01', '2020-01-01'), ('schema_sha1', 'f00', '2020-01-01', '2021-01-01');

create type order_status as enum ('cart', 'placed', 'paid', 'shipped', 'returned');
alter type order_status add value 'packed' before 'shipped';
alter type order_status add value 'lost' after 'shipped';
create type "Role" as enum ('owner', 'Member', '', 'guest''s');

create table accounts (
    id uuid default gen_random_uuid() not null primary key,
    subdomain citext not null,
    owner_id bigint,
    plan character varying default 'free'::character varying not null,
    settings jsonb default '{}'::jsonb not null,
    features text[] default '{}'::text[] not null,
    users_count integer default 0 not null,
    created_at timestamp(6) without time zone default now() not null,
    updated_at timestamp(6) without time zone default now() not null,
    constraint chk_rails_plan check (plan in ('free', 'team', 'enterprise')),
    constraint chk_rails_settings check (jsonb_typeof(settings) = 'object')
);
create unique index index_accounts_on_subdomain on accounts (subdomain);
create index index_accounts_on_settings on accounts using gin (settings jsonb_path_ops);
create index index_accounts_on_features on accounts using gin (features);
create index "index_accounts_on_settings->>'locale'" on accounts ((settings ->> 'locale')) where settings ? 'locale';

create table users (
    id bigserial primary key,
    account_id uuid not null,
    manager_id bigint,
    email citext not null,
    encrypted_password character varying default ''::character varying not null,
    reset_password_token character varying,
    reset_password_sent_at timestamp without time zone,
    sign_in_count integer default 0 not null,
    current_sign_in_ip inet,
    last_sign_in_ip inet,
    role "Role" default 'Member'::"Role" not null,
    roles "Role"[] default '{Member}'::"Role"[],
    preferences json default '{}'::json,
    locked_at timestamp without time zone,
    first_name text,
    last_name text,
    full_name text generated always as (coalesce(first_name || ' ', '') || coalesce(last_name, '')) stored,
    type character varying,
    lock_version integer default 0 not null,
    discarded_at timestamp without time zone,
    created_at timestamp without time zone not null default now(),
    updated_at timestamp without time zone not null default now()
);
create unique index index_users_on_account_id_and_email on users (account_id, email) where discarded_at is null;
create unique index index_users_on_reset_password_token on users (reset_password_token);
create index index_users_on_lower_last_name on users (lower(last_name) varchar_pattern_ops, first_name desc nulls last);
create index index_users_on_full_name_trgm on users using gist (full_name gist_trgm_ops);
create index index_users_on_type on users (type) include (email) where type is not null;
create index index_users_on_day on users (date_trunc('day', created_at));
alter table users alter column email set statistics 500;
alter table accounts add constraint fk_rails_owner foreign key (owner_id) references users (id) on delete set null deferrable initially deferred;
alter table users add constraint fk_rails_account foreign key (account_id) references accounts (id) on delete cascade;
alter table users add constraint fk_rails_manager foreign key (manager_id) references users (id);

-- Polymorphic.
create table comments (
    id bigserial primary key,
    commentable_type character varying not null,
    commentable_id bigint not null,
    user_id bigint references users (id) on delete set null,
    parent_id bigint references comments (id) on delete cascade,
    body text,
    ancestry character varying collate "C",
    replies_count integer not null default 0,
    created_at timestamp not null default now()
);
create index index_comments_on_commentable on comments (commentable_type, commentable_id);
create index index_comments_on_ancestry on comments (ancestry collate "POSIX" text_pattern_ops);
create index index_comments_on_body on comments using gin (to_tsvector('english', coalesce(body, '')));

create table taggings (
    id serial primary key, tag_id integer, taggable_type varchar, taggable_id integer, tagger_type varchar, tagger_id integer,
    context varchar(128), created_at timestamp
);
create unique index taggings_idx on taggings (tag_id, taggable_id, taggable_type, context, tagger_id, tagger_type);
create table tags (id serial primary key, name citext unique, taggings_count integer default 0);

-- A join table without an id.
create table groups_users (group_id bigint not null, user_id bigint not null);
create unique index index_groups_users on groups_users (group_id, user_id);
alter table groups_users replica identity using index index_groups_users;

create table active_storage_blobs (
    id bigserial primary key, key varchar not null unique, filename varchar not null, content_type varchar, metadata text,
    service_name varchar not null, byte_size bigint not null, checksum varchar, created_at timestamp(6) not null default now()
);
create table active_storage_attachments (
    id bigserial primary key, name varchar not null, record_type varchar not null, record_id bigint not null,
    blob_id bigint not null constraint fk_rails_c3b3935057 references active_storage_blobs, created_at timestamp(6) not null default now()
);
create unique index index_active_storage_attachments_uniqueness on active_storage_attachments (record_type, record_id, name, blob_id);

-- Counters kept by triggers, and a search vector.
create function counter_cache() returns trigger language plpgsql as $$
declare
    counted text := tg_argv[0];
    by_column text := tg_argv[1];
    counter text := tg_argv[2];
    step integer := case tg_op when 'INSERT' then 1 else -1 end;
    key text;
begin
    if tg_op = 'INSERT' then
        key := to_jsonb(new) ->> by_column;
    else
        key := to_jsonb(old) ->> by_column;
    end if;
    execute format('update %I set %I = %I + $1 where id::text = $2', counted, counter, counter) using step, key;
    return null;
end
$$;
create trigger users_count after insert or delete on users for each row execute procedure counter_cache('accounts', 'account_id', 'users_count');
create trigger replies_count after insert or delete on comments for each row execute function counter_cache('comments', 'parent_id', 'replies_count');
create trigger taggings_count after insert or delete on taggings for each row execute function counter_cache('tags', 'tag_id', 'taggings_count');
alter table taggings disable trigger taggings_count;

create table products (
    id bigint generated by default as identity primary key,
    sku character varying(64) not null,
    name character varying not null,
    price_cents integer not null default 0,
    price_currency character varying not null default 'USD',
    properties jsonb,
    search tsvector,
    "order" integer,
    "user" text,
    dimensions numeric(8,3)[],
    constraint products_price check (price_cents >= 0)
);
create trigger products_search before insert or update on products for each row execute function tsvector_update_trigger(search, 'pg_catalog.english', name, sku);
create index index_products_on_search on products using gin (search) with (fastupdate = off, gin_pending_list_limit = 128);
create index index_products_on_name_trgm on products using gin (name gin_trgm_ops);
create unique index index_products_on_upper_sku on products (upper(sku));
cluster products using products_pkey;
create statistics stats_products (ndistinct, dependencies) on price_cents, price_currency from products;

create function touch_updated_at() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end $$;
create trigger touch before update on users for each row when (old.email is distinct from new.email or old.role <> 'guest''s') execute function touch_updated_at();
create trigger touch before update of plan, settings on accounts for each row execute function touch_updated_at();

create function log_statement() returns trigger language plpgsql as $$
begin
    perform set_config('rails.touched', (select count(*) from changed)::text, false);
    return null;
end $$;
create trigger changed_accounts after update on accounts referencing new table as changed old table as former for each statement execute function log_statement();

create view active_users as
    select u.id, u.email, a.subdomain, count(c.id) as comments
      from users u join accounts a on a.id = u.account_id left join comments c on c.user_id = u.id
     where u.discarded_at is null
     group by u.id, a.subdomain;
-- Joined by case-insensitive names.
create view same_names as select name, t.taggings_count, a.plan from tags t join (select subdomain as name, plan from accounts) a using (name);
create materialized view account_totals as
    select account_id, count(*) as users, max(created_at) as newest from users group by account_id;
create unique index index_account_totals_on_account_id on account_totals (account_id);
reset role;

insert into accounts (id, subdomain, plan, settings, features)
select md5('account ' || i)::uuid, 'Shop-' || i, (array['free', 'team', 'enterprise'])[i % 3 + 1], jsonb_build_object('locale', (array['en', 'de', null])[i % 3 + 1], 'n', i), array['f' || i % 4, 'beta']
  from generate_series(1, 60) i;
insert into users (account_id, email, role, roles, first_name, last_name, current_sign_in_ip, type, discarded_at)
select md5('account ' || (i % 60 + 1))::uuid, 'User' || i || '@Example.org', (array['owner', 'Member', '', 'guest''s'])[i % 4 + 1]::"Role", array['owner', '']::"Role"[],
       nullif('First' || i % 9, 'First3'), 'Läst' || i % 11, ('10.0.' || i % 200 || '.7/24')::inet, (array['Admin', null])[i % 2 + 1], case when i % 13 = 0 then '2023-05-05'::timestamp end
  from generate_series(1, 400) i;
update users set manager_id = id - 1 where id % 5 <> 0 and id > 1;
update accounts a set owner_id = (select min(id) from users u where u.account_id = a.id);
insert into comments (commentable_type, commentable_id, user_id, parent_id, body, ancestry)
select (array['Product', 'Order', 'Comment'])[i % 3 + 1], i % 20, i % 400 + 1, case when i > 10 then i - 10 end, 'said ' || i || ' — “quoted” 😀', (i / 100) || '/' || i % 100
  from generate_series(1, 500) i;
insert into tags (name) select 'Tag ' || i from generate_series(1, 15) i;
insert into taggings (tag_id, taggable_type, taggable_id, context) select i % 15 + 1, 'Product', i, 'tags' from generate_series(1, 60) i;
insert into groups_users select i % 7, i from generate_series(1, 40) i;
insert into active_storage_blobs (key, filename, service_name, byte_size) select md5(i::text), i || '.png', 's3', i * 1000 from generate_series(1, 20) i;
insert into active_storage_attachments (name, record_type, record_id, blob_id) select 'image', 'Product', i, i from generate_series(1, 20) i;
insert into products (sku, name, price_cents, properties, "order", dimensions) select 'SKU-' || i, 'Product number ' || i, i * 99, jsonb_build_object('colour', i % 5, 'nested', jsonb_build_object('a', array[i, i + 1])), i, array[i, 0.5] from generate_series(1, 80) i;
refresh materialized view account_totals;
analyze products;
