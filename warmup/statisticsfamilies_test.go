package warmup

import (
	"fmt"
	"strings"
)

// family is a type and an expression of the whole number V that makes values of
// it. Since says from which major on the type exists.
type family struct {
	name, typed, value string
	since              int
}

// families are all that a column can be.
var families = []family{
	{name: "int2", typed: "smallint", value: "V % 30000"},
	{name: "int4", typed: "integer", value: "V"},
	{name: "int8", typed: "bigint", value: "V * 100000000000"},
	{name: "num", typed: "numeric", value: "case when V % 50 = 0 then 'NaN' else (V / 7.0)::numeric end"},
	{name: "numscaled", typed: "numeric(12,3)", value: "V / 7.0"},
	{name: "f4", typed: "real", value: "case when V % 31 = 0 then 'NaN'::real when V % 29 = 0 then '-Infinity' else (V / 7.0)::real end"},
	{name: "f8", typed: "double precision", value: "case when V % 31 = 0 then 'Infinity' else V / 7.0::double precision end"},
	{name: "money", typed: "money", value: "(V / 7.0)::numeric::money"},
	{name: "oid", typed: "oid", value: "V"},
	{name: "bool", typed: "boolean", value: "V % 3 = 0"},
	{name: "onechar", typed: `"char"`, value: `chr(33 + V % 90)::"char"`},
	{name: "text", typed: "text", value: `'a "quoted" \ {x,y} ''' || chr(10) || ' é 中 ' || V`},
	{name: "empty", typed: "text", value: `case when V % 2 = 0 then '' when V % 3 = 0 then 'NULL' else V::text end`},
	{name: "wide", typed: "text", value: `lpad(V::text, 900, '🐘')`},
	{name: "toowide", typed: "text", value: `repeat(V::text, 3000)`},
	{name: "varchar", typed: "character varying(40)", value: `'v' || V`},
	{name: "bpchar", typed: "character(12)", value: `'c' || V`},
	{name: "name", typed: "name", value: `'n' || V`},
	{name: "bytea", typed: "bytea", value: `decode(md5(V::text), 'hex')`},
	{name: "date", typed: "date", value: `case when V % 37 = 0 then 'infinity' when V % 36 = 0 then '4000-01-01 BC' else date '2020-01-01' + V % 5000 end`},
	{name: "time", typed: "time", value: `time '00:00' + V * interval '1.5 second'`},
	{name: "timetz", typed: "time with time zone", value: `(time '00:00' + V * interval '1.5 second')::text::time with time zone`},
	{name: "stamp", typed: "timestamp", value: `case when V % 41 = 0 then '-infinity' else timestamp '2020-01-01' + V * interval '7.123456 second' end`},
	{name: "stamptz", typed: "timestamp with time zone", value: `case when V % 41 = 0 then 'infinity' else timestamptz '2020-01-01 00:00+02' + V * interval '7.123456 second' end`},
	{name: "interval", typed: "interval", value: `make_interval(months => (V % 40)::int - 20, days => (V % 7)::int - 3, secs => V / 3.0)`},
	{name: "uuid", typed: "uuid", value: `md5(V::text)::uuid`},
	{name: "json", typed: "json", value: `json_build_object('v', V)`},
	{name: "jsonb", typed: "jsonb", value: `jsonb_build_object('v', 'text ' || V, 'n', V)`},
	{name: "xml", typed: "xml", value: `('<v>' || V || '</v>')::xml`},
	{name: "inet", typed: "inet", value: `inet '10.0.0.0' + V`},
	{name: "cidr", typed: "cidr", value: `set_masklen(cidr '10.0.0.0/8' + (V % 60000)::int * 256::bigint, 24)`},
	{name: "macaddr", typed: "macaddr", value: `('08:00:2b:' || lpad(to_hex(V % 200), 2, '0') || ':02:03')::macaddr`},
	{name: "macaddr8", typed: "macaddr8", value: `('08:00:2b:01:02:03:04:' || lpad(to_hex(V % 200), 2, '0'))::macaddr8`},
	{name: "bit", typed: "bit(24)", value: `V::int::bit(24)`},
	{name: "varbit", typed: "bit varying", value: `V::int::bit(24)::bit varying`},
	{name: "point", typed: "point", value: `point(V, V / 2)`},
	{name: "box", typed: "box", value: `box(point(0, 0), point(V, V))`},
	{name: "circle", typed: "circle", value: `circle(point(0, 0), V)`},
	{name: "path", typed: "path", value: `('[(0,0),(1,' || V || ')]')::path`},
	{name: "tsvector", typed: "tsvector", value: `to_tsvector('simple', 'word' || V % 9 || ' other' || V % 20 || ' all')`},
	{name: "tsquery", typed: "tsquery", value: `to_tsquery('simple', 'word' || V)`},
	{name: "lsn", typed: "pg_lsn", value: `('0/' || to_hex(V))::pg_lsn`},
	{name: "regtype", typed: "regtype", value: `case V % 3 when 0 then 'integer' when 1 then 'text' else 'pg_catalog.bool' end::regtype`},
	{name: "regclass", typed: "regclass", value: `case V % 2 when 0 then 'pg_class' else '"St at".all_types' end::regclass`},
	{name: "ints", typed: "integer[]", value: `array[V % 5, V % 7, V % 11]::int[]`},
	{name: "texts", typed: "text[]", value: `case when V % 4 = 0 then '{}'::text[] else array['a', 'b,"' || V % 9, 'é\ ' || V % 20] end`},
	{name: "stamps", typed: "timestamp[]", value: `array[timestamp '2020-01-01' + V * interval '1 hour']`},
	{name: "enums", typed: `"St at"."Mood"[]`, value: `array[case V % 2 when 0 then 'so so' else 'good' end]::"St at"."Mood"[]`},
	{name: "int4range", typed: "int4range", value: `case when V % 13 = 0 then 'empty' else int4range((V % 5000)::int, (V % 5000)::int + 10 + (V % 77)::int) end`},
	{name: "numrange", typed: "numrange", value: `numrange(V % 5000 / 3.0, null)`},
	{name: "tsrange", typed: "tsrange", value: `tsrange(timestamp '2020-01-01' + V % 5000 * interval '1 day', timestamp '2050-01-01', '[]')`},
	{name: "ownrange", typed: `"St at".span`, value: `"St at".span(V::double precision / 3, V + 10)`},
	{name: "multirange", typed: "int4multirange", value: `int4multirange(int4range((V % 5000)::int, (V % 5000)::int + 10))`, since: 14},
	{name: "enum", typed: `"St at"."Mood"`, value: `case V % 5 when 0 then 'bad' when 1 then 'so so' when 2 then 'it''s' else 'good' end::"St at"."Mood"`},
	{name: "domain", typed: `"St at".positive`, value: `V + 1`},
	{name: "composite", typed: `"St at"."Pair"`, value: `row(V % 9, 'x "y" ' || V % 4)::"St at"."Pair"`},
	{name: "domaincomposite", typed: `"St at".pairs`, value: `array[row(V % 9, 'x ' || V % 4)::"St at"."Pair"]`},
	{name: "hstore", typed: `"St at".hstore`, value: `"St at".hstore('k "1"', 'v' || V)`},
	{name: "citext", typed: `"St at".citext`, value: `case when V % 2 = 0 then upper('word' || V) else 'word' || V end`},
}

