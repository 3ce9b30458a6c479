create table public.distinct_nulls (a integer unique nulls not distinct);
create view public.invoked with (security_invoker) as select 1 as one;
