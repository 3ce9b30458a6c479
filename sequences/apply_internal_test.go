package sequences

import (
	"math"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// What the server decides at the moment of the change is what due decides, over the
// whole range of bigint.
func TestDueSQL(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), pgtest.Database(t, pgtest.Server(t, 10)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, conn) })
	seen := map[bool]int{}
	rapid.Check(t, func(rt *rapid.T) {
		n := Sequence{Increment: edgy().Filter(func(i int64) bool { return i != 0 }).Draw(rt, "increment"), Min: math.MinInt64, Max: math.MaxInt64}
		n.LastValue = edgy().Draw(rt, "was")
		if rapid.Bool().Draw(rt, "bounded") {
			n.Min, n.Max = rapid.Int64Range(-1000, 0).Draw(rt, "min"), rapid.Int64Range(1, 1000).Draw(rt, "max")
		}
		in := func(what string) int64 {
			return rapid.OneOf(rapid.Int64Range(n.Min, n.Max), edgy().Filter(func(i int64) bool { return i >= n.Min && i <= n.Max })).Draw(rt, what)
		}
		c := Change{New: n, Value: in("value"), Exhausted: rapid.Bool().Draw(rt, "exhausted"), Wrapped: rapid.Bool().Draw(rt, "wrapped")}
		if c.Exhausted {
			c.Value = n.end()
		}
		now := Value{LastValue: in("now"), IsCalled: rapid.Bool().Draw(rt, "called")}
		var due bool
		sql := "select " + c.dueSQL() + " from (select $1::bigint as last_value, $2::boolean as is_called) s"
		if err := conn.QueryRow(t.Context(), sql, now.LastValue, now.IsCalled).Scan(&due); err != nil {
			rt.Fatalf("%s: %v", sql, err)
		}
		if due != c.due(now) {
			rt.Fatalf("at %+v: the server says %t, %t is due: %s", now, due, c.due(now), sql)
		}
		seen[due]++
	})
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("due or not: %v", seen)
	}
}

func closed(t *testing.T, conn *pgx.Conn) {
	if err := conn.Close(t.Context()); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
}
