package schemas

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// use is an object that needs an operator.
type use struct{ Object, Operator string }

// operatorsSQL lists which objects need operators that are not Postgres' own. The
// text of a definition does not show it: CASE, NULLIF, JOIN USING and IS DISTINCT
// FROM do not name their operator, and a dump is restored where only pg_catalog's
// are seen.
const operatorsSQL = `
select pg_describe_object(d.classid, d.objid, d.objsubid), d.refobjid::regoperator::text
  from pg_depend d
  join pg_operator o on o.oid = d.refobjid
 where d.refclassid = 'pg_operator'::regclass
   and d.classid in ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass,
                     'pg_attrdef'::regclass, 'pg_class'::regclass, 'pg_proc'::regclass, 'pg_statistic_ext'::regclass)
   and o.oprnamespace <> 'pg_catalog'::regnamespace
   and not exists (select from pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
 group by 1, 2
 order by 1, 2`

func operators(t *testing.T, url string) []use {
	t.Helper()
	rows, err := connect(t, url).Query(t.Context(), operatorsSQL)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[use])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lostOperators are what a restored dump does not need any more, which is a limit
// of pg_dump: docs/differences.md.
var lostOperators = []struct {
	of    string
	pairs []pgtest.Pair
	use   use
}{
	{"rails", both, use{"trigger touch on table public.users", "public.=(public.citext,public.citext)"}},
	{"rails", both, use{"rule _RETURN on view public.same_names", "public.=(public.citext,public.citext)"}},
}

func compareOperators(t *testing.T, m *move, old, new []use) {
	t.Helper()
	for _, u := range new {
		if !slices.Contains(old, u) {
			t.Errorf("%s needs %s on the new server only", u.Object, u.Operator)
		}
	}
	lost := slices.DeleteFunc(slices.Clone(old), func(u use) bool { return slices.Contains(new, u) })
	for _, l := range lostOperators {
		if l.of != m.name || !slices.Contains(l.pairs, m.pair) {
			continue
		}
		i := slices.Index(lost, l.use)
		if i < 0 {
			t.Errorf("%s has not lost %s: there is nothing to explain", l.use.Object, l.use.Operator)
			continue
		}
		lost = slices.Delete(lost, i, i+1)
	}
	for _, u := range lost {
		t.Errorf("%s does not need %s any more on the new server", u.Object, u.Operator)
	}
}
