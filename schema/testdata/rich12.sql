create table public.computed (a integer primary key, b integer generated always as (a * 2) stored);
create collation public.loose (provider = icu, locale = 'und', deterministic = false);
create table public.refers (id integer primary key, p integer, r text, foreign key (p, r) references public.parted (id, region) on update cascade);
