-- What came with 14.
set role rails_app;
create table documents_compressed (id bigserial primary key, body text compression pglz, summary text);
create statistics stats_words (mcv) on (length(word)), (lower(word)) from words_rest;
create index index_users_on_email_domain on users (split_part(email::text, '@', -1));
reset role;
insert into documents_compressed (body, summary) select repeat('body ' || i, 2000), 'summary' from generate_series(1, 5) i;
