-- What came with 15.
set role rails_app;
create view account_users with (security_invoker = true, security_barrier = true) as select id, email from users where account_id is not null with local check option;
create unique index index_comments_nulls on comments (id, parent_id) nulls not distinct;
grant select on account_users to rails_analytics;
reset role;
