-- What came with 15.
set role kinds_owner;
create view app.invoked with (security_invoker) as select id, slug from app.room;
create table app.unique_nulls (a integer, b text, id integer primary key, unique nulls not distinct (a, b));
create collation base.by_icu (provider = icu, locale = 'sv-SE');
insert into app.unique_nulls values (null, null, 1), (1, null, 2);
reset role;
grant set on parameter work_mem to kinds_writer;
revoke set on parameter work_mem from kinds_writer;
