create table public.spans (s public.floatmultirange, squeezed text compression pglz);
create function public.atomic(a integer) returns integer language sql begin atomic select a + 1; end;
create procedure public.outs(in a integer, out b integer) language plpgsql as $$ begin b := a; end $$;
create statistics public.expressions on (a * 2) from public.computed;
