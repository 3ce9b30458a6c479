package warmup

import "testing"

func TestNamesApplication(t *testing.T) {
	for sql, want := range map[string]bool{
		`select $1`: false,
		`select * from pg_class c, pg_catalog.pg_namespace as n (a, b), "pg_am" join information_schema.tables t on true where c.x in (select y from pgcutover.journal)`:              false,
		`with a as (select * from pg_depend), b (x, y) as materialized (select $1, $2 from a) select * from a join b on true, lateral unnest($3) with (q) cross join (values ($4)) v`: false,
		`with recursive r(n) as (select $1 union all select n + $2 from r) select * from r, generate_series($3, $4) g`:                                                                false,
		`select sum(x) from extra.pg_stat_statements`:    false,
		`select * from orders`:                           true,
		`select * from pg_class c, orders`:               true,
		`select * from pg_class as c (a), only "Shop".t`: true,
		`select * from (select * from orders) o`:         true,
		`select * from f($1), orders`:                    true,
		`select (select x from "pgcutover ".y)`:          true,
		`table orders`:                                   true,
		`with a as (select $1) select * from public.a`:   true,
		`select name, state, customer from`:              false,
		`select name, state, customer from (`:            false,
	} {
		if got := namesApplication(sql); got != want {
			t.Errorf("%s: %t", sql, got)
		}
	}
}
