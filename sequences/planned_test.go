package sequences_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/sequences"
)

// What a person would run in the pause sets those that have used up the reserve, up
// to their ends, for steps and margins whose product is no bigint as well.
func TestOutranSQL(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence quiet; create sequence wide increment 1000000; create sequence down increment -1 maxvalue 0 minvalue -1000 start 0;
			create sequence far increment 9000000000000000000 minvalue -9223372036854775808; create sequence near as smallint; create sequence fresh;
			select nextval('quiet'), nextval('wide'), nextval('down'), setval('far', 5), setval('near', 32000)`)
		const margin = 20000
		given, problems := sequences.Plan(s.read(t), s.read(t), margin)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		s.exec(t, `select setval('wide', 1 + 19000 * 1000000::bigint), setval('down', -400), setval('near', 32500)`)
		rows, err := s.conn.Query(t.Context(), sequences.OutranSQL(given, margin, margin/2))
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		for i, want := range []string{
			fmt.Sprintf(`select pg_catalog.setval('"public"."down"', %d, false)`, -1000),
			fmt.Sprintf(`select pg_catalog.setval('"public"."far"', %d, false)`, int64(math.MaxInt64)),
			fmt.Sprintf(`select pg_catalog.setval('"public"."near"', %d, false)`, math.MaxInt16),
			fmt.Sprintf(`select pg_catalog.setval('"public"."wide"', %d, false)`, 1+(19000+margin)*int64(1000000)),
		} {
			if i >= len(got) || got[i] != want {
				t.Errorf("%d: want %s of %q", i, want, got)
			}
		}
	})
}
