-- What came with 15.
create table shape.no_two_nulls (id integer primary key, code text, constraint one_null unique nulls not distinct (code));
insert into shape.no_two_nulls values (1, null), (2, 'a');
create table shape.pair (a integer, b integer, primary key (a, b));
insert into shape.pair values (1, 1), (2, 2);
create table shape.some_null (a integer, b integer, id integer primary key, c integer default 4,
    constraint some_null_parent foreign key (a) references shape.both (id) on delete set null,
    constraint some_null_other foreign key (a, b) references shape.pair on delete set null (b));
insert into shape.some_null (a, b, id) values (1, 1, 1), (2, null, 2), (null, null, 3);
