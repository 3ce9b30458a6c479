create table public.numbered_parts (id integer generated always as identity, k integer, primary key (id, k)) partition by list (k);
create table public.numbered_parts_1 partition of public.numbered_parts for values in (1);
grant maintain on public.numbered_parts to pgct_reader;
create table public.limited (a integer check (a > 0) no inherit, b integer);
