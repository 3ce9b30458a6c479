-- What came with 14.
create table shape.multi (id integer primary key, r int4multirange, t tstzmultirange, squeezed text compression pglz);
insert into shape.multi values (1, '{[1,3),[5,8)}', '{}', repeat('text ', 5000)), (2, null, '{["2024-01-01 00:00:00+00","2024-02-01 00:00:00+00")}', '');