// typesSetup makes the types that the families need; extensions are the
// superuser's.
const (
	extensionsSetup = `
create extension hstore schema "St at";
create extension citext schema "St at"`
	typesSetup = `
create type "St at"."Mood" as enum ('so so', 'bad', 'it''s', 'good');
create domain "St at".positive as integer check (value > 0);
create type "St at"."Pair" as (n integer, "the Text" text);
create domain "St at".pairs as "St at"."Pair"[];
create type "St at".span as range (subtype = double precision, subtype_diff = float8mi)`
)

// familyRows is how many rows the table of all types has.
const familyRows = 600

// familiesSetup makes and fills that table: of each type a column with few
// values, some much more frequent than others, and nulls, and one with many.
func familiesSetup(major int) []string {
	var columns, values []string
	for _, f := range families {
		if f.since > major {
			continue
		}
		columns = append(columns, fmt.Sprintf("%s_few %s, %s_many %s", f.name, f.typed, f.name, f.typed))
		values = append(values,
			"case when i % 10 = 0 then null else ("+strings.ReplaceAll(f.value, "V", "few")+") end",
			"("+strings.ReplaceAll(f.value, "V", "many")+")")
	}
	return []string{
		`create table "St at".all_types (id bigint primary key, ` + strings.Join(columns, ", ") + ")",
		`insert into "St at".all_types select i, ` + strings.Join(values, ", ") +
			fmt.Sprintf(" from (select i, case when i %% 3 = 0 then 6 else i * 7919 %% 19 end as few, i * 7919 %% 100003 as many from generate_series(1, %d) i) x", familyRows),
	}
}

// tablesSetup is of every kind of table that has statistics.
const tablesSetup = `
create table "St at"."Or ders" (id int, "the ""Day""" date, customer text, total numeric) partition by range (id);
create table "St at".orders_1 partition of "St at"."Or ders" for values from (0) to (1000);
create table "St at".orders_2 partition of "St at"."Or ders" for values from (1000) to (10000);
insert into "St at"."Or ders" select i, date '2024-01-01' + i % 300, 'customer ' || i % 40, i % 1000 / 3.0 from generate_series(1, 3000) i;
create table "St at".parent (id int, kind text);
create table "St at".child (extra int) inherits ("St at".parent);
insert into "St at".parent select i, 'p' || i % 5 from generate_series(1, 500) i;
insert into "St at".child select i, 'c' || i % 3, i % 7 from generate_series(1, 900) i;
create table "St at".expressions (id int, email text, at timestamp);
insert into "St at".expressions select i, 'User' || i % 200 || '@Example.com', timestamp '2024-01-01' + i * interval '1 hour' from generate_series(1, 2000) i;
create index "Low er" on "St at".expressions (id, lower(email), (date_trunc('day', at)));
create materialized view "St at"."view of" as select customer, count(*) as n from "St at"."Or ders" group by customer;
create table "St at".empty (id int);
create table "St at".objects (a int, b int);
insert into "St at".objects select i % 10, i % 10 from generate_series(1, 1000) i;
create statistics "St at".ab (dependencies) on a, b from "St at".objects`
