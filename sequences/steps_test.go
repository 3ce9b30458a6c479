package sequences

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// edgy draws from all of bigint, often near its ends and near 0.
func edgy() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Int64(),
		rapid.Int64Range(-5, 5),
		rapid.Int64Range(math.MaxInt64-5, math.MaxInt64),
		rapid.Int64Range(math.MinInt64, math.MinInt64+5),
	)
}

// TestSteps holds the arithmetic of positions against unbounded integers.
func TestSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Value{LastValue: edgy().Draw(t, "last"), IsCalled: rapid.Bool().Draw(t, "called")}
		increment := edgy().Filter(func(i int64) bool { return i != 0 }).Draw(t, "increment")
		bound := edgy().Draw(t, "bound")

		// The numbers that nextval returns are first, first+increment, ...
		first, step := big.NewInt(v.LastValue), big.NewInt(increment)
		if v.IsCalled {
			first.Add(first, step)
		}
		way := new(big.Int).Sub(big.NewInt(bound), first)
		if increment < 0 {
			way.Neg(way)
		}
		size := new(big.Int).Abs(step)
		upTo, strictly := new(big.Int), new(big.Int)
		if way.Sign() >= 0 {
			upTo.Div(way, size).Add(upTo, big.NewInt(1))
			strictly.Add(way, size).Sub(strictly, big.NewInt(1)).Div(strictly, size)
		}
		cap64 := new(big.Int).SetUint64(math.MaxUint64)
		if upTo.Cmp(cap64) > 0 {
			upTo = cap64
		}
		if got := new(big.Int).SetUint64(left(v, increment, bound)); got.Cmp(upTo) != 0 {
			t.Fatalf("left(%+v, %d, %d) = %s, want %s", v, increment, bound, got, upTo)
		}
		if got := new(big.Int).SetUint64(before(v, increment, bound)); got.Cmp(strictly) != 0 {
			t.Fatalf("before(%+v, %d, %d) = %s, want %s", v, increment, bound, got, strictly)
		}
		n := left(v, increment, bound)
		if n == 0 {
			return
		}
		k := rapid.Uint64Range(0, n-1).Draw(t, "k")
		want := new(big.Int).Mul(step, new(big.Int).SetUint64(k))
		want.Add(want, first)
		if got := ahead(v, increment, k); big.NewInt(got).Cmp(want) != 0 {
			t.Fatalf("ahead(%+v, %d, %d) = %d, want %s", v, increment, k, got, want)
		}
	})
}
