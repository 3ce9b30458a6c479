package preflight

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// meaningTraps are objects that mean another thing on new, or cannot be made.
var meaningTraps = []trap{
	{
		finds: "objects.operator", also: otherVersion,
		old:    []string{`create extension citext`, `create table t (id int primary key, a citext check (nullif(a, 'x') is not null))`},
		byHand: onOld(`alter table t drop constraint t_a_check, add check (case when a = 'x' then null else a end is not null)`),
	},
	{
		finds: "objects.operator", name: "refused", also: otherVersion,
		old:    []string{`create extension hstore`, `create view v as select nullif(''::hstore, 'a=>1') as x, 'y' as "OPERATOR"`},
		byHand: onOld(`drop view v`),
	},
}

// comparing are objects on citext columns: those that lose their operator, and
// those that keep it.
var comparing = []struct {
	name, sql string
	loses     bool
}{
	{"view public.v_distinct", `create view v_distinct as select id from t where a is distinct from b`, true},
	{"view public.v_nullif", `create view v_nullif as select nullif(a, b) as x from t`, true},
	{"view public.v_case", `create view v_case as select case a when b then 1 end as x from t`, true},
	{"view public.v_using", `create view v_using as select t.id from t join u using (a)`, true},
	{"view public.v_natural", `create view v_natural as select u.a from t natural join u`, true},
	{"view public.v_filled", `create materialized view v_filled as select nullif(a, b) as x from t`, true},
	{"trigger tr on public.t", `create trigger tr before update on t for each row when (old.a is distinct from new.a) execute procedure f()`, true},
	{"constraint k on public.t", `alter table t add constraint k check (a is not distinct from a)`, true},
	{"default of b of public.c", `create table c (b citext default nullif('X'::citext, 'x'))`, true},
	{"index public.ix", `create index ix on t ((nullif(a, b)))`, true},
	{"index public.ip", `create index ip on t (id) where a is distinct from b`, true},
	{"policy po on public.t", `create policy po on t using (a is not distinct from b)`, true},
	{"view public.v_in", `create view v_in as select id from t where a in (b, 'x') and a not in (b) and a in (select a from u)`, false},
	{"view public.v_equal", `create view v_equal as select id from t where a = b and case when a = b then true end and a between b and 'x'`, false},
	{"view public.v_group", `create view v_group as select distinct a, 'CASE x WHEN NULLIF(1) IS DISTINCT FROM' as "NULLIF(" from t group by a order by a`, false},
	{"view public.v_numbers", `create view v_numbers as select nullif(id, 1) from t`, false},
}

// operatorsOfSQL counts what depends on operators that are not of pg_catalog, of
// objects by their names.
const operatorsOfSQL = `
select count(distinct d.objid)
  from pg_depend d
  join pg_operator o on o.oid = d.refobjid and o.oprnamespace <> 'pg_catalog'::regnamespace
 where d.refclassid = 'pg_operator'::regclass and d.deptype = 'n'
   and d.classid in ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass,
                     'pg_attrdef'::regclass, 'pg_class'::regclass)`

// What check names has lost its operator when it was carried, and nothing else has.
func TestOperators(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `create extension citext`, `create table t (id int, a citext, b citext)`, `create table u (id int, a citext)`,
			`create function f() returns trigger language plpgsql as 'begin return new; end'`)
		lost := 0
		for _, c := range comparing {
			pgtest.Exec(t, p.oldURL, c.sql)
			if c.loses {
				lost++
			}
		}
		f := only(t, check(t, "operators", p.Pair), "objects.operator", "")
		if f.Severity != Warning {
			t.Errorf("a %s:\n%s", f.Severity, text([]Finding{f}))
		}
		rows, err := read[operatorUse](t.Context(), p.Old, "reading", operatorUsesSQL)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range comparing {
			named := false
			for _, r := range rows {
				named = named || r.Kind+" "+r.Name == c.name && unnamed.MatchString(quoted.ReplaceAllString(r.Text, "x"))
			}
			if named != c.loses {
				t.Errorf("%s is named: %t, seen %q", c.name, named, f.Seen)
			}
		}
		if out, err := carry(t, p.oldURL, p.newURL, majors.New); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		before, after := pgtest.Value[int](t, p.oldURL, operatorsOfSQL), pgtest.Value[int](t, p.newURL, operatorsOfSQL)
		if before-after != lost {
			t.Errorf("%d objects have lost an operator, want %d", before-after, lost)
		}
		pgtest.Exec(t, p.oldURL, `create extension hstore`, `create view refused as select nullif(''::hstore, 'a=>1') as x`)
		if out, err := carry(t, p.oldURL, pgtest.Database(t, pgtest.Server(t, majors.New)), majors.New); err == nil || !strings.Contains(out, "operator does not exist") {
			t.Errorf("%v\n%s", err, out)
		}
		found := check(t, "operators", p.Pair)
		if len(found) != 2 || found[0].Severity != Blocker || found[0].Seen != "view public.refused" {
			t.Errorf("found\n%s", text(found))
		}
	})
}
